"""What is measured. Each measure returns rows: what, figure, target, and whether it is met."""

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import requests

from bench.setting import TOKEN, counts, post, prompts, resident_megabytes, service_before, simulated
from tests.process import until


@dataclass(frozen=True, slots=True)
class Row:
    what: str
    figure: str
    target: str
    met: bool


def makespan() -> Iterator[Row]:
    """300 generations of exactly 1 s at 60 slots: five waves, ideally 5 s."""
    with simulated("--seconds", "1", "--jitter", "0") as simulator:
        with service_before(simulator, REPLICATE_CONCURRENT_LIMIT=60) as service:
            began = time.perf_counter()
            batch = post(service, "/generate-batch", prompts(300))
            ratio = (time.perf_counter() - began) / 5
        seen = counts(simulator)
    asked = seen["requests"]["create"] + seen["requests"]["get"]
    yield Row("300 generations of 1 s at 60 slots: makespan / ideal", f"{ratio:.2f}", "≤ 1.25", ratio <= 1.25)
    yield Row(
        "… lost, paid twice, refused",
        f"{300 - batch['succeeded']}, {seen['creations_accepted'] - 300}, {sum(seen['refusals'].values())}",
        "0, 0, 0",
        batch["succeeded"] == seen["creations_accepted"] == 300 and not seen["refusals"],
    )
    yield Row("… requests to Replicate a picture", f"{asked / 300:.1f}", "", True)
    peak = seen["in_flight_peak"]
    yield Row("… predictions in flight at the most", f"{peak}", "≤ 60", peak <= 60)


def memory() -> Iterator[Row]:
    """A batch accepted and queued, nothing of it done."""
    for size, target in ((1000, 150), (10_000, 250)):
        with (
            simulated("--seconds", "600") as simulator,
            service_before(simulator, REPLICATE_CONCURRENT_LIMIT=10) as service,
        ):
            idle = resident_megabytes(service)
            caller = service.connect("/generate-batch", prompts(size), **TOKEN)
            until(partial(_is_queued, service.url, simulator, size))
            queued = resident_megabytes(service)
            caller.close()
        what = f"a batch of {size} queued: resident memory of the service ({idle:.0f} MB idle)"
        yield Row(what, f"{queued:.0f} MB", f"< {target} MB", queued < target)


def answers_under_load() -> Iterator[Row]:
    """`/health` and `/status` while 200 callers wait in `/generate`."""
    with (
        simulated("--seconds", "600") as simulator,
        service_before(simulator, REPLICATE_CONCURRENT_LIMIT=60) as service,
    ):
        body = {"model_name": "flux-dev", "prompt": "a long wait"}
        callers = [service.connect("/generate", body, **TOKEN) for _ in range(200)]
        until(lambda: _figures(service.url)["waiting"] == 140)
        for path in ("/health", "/status"):
            with requests.Session() as session:
                took = [_seconds(session, service.url + path) for _ in range(500)]
            p99 = statistics.quantiles(took, n=100)[98] * 1000
            what = f"200 callers waiting: {path} at p99 (p50 {statistics.median(took) * 1000:.1f} ms)"
            yield Row(what, f"{p99:.1f} ms", "≤ 50 ms", p99 <= 50)
        for caller in callers:
            caller.close()
        until(lambda: _figures(service.url)["current_concurrent"] == 0)
        left = counts(simulator)["in_flight"]
        yield Row("… after all hang up: predictions still running", str(left), "0", left == 0)


MEASURES = (makespan, memory, answers_under_load)


def _is_queued(service: str, simulator: str, size: int) -> bool:
    return counts(simulator)["in_flight"] == 10 and _figures(service)["waiting"] == size - 10


def _figures(url: str) -> dict[str, float]:
    figures: dict[str, float] = requests.get(f"{url}/status", timeout=30).json()["concurrency"]
    return figures


def _seconds(session: requests.Session, url: str) -> float:
    began = time.perf_counter()
    session.get(url, timeout=30).raise_for_status()
    return time.perf_counter() - began
