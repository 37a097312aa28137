"""Work that a stop interrupted: its resumption, its reserved budget, and its end if it is not resumed."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
import requests

from auth import Principal
from errors import LedgerDown
from harness.service_process import until
from tests.support.api_client import PICTURE, ended, look_up, meanwhile, state, submit, submit_batch
from tests.support.callers import ADMIN, USER
from tests.support.problem_documents import problem
from tests.support.served_in_process import receiving

OTHER = {"X-Replicate-API-Key": "r8_other"}


@pytest.fixture
def restarted(make_app):
    """Closes an application, and returns a client of the next one on the same directory."""

    def restart(app, **settings):
        app.extensions["service"].close()
        return make_app(**settings).test_client()

    return restart


def tried(result):
    return [
        (each["model_name"].split("/")[1], each["error"] and each["error"]["code"])
        for each in result["attempts"]
    ]


@pytest.mark.every_database
@pytest.mark.slow
def test_a_passing_failure_after_a_restart_is_retried(make_app, restarted, simulator):
    app = make_app()
    target = submit(app.test_client(), "[[transient]] [[hang]] a", by=ADMIN)
    until(lambda: "running" == state(app.test_client(), target, by=ADMIN))
    client = restarted(app)

    result = meanwhile(simulator.finish, lambda: ended(client, target, by=ADMIN))

    assert ("succeeded", 2) == (result["status"], result["attempts"])
    assert 2 == simulator.counts().creations_accepted


def test_a_failure_after_a_restart_uses_the_fallback(make_app, restarted, simulator):
    app = make_app()
    prompt = "[[only=flux-dev]] [[nsfw]] [[hang]] a"
    target = submit(app.test_client(), prompt, by=ADMIN, fallback=["qwen-image"])
    until(lambda: "running" == state(app.test_client(), target, by=ADMIN))
    client = restarted(app)

    result = meanwhile(simulator.finish, lambda: ended(client, target, by=ADMIN))

    assert "succeeded" == result["status"]
    assert [("flux-dev", "content_refused"), ("qwen-image", None)] == tried(result)


@pytest.mark.every_database
def test_an_owner_that_cancels_suspended_queued_work_sends_nothing(make_app, restarted, simulator):
    app = make_app(REPLICATE_CONCURRENT_LIMIT=1)
    client = app.test_client()
    submit(client, "[[hang]]", by=ADMIN)
    until(lambda: 1 == simulator.counts().in_flight)
    targets = [submit(client, f"{number}") for number in range(30)]
    client = restarted(app)

    def cancelled(target):
        return client.application.test_client().delete(f"/generations/{target}", headers=USER).json["status"]

    with ThreadPoolExecutor(8) as callers:
        assert {"canceled"} == set(callers.map(cancelled, targets))
    assert 1 == simulator.counts().creations_accepted


def test_a_cancellation_is_on_the_disk_before_it_is_sent_to_replicate(app, client, simulator):
    target = submit(client, "[[hang]]")
    until(lambda: "running" == state(client, target))
    simulator.inject(on="cancel", delay=30)

    with ThreadPoolExecutor(1) as caller:
        answer = caller.submit(app.test_client().delete, f"/generations/{target}", headers=USER)
        until(lambda: "cancel" in simulator.counts().requests)
        row = app.extensions["service"].queries.generation(target)
        assert "canceled" == meanwhile(simulator.respond, answer.result).json["status"]

    assert ("running", True) == (row.state, row.cancelled)


@pytest.mark.parametrize("by", [ADMIN, USER], ids=["the admin's", "a user's"])
def test_a_cancellation_interrupted_by_a_crash_is_completed_without_a_fallback(
    make_app, restarted, simulator, tmp_path, by
):
    app = make_app()
    target = submit(app.test_client(), "[[hang]]", by=by, fallback=["qwen-image"])
    until(lambda: "running" == state(app.test_client(), target, by=by))
    app.extensions["service"].close()
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as ledger, ledger:
        ledger.execute("UPDATE generations SET cancelled = 1")

    result = ended(restarted(app), target, by=by)

    assert ("canceled", [("flux-dev", None)]) == (result["status"], tried(result))
    assert {"canceled": 1} == dict(simulator.counts().finished)


def test_a_prediction_cancelled_at_replicate_uses_no_fallback(client, simulator):
    target = submit(client, "[[hang]]", fallback=["qwen-image"])
    until(lambda: 1 == simulator.counts().in_flight)
    (prediction,) = simulator.predictions()
    token = {"Authorization": f"Bearer {USER['X-Replicate-API-Key']}"}
    requests.post(f"{simulator.url}/v1/predictions/{prediction.id}/cancel", headers=token, timeout=10)

    result = ended(client, target)

    assert ("failed", [("flux-dev", "generation_failed")]) == (result["status"], tried(result))


@pytest.mark.every_database
def test_a_prediction_cancelled_without_its_owner_counts_as_billed(make_app, restarted, simulator):
    app = make_app()
    target = submit(app.test_client(), "[[hang]]")
    until(lambda: "running" == state(app.test_client(), target))
    client = restarted(app)

    result = client.delete(f"/generations/{target}", headers=ADMIN).json

    assert ("canceled", 0.025) == (result["status"], result["cost_usd"])
    assert simulator.predictions()[0].id in result["error"]["detail"]
    assert "may run until its deadline, and be billed" in result["error"]["detail"]
    assert 0.025 == client.get("/usage", headers=USER).json["total"]["usd"]


@pytest.mark.parametrize("by", [ADMIN, USER], ids=["the admin's", "a user's"])
def test_a_simulated_batch_ends_when_the_service_stops_simulating(make_app, restarted, by):
    app = make_app(REPLICATE_SIMULATE=1)
    client = app.test_client()
    several, one = submit_batch(client, "[[hang]] a", "b", by=by), submit(client, "[[hang]] c", by=by)
    until(lambda: "running" == state(client, one, by=by))

    client = restarted(app)

    batch = ended(client, several, by=by)
    codes = [each["success"] or each["error"]["code"] for each in batch["results"]]
    assert ("interrupted", "completed") == (codes[0], batch["status"])
    assert "interrupted" == look_up(client, one, by=by)["error"]["code"]


@pytest.mark.slow
def test_a_batch_ends_even_if_the_disk_was_full_when_its_last_item_ended(
    make_app, restarted, simulator, tmp_path
):
    app = make_app(REPLICATE_CONCURRENT_LIMIT=1)
    client = app.test_client()
    submit(client, "[[hang]]", by=ADMIN)
    until(lambda: 1 == simulator.counts().in_flight)
    several = submit_batch(client, "a", "b")
    client = restarted(app, RESUME_TTL=1_000_000)
    service = client.application.extensions["service"]

    with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(LedgerDown):  # without an act to be noted, which would fail first
            service.loop.run(service.generations.cancel(several, Principal("admin", "admin", None)))
        other.execute("ROLLBACK")
    until(lambda: 200 == client.get("/health").status_code)
    service.loop.run(service.generations.tidy_up(resume_ttl=service.settings.RESUME_TTL))

    batch = look_up(client, several)
    assert ("completed", {"canceled": 2}) == (batch["status"], batch["counts"])


@pytest.mark.parametrize("by", [USER, ADMIN], ids=["user", "admin"])
def test_outputs_deleted_by_replicate_are_billed_and_not_made_again(make_app, restarted, simulator, by):
    app = make_app()
    target = submit(app.test_client(), "[[hang]]", by=by, fallback=["qwen-image"])
    until(lambda: "running" == state(app.test_client(), target, by=by))
    app.extensions["service"].close()
    simulator.finish()
    thrown_away = {"input": {}, "output": None, "logs": None, "data_removed": True}
    simulator.inject(on="get", times=1, set=thrown_away)

    result = ended(restarted(app), target, by=by)

    assert ("failed", "interrupted") == (result["status"], result["error"]["code"])
    assert 1 == simulator.counts().creations_accepted
    assert result["cost_usd"] == simulator.counts().billed_usd > 0


@pytest.mark.slow
def test_a_prediction_of_another_account_is_billed_and_not_made_again(make_app, restarted, simulator):
    app = make_app()
    target = submit(app.test_client(), "[[hang]]", by=ADMIN, fallback=["qwen-image"])
    until(lambda: "running" == state(app.test_client(), target, by=ADMIN))

    client = restarted(app, REPLICATE_API_TOKEN="r8_of_another")
    simulator.finish()
    result = ended(client, target, by=ADMIN)

    assert ("failed", "outcome_unknown") == (result["status"], result["error"]["code"])
    assert 1 == simulator.counts().creations_accepted
    assert result["cost_usd"] == simulator.counts().billed_usd > 0


@pytest.mark.every_database
def test_suspended_work_reserves_nothing_of_the_budget(make_app, restarted, simulator):
    budget = {"BUDGET_USD_PER_DAY": 0.05}  # the hanging one and one more
    app = make_app(REPLICATE_CONCURRENT_LIMIT=1, **budget)
    client = app.test_client()
    submit(client, "[[hang]]", by=ADMIN)
    until(lambda: 1 == simulator.counts().in_flight)
    targets = [submit(client, f"{number}") for number in range(4)]
    client = restarted(app, **budget)

    assert 200 == client.post("/generate", json=PICTURE, headers=ADMIN).status_code
    problem(client.post("/generate", json=PICTURE, headers=ADMIN), 402, "budget_exceeded")
    assert {"succeeded"} == {ended(client, target)["status"] for target in targets}


def test_a_restart_reserves_a_fallback_at_its_own_price(make_app, restarted, simulator):
    budget = {"BUDGET_USD_PER_DAY": 0.1}
    app = make_app(**budget)
    simulator.inject(on="create", set={"status": "failed", "error": "out of memory"})
    target = submit(app.test_client(), "[[hang]]", by=ADMIN, fallback=["flux-kontext-max"])
    until(
        lambda: (
            ["flux-dev", "flux-kontext-max"] == [each.model.split("/")[1] for each in simulator.predictions()]
        )
    )
    until(lambda: "running" == state(app.test_client(), target, by=ADMIN))
    client = restarted(app, **budget)

    problem(client.post("/generate", json=PICTURE, headers=ADMIN), 402, "budget_exceeded")


@pytest.mark.every_database
def test_batches_whose_items_are_cancelled_concurrently_end_exactly_once(make_app, restarted, simulator):
    app = make_app(REPLICATE_SIMULATE=1, REPLICATE_CONCURRENT_LIMIT=1)
    client = app.test_client()
    submit(client, "[[hang]]", by=ADMIN)
    until(lambda: 1 == simulator.counts().in_flight)
    with receiving() as receiver:
        batches = [submit_batch(client, "a", "b", webhook=receiver.url) for _ in range(10)]
        items = [each["id"] for each in client.get("/generations?limit=20", headers=USER).json["generations"]]
        client = restarted(app, REPLICATE_SIMULATE=1)
        service = client.application.extensions["service"]

        def cancel(target):
            service.loop.run(service.generations.tidy_up(resume_ttl=service.settings.RESUME_TTL))
            return (
                client.application.test_client().delete(f"/generations/{target}", headers=ADMIN).status_code
            )

        with ThreadPoolExecutor(4) as callers:
            assert {200} == set(callers.map(cancel, items))
        assert {"completed"} == {look_up(client, each, by=ADMIN)["status"] for each in batches}
        until(lambda: len(batches) <= len(receiver.received))
        until(
            lambda: {"delivered"} == {look_up(client, each, by=ADMIN)["webhook"]["state"] for each in batches}
        )

    assert sorted(batches) == sorted(message.json["id"] for message in receiver.received)


def test_resumed_work_is_logged(make_app, restarted, simulator, capsys):
    app = make_app(REPLICATE_CONCURRENT_LIMIT=1)
    client = app.test_client()
    submit(client, "[[hang]]", by=ADMIN)
    until(lambda: 1 == simulator.counts().in_flight)
    submit_batch(client, "a", "b")
    submit(client, by=ADMIN)
    capsys.readouterr()

    restarted(app, LOG_LEVEL="info")

    (said,) = [line for line in capsys.readouterr().err.splitlines() if '"recovery_completed"' in line]
    assert '"going_on": 2' in said
    assert '"waiting_for_owner": 2' in said


def test_an_attempt_that_was_never_sent_is_deleted_from_the_disk(make_app, simulator, tmp_path):
    """A process may die between admission and the record of the submission."""
    app = make_app(REPLICATE_CONCURRENT_LIMIT=1)
    client = app.test_client()
    submit(client, "[[hang]]", by=ADMIN)
    until(lambda: 1 == simulator.counts().in_flight)
    target = submit(client, "queued", by=ADMIN)
    app.extensions["service"].close()
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as ledger, ledger:
        ledger.execute(
            "INSERT INTO attempts (generation_id, number, model, changes, cost_usd, open, fingerprint, passed_over)"
            " VALUES (?, 1, 'black-forest-labs/flux-dev', '[]', 0, 0, '', 0)",
            (target,),
        )
    client = make_app(REPLICATE_CONCURRENT_LIMIT=1).test_client()

    client.delete(f"/generations/{target}", headers=ADMIN)

    assert ("canceled", 0) == (state(client, target, by=ADMIN), look_up(client, target, by=ADMIN)["attempts"])
