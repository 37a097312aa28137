"""`GET /status`: the health of the ledger and of Replicate for all, and statistics of the work for the admin."""

import asyncio
import json
import time
from datetime import datetime

import pytest

from auth import Caller, credentials
from cluster.figures import ProcessFigures
from concurrency import Gate
from harness.service_process import until
from providers import UpstreamState
from providers.memory import MemoryProvider
from providers.replicate.api import Health
from providers.replicate.errors import RATE_LIMIT_WAIT
from providers.replicate.transport import Refusal
from tests.support.api_client import ended, picture, submit
from tests.support.callers import ADMIN, PICTURE, USER
from tests.support.virtual_time import run
from tests.support.wiring import core, pictures, submission

FOR_ADMIN = {"budget_left_usd", "oldest_waiting_seconds", "failures_last_hour"}
ANN = Caller("user", "ann", credentials(replicate="r8_ann"))


def status(client, headers=ADMIN):
    answer = client.get("/status", headers=headers)
    assert 200 == answer.status_code
    return answer.json


def upstream(client):
    return status(client, {})["upstream"]


def refusal(status, *, of_replicate=True, **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Refusal(status, named, json.dumps({"detail": "no"}).encode() if of_replicate else b"<html>")


@pytest.mark.parametrize(
    "headers",
    [{}, USER, {"X-Admin-API-Key": "wrong"}, {"X-Admin-API-Key": ""}, {"X-Admin-API-Key": "k\xe9y"}],
)
def test_the_status_without_a_key_has_no_figures_of_the_work(client, headers):
    assert set() == FOR_ADMIN & set(status(client, headers))


def test_no_request_gets_the_admins_status_if_no_admin_key_is_configured(make_app):
    client = make_app(CONCURRENT_DOCKER_ADMIN_API_KEY="").test_client()

    for headers in (ADMIN, {"X-Admin-API-Key": ""}):
        assert set() == FOR_ADMIN & set(status(client, headers))


def test_the_admin_sees_the_rest_of_the_budget(make_app):
    client = make_app(BUDGET_USD_PER_DAY=0.1).test_client()
    assert 0.1 == status(client)["budget_left_usd"]

    client.post("/generate", json=PICTURE, headers=ADMIN)
    assert 0.075 == status(client)["budget_left_usd"]

    client.post("/generate", json=PICTURE, headers=USER)
    submit(client, "[[hang]]", by=ADMIN)
    assert 0.05 == status(client)["budget_left_usd"]


def test_a_new_service_has_no_waiting_time_failures_or_budget(client):
    assert {
        "budget_left_usd": None,
        "oldest_waiting_seconds": None,
        "failures_last_hour": {},
    }.items() <= status(client).items()


def test_failures_are_counted_by_their_code(client):
    for prompt in ("a", "[[fail]]", "[[fail]] b", "[[nsfw]]"):
        client.post("/generate", json=picture(prompt), headers=USER)
    client.delete(f"/generations/{submit(client, '[[hang]]')}", headers=USER)
    client.post("/generate", json={}, headers=USER)

    until(lambda: 1 == status(client)["generations"]["canceled"])
    assert {"generation_failed": 2, "content_refused": 1} == status(client)["failures_last_hour"]


def test_the_oldest_waiting_generation_is_the_first_accepted_but_not_admitted():
    async def story():
        gate = Gate(concurrent_limit=1, requests_per_minute=600)
        inside = core(MemoryProvider(ends_after=20), gate=gate)
        waited = [inside.supervisor.running.longest_waiting()]
        for _ in range(3):
            inside.supervisor.accept(submission(pictures(["a"]), ANN))
            await asyncio.sleep(5)
            waited.append(inside.supervisor.running.longest_waiting())
        await asyncio.sleep(60)
        return [*waited, inside.supervisor.running.longest_waiting()]

    # The first is admitted at once, and the second, accepted at 5 s, is next.
    assert [None, None, 5.0, 10.0, None] == run(story())


def test_the_status_shows_that_the_ledger_is_down_and_all_other_figures(make_app, tmp_path):
    client = make_app(DATABASE_URL=f"sqlite:///{tmp_path}").test_client()

    assert ("down", None) == (status(client)["ledger"], status(client)["failures_last_hour"])
    assert "down" == status(client, {})["ledger"]


@pytest.mark.slow
def test_failing_since_is_shown_until_a_request_succeeds(client, simulator):
    simulator.inject(on="get", times=1000, status=502)
    target = submit(client, "a")

    def is_failing():
        seen = upstream(
            client
        )  # a success of another request, such as that for the account, may come between
        return seen["failing_since"] is not None and seen["failing_since"] <= seen["last_answer_at"]

    until(is_failing)
    simulator.reset()
    ended(client, target)
    assert (None, None) == (upstream(client)["failing_since"], upstream(client)["throttled_until"])


def test_a_lost_connection_is_a_failure_without_a_response(client, simulator):
    simulator.inject(on="create", reset="before", times=1000)
    simulator.inject(on="any", reset="before", times=1000)
    submit(client, by=ADMIN)
    until(lambda: upstream(client)["failing_since"])

    assert upstream(client)["last_answer_at"] is None


def test_a_throttled_creation_sets_throttled_until(client, simulator):
    simulator.inject(on="create", status=429, headers={"Retry-After": "100"})
    submit(client, by=ADMIN)
    until(lambda: upstream(client)["throttled_until"])

    seconds = datetime.fromisoformat(upstream(client)["throttled_until"]).timestamp() - time.time()
    assert 0 < seconds <= 100
    assert upstream(client)["failing_since"] is None


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (None, UpstreamState(1000.0)),
        ("lost", UpstreamState(None, 1000.0)),
        (refusal(404), UpstreamState(1000.0)),
        (refusal(402), UpstreamState(1000.0)),
        (refusal(500), UpstreamState(1000.0, 1000.0)),
        (refusal(503, of_replicate=False), UpstreamState(1000.0, 1000.0)),
        (refusal(403, of_replicate=False), UpstreamState(1000.0, 1000.0)),
        (refusal(302, of_replicate=False), UpstreamState(1000.0, 1000.0)),
        (refusal(429), UpstreamState(1000.0, None, 1000 + RATE_LIMIT_WAIT)),
        (refusal(429, retry_after="7"), UpstreamState(1000.0, None, 1007.0)),
        (refusal(429, retry_after="0"), UpstreamState(1000.0)),
        (refusal(429, of_replicate=False, retry_after="7"), UpstreamState(1000.0, 1000.0, 1007.0)),
    ],
)
def test_each_outcome_updates_the_upstream_state(outcome, expected):
    health = Health(Clock())

    observe(health, outcome)

    assert expected == health.state


def observe(health, outcome):
    if outcome is None:
        health.answered()
    elif outcome == "lost":
        health.failed()
    else:
        health.refused(outcome)


def test_the_first_failure_counts_until_a_success_and_the_longest_wait_until_it_is_over():
    clock = Clock()
    health = Health(clock)
    seen = []
    for outcome in (
        "lost",
        refusal(500),
        "lost",
        refusal(429, retry_after="7"),
        refusal(429, retry_after="1"),
        None,
    ):
        observe(health, outcome)
        seen.append(health.state)
        clock.now += 1
    clock.now = 1010.0

    assert [1000.0, 1000.0, 1000.0, None, None, None] == [each.failing_since for each in seen]
    assert [None, 1001.0, 1001.0, 1003.0, 1004.0, 1005.0] == [each.last_answer_at for each in seen]
    assert [None, None, None, 1010.0, 1010.0, 1010.0] == [each.throttled_until for each in seen]
    assert health.state.throttled_until is None


def test_the_status_of_one_process_names_no_processes(client):
    assert "processes" not in status(client)


def test_a_known_key_sees_every_process_and_all_see_the_sums(app):
    def figures(number):
        return {
            "in_flight": number, "waiting": 2 * number, "polls_per_minute": 5, "account_shared": number == 2,
            "ended": {"succeeded": number, "failed": 1, "canceled": 0}, "oldest_waiting_seconds": 3.0 * number,
        }  # fmt: skip

    client = app.test_client()
    app.extensions["service"].core.processes = lambda: [
        ProcessFigures("a:host:11:x", 1_700_000_000.0, "0.9.0", True, figures(1)),
        ProcessFigures(
            "other:12:y", 1_700_000_001.0, "0.9.1", False, {**figures(2), "of_a_later_version": 1}
        ),
        ProcessFigures("new:13:z", 1_700_000_002.0, "0.9.1", False, {}),
    ]

    shown = status(client)
    assert [("a:host", 11, 1, 2, True), ("other", 12, 2, 4, False), ("new", 13, 0, 0, False)] == [
        (each["host"], each["pid"], each["in_flight"], each["waiting"], each["holds_gate"])
        for each in shown["processes"]
    ]
    assert "2023-11-14T22:13:20.000Z" == shown["processes"][0]["since"]
    assert 6.0 == shown["oldest_waiting_seconds"]
    public = status(client, {})
    assert "processes" not in public
    assert {"succeeded": 3, "failed": 2, "canceled": 0} == public["generations"]
    assert "processes" not in status(client, USER)
    submit(client, by=USER)  # which proves the token
    assert [shown["processes"], None] == [
        status(client, USER).get(each) for each in ("processes", "failures_last_hour")
    ]
    assert (10, True) == (public["polling"]["current_rate_per_minute"], public["account_shared"])


def test_the_limits_of_the_process_that_holds_the_gate_are_those_of_all(app):
    service = app.extensions["service"]
    own = service.loop.call(lambda: service.core.published(service.others))
    assert 7 != own["environment"]["concurrent_limit"]
    theirs = {**own, "environment": {"concurrent_limit": 7}}
    holder = ProcessFigures("a:11:x", 1_700_000_000.0, "0.9.0", True, theirs)
    service.loop.call(lambda: service.core.read_published([holder]))

    assert 7 == status(app.test_client(), {})["concurrency"]["concurrent_limit"]


def test_a_process_uses_what_others_have_measured_of_replicate_by_its_own_clock(app):
    service = app.extensions["service"]

    def learned(*, ahead):
        published = {"measured": {"clock_skew": 100.0, "list_lags": {"admin": 7.0}}}
        other = ProcessFigures("a:11:x", 1_700_000_000.0, "0.9.0", False, published, clock_ahead=ahead)
        service.loop.call(lambda: service.core.read_published([other]))
        return service.loop.call(lambda: service.core.provider.clock_skew)

    assert None is learned(ahead=None)
    assert pytest.approx(120.0, abs=0.5) == learned(ahead=20.0)
