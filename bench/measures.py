"""The claims of the documentation, a function for each."""

import asyncio
import statistics
import time
from collections.abc import Iterator
from functools import partial
from itertools import chain

import requests

from bench.processes import (
    TOKEN,
    api_requests,
    counts,
    peak_megabytes,
    post,
    prompts,
    resident_megabytes,
    service_before,
    simulated,
    timed_post,
)
from bench.report import Claim, Section, claimed, counted
from concurrency import Gate
from harness.service_process import until
from media.formats import black_png


def claims() -> Section:
    """All claims, one after another."""
    return claimed("What is claimed", chain.from_iterable(measure() for measure in MEASURES))


def makespan() -> Iterator[Claim]:
    """300 generations of exactly 1 s at 60 slots: five waves, ideally 5 s."""
    with simulated("--seconds", "1", "--jitter", "0") as simulator:
        with service_before(simulator, REPLICATE_CONCURRENT_LIMIT=60) as service:
            batch, seconds = timed_post(service, "/generate-batch", prompts(300))
            ratio = seconds / 5
        seen = counts(simulator)
    yield Claim(
        "300 generations of 1 s at 60 slots: makespan / ideal", f"{ratio:.2f}", "≤ 1.25", ratio <= 1.25
    )
    yield Claim(
        "… lost, paid twice, refused",
        f"{300 - batch['succeeded']}, {seen['creations_accepted'] - 300}, {sum(seen['refusals'].values())}",
        "0, 0, 0",
        batch["succeeded"] == seen["creations_accepted"] == 300 and not seen["refusals"],
    )
    stored = sum(len(each["files"]) for each in batch["results"])
    yield counted("… pictures fetched and kept meanwhile", stored, 300)
    yield Claim("… requests to Replicate a picture", f"{api_requests(seen) / 300:.1f}", "")
    peak = seen["in_flight_peak"]
    yield Claim("… predictions in flight at the most", f"{peak}", "≤ 60", peak <= 60)


def planned() -> Iterator[Claim]:
    """The estimated and the actual seconds and cost of a batch whose model is known."""
    with (
        simulated("--seconds", "3", "--jitter", "0.2") as simulator,
        service_before(simulator, REPLICATE_CONCURRENT_LIMIT=30) as service,
    ):
        post(service, "/generate-batch", prompts(60))
        before = counts(simulator)["billed_usd"]
        batch = post(service, "/generate-batch", prompts(150))
        billed = counts(simulator)["billed_usd"] - before
    ratio = batch["estimated_seconds"] / batch["actual_seconds"]
    yield Claim(
        "150 generations of 3 s at 30 slots, 60 known: seconds estimated / taken",
        f"{ratio:.2f}",
        "0.9 to 1.1",
        0.9 <= ratio <= 1.1,
    )
    costs = (batch["estimated_cost_usd"], batch["actual_cost_usd"])
    same = all(abs(each - billed) < 1e-6 for each in costs)
    yield Claim("… USD estimated, told, billed", f"{costs[0]:g}, {costs[1]:g}, {billed:g}", "the same", same)


def admission() -> Iterator[Claim]:
    """The cost of an admission by the number of waiters: only the gate, a hundred callers with two batches each."""
    few, many = (min(_admitting(waiting) for _ in range(5)) for waiting in (1000, 100_000))
    what = f"admitting one of 100,000 who wait ({many:.0f} µs) / one of 1,000"
    yield Claim(what, f"{many / few:.1f}", "≤ 3", many / few <= 3)


def _admitting(waiting: int) -> float:
    """Microseconds for each of a thousand admissions."""

    async def admissions() -> float:
        gate = Gate(concurrent_limit=1, requests_per_minute=60_000)

        async def one(number: int) -> None:
            (await gate.acquire(f"caller {number % 100}", batch=f"batch {number % 2}")).release()

        crowd = [asyncio.create_task(one(number)) for number in range(waiting)]
        await asyncio.sleep(0)  # all wait, and the first is admitted
        began = time.perf_counter()
        await asyncio.wait(crowd[:1])
        while gate.statistics().waiting > waiting - 1000:  # noqa: ASYNC110 - the gate has no event for each
            await asyncio.sleep(0)
        took = time.perf_counter() - began
        for each in crowd:
            each.cancel()
        await asyncio.gather(*crowd, return_exceptions=True)
        return took / 1000 * 1e6

    return asyncio.run(admissions())


def memory() -> Iterator[Claim]:
    """Memory with up to 40,000 queued generations, in batches of up to 10,000. Only two callers can fill the queue."""
    for size, target in ((1000, 150), (10_000, 250), (40_000, 400)):
        with (
            simulated("--seconds", "600") as simulator,
            service_before(simulator, REPLICATE_CONCURRENT_LIMIT=10) as service,
        ):
            idle = resident_megabytes(service)
            for number in range(-(-size // 10_000)):
                key = {name: f"{value}_{number // 3}" for name, value in TOKEN.items()}
                body, headers = prompts(min(10_000, size)), key | {"Prefer": "respond-async"}
                requests.post(f"{service.url}/generate-batch", json=body, headers=headers, timeout=120)
            until(partial(_is_queued, service.url, simulator, size))
            queued = resident_megabytes(service)
        what = f"{size} generations queued: resident memory of the service ({idle:.0f} MB idle)"
        yield Claim(what, f"{queued:.0f} MB", f"< {target} MB", queued < target)


def uploads() -> Iterator[Claim]:
    """Memory while an image of 90 MB is uploaded and passed on to Replicate's files."""
    image = black_png(1, 1).ljust(90_000_000)
    fields = {"model_name": "flux-kontext-max", "prompt": "a fox"}
    with simulated("--seconds", "0.1") as simulator, service_before(simulator) as service:
        requests.post(f"{service.url}/generate", json=fields, headers=TOKEN, timeout=60).raise_for_status()
        before = peak_megabytes(service.process.pid)
        sent = {"input_image": ("fox.png", image)}
        answer = requests.post(f"{service.url}/generate", data=fields, files=sent, headers=TOKEN, timeout=120)
        answer.raise_for_status()
        grown = peak_megabytes(service.process.pid) - before
        uploads_sent = counts(simulator)["requests"].get("file", 0)
    yield Claim(
        "an image of 90 MB sent with a request: memory grows by", f"{grown:.0f} MB", "≤ 15 MB", grown <= 15
    )
    yield Claim("… uploads to Replicate", str(uploads_sent), "1", uploads_sent == 1)


def answers_under_load() -> Iterator[Claim]:
    """`/health` and `/status` while 200 callers wait in `/generate`."""
    with (
        simulated("--seconds", "600") as simulator,
        service_before(simulator, REPLICATE_CONCURRENT_LIMIT=60) as service,
    ):
        body = {"model_name": "flux-dev", "prompt": "a long wait"}
        callers = [service.connect("/generate", body, **TOKEN) for _ in range(200)]
        until(lambda: _concurrency(service.url)["waiting"] == 140)
        for path in ("/health", "/status"):
            with requests.Session() as session:
                took = [_seconds(session, service.url + path) for _ in range(500)]
            p99 = statistics.quantiles(took, n=100)[98] * 1000
            what = f"200 callers waiting: {path} at p99 (p50 {statistics.median(took) * 1000:.1f} ms)"
            yield Claim(what, f"{p99:.1f} ms", "≤ 50 ms", p99 <= 50)
        for caller in callers:
            caller.close()
        until(lambda: _concurrency(service.url)["current_concurrent"] == 0)
        left = counts(simulator)["in_flight"]
        yield counted("… after all hang up: predictions still running", left)


MEASURES = (makespan, planned, admission, memory, uploads, answers_under_load)


def _is_queued(service: str, simulator: str, size: int) -> bool:
    return counts(simulator)["in_flight"] == 10 and _concurrency(service)["waiting"] == size - 10


def _concurrency(url: str) -> dict[str, float]:
    figures: dict[str, float] = requests.get(f"{url}/status", timeout=30).json()["concurrency"]
    return figures


def _seconds(session: requests.Session, url: str) -> float:
    began = time.perf_counter()
    session.get(url, timeout=30).raise_for_status()
    return time.perf_counter() - began
