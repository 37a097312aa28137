"""Images of prompts over real connections: loopback takes the part of a public host."""

import base64
from io import BytesIO

import pytest

from catalog.references import Upload
from errors import InvalidRequest
from files.pictures import PictureSource
from tests.support.output_hosts import PNG, host, redirect, reply
from tests.support.wiring import AtOnce, on_a_loop

SIGNED = "/a%7Eb%28.png?signature=c%3Ad%2A"


async def fetched(url):
    """The bytes of the image at this address, or the reason why it is refused."""
    source = PictureSource(threads=AtOnce(), loopback=True)
    try:
        return (await source.fetch(url))[1]
    except InvalidRequest as refused:
        return refused.problems[0].message
    finally:
        await source.aclose()


@on_a_loop
async def test_a_redirect_is_followed_as_its_host_spells_it():
    async with host({"/old": redirect(SIGNED), SIGNED: reply(PNG)}) as here:
        assert PNG == await fetched(f"{here.url}/old")


@on_a_loop
async def test_a_redirect_with_a_space_is_followed_encoded():
    async with host({"/old": redirect("/a b.png"), "/a%20b.png": reply(PNG)}) as here:
        assert PNG == await fetched(f"{here.url}/old")


@on_a_loop
async def test_redirects_to_no_public_host_or_in_a_circle_are_refused():
    answers = {
        "/private": redirect("https://10.0.0.1/a.png"),
        "/port": redirect("https://a.example:port/"),
        "/circle": redirect("/circle"),
    }
    async with host(answers) as here:
        assert "must name a public host" == await fetched(f"{here.url}/private")
        assert "must name a public host" == await fetched(f"{here.url}/port")
        assert "was redirected more than 3 times" == await fetched(f"{here.url}/circle")


class Counted(AtOnce):
    """A pool that counts the functions that it runs."""

    ran = 0

    async def run(self, function):
        self.ran += 1
        return await super().run(function)


def data_uri(content):
    return "data:image/png;base64," + base64.b64encode(content).decode()


@pytest.mark.parametrize(
    "image_of", [data_uri, lambda content: Upload(BytesIO(content))], ids=["data", "upload"]
)
@on_a_loop
async def test_a_large_image_is_read_on_other_threads_and_a_small_one_is_not(image_of):
    threads, large = Counted(), PNG + bytes(300_000)
    source = PictureSource(threads=threads)

    assert ("image/png", PNG) == await source.fetch(image_of(PNG))
    assert 0 == threads.ran
    assert ("image/png", large) == await source.fetch(image_of(large))
    assert 1 == threads.ran
