"""What the simulator adds to Replicate for those who download, pay, upload, and fall back from model to model."""

import asyncio
import hashlib
import io
import time

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from simulator import Options, catalog, running
from simulator.predictions import Creation
from simulator.server import application
from simulator.state import SimulatorState
from tests.support import virtual_time
from tests.support.virtual_replicate import Loopback

FLUX_DEV = "black-forest-labs/flux-dev"
PRO = "black-forest-labs/flux-1.1-pro"
BANANA = "google/nano-banana"
VEO = "google/veo-3-fast"
KLING = "kwaivgi/kling-v2.1-master"

MINE = {"Authorization": "Bearer r8_mine"}
OTHERS = {"Authorization": "Bearer r8_other"}


class ManualClock:
    """A clock moved by hand, in nanoseconds."""

    now = 10**15

    def __call__(self):
        return self.now

    def advance(self, *, seconds):
        self.now += round(seconds * 10**9)


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def sim(clock):
    with running(Options(prediction_seconds=0.02, jitter=0, seed=1), clock=clock) as simulator:
        yield simulator


@pytest.fixture
def http(sim):
    with httpx.Client(base_url=sim.url, timeout=20, trust_env=False) as client:
        yield client


@pytest.fixture
def outcome(http):
    """Creates a prediction, holds on until it has ended, and gives what became of it."""

    def end(prompt="a fox", *, model=FLUX_DEV, headers=MINE, **given):
        answer = http.post(
            f"/v1/models/{model}/predictions",
            json={"input": {"prompt": prompt, **given}},
            headers={**headers, "Prefer": "wait=10"},
        )
        return answer.json()

    return end


@pytest.fixture
def url(outcome):
    """Where an output lies."""
    return outcome()["output"][0]


# ── Faults of deliveries ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("status", [200, 404, 410, 429, 500, 503])
def test_a_delivery_is_answered_the_status_ordered_and_then_the_picture(sim, http, url, status):
    sim.inject(on="delivery", status=status, headers={"content-type": "text/plain"}, body="not yours")

    struck, whole = http.get(url), http.get(url)

    assert (status, "text/plain", "not yours") == (
        struck.status_code,
        struck.headers["Content-Type"],
        struck.text,
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


def test_garbage_is_a_page_that_says_it_is_the_picture(sim, http, url):
    sim.inject(on="delivery", garbage=True)

    answer = http.get(url)

    assert (200, "image/webp", "<html>") == (
        answer.status_code,
        answer.headers["Content-Type"],
        answer.text[:6],
    )
    assert 1 == sim.counts().answers_lost


def test_a_truncated_delivery_promises_all_bytes_and_brings_half_of_them(sim, http, url):
    whole = http.get(url).content
    sim.inject(on="delivery", truncate=True)
    came = []

    with http.stream("GET", url) as answer, pytest.raises(httpx.RemoteProtocolError):
        came.extend(answer.iter_raw())

    assert (200, str(len(whole))) == (answer.status_code, answer.headers["Content-Length"])
    assert whole[: len(whole) // 2] == b"".join(came)


def test_a_slow_delivery_comes_whole_in_pieces_over_the_seconds_ordered(sim, http, url):
    whole = http.get(url)
    sim.inject(on="delivery", slow=0.4)
    start = time.monotonic()

    with http.stream("GET", url) as answer:
        pieces = list(answer.iter_raw())

    assert time.monotonic() - start >= 0.4
    assert 1 < len(pieces) <= 9  # nine were sent, and some may arrive as one
    assert whole.content == b"".join(pieces)
    assert whole.headers["Content-Length"] == answer.headers["Content-Length"]


def test_a_slow_delivery_nobody_waits_for_is_an_answer_lost(sim, http, url):
    sim.inject(on="delivery", slow=3600)
    with http.stream("GET", url) as answer:
        next(answer.iter_raw())
    for _ in range(200):
        if sim.counts().answers_lost:
            break
        time.sleep(0.05)

    assert 1 == sim.counts().answers_lost


def test_an_order_for_any_request_lets_deliveries_through(sim, http, url):
    sim.inject(on="any", status=503)

    assert 200 == http.get(url).status_code
    assert 503 == http.get("/v1/account", headers=MINE).status_code


def test_an_order_for_deliveries_lets_every_request_of_the_api_through(sim, http, url):
    sim.inject(on="delivery", after=1, times=2, status=503)

    assert 200 == http.get("/v1/account", headers=MINE).status_code
    assert [200, 503, 503, 200] == [http.get(url).status_code for _ in range(4)]


def test_an_order_for_a_token_strikes_only_outputs_of_its_account(sim, http, outcome):
    mine, others = outcome()["output"][0], outcome(headers=OTHERS)["output"][0]
    sim.inject(on="delivery", token="r8_mine", status=503)

    nowhere = f"{sim.url}/delivery/nothing/0.webp"
    assert [404, 200, 503, 200] == [http.get(each).status_code for each in (nowhere, others, mine, mine)]


def test_faults_of_deliveries_are_ordered_over_http(http, url):
    order = {"on": "delivery", "times": 2, "after": 0, "slow": 0.01}

    assert [order] == http.post("/simulator/faults", json=[order]).json()
    http.get(url)
    assert [order | {"times": 1}] == http.get("/simulator/faults").json()


@pytest.mark.parametrize(
    "order",
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
def test_an_order_that_makes_no_sense_for_its_requests_is_refused(sim, http, order):
    with pytest.raises(ValueError, match=r"must be|exactly one"):
        sim.inject(**order)
    assert 400 == http.post("/simulator/faults", json=[order]).status_code


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
def test_whoever_sends_a_secret_along_for_an_output_is_counted(sim, http, url, request_of, counted):
    assert 200 == http.get(url, **request_of).status_code
    assert counted == sim.counts().deliveries_with_token


def test_a_secret_sent_for_an_output_that_is_not_there_is_counted_too(sim, http):
    assert 404 == http.get("/delivery/nothing/0.webp", headers=MINE).status_code
    assert (1, {404: 1}) == (sim.counts().deliveries_with_token, sim.counts().refusals)


def test_an_output_can_be_fetched_where_time_is_virtual_and_takes_none_of_it():
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


# ── The bill ────────────────────────────────────────────────────────────────────────────────────────


def creation(prompt="a fox", *, model=FLUX_DEV, cancel_after=None, **given):
    return Creation(
        model=catalog.find(model) or catalog.community(model, "ab" * 32),
        version="hidden",
        token="r8_mine",
        input={"prompt": prompt, **given},
        body={},
        headers={},
        base_url="http://replicate.test",
        cancel_after=cancel_after,
        webhook=None,
        webhook_events=frozenset(),
        size=10,
    )


def lived(*creations, cancelled_after=None, seconds=10):
    """The records of predictions that take as long, and the counts, an hour later."""

    async def live():
        loop = asyncio.get_running_loop()
        options = Options(prediction_seconds=seconds, jitter=0)
        world = SimulatorState(options, clock=lambda: round(loop.time() * 1e9))
        made = [world.create(each) for each in creations]
        if cancelled_after is not None:
            await asyncio.sleep(cancelled_after)
            for each in made:
                world.predictions.cancel(each)
        await asyncio.sleep(3600)
        records, counts = [each.record() for each in made], world.counters.snapshot()
        await world.close()
        return records, counts

    return virtual_time.run(live())


def bill(*arguments, cancelled_after=None, **named):
    """How one prediction ended and what it cost."""
    (record,), counts = lived(creation(*arguments, **named), cancelled_after=cancelled_after)
    assert counts.billed_usd == record.billed_usd
    return record.status, record.billed_usd


@pytest.mark.parametrize(
    ("model", "inputs", "usd"),
    [
        (FLUX_DEV, {}, 0.025),
        (FLUX_DEV, {"num_outputs": 4}, 0.1),
        ("black-forest-labs/flux-schnell", {"num_outputs": 3}, 0.009),
        (PRO, {}, 0.04),
        (PRO, {"num_outputs": 4}, 0.04),  # which it does not know
        ("black-forest-labs/flux-kontext-max", {}, 0.08),
        ("qwen/qwen-image", {}, 0.025),
        ("qwen/qwen-image", {"num_outputs": 4}, 0.025),
        ("google/imagen-4-ultra", {}, 0.06),
        (BANANA, {}, 0.039),
        (VEO, {}, 3.32),
        (VEO, {"duration": 4}, 3.32),
        (KLING, {}, 1.4),
        (KLING, {"duration": 10}, 2.8),
        ("somebody/lora", {"num_outputs": 4}, 0.0),
    ],
)
def test_a_success_costs_its_models_price(model, inputs, usd):
    assert ("succeeded", usd) == bill(model=model, **inputs)
    assert ("processing", usd) == bill("[[early]]", model=model, **inputs)


def test_outputs_that_did_not_come_are_not_paid_for():
    assert ("succeeded", 0.075) == bill("[[fewer]]", num_outputs=4)
    assert ("succeeded", 0.0) == bill("[[empty]]", num_outputs=4)
    assert ("succeeded", 0.0) == bill("[[empty]]", model=VEO)


@pytest.mark.parametrize("prompt", ["[[text]]", "[[gone]]", "[[blank]]", "[[page]]"])
def test_what_is_no_picture_costs_nothing_by_the_picture_and_its_price_by_call_or_second(prompt):
    assert ("succeeded", 0.0) == bill(prompt, num_outputs=4)
    assert ("succeeded", 3.32) == bill(prompt, model=VEO)
    assert ("succeeded", 2.8) == bill(prompt, model=KLING, duration=10)
    assert ("succeeded", 0.075) == bill("[[fewer]] [[text]]", num_outputs=4)


@pytest.mark.parametrize("prompt", ["[[fail]]", "[[nsfw]]", "[[transient]]"])
@pytest.mark.parametrize("model", [FLUX_DEV, VEO, KLING])
def test_a_failure_costs_nothing(model, prompt):
    assert ("failed", 0.0) == bill(prompt, model=model)


@pytest.mark.parametrize(
    ("model", "inputs", "usd"),
    [(FLUX_DEV, {"num_outputs": 3}, 0.075), (PRO, {}, 0.04), (VEO, {}, 3.32), (KLING, {"duration": 10}, 2.8)],
)
def test_what_is_cancelled_while_it_runs_costs_all_it_was_asked_for(model, inputs, usd):
    assert ("canceled", usd) == bill("[[hang]]", model=model, cancelled_after=5, **inputs)
    assert ("canceled", usd) == bill("[[hang]]", model=model, cancel_after=5, **inputs)
    assert ("canceled", usd) == bill("[[canceled]]", model=model, **inputs)


@pytest.mark.parametrize("model", [FLUX_DEV, VEO, KLING])
def test_what_never_started_costs_nothing(model):
    assert ("canceled", 0.0) == bill("[[cold]]", model=model, cancelled_after=5)
    assert ("aborted", 0.0) == bill("[[cold]]", model=model, cancel_after=5)
    assert ("aborted", 0.0) == bill("[[aborted]]", model=model)


def test_cancelling_what_has_ended_changes_no_bill():
    assert ("succeeded", 0.025) == bill(cancelled_after=20)
    assert ("failed", 0.0) == bill("[[fail]]", cancelled_after=20)


PROMPTS = ["a fox", "[[early]]", "[[empty]]", "[[fewer]]", "[[fail]]", "[[hang]]", "[[cold]]", "[[aborted]]"]
REQUESTS = st.builds(
    creation,
    st.sampled_from(PROMPTS),
    model=st.sampled_from([model.name for model in catalog.MODELS]),
    num_outputs=st.integers(1, 4),
)


@settings(max_examples=30, deadline=None)
@given(st.lists(REQUESTS, max_size=8), st.none() | st.integers(0, 20))
def test_the_bill_is_the_sum_of_what_each_prediction_cost(requests, cancelled_after):
    records, counts = lived(*requests, cancelled_after=cancelled_after)

    assert counts.billed_usd == round(sum(record.billed_usd for record in records), 6)


def test_the_bill_is_told_over_http_and_a_reset_starts_a_new_one(sim, http, outcome):
    outcome(num_outputs=2)
    outcome(model=KLING)

    assert 1.45 == sim.counts().billed_usd == http.get("/simulator/counts").json()["billed_usd"]
    shown = http.get("/simulator/predictions").json()["predictions"]
    assert [1.4, 0.05] == [each["billed_usd"] for each in shown]
    assert [0.05, 1.4] == [each.billed_usd for each in sim.predictions()]
    sim.reset()
    assert 0.0 == sim.counts().billed_usd


# ── Uploads ─────────────────────────────────────────────────────────────────────────────────────────


class Zeros(io.RawIOBase):
    """A file of so many zeros that takes no memory."""

    def __init__(self, size):
        self.left = size

    def readable(self):
        return True

    def readinto(self, buffer):
        size = min(self.left, len(buffer))
        buffer[:size] = bytes(size)
        self.left -= size
        return size


def upload(http, content=b"12345", *, headers=MINE):
    file = io.BufferedReader(content) if isinstance(content, Zeros) else content
    return http.post("/v1/files", files={"content": ("cat.png", file, "image/png")}, headers=headers)


def test_what_was_uploaded_can_be_looked_at(sim, http):
    content = bytes(range(256)) * 2**17  # more than the largest body of any other request

    facts = upload(http, content).json()
    upload(http, headers=OTHERS)

    first, second = sim.uploads()
    expected = (facts["id"], "cat.png", "image/png", 2**25, hashlib.sha256(content).hexdigest(), "r8_mine")
    assert expected == (first.id, first.name, first.content_type, first.size, first.sha256, first.token)
    assert "r8_other" == second.token
    assert "r8_" not in repr(second)
    assert {"file": 2} == sim.counts().requests
    sim.reset()
    assert [] == sim.uploads()


def test_a_hundred_megabytes_are_taken_and_one_byte_more_is_not(sim, http):
    assert 201 == upload(http, Zeros(100_000_000)).status_code
    assert 413 == upload(http, Zeros(100_000_001)).status_code
    assert [100_000_000] == [each.size for each in sim.uploads()]


def test_an_upload_can_be_the_input_of_its_accounts_predictions_for_a_day(http, clock, outcome):
    file = upload(http).json()["urls"]["get"]

    assert "succeeded" == outcome(image=file)["status"]
    clock.advance(seconds=24 * 3600 - 1)
    assert "succeeded" == outcome(image=file)["status"]
    clock.advance(seconds=1)
    expected = ("failed", f"Failed to download input.image: 404 Not Found for {file}", None)
    ended = outcome(image=file)
    assert expected == (ended["status"], ended["error"], ended["output"])
    assert 404 == http.get(file, headers=MINE).status_code


def test_another_accounts_upload_is_no_input(http, outcome):
    file = upload(http).json()["urls"]["get"]

    assert "failed" == outcome(image=file, headers=OTHERS)["status"]


def test_a_file_that_was_never_uploaded_is_no_input_wherever_it_is_named(sim, http, outcome):
    real, nowhere = upload(http).json()["urls"]["get"], f"{sim.url}/v1/files/nothing"

    assert "succeeded" == outcome(model=BANANA, image_input=[real, real])["status"]
    ended = outcome(model=BANANA, image_input=[real, nowhere])
    assert f"Failed to download input.image_input: 404 Not Found for {nowhere}" == ended["error"]
    assert 0.039 == sim.counts().billed_usd


def test_a_file_elsewhere_or_only_talked_about_is_nobodys_business(sim, outcome):
    nowhere = f"{sim.url}/v1/files/nothing"

    assert "succeeded" == outcome(image="https://example.com/v1/files/nothing")["status"]
    assert "succeeded" == outcome(nowhere)["status"]
    assert "succeeded" == outcome(no_such_input=nowhere)["status"]


def test_a_prediction_without_its_input_fails_at_its_start_whatever_was_planned(sim, outcome):
    nowhere = f"{sim.url}/v1/files/nothing"

    for prompt in ("a fox", "[[hang]]", "[[early]]", "[[slow=0]]"):
        ended = outcome(prompt, image=nowhere)
        assert ("failed", True) == (
            ended["status"],
            ended["error"].startswith("Failed to download input.image"),
        )


# ── One prompt for several models ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("prompt", "failed"),
    [
        ("[[nsfw]]", {FLUX_DEV, PRO, BANANA}),
        ("[[nsfw]] [[only=flux-dev]]", {FLUX_DEV}),
        ("[[only=flux-dev,nano-banana]] a fox [[nsfw]]", {FLUX_DEV, BANANA}),
        ("[[nsfw]] [[only=google/nano-banana, flux-1.1-pro]]", {PRO, BANANA}),
        ("[[nsfw]] [[only=flux]]", set()),
        ("[[nsfw]] [[only=somebody/flux-dev]]", set()),
        ("[[nsfw]] [[only=]]", set()),
        ("[[only=flux-dev]]", set()),
    ],
)
def test_directives_strike_only_the_models_they_are_meant_for(prompt, failed):
    records, _ = lived(*(creation(prompt, model=model) for model in (FLUX_DEV, PRO, BANANA)))

    assert failed == {record.model for record in records if record.status == "failed"}


def test_a_transient_failure_meant_for_one_model_is_not_used_up_by_another():
    prompt = "[[transient]] [[only=nano-banana]]"
    records, _ = lived(*(creation(prompt, model=model) for model in (FLUX_DEV, BANANA, BANANA)))

    assert ["succeeded", "failed", "succeeded"] == [record.status for record in records]


def test_a_fallback_can_be_told_apart_by_what_each_model_did(outcome):
    prompt = "[[only=flux-dev]] [[fail=out of foxes]]"

    assert ("failed", "out of foxes") == tuple(map(outcome(prompt).get, ("status", "error")))
    assert ("succeeded", None) == tuple(map(outcome(prompt, model=BANANA).get, ("status", "error")))


# ── The catalog ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("ratio", [{}, {"aspect_ratio": "16:9"}])
def test_width_and_height_are_refused_without_a_custom_ratio(outcome, ratio):
    refused = outcome(model=PRO, width=512, height=1024, **ratio)

    reason = "Only allowed when aspect_ratio is custom"
    assert [
        {"type": "number_not", "field": f"input.{side}", "description": reason}
        for side in ("width", "height")
    ] == refused["invalid_fields"]
    assert "succeeded" == outcome(model=PRO, width=512, height=1024, aspect_ratio="custom")["status"]


def test_a_whole_number_may_be_written_with_a_fraction_of_nothing(http, outcome):
    assert 3 == len(outcome(num_outputs=3.0)["output"])
    film = outcome(model=VEO, duration=4.0)["output"]
    assert "video/mp4" == http.get(film).headers["Content-Type"]
