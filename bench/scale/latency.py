"""What asking another process costs: the time to be admitted, creations a second, and `/health` with a full queue.

PostgreSQL writes to the disk here. Processes, simulator, database and callers share the machine.
"""

import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import requests

from bench.processes import counts, cpu_seconds, simulated
from bench.report import Claim, Section, claimed
from bench.rounds import BOUNDLESS, LIFTED, WITHOUT_FILES
from bench.scale.stage import Scale
from harness.fleet import ADMIN, Fleet, running_fleet
from harness.postgres import Server
from harness.service_process import until

_REQUESTS = 600
_CREATIONS = 20_000
_WAITING = 20_000
_MOST_QUEUED_MS = 15.0
_MOST_HEALTH_MS = 100.0
_LEAST_RATE = 1000.0


def latency(scale: Scale) -> Section:
    return claimed("What many processes cost", _claims(scale))


def _claims(scale: Scale) -> Iterator[Claim]:
    with _fleet(4, "--seconds", "0", **WITHOUT_FILES) as (fleet, simulator):
        yield from _admission(fleet, scale.number(_REQUESTS))
        yield from _creations(fleet, simulator, scale.number(_CREATIONS))
    with _fleet(8, "--seconds", "1800", **{**WITHOUT_FILES, "REPLICATE_CONCURRENT_LIMIT": 10}) as (
        fleet,
        simulator,
    ):
        yield from _health(fleet, simulator, scale.number(_WAITING))


@contextmanager
def _fleet(size: int, *options: str, **settings: object) -> Iterator[tuple[Fleet, str]]:
    server = Server(
        on_disk=True, max_connections="200", fsync="on", full_page_writes="on", shared_buffers="128MB"
    )
    try:
        with (
            simulated(*options, *BOUNDLESS) as simulator,
            running_fleet(size, server, REPLICATE_BASE_URL=simulator, **{**LIFTED, **settings}) as fleet,
        ):
            yield fleet, simulator
    finally:
        server.close()


def _admission(fleet: Fleet, number: int) -> Iterator[Claim]:
    """Milliseconds from the acceptance of a request to its admission, at each process in turn, ten times a second."""
    answered = []
    with requests.Session() as session:
        session.headers.update(ADMIN)
        for turn in range(number):
            url = f"{fleet.members[turn % len(fleet.members)].running.url}/generate"
            began = time.perf_counter()
            response = session.post(
                url, json={"model_name": "flux-dev", "prompt": "a fox", "seed": 7}, timeout=30
            )
            answered.append((time.perf_counter() - began) * 1000)
            response.raise_for_status()
            time.sleep(0.1)
    rows = fleet.server.execute("SELECT queued_seconds FROM generations")
    queued = [1000 * float(seconds) for (seconds,) in rows]
    p50, p99 = statistics.median(queued), statistics.quantiles(queued, n=100)[98]
    what = f"{number} requests when nothing waits: until admitted at p50 (p99 {p99:.1f} ms)"
    yield Claim(what, f"{p50:.1f} ms", f"≤ {_MOST_QUEUED_MS:g} ms", p50 <= _MOST_QUEUED_MS)
    yield Claim("… until answered at p50", f"{statistics.median(answered):.0f} ms")


def _creations(fleet: Fleet, simulator: str, number: int) -> Iterator[Claim]:
    """Creations a second, from the first to the last of a batch at each process."""
    before, size = counts(simulator)["requests"].get("create", 0), len(fleet.members)
    spent = sum(cpu_seconds(each.running.process.pid) for each in fleet.members)
    with ThreadPoolExecutor(size) as callers:
        list(callers.map(lambda url: _submit(url, number // size), fleet.urls()))

        def made() -> int:
            return int(counts(simulator)["requests"].get("create", 0)) - int(before)

        until(lambda: made() > number // 20, timeout=120)
        began, first = time.perf_counter(), made()
        until(lambda: made() > number * 0.9, timeout=600)
        rate = (made() - first) / (time.perf_counter() - began)
    until(lambda: made() >= number // size * size, timeout=120)
    cpu = (sum(cpu_seconds(each.running.process.pid) for each in fleet.members) - spent) * 1000 / number
    what = f"{number} creations in {size} batches over {size} processes ({cpu:.1f} ms of CPU each): creations a second"
    yield Claim(what, f"{rate:.0f}", f"≥ {_LEAST_RATE:g}", rate >= _LEAST_RATE)


def _health(fleet: Fleet, simulator: str, waiting: int) -> Iterator[Claim]:
    """`/health` of each process with so many waiting over all of them."""
    for url in fleet.urls():
        _submit(url, waiting // len(fleet.members))
    until(lambda: counts(simulator)["in_flight"] == 10, timeout=60)
    time.sleep(5)
    worst = 0.0
    for url in fleet.urls():
        with requests.Session() as session:
            took = [_seconds(session, f"{url}/health") for _ in range(300)]
        worst = max(worst, statistics.quantiles(took, n=100)[98] * 1000)
    what = f"{waiting} waiting over {len(fleet.members)} processes: /health at p99 on the slowest"
    yield Claim(what, f"{worst:.0f} ms", f"≤ {_MOST_HEALTH_MS:g} ms", worst <= _MOST_HEALTH_MS)


def _submit(url: str, number: int) -> None:
    requests.post(
        f"{url}/generate-batch",
        json={"model_name": "flux-dev", "prompts": ["a red fox in the snow"] * number, "seed": 7},
        headers={**ADMIN, "Prefer": "respond-async"},
        timeout=120,
    ).raise_for_status()


def _seconds(session: requests.Session, url: str) -> float:
    began = time.perf_counter()
    session.get(url, timeout=30).raise_for_status()
    return time.perf_counter() - began
