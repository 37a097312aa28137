"""Faults of downloads of outputs, and the count of secrets sent with them."""

import asyncio
import io
import time

import httpx
import pytest
from PIL import Image

from harness.service_process import until
from simulator import Options
from simulator.server import application
from simulator.state import SimulatorState
from tests.support import virtual_time
from tests.support.virtual_replicate import Loopback
from tests.unit.simulator.creations import (
    MINE,
    OTHERS,
    creation,
)


@pytest.fixture
def url(outcome):
    """The URL of an output."""
    return outcome()["output"][0]


@pytest.mark.parametrize("status", [200, 404, 410, 429, 500, 503])
def test_a_delivery_has_the_injected_status_once_and_then_the_picture(sim, http, url, status):
    sim.inject(on="delivery", status=status, headers={"content-type": "text/plain"}, body="not yours")

    faulty, whole = http.get(url), http.get(url)

    assert (status, "text/plain", "not yours") == (
        faulty.status_code,
        faulty.headers["Content-Type"],
        faulty.text,
    )
    assert (200, "image/webp") == (whole.status_code, whole.headers["Content-Type"])
    assert ({status: 1} if status >= 400 else {}) == sim.counts().refusals


def test_a_delivery_can_be_redirected_anywhere(sim, http, url):
    sim.inject(on="delivery", status=302, headers={"Location": "http://169.254.169.254/latest"})

    answer = http.get(url)

    assert (302, "http://169.254.169.254/latest") == (answer.status_code, answer.headers["Location"])


@pytest.mark.parametrize(
    ("fault", "lost"), [({"reset": "before"}, 0), ({"reset": "after"}, 1), ({"hang": 0.05}, 1)], ids=str
)
def test_a_delivery_can_be_cut_off_without_an_answer(sim, http, url, fault, lost):
    sim.inject(on="delivery", **fault)

    with pytest.raises(httpx.TransportError):
        http.get(url)
    assert lost == sim.counts().answers_lost


def test_a_delayed_delivery_is_whole(sim, http, url):
    whole = http.get(url).content
    sim.inject(on="delivery", delay=0.1)
    start = time.monotonic()

    assert whole == http.get(url).content
    assert time.monotonic() - start >= 0.1


def test_a_garbage_delivery_is_a_page_with_the_pictures_content_type(sim, http, url):
    sim.inject(on="delivery", garbage=True)

    answer = http.get(url)

    assert (200, "image/webp", "<html>") == (
        answer.status_code,
        answer.headers["Content-Type"],
        answer.text[:6],
    )
    assert 1 == sim.counts().answers_lost


def test_a_truncated_delivery_has_half_of_its_content_length(sim, http, url):
    whole = http.get(url).content
    sim.inject(on="delivery", truncate=True)
    received = []

    with http.stream("GET", url) as answer, pytest.raises(httpx.RemoteProtocolError):
        received.extend(answer.iter_raw())

    assert (200, str(len(whole))) == (answer.status_code, answer.headers["Content-Length"])
    assert whole[: len(whole) // 2] == b"".join(received)


def test_a_slow_delivery_arrives_whole_in_pieces_over_the_injected_seconds(sim, http, url):
    whole = http.get(url)
    sim.inject(on="delivery", slow=0.4)
    start = time.monotonic()

    with http.stream("GET", url) as answer:
        pieces = list(answer.iter_raw())

    assert time.monotonic() - start >= 0.4
    assert len(pieces) <= 9  # nine were sent, and some may arrive as one
    assert whole.content == b"".join(pieces)
    assert whole.headers["Content-Length"] == answer.headers["Content-Length"]


def test_a_slow_delivery_to_a_disconnected_caller_counts_as_lost(sim, http, url):
    sim.inject(on="delivery", slow=3600)
    with http.stream("GET", url) as answer:
        next(answer.iter_raw())
    until(lambda: 1 == sim.counts().answers_lost)


def test_a_fault_of_any_request_does_not_affect_deliveries(sim, http, url):
    sim.inject(on="any", status=503)

    assert 200 == http.get(url).status_code
    assert 503 == http.get("/v1/account", headers=MINE).status_code


def test_a_fault_of_deliveries_does_not_affect_api_requests(sim, http, url):
    sim.inject(on="delivery", after=1, times=2, status=503)

    assert 200 == http.get("/v1/account", headers=MINE).status_code
    assert [200, 503, 503, 200] == [http.get(url).status_code for _ in range(4)]


def test_a_fault_with_a_token_affects_only_outputs_of_its_account(sim, http, outcome):
    mine, others = outcome()["output"][0], outcome(headers=OTHERS)["output"][0]
    sim.inject(on="delivery", token="r8_mine", status=503)

    missing = f"{sim.url}/delivery/nothing/0.webp"
    assert [404, 200, 503, 200] == [http.get(each).status_code for each in (missing, others, mine, mine)]


def test_faults_of_deliveries_can_be_injected_over_http(http, url):
    order = {"on": "delivery", "times": 2, "after": 0, "slow": 0.01}

    assert [order] == http.post("/simulator/faults", json=[order]).json()
    http.get(url)
    assert [order | {"times": 1}] == http.get("/simulator/faults").json()


@pytest.mark.parametrize(
    "fault",
    [
        {"on": "delivery", "drop": ["id"]},
        {"on": "delivery", "set": {"id": 1}},
        {"on": "get", "slow": 1},
        {"on": "any", "slow": 1},
        {"on": "delivery", "slow": -1},
        {"on": "delivery", "redirect": "http://a.test"},
    ],
    ids=str,
)
def test_a_fault_that_does_not_fit_its_requests_is_refused(sim, http, fault):
    with pytest.raises(ValueError, match=r"must be|exactly one"):
        sim.inject(**fault)
    assert 400 == http.post("/simulator/faults", json=[fault]).status_code


@pytest.mark.parametrize(
    ("request_of", "counted"),
    [
        ({}, 0),
        ({"headers": MINE}, 1),
        ({"headers": {"Authorization": "Basic YTpi"}}, 1),
        ({"headers": {"Cookie": "session=1"}}, 1),
        ({"headers": {"X-Replicate-API-Key": "r8_mine"}}, 1),
        ({"params": {"token": "r8_mine"}}, 1),
    ],
    ids=str,
)
def test_a_delivery_request_with_a_secret_is_counted(sim, http, url, request_of, counted):
    assert 200 == http.get(url, **request_of).status_code
    assert counted == sim.counts().deliveries_with_token


def test_a_secret_in_a_request_for_a_missing_output_is_counted(sim, http):
    assert 404 == http.get("/delivery/nothing/0.webp", headers=MINE).status_code
    assert (1, {404: 1}) == (sim.counts().deliveries_with_token, sim.counts().refusals)


def test_fetching_an_output_takes_no_virtual_time():
    async def fetched():
        loop = asyncio.get_running_loop()
        world = SimulatorState(
            Options(prediction_seconds=2, jitter=0), clock=lambda: round(loop.time() * 1e9)
        )
        app = application(world)
        app.freeze()
        prediction = world.create(creation())
        await prediction.settled.wait()
        before = loop.time()
        async with httpx.AsyncClient(transport=Loopback(app)) as client:
            answer = await client.get(prediction.output[0], timeout=1)
        return answer, loop.time() - before

    answer, took = virtual_time.run(fetched())
    assert (200, 0.0) == (answer.status_code, took)
    with Image.open(io.BytesIO(answer.content)) as picture:
        assert "WEBP" == picture.format
