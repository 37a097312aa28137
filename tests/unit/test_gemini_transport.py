"""Requests to Google over real connections: one credential, sent once, and only by a process that may send."""

import asyncio
import gzip
from contextlib import asynccontextmanager, closing

import pytest

from concurrency import Gate
from errors import UpstreamError
from harness.certificates import certified
from network.proxies import read_proxy
from providers import TryAgain
from providers.calls import Call, CallLost, Message, Picture
from providers.gemini.client import GeminiClient
from tests.support.connect_proxy import proxying
from tests.support.fake_google import HELLO, SERVER, SERVER_KEY, LeaseLog, chunk, sse, usage
from tests.support.wiring import listening, on_a_loop, reply, until, wire

ANSWER = sse(chunk("Hi", finish="STOP", **usage(2, 1)))
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


@asynccontextmanager
async def client(url, **options):
    others = Gate(concurrent_limit=100, requests_per_minute=1000)
    gemini = GeminiClient(base_url=url, others=others, **options)
    try:
        yield gemini
    finally:
        await gemini.aclose()


async def run(gemini, lease=None, call=HELLO, on_delta=len):
    return await gemini.run(SERVER, call, lease=lease or LeaseLog(), on_delta=on_delta)


def chunked(body):
    return f"{len(body):x}\r\n".encode() + body + b"\r\n"


@on_a_loop
async def test_a_request_has_one_credential_and_connections_are_used_again():
    async def answer(seen):
        return reply(ANSWER)

    async with wire(answer) as google, client(google.url.replace("//", "//user:password@") + "/") as gemini:
        lease = LeaseLog()
        assert "Hi" == (await run(gemini, lease)).text
        await run(gemini)
    seen = google.seen[0]

    assert ("POST", "/v1beta/models/gemini-3.8-flash:streamGenerateContent?alt=sse") == (
        seen.method,
        seen.target,
    )
    assert ["x-goog-api-key"] == [name for name, value in seen.headers.items() if SERVER_KEY in value]
    assert set() == {"authorization", "cookie", "proxy-authorization"} & seen.headers.keys()
    assert (["sent", "answered", 2], 2) == (lease.log, len(google.seen))
    assert "content-length" in seen.headers


@on_a_loop
async def test_the_first_piece_is_passed_on_before_the_rest_has_come():
    goes_on = asyncio.Event()

    async def serve(reader, writer):
        with closing(writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(HEAD + chunked(sse(chunk("Once "))))
            await writer.drain()
            await goes_on.wait()
            writer.write(chunked(sse(chunk("upon", finish="STOP"))) + b"0\r\n\r\n")
            await writer.drain()

    async with listening(serve) as url, client(url) as gemini:
        pieces = []

        def on_delta(text):
            pieces.append(text)
            goes_on.set()

        answer = await run(gemini, on_delta=on_delta)

    assert ("Once upon", ["Once ", "upon"]) == (answer.text, pieces)


@pytest.mark.parametrize(
    ("head", "log"), [(b"", ["sent", "lost"]), (HEAD + chunked(sse(chunk("Once "))), ["sent", "answered"])]
)
@on_a_loop
async def test_a_cut_connection_is_a_lost_call_that_is_sent_once(head, log):
    async def serve(reader, writer):
        nonlocal times
        with closing(writer):
            await reader.readuntil(b"\r\n\r\n")
            times += 1
            writer.write(head)
            await writer.drain()

    times, lease = 0, LeaseLog()
    async with listening(serve) as url, client(url) as gemini:
        with pytest.raises(CallLost) as lost:
            await run(gemini, lease)

    assert (1, log, "Once " if head else "") == (times, lease.log, lost.value.partial.text)


@on_a_loop
async def test_a_redirect_is_not_followed():
    async def answer(seen):
        return reply(b"", status="307 Temporary Redirect", headers=f"Location: {google.url}/elsewhere\r\n")

    async with wire(answer) as google, client(google.url) as gemini:
        with pytest.raises(UpstreamError, match="status 307"):
            await run(gemini)

    assert 1 == len(google.seen)


@on_a_loop
async def test_a_server_that_does_not_listen_costs_nothing():
    async with wire(lambda seen: None) as google:
        pass
    lease = LeaseLog()
    async with client(google.url) as gemini:
        with pytest.raises(TryAgain) as again:
            await run(gemini, lease)

    assert (True, []) == (again.value.unreachable, lease.log)


@on_a_loop
async def test_whether_to_send_is_decided_once_there_is_a_connection_and_no_byte_is_sent_otherwise():
    read, accepted = [], []

    async def serve(reader, writer):
        accepted.append(True)
        with closing(writer):
            read.append(await reader.read())

    lease = LeaseLog()
    async with listening(serve) as url, client(url, may_send=lambda: False) as gemini:
        with pytest.raises(TryAgain) as again:
            await run(gemini, lease)
        await until(lambda: bool(read))

    assert (True, [b""], [], [True]) == (again.value.held_back, read, lease.log, accepted)


@on_a_loop
async def test_a_cancelled_call_closes_its_connection():
    ended = asyncio.Event()

    async def serve(reader, writer):
        with closing(writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(HEAD + chunked(sse(chunk("Once "))))
            await writer.drain()
            while await reader.read(1000):
                pass
            ended.set()

    begun = asyncio.Event()
    async with listening(serve) as url, client(url) as gemini:
        task = asyncio.create_task(run(gemini, on_delta=lambda text: begun.set()))
        await begun.wait()
        task.cancel()
        async with asyncio.timeout(5):
            await ended.wait()
        with pytest.raises(asyncio.CancelledError):
            await task


@on_a_loop
async def test_a_large_prompt_is_sent_in_pieces():
    async def answer(seen):
        return reply(ANSWER)

    picture = Picture("image/png", bytes(3_000_000))
    call = Call(
        model="gemini-3.8-flash", messages=(Message("user", "What?", (picture,)),), max_output_tokens=100
    )
    async with wire(answer) as google, client(google.url) as gemini:
        assert "Hi" == (await run(gemini, call=call)).text

    assert 4_000_000 < int(google.seen[0].headers["content-length"])


@on_a_loop
async def test_a_compressed_answer_is_read_although_the_request_accepts_none():
    async def answer(seen):
        return reply(gzip.compress(ANSWER), headers="Content-Encoding: gzip\r\n")

    async with wire(answer) as google, client(google.url) as gemini:
        assert "Hi" == (await run(gemini)).text

    assert "identity" == google.seen[0].headers["accept-encoding"]


@pytest.mark.parametrize("login", ["", "user:secret@"])
def test_through_a_proxy_google_gets_the_same_one_credential(login, tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "google.pem"))
    certificate = certified(tmp_path / "google.pem", "google.test")

    async def answer(seen):
        return reply(ANSWER)

    async def main():
        async with wire(answer) as google:
            with proxying(google.url, certificate) as tunnel:
                proxy = read_proxy(tunnel.url.replace("//", f"//{login}"))
                async with client("https://google.test", proxy=proxy) as gemini:
                    assert "Hi" == (await run(gemini)).text
        return google.seen[0].headers, tunnel

    headers, tunnel = asyncio.run(main())
    assert ["x-goog-api-key"] == [name for name, value in headers.items() if SERVER_KEY in value]
    assert set() == {"authorization", "proxy-authorization"} & headers.keys()
    assert (["google.test:443"], False) == (tunnel.asked, SERVER_KEY in tunnel.heads[0])
