"""The transport: every request takes a place in a window, no request is repeated silently, and errors show
whether the request may have arrived."""

import asyncio
import zlib
from contextlib import closing, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from yarl import URL

from concurrency import Gate, Lease
from providers import Prediction, TryAgain
from providers.connections import HeldBack, Lost, NotSent
from providers.replicate.access import Access
from providers.replicate.polling import PollFailed
from providers.replicate.provider import Replicate
from providers.replicate.transport import MAX_ANSWER, HttpConnections, Refusal, Request, read_body, send
from tests.support.callers import SERVER_TOKEN
from tests.support.wiring import ADMIN, listening, on_a_loop, parts, poll_once, reply, until, wire

AUTHORIZED = {"Authorization": f"Bearer {SERVER_TOKEN}"}


async def get(service, prediction_id: str = "p1", *, seconds: float = 5):
    with await service.others.acquire("admin") as lease:
        request = Request("GET", URL(f"{service.base_url}/v1/predictions/{prediction_id}"), AUTHORIZED)
        return (await send(service.connections, request, lease, seconds=seconds)).json()


async def create(service, lease: Lease, *, seconds: float = 5, creates: bool = True):
    url = f"{service.base_url}/v1/models/black-forest-labs/flux-dev/predictions"
    headers = {**AUTHORIZED, "Content-Type": "application/json"}
    request = Request("POST", URL(url), headers, b'{"input": {"prompt": "a fox"}}')
    return (await send(service.connections, request, lease, seconds=seconds, creates=creates)).json()


@on_a_loop
async def test_a_creation_is_sent_only_with_the_lease_of_its_admission(simulator):
    async with parts(simulator) as service:
        with (
            await service.others.acquire("admin") as lease,
            pytest.raises(RuntimeError, match="a creation needs the lease of its admission"),
        ):
            await create(service, lease, creates=False)

    assert {} == simulator.counts().requests


def compressed(wbits):
    deflater = zlib.compressobj(wbits=wbits)
    return deflater.compress(b'{"id": "p1"}') + deflater.flush()


@pytest.mark.parametrize(
    ("encoding", "wbits"),
    [("gzip", 31), ("deflate", 15), ("deflate", -15), ("Deflate", -15)],
    ids=["gzip", "zlib", "without a header", "in upper case"],
)
@pytest.mark.parametrize("piece", [1, 1000])
@on_a_loop
async def test_each_encoding_that_is_asked_for_is_read(encoding, wbits, piece):
    async def chunks():
        body = compressed(wbits)
        for start in range(0, len(body), piece):
            yield body[start : start + piece]

    assert b'{"id": "p1"}' == await read_body(200, encoding, chunks(), 1000)


def test_a_request_does_not_show_the_token_or_the_prompt():
    request = Request("POST", URL("https://api.replicate.com/v1/files"), AUTHORIZED, b"a fox")

    assert "Request(method='POST', url=URL('https://api.replicate.com/v1/files'))" == repr(request)


@on_a_loop
async def test_one_lease_is_one_request(simulator):
    async with parts(simulator) as service:
        with await service.gate.acquire("admin") as lease:
            await create(service, lease)
            with pytest.raises(RuntimeError, match="a lease is for one request"):
                await create(service, lease)

    assert 1 == simulator.counts().requests["create"]


@on_a_loop
async def test_the_official_clients_own_methods_cannot_send(simulator):
    async with parts(simulator) as service:
        client = service.client.official_client("r8_server")
        with pytest.raises(RuntimeError, match="has no lease"):
            await client.predictions.async_get("p1")

    assert {} == simulator.counts().requests


@pytest.mark.slow
@on_a_loop
async def test_every_request_that_creates_nothing_takes_a_place_in_the_second_window(simulator):
    simulator.inject(on="create", reset="after")
    simulator.inject(on="get", times=3, status=503)
    async with parts(simulator) as service:
        await service.run("[[slow=0.3]]")
        await service.run("[[hang]]", timeout=1)
        taken = service.others.statistics().current_rate_per_minute

    requests = simulator.counts().requests
    assert {"create", "get", "list", "cancel"} == set(requests)
    assert taken == requests["get"] + requests["list"] + requests["cancel"]


@pytest.mark.parametrize("status", [429, 503, 504])
@on_a_loop
async def test_a_refused_poll_is_one_request(simulator, status):
    simulator.inject(on="get", times=10, status=status)
    async with parts(simulator) as service:
        with pytest.raises(PollFailed):
            await poll_once(service)

    assert {"get": 1} == simulator.counts().requests


@on_a_loop
async def test_a_get_on_a_closed_connection_is_not_repeated():
    async def once(seen):
        return reply(b'{"id": "p1", "status": "starting"}') if "first" in seen.target else None

    async with wire(once) as server, parts(server.url) as service:
        await get(service, "first")
        with pytest.raises(Lost):
            await get(service, "second")

    assert ["/v1/predictions/first", "/v1/predictions/second"] == [seen.target for seen in server.seen]


@on_a_loop
async def test_no_window_is_ever_over_its_limit_at_replicate(simulator):
    async with parts(simulator, requests_per_minute=7, others_per_minute=5) as service:
        batch = asyncio.create_task(service.run_batch(["[[hang]]"] * 12))
        await until(lambda: simulator.counts().requests.get("create") == 7)
        await until(lambda: simulator.counts().others_peak_per_minute >= 3)
        counts = simulator.counts()
        waiting = service.gate.statistics().waiting
        service.others.configure(requests_per_minute=3000)
        batch.cancel()
        await asyncio.wait([batch])

    assert (7, 5) == (counts.creations_peak_per_minute, waiting)
    assert counts.others_peak_per_minute <= 5
    assert 7 == simulator.counts().creations_peak_per_minute
    assert {"canceled": 7} == simulator.counts().finished


@on_a_loop
async def test_refused_creations_count_against_the_window_too(simulator):
    simulator.inject(on="create", times=3, status=503)
    async with parts(simulator, requests_per_minute=3) as service:
        waiting = asyncio.create_task(service.run())
        await until(lambda: simulator.counts().refusals.get(503) == 3)
        await until(lambda: service.gate.statistics().waiting == 1)
        waiting.cancel()
        await asyncio.wait([waiting])

    assert {"create": 3} == simulator.counts().requests


@on_a_loop
async def test_a_refused_connection_is_certainly_not_sent():
    async with wire(lambda seen: None) as server:
        pass
    async with parts(server.url) as service:
        with pytest.raises(NotSent):
            await get(service)


async def _hang_up(seen):
    return None


async def _no_http(seen):
    return b"SSH-2.0-OpenSSH_9.6\r\n\r\n"


async def _too_much(seen):
    return reply(b" " * (MAX_ANSWER + 1))


async def _bad_gzip(seen):
    return reply(b"not gzip", headers="Content-Encoding: gzip\r\n")


async def _no_json(seen):
    return reply(b"<html>")


async def _not_text(seen):
    return reply(b'{"id": "\xff"}')


async def _never(seen):
    await asyncio.get_running_loop().create_future()


@pytest.mark.parametrize("answer", [_hang_up, _no_http, _too_much, _bad_gzip, _no_json, _not_text, _never])
@on_a_loop
async def test_an_incomplete_answer_is_lost_and_may_have_arrived(answer):
    async with wire(answer) as server, parts(server.url) as service:
        with pytest.raises(Lost):
            await get(service, seconds=0.1 if answer is _never else 5)
        with await service.gate.acquire("admin") as lease, pytest.raises(Lost):
            await create(service, lease, seconds=0.1 if answer is _never else 5)

    assert ["GET", "POST"] == [seen.method for seen in server.seen]


HEADS = st.one_of(
    st.binary(max_size=80),
    st.builds(
        lambda status, reason, name, value: (
            b"HTTP/1.1 %d %s\r\n%s: %s\r\nConnection: close\r\n\r\n" % (status, reason, name, value)
        ),
        st.integers(100, 999),
        st.binary(max_size=10),
        st.sampled_from(
            [b"Content-Length", b"Transfer-Encoding", b"Content-Encoding", b"Set-Cookie", b"Location"]
        )
        | st.binary(max_size=10),
        st.sampled_from([b"chunked", b"5", b"-1", b"9" * 400, b"gzip", b"a b=1", b"x" * 100_000])
        | st.binary(max_size=10),
    ),
)


@given(heads=st.lists(st.tuples(HEADS, st.binary(max_size=30)), min_size=20, max_size=20))
@settings(max_examples=10, deadline=None, derandomize=True)
def test_any_bytes_end_as_an_answer_a_refusal_or_lost(heads):
    @on_a_loop
    async def scenario():
        left = [head + body for head, body in heads]

        async def serve(reader, writer):
            with closing(writer):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(left.pop())

        async with listening(serve) as url, parts(url) as service:
            for _ in heads:
                with suppress(Lost, Refusal):
                    await get(service)
            assert 0 == service.others.statistics().current_concurrent

    scenario()


@pytest.mark.parametrize("status", ["301 Moved Permanently", "302 Found", "307 Temporary Redirect"])
@on_a_loop
async def test_a_redirect_is_a_refusal_and_is_not_followed_with_the_token(status):
    async def quiet(seen):
        return reply(b"{}")

    async with wire(quiet) as elsewhere:

        async def redirect(seen):
            return reply(b"", status=status, headers=f"Location: {elsewhere.url}/v1/predictions/p1\r\n")

        async with wire(redirect) as server, parts(server.url) as service:
            with pytest.raises(Refusal):
                await get(service)

    assert [] == elsewhere.seen


@on_a_loop
async def test_accounts_do_not_share_cookies():
    async def baker(seen):
        return reply(b'{"id": "p1", "status": "starting"}', headers="Set-Cookie: session=admin; Path=/\r\n")

    async with wire(baker) as server, parts(server.url) as service:
        await get(service)
        await get(service)

    assert [None, None] == [seen.headers.get("cookie") for seen in server.seen]


@on_a_loop
async def test_a_path_in_the_base_url_is_kept():
    async def answer(seen):
        return reply(b'{"id": "p1", "status": "starting", "results": []}')

    async with wire(answer) as server, parts(f"{server.url}/proxy") as service:
        with await service.others.acquire("admin") as lease:
            await service.client.predictions.get(ADMIN, "p1", lease=lease)
        await service.client.predictions.list(ADMIN, "cursor=c")

    assert ["/proxy/v1/predictions/p1", "/proxy/v1/predictions?cursor=c"] == [
        seen.target for seen in server.seen
    ]


@on_a_loop
async def test_closing_twice_is_no_error_and_leaves_no_connection_open(simulator):
    others, connections = Gate(concurrent_limit=1, requests_per_minute=10), HttpConnections()
    provider = Replicate(Access(base_url=simulator.url, others=others, connections=connections))
    await provider.webhook_secret(ADMIN)
    assert not connections.are_closed

    await provider.aclose()
    await provider.aclose()

    assert connections.are_closed


@on_a_loop
async def test_a_creation_that_never_connected_may_be_tried_again_and_costs_no_place():
    async with wire(lambda seen: None) as server:
        pass
    async with parts(server.url) as service:
        with await service.gate.acquire("admin") as lease, pytest.raises(TryAgain):
            await service.provider.create(
                ADMIN,
                "black-forest-labs/flux-dev",
                {},
                content="",
                lease=lease,
                cancel_after=60,
                reference="gen_1.1",
            )

        assert 0 == service.gate.statistics().current_rate_per_minute


@on_a_loop
async def test_a_creation_that_is_held_back_sends_no_byte_and_costs_no_place():
    read = []

    async def serve(reader, writer):
        with closing(writer):
            read.append(await reader.read())

    async with listening(serve) as url, parts(url, may_send=lambda: False) as service:
        with await service.gate.acquire("admin") as lease, pytest.raises(HeldBack):
            await service.client.create_prediction(
                ADMIN, "black-forest-labs/flux-dev", {}, lease=lease, cancel_after=60
            )
        await until(lambda: bool(read))

    assert ([b""], 0) == (read, service.gate.statistics().current_rate_per_minute)


@on_a_loop
async def test_whether_a_creation_may_be_sent_is_asked_once_it_is_connected_and_for_nothing_else(simulator):
    counts = []

    def may_send():
        counts.append(simulator.counts().requests.get("create", 0))
        return True

    async with wire(lambda seen: None) as server:
        pass
    async with parts(server.url, may_send=may_send) as service:
        with await service.gate.acquire("admin") as lease, pytest.raises(NotSent):
            await service.client.create_prediction(ADMIN, "a/b", {}, lease=lease, cancel_after=60)
        assert [] == counts
    async with parts(simulator, may_send=may_send) as service:
        await service.run()

    assert [0] == counts


@on_a_loop
async def test_cancelling_at_an_unreachable_replicate_raises_nothing():
    async with wire(lambda seen: None) as server:
        pass
    async with parts(server.url) as service:
        await service.provider.cancel(ADMIN, Prediction("p1", "starting"))
