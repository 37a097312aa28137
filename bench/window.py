"""The window in real time: how many creations reach Replicate in any 60 seconds over a network with jitter.

Two scenarios run in parallel, each with a service and a simulator. `tests/unit/test_allowance.py` has the same in
virtual time. It takes three minutes, and mostly waits.
"""

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import requests

from bench.background import in_background
from bench.processes import counts, service_before, simulated, timed_post
from bench.report import Claim, Section, claimed, counted
from harness.service_process import ServiceProcess

_JITTERY = ("--seconds", "0.2", "--jitter", "0", "--delay", "0", "0.8", "--seed", "1")
_OTHERS = ("--others-per-minute", "3000")
_IDEAL = 3 * 60 + 0.2 + 0.8
"""Seconds for 2,000 creations at 600 a minute: the 1,801st is sent after three windows and takes 0.2 s; the network
takes 0.8 s on average for it and its picture."""

_APART = 20
"""Seconds between the starts of the scenarios, so that their bursts at the start of a window do not coincide."""

_KEY = {"X-Admin-API-Key": "r8_bench_admin"}


@dataclass(frozen=True, slots=True)
class _BatchRun:
    """A batch's body at its end, its seconds, and the simulator's counts."""

    batch: dict[str, Any]
    seconds: float
    seen: dict[str, Any]

    @property
    def distinct(self) -> int:
        """The number of distinct pictures in the batch."""
        return len({each["prediction_id"] for each in self.batch["results"] if each["success"]})

    @property
    def throttled(self) -> int:
        return int(self.seen["refusals"].get("429", 0))

    @property
    def peak(self) -> int:
        return int(self.seen["creations_peak_per_minute"])


def window() -> Section:
    """Both scenarios in parallel."""
    steady, jumping = in_background(_steady), in_background(_jumping)
    note = f"""\
The simulator is started with `{" ".join(_JITTERY)}`: each way a message takes 0 to 800 ms. The peak is the
simulator's count of the creations, accepted or refused, that reached it in any 60 seconds. Ideal is {_IDEAL:.0f} s: the
1,801st after three windows, its 0.2 s, and the line's 0.8 s for it and its picture. The window itself takes some two
per cent, since a place is free again a minute after its answer, when it is certain to have been counted."""
    claims = (work.result() for work in (steady, jumping))
    return claimed("The window, in real time", chain.from_iterable(claims), note=note)


def _steady() -> list[Claim]:
    """2,000 creations through one batch at 600 a minute."""
    limits = ("--creations-per-minute", "600", *_OTHERS)
    with (
        simulated(*_JITTERY, *limits) as simulator,
        service_before(
            simulator, REPLICATE_CONCURRENT_LIMIT=200, REPLICATE_REQUESTS_PER_MINUTE=600, FILES_TTL=0
        ) as service,
    ):
        result = _run_batch(service, simulator, [f"picture {n}" for n in range(2000)])
    ratio = result.seconds / _IDEAL
    return [
        Claim(
            "2,000 creations of 0.2 s at 600 a minute: makespan / ideal",
            f"{ratio:.3f}",
            "≤ 1.03",
            ratio <= 1.03,
        ),
        Claim("… at the most in any 60 s", f"{result.peak}", "≤ 600", result.peak <= 600),
        *_claims_of(result, pictures=2000, creations=2000),
    ]


def _jumping() -> list[Claim]:
    """1,000 creations, every fifth of which fails transiently, while both limits change twenty times."""
    chance = random.Random(1)
    limits = [(chance.randint(20, 300), chance.randint(50, 600)) for _ in range(20)]
    highest = max(rate for _, rate in limits)
    with (
        simulated(*_JITTERY, "--creations-per-minute", str(highest), *_OTHERS) as simulator,
        service_before(
            simulator,
            REPLICATE_CONCURRENT_LIMIT=200,
            REPLICATE_REQUESTS_PER_MINUTE=highest,
            FILES_TTL=0,
            CONCURRENT_DOCKER_ADMIN_API_KEY=_KEY["X-Admin-API-Key"],
        ) as service,
    ):
        prompts = [f"picture {n}" + " [[transient]]" * (n % 5 == 0) for n in range(1000)]
        time.sleep(_APART)
        work = in_background(lambda: _run_batch(service, simulator, prompts))
        for slots, rate in limits:
            time.sleep(chance.uniform(1, 14))
            _configure(service, concurrent_limit=slots, requests_per_minute=rate)
        result = work.result()
    what = (
        "1,000 creations, every fifth failing at first, both limits changed 20 times: at the most in any 60 s"
    )
    return [
        Claim(what, f"{result.peak}", f"≤ {highest}, the highest limit", result.peak <= highest),
        *_claims_of(result, pictures=1000, creations=1200),
    ]


def _claims_of(result: _BatchRun, *, pictures: int, creations: int) -> Iterator[Claim]:
    yield counted("… refused with 429", result.throttled)
    got, made = result.distinct, result.seen["creations_accepted"]
    yield Claim(
        "… pictures got, predictions made",
        f"{got}, {made}",
        f"{pictures}, {creations}",
        (got, made) == (pictures, creations),
    )


def _run_batch(service: ServiceProcess, simulator: str, prompts: list[str]) -> _BatchRun:
    batch, seconds = timed_post(service, "/generate-batch", {"model_name": "flux-dev", "prompts": prompts})
    return _BatchRun(batch, seconds, counts(simulator))


def _configure(service: ServiceProcess, **limits: int) -> None:
    requests.post(f"{service.url}/configure", json=limits, headers=_KEY, timeout=30).raise_for_status()
