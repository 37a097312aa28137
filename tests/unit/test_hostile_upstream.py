"""After any answer of Replicate, a generation ends, reports the truth, and leaves nothing behind."""

import asyncio
import gzip
import json
from contextlib import suppress

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine
from sqlalchemy.dialects import sqlite

from auth import Caller, credentials
from errors import OutcomeUnknown
from generations import views
from ledger.records import with_attempts
from ledger.tables import MAPPINGS, METADATA
from providers.pushes import Untrusted
from providers.redaction import Redaction
from simulator.webhooks import signed
from tests.support.hostile_replicate import BODIES, CANNED, MAKES, CannedAnswer, Hostile
from tests.support.virtual_time import run
from tests.support.wiring import ADDRESS, a_picture, parts, submission
from tests.unit.test_uploads import an_image, editing

TOKEN = "r8_marked_token"
CALLER = Caller("user", "user_marked", credentials(replicate=TOKEN))
SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
PATIENT = 7_000.0
"""Seconds after which every search and every wait has ended."""


def scenario(upstream, request, *, cancel_after=None, pushes=()):
    """Run one generation to its end, or cancel it. Returns the generation, the log, and the predictions that
    still run upstream. `pushes` are bodies of signed webhooks with their times."""

    async def whole():
        with structlog.testing.capture_logs() as logged:
            async with parts("http://replicate.test", connections=upstream, timeout=30) as service:
                generation = service.core.supervisor.accept(submission(request, CALLER))
                task = service.core.supervisor.task(generation)
                for after, body in pushes:
                    await asyncio.sleep(after)
                    push(service.provider, generation, body)
                if cancel_after is not None:
                    await asyncio.sleep(cancel_after)
                    service.core.supervisor.cancel(generation)
                async with asyncio.timeout(PATIENT):
                    await asyncio.wait([task])
                running = upstream.running()
                await asyncio.sleep(PATIENT)  # a paused account or a poll under way may take until then
                gates = [gate.statistics() for gate in (service.gate, service.others)]
                assert [(0, 0)] * 2 == [(each.current_concurrent, each.waiting) for each in gates]
        return generation, logged, running

    return run(whole())


def push(provider, generation, body):
    with suppress(Untrusted):
        pushed = provider.read_push(signed(body, message="msg_1", secret=SECRET), body, SECRET, CALLER)
        provider.receive_push(f"{generation.id}.1", pushed)


def assert_clean(generation, logged):
    """The body, the log and the rows hold neither the token nor what a database or a reader of JSON may refuse."""
    record = generation.record()
    body = json.dumps(views.generation(record, ADDRESS), ensure_ascii=False)
    log = json.dumps(logged, ensure_ascii=False, default=repr)
    engine = create_engine("sqlite://")
    METADATA.create_all(engine)
    rows = []
    with engine.connect() as connection:
        for each in with_attempts(record):
            mapping = MAPPINGS[type(each)]
            upsert = mapping.statements(sqlite.dialect(), sqlite.insert).upsert
            connection.exec_driver_sql(upsert, mapping.values(each))
            rows += [list(row) for row in connection.exec_driver_sql(f"SELECT * FROM {mapping.table.name}")]
    for text in (body, log, json.dumps(rows)):
        text.encode()
        assert "\0" not in text
        assert r"\u0000" not in text
        assert not Redaction(TOKEN).is_in(text)


@given(
    bodies=st.lists(st.tuples(st.sampled_from([0.02, 0.5]), BODIES), min_size=1, max_size=3),
    says=st.sampled_from([{}, {"create": [CannedAnswer(200, (), b"", cut=-1)]}]),
)
@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_a_generation_ends_and_leaves_nothing_behind_after_any_pushed_message(bodies, says):
    upstream = Hostile(says)
    generation, logged, running = scenario(upstream, a_picture(), pushes=bodies)

    assert generation.has_ended
    assert "internal" != (generation.error and generation.error.code)
    assert [] == running or generation.prediction.is_over
    assert_clean(generation, logged)


UNUSABLE = [
    "a\r\nHost: b",
    "half \ud800",
    "x" * 1_000_000,
    "../account",
    "a/b",
    "..",
    "%2e%2e",
    "a?b",
    "a#b",
    "é",
    TOKEN,
]
"""Ids that do not fit into an address, a log or a database row."""

PERSISTENT = st.builds(
    lambda answers, times: answers * times,
    st.lists(CANNED, min_size=1, max_size=3),
    st.sampled_from([1, 1, 40]),
)


@pytest.mark.slow
@given(
    says=st.dictionaries(
        st.sampled_from(["create", "get", "list", "cancel", "account", "file"]),
        PERSISTENT,
        min_size=1,
        max_size=3,
    ),
    cancel_after=st.sampled_from([None, None, 0.02, 0.07, 1.0]),
    sends_an_image=st.booleans(),
    name=st.sampled_from(["p0", "p0", "p0", *UNUSABLE]),
)
@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_a_generation_ends_and_leaves_nothing_behind_after_any_answer(
    says, cancel_after, sends_an_image, name
):
    upstream = Hostile(says, names=lambda number: name if not number else f"{name}{number}")
    request = editing(an_image()) if sends_an_image else a_picture()
    generation, logged, running = scenario(upstream, request, cancel_after=cancel_after)

    assert generation.has_ended
    assert "internal" != (generation.error and generation.error.code)
    assert {"generation_crashed", "prediction_list_failed"}.isdisjoint(each["event"] for each in logged)
    assert {"10m40s"} >= {made.cancel_after for made in upstream.made}
    last = generation.prediction
    if running and not (last and last.is_over):  # a prediction that Replicate shows as over counts as over
        assert isinstance(generation.last.error, OutcomeUnknown) or last.is_lost
        assert generation.cost_usd > 0, "it may be billed"
    assert_clean(generation, logged)


@pytest.mark.parametrize("name", UNUSABLE, ids=lambda name: ascii(name)[:20])
def test_a_prediction_with_an_unusable_id_is_made_once_and_its_outcome_unknown(name):
    upstream = Hostile({}, names=lambda _: name)
    generation, logged, _ = scenario(upstream, a_picture())

    assert ("outcome_unknown", None) == (generation.error.code, generation.prediction_id)
    assert ["10m40s"] == [made.cancel_after for made in upstream.made]
    assert generation.model.cost(generation.last.sent) == generation.cost_usd
    assert ["creation_uncertain", "creation_adopted", "prediction_id_unusable"] == [
        each["event"] for each in logged
    ][:3]
    assert {"create", "list"} == {kind for kind, _ in upstream.seen}
    assert_clean(generation, logged)


@pytest.mark.parametrize(
    "name", [*UNUSABLE, 7, None, {"a": 1}, ["p0"], True], ids=lambda name: ascii(name)[:20]
)
def test_a_prediction_answered_with_an_unusable_id_is_adopted_if_the_list_shows_a_usable_one(name):
    body = json.dumps({"id": name, "status": "starting"}).encode()
    upstream = Hostile({"create": [CannedAnswer(201, (), body)]})
    generation, _, _ = scenario(upstream, a_picture())

    assert (True, "p0", 1) == (generation.succeeded, generation.prediction_id, len(upstream.made))


def test_a_prediction_answered_with_an_unusable_id_is_not_made_again_even_if_no_list_shows_it():
    said = CannedAnswer(201, (), b'{"id": "a/b", "status": "starting"}')
    empty = CannedAnswer(200, (), b'{"results": []}')
    upstream = Hostile({"create": [said], "list": [empty] * 1000})
    generation, _, _ = scenario(upstream, a_picture())

    assert ("outcome_unknown", 1) == (generation.error.code, len(upstream.made))


def test_an_unusable_next_page_does_not_count_as_the_end_of_the_list():
    lost = CannedAnswer(200, (), b"", cut=-1)
    page = CannedAnswer(
        200, (), json.dumps({"results": [], "next": "https://x/?cursor=\r\nHost: y"}).encode()
    )
    upstream = Hostile({"create": [lost], "list": [page] * 1000})
    generation, _, _ = scenario(upstream, a_picture())

    assert ("outcome_unknown", 1) == (generation.error.code, len(upstream.made))


@pytest.mark.parametrize("status", [429, 503, 403])
@pytest.mark.parametrize(
    "retry_after", ["9" * 400, "-" + "9" * 400, "1e999", "NaN", "[]", '"\\ud800"', "true"]
)
def test_a_refused_request_is_sent_again_within_minutes_whatever_wait_it_states(status, retry_after):
    body = (
        f'{{"detail": "Request was throttled.", "status": {status}, "retry_after": {retry_after}}}'.encode()
    )
    upstream = Hostile({"create": [CannedAnswer(status, (), body)]})
    generation, _, _ = scenario(upstream, a_picture())

    assert (True, 1) == (generation.succeeded, len(upstream.made))
    assert generation.ended_at - generation.accepted_at < 300 + 2 * MAKES


BOMB = gzip.compress(bytes(40_000_000), 1)
"""More bytes than any answer may have, except a page of a search."""


@pytest.mark.parametrize("kind", ["create", "get", "cancel"])
@pytest.mark.parametrize("encoding", [b"gzip", b"br", b"zstd", b"gzip, gzip", b"\xff"])
def test_a_decompression_bomb_is_inflated_only_to_the_limit(kind, encoding):
    bomb = CannedAnswer(200, ((b"Content-Encoding", encoding),), BOMB)
    upstream = Hostile({kind: [bomb]})
    generation, _, running = scenario(upstream, a_picture(), cancel_after=1.0 if kind == "cancel" else None)

    assert (kind != "cancel", 1, []) == (generation.succeeded, len(upstream.made), running)


@pytest.mark.parametrize("value", [b"[],", b"{},", b"1,", b"[[],[]],"])
def test_a_document_of_a_million_values_is_not_parsed(value):
    said = CannedAnswer(200, (), b'{"id": "p0", "status": "failed", "output": [' + value * 1_000_000 + b"0]}")
    upstream = Hostile({"create": [said], "get": [said]})
    generation, _, _ = scenario(upstream, a_picture())

    assert (True, 1) == (generation.succeeded, len(upstream.made))


def test_a_compressed_answer_is_read():
    page = json.dumps(
        {"id": "p0", "status": "succeeded", "output": ["https://replicate.delivery/a"]}
    ).encode()
    said = CannedAnswer(200, ((b"Content-Encoding", b"gzip"),), gzip.compress(page))
    generation, _, _ = scenario(Hostile({"get": [said]}), a_picture())

    assert ("https://replicate.delivery/a",) == generation.record().outputs


def test_an_answer_to_a_cancel_that_shows_another_prediction_is_ignored():
    other = json.dumps(
        {"id": "p9", "status": "succeeded", "output": ["https://replicate.delivery/b"]}
    ).encode()
    upstream = Hostile({"cancel": [CannedAnswer(200, (), other, made=False)]})
    generation, _, running = scenario(upstream, a_picture(), cancel_after=1.0)

    assert ("canceled", []) == (generation.state, running)


@pytest.mark.parametrize(("times", "cancels"), [(1, 2), (3, 4)])
def test_a_cancel_whose_answer_shows_that_the_prediction_still_runs_is_repeated(times, cancels):
    still = CannedAnswer(body=json.dumps({"id": "p0", "status": "processing"}).encode(), made=False)
    upstream = Hostile({"cancel": [still] * times})
    generation, _, running = scenario(upstream, a_picture(), cancel_after=1.0)

    assert ("canceled", "canceled", []) == (generation.state, generation.prediction.status, running)
    assert cancels == sum(kind == "cancel" for kind, _ in upstream.seen)


def test_a_prediction_that_no_cancel_shows_as_over_counts_as_billed():
    still = CannedAnswer(body=json.dumps({"id": "p0", "status": "processing"}).encode(), made=False)
    generation, _, _ = scenario(Hostile({"cancel": [still] * 99}), a_picture(), cancel_after=1.0)

    assert "canceled" == generation.state
    assert generation.prediction.is_lost
    assert generation.request.bound == generation.cost_usd > 0


@pytest.mark.parametrize(
    "address", ["http://\r\n", "a", "https://x/\ud800", f"https://x/{TOKEN}", "https://x/" + "a" * 10**6, 7]
)
def test_an_upload_is_repeated_if_its_address_is_unusable(address):
    said = CannedAnswer(201, (), json.dumps({"urls": {"get": address}}).encode())
    upstream = Hostile({"file": [said]})
    generation, logged, _ = scenario(upstream, editing(an_image()))

    assert (True, 2) == (generation.succeeded, sum(kind == "file" for kind, _ in upstream.seen))
    assert_clean(generation, logged)
