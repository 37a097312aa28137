"""Restarts: the window counts across them, and work continues. The simulator counts the requests."""

import os
import signal
from pathlib import Path

import pytest
import requests

from harness.service_process import ServiceProcess, read_response, running_service, until
from tests.support.callers import ADMIN, ADMIN_KEY, PICTURE, SERVER_TOKEN, USER

pytestmark = pytest.mark.slow


def _rate(service: ServiceProcess) -> int:
    """The creations that count in the window now."""
    rate: int = requests.get(f"{service.url}/status", timeout=30).json()["concurrency"][
        "current_rate_per_minute"
    ]
    return rate


def test_the_window_of_a_killed_process_counts_for_the_next(simulator, tmp_path):
    settings = {
        "REPLICATE_BASE_URL": simulator.url,
        "REPLICATE_REQUESTS_PER_MINUTE": 8,
        "REPLICATE_CONCURRENT_LIMIT": 3,
        "DATA_DIR": tmp_path,
    }
    simulator.account("r8_user", creations_per_minute=8)
    batch = {"model_name": "flux-dev", "prompts": [f"picture {i}" for i in range(8)]}
    with running_service(**settings) as first:
        caller = first.connect("/generate-batch", batch, **USER)
        until(lambda: simulator.counts().creations_accepted >= 5)
        first.kill()
        caller.close()
    spent = simulator.counts().creations_accepted
    with running_service(**settings) as second:
        assert spent <= _rate(second) <= 8
        callers = [second.connect("/generate", PICTURE, **USER) for _ in range(8)]
        free = 8 - _rate(second)
        until(lambda: simulator.counts().creations_accepted >= spent + free)
        until(lambda: requests.get(f"{second.url}/status", timeout=30).json()["concurrency"]["waiting"] > 0)
        for caller in callers:
            caller.close()

    counts = simulator.counts()
    assert counts.creations_peak_per_minute <= 8
    assert 429 not in counts.refusals


def test_the_window_of_a_stopped_process_counts_exactly_for_the_next(simulator, tmp_path):
    settings = {"REPLICATE_BASE_URL": simulator.url, "DATA_DIR": tmp_path}
    with running_service(**settings) as first:
        for _ in range(3):
            read_response(first.connect("/generate", PICTURE, **USER))
        before = _rate(first)
        first.signal(signal.SIGTERM)
        assert 0 == first.ended()
    with running_service(**settings) as second:
        assert before == _rate(second)
    assert 3 == before


def test_configured_limits_that_were_answered_survive_a_kill(simulator, tmp_path):
    settings = {
        "REPLICATE_BASE_URL": simulator.url,
        "CONCURRENT_DOCKER_ADMIN_API_KEY": ADMIN_KEY,
        "DATA_DIR": tmp_path,
    }
    limits = {"concurrent_limit": 3, "requests_per_minute": 700}
    with running_service(**settings) as first:
        answer = requests.post(f"{first.url}/configure", json=limits, headers=ADMIN, timeout=30)
        first.kill()
    with running_service(**settings) as second:
        status = requests.get(f"{second.url}/status", headers=ADMIN, timeout=30).json()

    assert (200, limits) == (answer.status_code, status["configured_limits"])
    assert 3 == status["concurrency"]["concurrent_limit"]


def test_a_new_worker_continues_the_window_of_a_killed_one(simulator):
    with running_service(REPLICATE_BASE_URL=simulator.url) as service:
        read_response(service.connect("/generate", PICTURE, **USER))
        before, worker = _rate(service), service.worker()

        os.kill(worker, signal.SIGKILL)
        until(lambda: not Path(f"/proc/{worker}").exists())

        assert before == _rate(service)


def test_the_admins_work_continues_after_a_restart_and_nothing_is_created_twice(simulator, tmp_path):
    settings = {
        "REPLICATE_BASE_URL": simulator.url,
        "REPLICATE_API_TOKEN": SERVER_TOKEN,
        "CONCURRENT_DOCKER_ADMIN_API_KEY": ADMIN_KEY,
        "REPLICATE_CONCURRENT_LIMIT": 2,
        "DATA_DIR": tmp_path,
    }
    batch = {"model_name": "flux-dev", "prompts": ["[[hang]] b", "c", "d"]}
    with running_service(**settings) as first:
        single = first.connect("/generate", {**PICTURE, "prompt": "[[hang]] a"}, **ADMIN)
        until(lambda: simulator.counts().in_flight == 1)
        several = first.connect("/generate-batch", batch, **ADMIN)
        until(lambda: simulator.counts().in_flight == 2)
        first.signal(signal.SIGINT)
        (one, document), (another, batch_document) = read_response(single), read_response(several)
        assert 0 == first.ended()
        assert 2 == simulator.counts().in_flight

    assert [(503, "shutting_down")] * 2 == [(one, document["code"]), (another, batch_document["code"])]
    simulator.finish()
    with running_service(**settings) as second:

        def result(path: str):
            return requests.get(second.url + path, headers=ADMIN, timeout=30).json()

        until(lambda: result(f"/generations/{document['id']}")["status"] == "succeeded")
        until(lambda: result(f"/batches/{batch_document['id']}")["status"] == "completed")
        results = [
            result(f"/generations/{document['id']}"),
            *result(f"/batches/{batch_document['id']}")["results"],
        ]

    made = {each.id: (each.input["prompt"], each.status) for each in simulator.predictions()}
    assert [(prompt, "succeeded") for prompt in ("[[hang]] a", *batch["prompts"])] == [
        made[each["prediction_id"]] for each in results
    ]
    assert (4, {"succeeded": 4}) == (simulator.counts().creations_accepted, simulator.counts().finished)
    assert [True] * 4 == [each["success"] and len(each["files"]) == 1 for each in results]
    assert "cancel" not in simulator.counts().requests


def test_a_users_work_continues_after_a_restart_with_the_users_next_request(simulator, tmp_path):
    settings = {"REPLICATE_BASE_URL": simulator.url, "REPLICATE_CONCURRENT_LIMIT": 1, "DATA_DIR": tmp_path}
    with running_service(**settings) as first:
        running = first.connect("/generate", {**PICTURE, "prompt": "[[hang]]"}, **USER)
        until(lambda: simulator.counts().in_flight == 1)
        queued = first.connect("/generate", PICTURE, **USER)
        until(lambda: requests.get(f"{first.url}/status", timeout=30).json()["concurrency"]["waiting"] == 1)
        first.signal(signal.SIGINT)
        targets = [read_response(caller)[1]["id"] for caller in (running, queued)]
        assert 0 == first.ended()
    before = simulator.counts().requests
    with running_service(**settings) as second:

        def document(method: str, target: str, **headers: str):
            return requests.request(method, f"{second.url}/generations/{target}", headers=headers, timeout=30)

        assert 404 == document("GET", targets[0], **{"X-Replicate-API-Key": "r8_another"}).status_code
        assert before == simulator.counts().requests
        assert "running" == document("GET", targets[0], **USER).json()["status"]
        assert "canceled" == document("DELETE", targets[0], **USER).json()["status"]
        until(lambda: document("GET", targets[1], **USER).json()["status"] == "succeeded")

    assert ["canceled", "succeeded"] == [made.status for made in simulator.predictions()]


UNWRITABLE = "/proc"
"""A directory in which no file can be made."""


def test_a_service_with_its_ledger_elsewhere_serves_even_if_the_data_directory_is_read_only(
    simulator, tmp_path
):
    ledger = f"sqlite:///{tmp_path}/ledger.db"
    with running_service(
        REPLICATE_BASE_URL=simulator.url, DATA_DIR=UNWRITABLE, DATABASE_URL=ledger
    ) as service:
        status, document = read_response(service.connect("/generate", PICTURE, **USER))

    assert (200, True) == (status, document["success"])


def test_nothing_is_spent_without_a_ledger_and_health_has_the_reason(simulator):
    with running_service(REPLICATE_BASE_URL=simulator.url, DATA_DIR=UNWRITABLE) as service:
        status, document = read_response(service.connect("/generate", PICTURE, **USER))
        health, reason = read_response(service.connect("/health"))
        figures, _ = read_response(service.connect("/status"))

    assert [(500, "internal")] * 2 == [(status, document["code"]), (health, reason["code"])]
    assert reason["detail"].startswith("The ledger cannot be written: ")
    assert reason["detail"] in document["detail"]
    assert (200, {}) == (figures, dict(simulator.counts().requests))
