"""While the ledger cannot be written, new work is refused and running work is watched to its end."""

import sqlite3
import threading
from contextlib import closing, contextmanager

import pytest
from sqlalchemy import Engine, event

from harness.service_process import until
from tests.support.api_client import meanwhile
from tests.support.callers import ADMIN, PICTURE
from tests.support.problem_documents import problem

BATCH = {"model_name": "flux-dev", "prompts": ["a", "b"]}


@contextmanager
def locked(path):
    """Another process locks the ledger."""
    with closing(sqlite3.connect(path / "ledger.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


def answered_later(client, *arguments, **named):
    """A request in a thread of its own; `answer()` waits for what came of it."""
    answers = []
    thread = threading.Thread(target=lambda: answers.append(client.post(*arguments, **named)))
    thread.start()

    def answer():
        thread.join(timeout=30)
        return answers[0]

    return answer


def service_of(app):
    return app.extensions["service"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "body", "headers"),
    [
        ("/generate", PICTURE, {}),
        ("/generate", PICTURE, {"Prefer": "respond-async"}),
        ("/generate", PICTURE, {"Idempotency-Key": "k"}),
        ("/generate-batch", BATCH, {}),
        ("/generate-batch", BATCH, {"Prefer": "respond-async", "Idempotency-Key": "k"}),
    ],
)
def test_new_work_is_refused_before_anything_is_spent_and_accepted_once_the_ledger_is_back(
    app, simulator, tmp_path, path, body, headers
):
    client = app.test_client()
    with locked(tmp_path):
        first = problem(
            client.post(path, json=body, headers=ADMIN | headers), 500, "internal", retryable=True
        )
        assert "database is locked" in first["detail"]
        # The outage is known from now on, so no request waits for the disk.
        problem(client.post(path, json=body, headers=ADMIN | headers), 500, "internal", retryable=True)
        assert (
            "database is locked" in problem(client.get("/health"), 500, "internal", retryable=True)["detail"]
        )
        assert 0 == simulator.counts().requests.get("create", 0)

    until(lambda: client.get("/health").status_code == 200)
    assert client.post(path, json=body, headers=ADMIN | headers).status_code in {200, 202}


def test_running_work_is_watched_to_its_end_and_recorded_afterwards(app, simulator, tmp_path):
    client = app.test_client()
    answer = answered_later(client, "/generate", json=PICTURE | {"prompt": "x [[hang]]"}, headers=ADMIN)
    until(lambda: simulator.counts().in_flight == 1)
    with locked(tmp_path):
        problem(client.post("/generate", json=PICTURE, headers=ADMIN), 500, "internal", retryable=True)
        body = meanwhile(simulator.finish, answer).get_json()
        assert (True, "succeeded") == (body["success"], body["status"])

    until(lambda: service_of(app).queries.generation(body["id"]).state == "succeeded")


def test_queued_work_waits_until_the_ledger_is_back_and_is_made_once(make_app, simulator, tmp_path):
    app = make_app(REPLICATE_CONCURRENT_LIMIT=1)
    client = app.test_client()
    prompts = {"model_name": "flux-dev", "prompts": ["a [[hang]]", "b", "c"]}
    shown = client.post(
        "/generate-batch", json=prompts, headers=ADMIN | {"Prefer": "respond-async"}
    ).get_json()
    until(lambda: simulator.counts().in_flight == 1)
    with locked(tmp_path):
        simulator.finish()
        until(lambda: service_of(app).ledger.trouble is not None)
        assert 1 == simulator.counts().creations_accepted

    until(lambda: client.get(f"/batches/{shown['id']}", headers=ADMIN).get_json()["status"] == "completed")
    assert ["a [[hang]]", "b", "c"] == [each.input["prompt"] for each in simulator.predictions()]


def test_a_service_with_a_broken_ledger_starts_and_refuses_work(make_app, simulator, tmp_path):
    (tmp_path / "ledger.db").write_bytes(b"not a database" * 1000)
    client = make_app().test_client()

    assert (
        "file is not a database" in problem(client.get("/health"), 500, "internal", retryable=True)["detail"]
    )
    problem(client.post("/generate", json=PICTURE, headers=ADMIN), 500, "internal", retryable=True)
    assert 200 == client.get("/status").status_code
    assert 0 == simulator.counts().requests.get("create", 0)

    (tmp_path / "ledger.db").unlink()
    until(lambda: client.get("/health").status_code == 200)
    assert 200 == client.post("/generate", json=PICTURE, headers=ADMIN).status_code


@pytest.fixture
def connections():
    """The database connections that are opened meanwhile."""
    found = []

    def note(connection, _):
        found.append(connection)

    event.listen(Engine, "connect", note)
    yield found
    event.remove(Engine, "connect", note)


def test_a_full_disk_refuses_new_work_until_there_is_room(connections, app, simulator):
    client = app.test_client()
    connection = connections[0]
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    body = PICTURE | {"prompt": "x" * 100_000}

    shown = problem(client.post("/generate", json=body, headers=ADMIN), 500, "internal", retryable=True)
    assert "disk is full" in shown["detail"]
    assert 0 == simulator.counts().requests.get("create", 0)

    until(lambda: client.get("/health").status_code == 200)
    assert 200 == client.post("/generate", json=PICTURE, headers=ADMIN).status_code
