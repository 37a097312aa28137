"""The limits across a restart: what the dead spent is not spent again. Counts are the simulator's."""

import os
import signal
from pathlib import Path

import pytest
import requests
from callers import PICTURE, USER
from process import Served, answer_of, served, until


def _kill(service: Served) -> None:
    """Master and worker at once, as a machine's memory killer or a container's end does."""
    worker = service.worker()
    os.kill(service.process.pid, signal.SIGKILL)
    os.kill(worker, signal.SIGKILL)
    service.ended()
    until(lambda: not Path(f"/proc/{worker}").exists())


def _rates(service: Served) -> tuple[int, int]:
    figures = requests.get(f"{service.url}/status", timeout=30).json()
    return (
        figures["concurrency"]["current_rate_per_minute"],
        figures["polling"]["current_rate_per_minute"],
    )


def test_a_process_killed_under_load_leaves_its_window_to_the_next(simulator, tmp_path):
    settings = {
        "REPLICATE_BASE_URL": simulator.url,
        "REPLICATE_REQUESTS_PER_MINUTE": 8,
        "REPLICATE_CONCURRENT_LIMIT": 3,
        "DATA_DIR": tmp_path,
    }
    simulator.account("r8_user", creations_per_minute=8)
    batch = {"model_name": "flux-dev", "prompts": [f"picture {i}" for i in range(8)]}
    with served(**settings) as first:
        caller = first.connect("/generate-batch", batch, **USER)
        until(lambda: simulator.counts().creations_accepted >= 5)
        _kill(first)
        caller.close()
    spent = simulator.counts().creations_accepted
    with served(**settings) as second:
        assert spent <= _rates(second)[0] <= 8
        callers = [second.connect("/generate", PICTURE, **USER) for _ in range(8)]
        free = 8 - _rates(second)[0]
        until(lambda: simulator.counts().creations_accepted >= spent + free)
        until(lambda: requests.get(f"{second.url}/status", timeout=30).json()["concurrency"]["waiting"] > 0)
        for caller in callers:
            caller.close()

    counts = simulator.counts()
    assert counts.creations_peak_per_minute <= 8
    assert 429 not in counts.refusals


def test_a_process_that_ended_well_leaves_exactly_what_it_spent(simulator, tmp_path):
    settings = {"REPLICATE_BASE_URL": simulator.url, "DATA_DIR": tmp_path}
    with served(**settings) as first:
        for _ in range(3):
            answer_of(first.connect("/generate", PICTURE, **USER))
        before = _rates(first)
        first.signal(signal.SIGTERM)
        assert 0 == first.ended()
    with served(**settings) as second:
        assert before == _rates(second)
    assert 3 == before[0]


def test_a_worker_that_follows_a_killed_one_goes_on_with_its_window(simulator):
    with served(REPLICATE_BASE_URL=simulator.url) as service:
        answer_of(service.connect("/generate", PICTURE, **USER))
        before, worker = _rates(service), service.worker()

        os.kill(worker, signal.SIGKILL)
        until(lambda: not Path(f"/proc/{worker}").exists())

        assert before == _rates(service)


@pytest.mark.parametrize("directory", ["/proc/nowhere", __file__], ids=["no such place", "a file"])
def test_a_directory_that_cannot_be_written_does_not_keep_the_service_from_serving(simulator, directory):
    with served(REPLICATE_BASE_URL=simulator.url, DATA_DIR=directory) as service:
        status, told = answer_of(service.connect("/generate", PICTURE, **USER))

    assert (200, True) == (status, told["success"])
