"""Where somebody else's URL may lead: what is refused as it is given, and what its name turns out to be."""

import asyncio
import socket

import aiohttp
import pytest

from network.public_http import (
    PrivateAddress,
    PublicOnlyResolver,
    ThreadPoolResolver,
    check_url,
    describe_error,
    is_private_address_error,
)
from tests.support.outbox_wiring import Names
from tests.support.wiring import on_a_loop

PUBLIC = [
    "https://hooks.example.com/replicate?key=s3cret",
    "HTTPS://Hooks.Example.com",
    "https://hooks.example.com:8443/a%2Fb?c=d#e",
    "https://hooks.example.com./a",
    "https://8.8.8.8/a",
    "https://[2606:4700::1111]:443/a",
    "https://xn--bcher-kva.example/a",
    "https://hooks.example.com/a@b:c",
    "https://hooks.example.com/" + "a" * (2048 - 26),
]


@pytest.mark.parametrize("url", PUBLIC, ids=lambda url: url[:50])
@pytest.mark.parametrize("loopback", [True, False])
def test_an_https_url_of_a_public_host_is_taken_as_it_is(url, loopback):
    assert url == check_url(url, loopback=loopback)


REFUSED = {
    "must be at most 2048 characters": ["https://hooks.example.com/" + "a" * 2023, "a" * 2049],
    "must be an https URL": [
        "",
        "hooks.example.com",
        "//hooks.example.com/a",
        "/a",
        "https:hooks.example.com",
        "http://hooks.example.com/a",
        "ftp://hooks.example.com/a",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "data:text/plain,a",
        "https://hooks.example.com/a b",
        "https://hooks.example.com/a\r\nX-Header: 1",
        "https://hooks.example.com/\0",
        " https://hooks.example.com/",
        "https://b\u00fccher.example/",
        "https://hooks.example.com:\u0663/",
        "https://\uff48ooks.example.com/",
    ],
    "must not hold a user name or password": [
        "https://user:password@hooks.example.com/",
        "https://user@hooks.example.com/",
        "https://@hooks.example.com/",
        "https://:@hooks.example.com/",
        "https://hooks.example.com@10.0.0.1/",
        "https://hooks.example.com:443@evil.example/",
    ],
    "must name a public host": [
        "https:///a",
        "https://?a",
        "https://hooks.example.com:0/",
        "https://hooks.example.com:99999/",
        "https://hooks.example.com:port/",
        "https://[hooks.example.com/",
        "https://hooks.example.com\\@evil.example/",
        "https://hooks.example.com\\.evil.example/",
        "https://hooks%2eexample.com/",
        "https://hooks/",
        "https://hooks.internal/",
        "https://10.0.0.1/",
        "https://192.168.1.1/",
        "https://169.254.169.254/latest/meta-data/",
        "https://100.64.0.1/",
        "https://0.0.0.0/",
        "https://0/",
        "https://[::]/",
        "https://[fd00:ec2::254]/",
        "https://[fe80::1%25eth0]/",
        "https://[::ffff:10.0.0.1]/",
        "https://[64:ff9b::a00:1]/",
    ],
}
HERE = [
    "https://localhost/",
    "https://127.0.0.1:8000/a",
    "https://127.8.9.10/a",
    "https://[::1]:8000/a",
]
HERE_BY_ANOTHER_NAME = [
    "https://localhost./",
    "https://a.localhost/",
    "https://127.1/",
    "https://2130706433/",
]


@pytest.mark.parametrize(
    ("url", "wrong"),
    [(url, wrong) for wrong, urls in REFUSED.items() for url in urls],
    ids=lambda it: it[:40],
)
@pytest.mark.parametrize("loopback", [True, False])
def test_any_other_url_is_refused_in_words_that_say_what_it_must_be(url, wrong, loopback):
    with pytest.raises(ValueError, match="must") as caught:
        check_url(url, loopback=loopback)

    assert wrong == str(caught.value)


@pytest.mark.parametrize("url", [*HERE, *(url.replace("https", "http") for url in HERE)])
def test_this_very_machine_may_be_called_only_where_that_is_allowed(url):
    assert url == check_url(url, loopback=True)
    with pytest.raises(ValueError, match="must"):
        check_url(url, loopback=False)


@pytest.mark.parametrize("url", [*HERE_BY_ANOTHER_NAME, "http://localhost:0/"])
@pytest.mark.parametrize("loopback", [True, False])
def test_this_very_machine_has_no_other_names(url, loopback):
    with pytest.raises(ValueError, match="must"):
        check_url(url, loopback=loopback)


@pytest.mark.parametrize(
    ("name", "address", "loopback", "is_allowed"),
    [
        ("hooks.example.com", "8.8.8.8", False, True),
        ("hooks.example.com", "127.0.0.1", False, False),
        ("hooks.example.com", "127.0.0.1", True, False),
        ("hooks.example.com", "::1", True, False),
        ("localhost", "127.0.0.1", True, True),
        ("localhost", "::1", True, True),
        ("localhost", "127.0.0.1", False, False),
        ("localhost", "10.0.0.1", True, False),
        ("localhost", "169.254.169.254", True, False),
    ],
)
@on_a_loop
async def test_only_the_own_names_of_this_machine_may_turn_out_to_be_it(name, address, loopback, is_allowed):
    resolver = PublicOnlyResolver(Names(address), loopback=loopback)
    if is_allowed:
        assert [address] == [each["host"] for each in await resolver.resolve(name, 443)]
    else:
        with pytest.raises(PrivateAddress):
            await resolver.resolve(name, 443)


@on_a_loop
async def test_one_private_address_among_public_ones_is_enough_to_be_refused():
    with pytest.raises(PrivateAddress):
        await PublicOnlyResolver(Names("8.8.8.8", "10.0.0.1")).resolve("hooks.example.com", 443)


@on_a_loop
async def test_names_are_looked_up_on_threads_of_their_own():
    resolver = ThreadPoolResolver(threads=1)
    try:
        found = await resolver.resolve("localhost", 443, socket.AF_INET)
    finally:
        await resolver.close()

    assert {("127.0.0.1", 443, socket.AF_INET)} == {
        (each["host"], each["port"], each["family"]) for each in found
    }
    assert asyncio.get_running_loop()._default_executor is None  # noqa: SLF001 - asyncio has no public name


def test_no_threads_are_too_few():
    with pytest.raises(ValueError, match="threads must be at least 1, got 0"):
        ThreadPoolResolver(threads=0)


def test_what_went_wrong_is_told_without_an_address():
    private = aiohttp.ClientConnectorDNSError(None, PrivateAddress("10.0.0.1"))
    unknown = aiohttp.ClientConnectorDNSError(None, OSError("10.0.0.1"))
    refused = aiohttp.ClientConnectorError(None, OSError("10.0.0.1"))
    lost = aiohttp.ServerDisconnectedError("10.0.0.1")

    assert [True, False, False, False] == [
        is_private_address_error(each) for each in (private, unknown, refused, lost)
    ]
    assert [
        "its host has an address on a private network",
        "its host was not found",
        "its host could not be reached",
        "the connection was lost",
    ] == [describe_error(each) for each in (private, unknown, refused, lost)]
