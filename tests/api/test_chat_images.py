"""Images of prompts by address, through the routes: a server on this machine with a certificate takes the part of a
public host."""

import asyncio

import aiohttp
import pytest

from files.pictures import LARGEST
from harness.certificates import certified
from media.formats import black_png
from network.host_rules import HostRule, HostRules
from network.public_http import PublicOnlyResolver, client_session
from tests.support.outbox_wiring import Names
from tests.support.output_hosts import MP4, PAGE, Host, for_ever, picture, redirect, reply, until
from tests.support.text_calls import ask, code
from tests.support.wiring import listening, on_a_loop

NAME, OTHER = "pictures.example.com", "elsewhere.example.com"

PNG = black_png(64, 64)

ANSWERS = {
    "/a.png": reply(PNG),
    "/moved.png": redirect("/a.png"),
    "/private.png": redirect("https://10.0.0.1/a.png"),
    "/private-name.png": redirect(f"https://{OTHER}/a.png"),
    "/page.png": reply(PAGE, headers="Content-Type: image/png\r\n"),
    "/film.png": reply(MP4),
    "/announced.png": reply(picture(LARGEST + 1)),
    "/endless.png": for_ever(PNG[:16]),
    "/large.png": reply(PNG + bytes(15_000_000)),
}


async def answer(target, writer):
    found = ANSWERS.get(target, reply(b"", status="404 Not Found"))
    if isinstance(found, bytes):
        writer.write(found)
    else:
        await found(writer)


class Chats:
    """Chats with images at a service for which one name leads to this machine, and may. `host` is the server there."""

    def __init__(self, app, host, port):
        self.host = host
        self.client, self._address = app.test_client(), f"https://{NAME}:{port}"
        service = app.extensions["service"]
        source = service.core.calls.pictures
        resolver = PublicOnlyResolver(Names("127.0.0.1"), allowed_hosts=HostRules((HostRule(NAME),)))

        async def open_session():
            source._session = client_session(resolver, timeout=aiohttp.ClientTimeout(10))  # noqa: SLF001

        service.loop.run(open_session())

    async def ask(self, *paths, prompt="What is it?", **headers):
        """The answer to a chat with the images at these paths of the host."""
        images = [f"{self._address}{path}" for path in paths]
        body = {"prompt": prompt, "images": images}
        return await asyncio.to_thread(ask, self.client, body, **headers)


@pytest.fixture
def chats(make_text_app, tmp_path, monkeypatch):
    """Runs a function with `Chats` while their host listens."""
    context = certified(tmp_path / "host.pem", NAME)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "host.pem"))

    async def run(function, **settings):
        host = Host(answer)
        async with listening(host.serve, tls=context) as url:
            return await function(Chats(make_text_app(**settings), host, url.rpartition(":")[2]))

    return run


@on_a_loop
async def test_an_image_at_an_address_reaches_the_model_also_after_a_redirect(chats):
    async def ask_three(chat):
        return [await chat.ask(), await chat.ask("/a.png"), await chat.ask("/a.png", "/moved.png")]

    answers = await chats(ask_three)
    assert [200] * 3 == [each.status_code for each in answers], answers[-1].text
    none, one, two = (each.json["usage"]["prompt_tokens"] for each in answers)
    assert none < one
    assert two - one == one - none


@on_a_loop
async def test_of_the_images_of_waiting_calls_only_some_are_in_memory(chats, simulator):
    later = {"Prefer": "respond-async"}

    async def ask_many(chat):
        await chat.ask(prompt="Wait [[first=3]]", **later)
        await until(lambda: simulator.gemini.counts().in_flight == 1)
        for _ in range(9):
            await chat.ask("/large.png", **later)
        await until(lambda: len(chat.host.seen) >= 6)
        await asyncio.sleep(0.5)
        seen = len(chat.host.seen)
        await until(lambda: simulator.gemini.counts().outcomes.get("finished") == 10)
        return seen

    # of 15 MB each, and one more may have 20 MB: at most 100 MB for each caller
    assert 6 == await chats(ask_many, GEMINI_CONCURRENCY_LIMIT=1)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/private.png", "must name a public host"),
        ("/private-name.png", "must name a public host"),
        ("/page.png", "is no PNG, JPEG, WebP or GIF image"),
        ("/film.png", "is no PNG, JPEG, WebP or GIF image"),
        ("/announced.png", "has more than 20 MB"),
        ("/endless.png", "has more than 20 MB"),
        ("/missing.png", "could not be fetched: its host answered 404"),
    ],
)
@on_a_loop
async def test_an_address_without_a_usable_image_is_refused_before_a_model_is_called(
    chats, simulator, path, why
):
    refused = await chats(lambda chat: chat.ask("/a.png", path))

    assert (400, "invalid_request") == code(refused)
    assert [("images", why)] == [(each["field"], each["message"]) for each in refused.json["errors"]]
    assert not simulator.gemini.counts().requests


@pytest.mark.parametrize(
    "address",
    [
        "https://127.0.0.1/a.png", "https://10.1.2.3/a.png", "https://[::1]/a.png", "https://localhost/a.png",
        "https://169.254.169.254/latest/meta-data", "http://example.com/a.png", "file:///etc/passwd",
    ],
)  # fmt: skip
def test_a_private_address_in_a_message_is_refused_before_any_request_by_its_place(texts, simulator, address):
    message = {"role": "user", "content": "What is it?", "images": ["https://example.com/a.png", address]}
    client = texts()
    refused = ask(client, {"messages": [message]})
    item = ask(client, {"requests": [{"prompt": "x"}, {"messages": [message]}]}, to="/batch/chat")

    for answer, field in ((refused, "messages[0].images[1]"), (item, "requests[1].messages[0].images[1]")):
        assert (400, "invalid_request") == code(answer)
        [problem] = answer.json["errors"]
        assert field == problem["field"]
        assert "public host" in problem["message"] or "must be an https URL" in problem["message"]
    assert not simulator.gemini.counts().requests
