"""A stalled Replicate: the simulator's process is stopped five times under load, and the service killed in three
stalls.

When it continues, the simulator serves the requests in its sockets, also those of callers that have given up or died.
`tests/unit/test_stalls.py` makes the same claims in virtual time. It takes seven minutes, and mostly waits.
"""

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import requests

from bench.processes import counts, predictions, simulator_process
from bench.report import Claim, Section, claimed, counted
from harness.service_process import ServiceProcess, running_service

_A_MINUTE = 60
_PICTURES = 120
_STALLS = ((35, True), (12, False), (50, True), (40, False), (65, True))
"""The seconds of each stall, and whether the service is killed in its middle."""

_BETWEEN = 15
"""Seconds before each stall."""

_TIMEOUT = 600
"""Seconds from the last stall to the end of the batch. It only bounds a failing run."""

_KEY = {"X-Admin-API-Key": "r8_bench_admin"}
_SIMULATOR = (
    *("--seconds", "5", "--jitter", "0.5", "--seed", "1", "--delay", "0", "2"),
    *("--creations-per-minute", str(_A_MINUTE)),
)

_NOTE = f"""\
The simulator is started with `{" ".join(_SIMULATOR)}`: each way a message takes 0 to 2 s. Its process is stopped
(`SIGSTOP`) for {", ".join(f"{seconds}" for seconds, _ in _STALLS)} s, {_BETWEEN} s apart, while a batch of
{_PICTURES} runs at {_A_MINUTE} a minute and 60 slots. In the middle of the first, third and fifth stall master and
worker of the service are killed and started again. The counts are the simulator's."""


def stalls() -> Section:
    """The claims of one batch through all stalls."""
    return claimed("Five stalls of Replicate, three kills in them", _claims(), note=_NOTE)


def _claims() -> Iterator[Claim]:
    with simulator_process(*_SIMULATOR) as (url, pid), TemporaryDirectory() as data:
        settings = {
            "REPLICATE_BASE_URL": url,
            "REPLICATE_API_TOKEN": "r8_bench",
            "CONCURRENT_DOCKER_ADMIN_API_KEY": _KEY["X-Admin-API-Key"],
            "REPLICATE_CONCURRENT_LIMIT": 60,
            "REPLICATE_REQUESTS_PER_MINUTE": _A_MINUTE,
            "FILES_TTL": 0,
            "DATA_DIR": Path(data),
        }
        batch = _batch(pid, settings)
        seen, made = counts(url), predictions(url)
    results = batch["results"]
    known_ids = [each["prediction_id"] for each in results if each["prediction_id"] is not None]
    unknown = {each["id"] for each in made} - set(known_ids)
    twice = [
        prompt for prompt, times in Counter(each["input"]["prompt"] for each in made).items() if times > 1
    ]
    failed = Counter(each["error"]["code"] for each in results if not each["success"])
    peak, throttled = seen["creations_peak_per_minute"], int(seen["refusals"].get("429", 0))
    yield Claim("Creations at the most in any 60 s", f"{peak}", f"≤ {_A_MINUTE}", peak <= _A_MINUTE)
    yield counted("… refused with 429", throttled)
    yield Claim(
        "… pictures got, predictions made",
        f"{len(results) - failed.total()}, {len(made)}",
        f"{_PICTURES}, {_PICTURES}",
        not failed and len(made) == _PICTURES,
    )
    yield counted("… predictions that no generation knows", len(unknown))
    yield counted("… pictures made twice", len(twice))


def _batch(simulator: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Run the batch through the stalls. Returns its body at the end."""
    with ExitStack() as stack:
        service = stack.enter_context(running_service(**settings))
        path = _submitted(service)
        for seconds, kills in _STALLS:
            time.sleep(_BETWEEN)
            with _stopped(simulator):
                time.sleep(seconds / 2)
                if kills:
                    service.kill()
                    service = stack.enter_context(running_service(**settings))
                time.sleep(seconds / 2)
        return _ended(service.url + path)


def _submitted(service: ServiceProcess) -> str:
    """Submit the batch, with an idempotency key. Returns its path."""
    answer = requests.post(
        f"{service.url}/generate-batch",
        json={"model_name": "flux-dev", "prompts": [f"picture {number}" for number in range(_PICTURES)]},
        headers={**_KEY, "Prefer": "respond-async", "Idempotency-Key": "all"},
        timeout=30,
    )
    answer.raise_for_status()
    return answer.headers["Location"]


@contextmanager
def _stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _ended(url: str) -> dict[str, Any]:
    deadline = time.monotonic() + _TIMEOUT
    while True:
        batch: dict[str, Any] = requests.get(url, headers=_KEY, timeout=30).json()
        if batch["status"] == "completed":
            return batch
        if time.monotonic() > deadline:
            raise AssertionError(f"the batch did not end: {batch['counts']}")
        time.sleep(1)
