"""The routes for probes: `/health/live` is about the event loop alone, `/health/ready` about new callers."""

import threading
from dataclasses import replace

import pytest

from harness.service_process import until
from loop_thread import LoopThread
from tests.support.callers import ADMIN
from tests.support.problem_documents import problem


class StuckLoop:
    """A second loop for `app`, whose clock stands still and which a coroutine blocks."""

    def __init__(self, app):
        self.now = 0.0
        self.release = threading.Event()
        self.loop = LoopThread("stuck", clock=lambda: self.now).start()
        app.extensions["service"] = replace(app.extensions["service"], loop=self.loop)
        blocked = threading.Event()

        async def block():
            blocked.set()
            self.release.wait()

        self.loop.submit(block())
        assert blocked.wait(10)


@pytest.fixture
def stuck(app):
    real = app.extensions["service"]
    made = StuckLoop(app)
    yield made
    made.release.set()
    made.loop.stop()
    app.extensions["service"] = real


def test_a_running_service_is_live_and_ready(client, simulator):
    assert {"status": "live"} == client.get("/health/live").json
    assert {"status": "ready", "ledger": "ok"} == client.get("/health/ready").json
    assert {} == dict(simulator.counts().requests)


def test_a_process_is_live_until_its_loop_has_been_blocked_for_ten_seconds(client, stuck):
    stuck.now = 10.0
    assert 200 == client.get("/health/live").status_code

    stuck.now = 10.5
    blocked = client.get("/health/live")
    assert "10 seconds" in problem(blocked, 503, "loop_blocked", retryable=True)["detail"]
    assert 1 <= int(blocked.headers["Retry-After"])

    stuck.release.set()
    until(lambda: client.get("/health/live").status_code == 200)


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready"])
def test_no_probe_waits_for_a_blocked_loop(client, stuck, path):
    assert 200 == client.get(path).status_code


def test_a_drain_ends_readiness_and_not_liveness(app):
    client = app.test_client()
    app.extensions["service"].begin_drain(0)

    problem(client.get("/health/ready"), 503, "shutting_down", retryable=True)
    assert 200 == client.get("/health/live").status_code


def test_a_service_without_its_ledger_stays_live_and_ready_and_gives_the_reason_itself(app, monkeypatch):
    client, ledger = app.test_client(), app.extensions["service"].ledger
    trouble = "The ledger cannot be written: disk is full."
    # The next commit would put None in its place.
    monkeypatch.setattr(type(ledger), "trouble", property(lambda _: trouble, lambda *_: None), raising=False)

    assert 200 == client.get("/health/live").status_code
    assert {"status": "ready", "ledger": "away"} == client.get("/health/ready").json
    problem(client.get("/health"), 500, "internal", retryable=True)


def test_a_service_is_not_ready_before_another_has_left_the_ledger(make_app):
    first, second = make_app(), make_app()
    client = second.test_client()

    starting = client.get("/health/ready")
    assert "another process has it" in problem(starting, 503, "starting", retryable=True)["detail"]
    assert 1 <= int(starting.headers["Retry-After"])
    assert 200 == client.get("/health/live").status_code

    first.extensions["service"].close()
    until(lambda: client.get("/health/ready").status_code == 200)


def test_no_key_is_needed_and_a_wrong_one_does_no_harm(client):
    for headers in ({}, ADMIN, {"X-Admin-API-Key": "wrong"}, {"X-Replicate-API-Key": "a b"}):
        for path in ("/health/live", "/health/ready"):
            assert 200 == client.get(path, headers=headers).status_code
