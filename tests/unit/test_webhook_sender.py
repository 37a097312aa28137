"""The webhook sender over real connections to loopback: the request that a receiver gets, and the outcome of each
response.
"""

import asyncio
import json
from contextlib import asynccontextmanager, closing, suppress

import pytest

from harness.certificates import certified
from ledger.records import Delivery
from network.host_rules import NO_HOSTS
from network.public_http import parse_url
from tests.support.outbox_wiring import Fake, Names, Story, is_valid, new, now
from tests.support.wiring import listening, on_a_loop, until
from webhooks.sender import Sender


class Receiver:
    """A server that records each request and sends the bytes of `answer`. Then it closes the connection, or with
    `hangs_up=False` waits in silence."""

    def __init__(self, answer: bytes, *, hangs_up: bool = True) -> None:
        self._answer = answer
        self._hangs_up = hangs_up
        self.seen: list[tuple[str, list[tuple[str, str]], bytes]] = []
        self.left = asyncio.Event()
        """Set when the client closes the connection first."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(asyncio.IncompleteReadError, ConnectionError):
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = [tuple(line.split(": ", 1)) for line in lines if line]
            length = {name.lower(): value for name, value in headers}["content-length"]
            self.seen.append((first, headers, await reader.readexactly(int(length))))
            writer.write(self._answer)
            await writer.drain()
            if not self._hangs_up:
                await reader.read()
                self.left.set()


def reply(status: str, headers: str = "", body: bytes = b"") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


@asynccontextmanager
async def calling(receiver: Receiver, *, loopback: bool = True, resolver=None, allowed_hosts=NO_HOSTS):
    """Yields the receiver's URL and a function that makes one attempt at a new delivery and returns the delivery as
    then recorded."""
    web = Sender(loopback=loopback, allowed_hosts=allowed_hosts, resolver=resolver)
    story = Story(Fake(200), {"loopback": loopback, "allowed_hosts": allowed_hosts, "sender": web})
    outbox = story.begun()

    async def tell(url: str) -> Delivery:
        outbox.take(new(f"gen_{len(story.rows)}", url, since=now()))
        tries = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.wait([task for task in tries if task.get_name() == "webhook"])
        return story.written[-1]

    before = asyncio.all_tasks()
    async with listening(receiver.serve) as url:
        try:
            yield url, tell
        finally:
            await outbox.aclose()
    assert before == asyncio.all_tasks(), "a task is left after the close"


@on_a_loop
async def test_a_receiver_gets_only_the_documented_headers_and_a_valid_signature(tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine localhost login me password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    receiver = Receiver(reply("204 No Content", "Set-Cookie: session=1; Path=/\r\n"))
    async with calling(receiver) as (url, tell):
        url = url.replace("127.0.0.1", "localhost") + "/a%2Fb?key=%20x#part"
        ends = [await tell(url), await tell(url)]

    assert ["delivered", "delivered"] == [each.state for each in ends]
    assert ["POST /a%2Fb?key=%20x HTTP/1.1"] * 2 == [first for first, _, _ in receiver.seen]
    for number, (_, headers, body) in enumerate(receiver.seen):
        by_name = {name.lower(): value for name, value in headers}
        assert len(headers) == len(by_name)
        is_valid(by_name, body)
        assert {"id": f"gen_{number}"} == json.loads(body)
        del by_name["webhook-signature"], by_name["webhook-timestamp"], by_name["host"]
        assert {
            "accept": "*/*",
            "accept-encoding": "identity",
            "connection": "close",
            "content-length": str(len(body)),
            "content-type": "application/json",
            "user-agent": "replicate-concurrent-generation",
            "webhook-id": f"msg_gen_{number}",
        } == by_name


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See", "307 Temporary", "308 Permanent"])
@on_a_loop
async def test_a_redirect_is_not_followed(status):
    receiver = Receiver(reply(status, "Location: /elsewhere\r\n"))
    async with calling(receiver) as (url, tell):
        end = await tell(url + "/here")

    assert ["POST /here HTTP/1.1"] == [first for first, _, _ in receiver.seen]
    assert ("pending", f"it answered {status[:3]}, and redirects are not followed") == (
        end.state,
        end.trouble,
    )


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"], ids=["none", "half", "interim"]
)
@on_a_loop
async def test_a_cancelled_attempt_closes_its_connection(answer):
    """The timeout of 10 seconds itself is tested in virtual time."""
    receiver, web = Receiver(answer, hangs_up=False), Sender(loopback=True)
    async with listening(receiver.serve) as url:
        attempt = asyncio.create_task(web.post(parse_url(url, loopback=True), b"{}", {}))
        await until(lambda: receiver.seen)
        assert not attempt.done()
        attempt.cancel()
        await asyncio.wait_for(receiver.left.wait(), 5)
        await web.aclose()

    assert attempt.cancelled()


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 1000\r\n\r\nabc",
        b"Content-Length: 10000000\r\n\r\n" + bytes(10_000_000),
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
        b"\r\nabc",
    ],
    ids=["unfinished", "huge", "chunk missing", "not gzip", "without a length"],
)
@on_a_loop
async def test_a_response_counts_by_its_head_whatever_its_body(body):
    receiver = Receiver(b"HTTP/1.1 200 OK\r\n" + body, hangs_up=False)
    async with calling(receiver) as (url, tell):
        end = await tell(url)
        if b"10000000" not in body:
            await asyncio.wait_for(receiver.left.wait(), 5)

    assert "delivered" == end.state


@pytest.mark.parametrize(
    "answer", [b"", b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n"]
)
@on_a_loop
async def test_a_malformed_response_is_a_failed_attempt(answer):
    async with calling(Receiver(answer)) as (url, tell):
        end = await tell(url)

    assert ("pending", "the connection was lost") == (end.state, end.trouble)


@on_a_loop
async def test_an_unreachable_receiver_is_retried():
    async with listening(Receiver(b"").serve) as gone:
        pass
    async with calling(Receiver(b"")) as (_, tell):
        end = await tell(gone)

    assert ("pending", "its host could not be reached") == (end.state, end.trouble)


@pytest.mark.parametrize("loopback", [True, False])
@pytest.mark.parametrize(
    "addresses", [["127.0.0.1"], ["169.254.169.254"], ["::1"], ["8.8.8.8", "10.0.0.1"]], ids=",".join
)
@on_a_loop
async def test_a_host_with_a_private_address_is_not_called(addresses, loopback):
    names, receiver = Names(*addresses), Receiver(reply("200 OK"))
    async with calling(receiver, loopback=loopback, resolver=names) as (url, tell):
        end = await tell(f"https://hooks.example.com:{url.rpartition(':')[2]}/")

    assert ("pending", "its host has an address on a private network") == (end.state, end.trouble)
    assert (["hooks.example.com"], []) == (names.asked, receiver.seen)


@on_a_loop
async def test_an_unknown_name_is_retried():
    names = Names()
    async with calling(Receiver(b""), resolver=names) as (_, tell):
        end = await tell("https://hooks.example.com/")
        assert not names.closed

    assert ("pending", "its host was not found") == (end.state, end.trouble)
    assert names.closed


@on_a_loop
async def test_a_loopback_url_is_not_called_unless_loopback_is_allowed():
    names, receiver = Names("127.0.0.1"), Receiver(reply("200 OK"))
    async with calling(receiver, loopback=False, resolver=names) as (url, tell):
        ends = [await tell(url), await tell(url.replace("http:", "https:").replace("127.0.0.1", "localhost"))]

    assert ["failed", "failed"] == [end.state for end in ends]
    assert ([], []) == (names.asked, receiver.seen)


@pytest.mark.parametrize(
    ("is_trusted", "state", "trouble"),
    [(True, "delivered", None), (False, "pending", "its host has no valid certificate")],
)
@on_a_loop
async def test_a_host_without_a_valid_certificate_gets_no_request(
    is_trusted, state, trouble, tmp_path, monkeypatch
):
    context = certified(tmp_path / "localhost.pem", "localhost")
    if is_trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "localhost.pem"))
    receiver = Receiver(reply("200 OK"))
    async with calling(receiver) as (_, tell):
        server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0, ssl=context)
        async with server:
            end = await tell(f"https://localhost:{server.sockets[0].getsockname()[1]}/")

    assert (state, trouble) == (end.state, end.trouble)
    assert is_trusted == bool(receiver.seen)
