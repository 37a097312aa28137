"""Load: a number of callers, each sending one request after another over a kept connection.

    python -m bench.load http://127.0.0.1:5000/generate --callers 10 --seconds 2 \\
        --header 'X-Replicate-API-Key: r8_bench' --body '{"model_name": "flux-dev", "prompt": "a fox"}'

It is a separate process, so that its CPU is not counted as the server's. Every caller first sends one request that is
not measured, which opens its connection. Then `ready` is printed, and a line on standard input (the return key) starts
the measurement, so that the parent can read the server's CPU clocks just before and after. If standard input ends
instead, the process ends. The result is one line of JSON, the `Load`.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass

import aiohttp

_TIMEOUT_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Load:
    """The measured requests. Latencies are in milliseconds. `errors` has the responses other than 2xx, and
    exceptions."""

    requests: int
    errors: list[str]
    requests_per_second: float
    p50: float
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The requests to send, for `seconds`. With `downloads`, the response's `output` is downloaded after each."""

    url: str
    body: bytes
    headers: dict[str, str]
    callers: int
    seconds: float
    downloads: bool = False


async def measured(plan: Plan) -> Load | None:
    """Run the plan after a line on standard input. None if standard input ends instead."""
    latencies: list[float] = []
    errors: list[str] = []

    async def send(session: aiohttp.ClientSession) -> None:
        try:
            async with session.post(plan.url, data=plan.body, headers=plan.headers) as answer:
                text = await answer.text()
                if not answer.ok:
                    errors.append(f"{answer.status} {text[:200]}")
                    return
            if plan.downloads:
                async with session.get(_first_output(text)) as file:
                    await file.read()
                    if not file.ok:
                        errors.append(f"{file.status} for an output")
        except (aiohttp.ClientError, TimeoutError) as error:
            errors.append(repr(error))

    async def call(session: aiohttp.ClientSession, until: float) -> None:
        while (began := time.perf_counter()) < until:
            await send(session)
            latencies.append(time.perf_counter() - began)

    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        await asyncio.gather(*(send(session) for _ in range(plan.callers)))
        print("ready", flush=True)
        if not await asyncio.to_thread(sys.stdin.readline):
            return None
        began = time.perf_counter()
        await asyncio.gather(*(call(session, began + plan.seconds) for _ in range(plan.callers)))
        took = time.perf_counter() - began
    cuts = statistics.quantiles(latencies, n=100, method="inclusive")
    return Load(
        requests=len(latencies),
        errors=errors,
        requests_per_second=len(latencies) / took,
        p50=cuts[49] * 1000,
        p99=cuts[98] * 1000,
    )


def _first_output(prediction: str) -> str:
    output = json.loads(prediction)["output"]
    return output if isinstance(output, str) else output[0]


def _plan() -> Plan:
    parser = argparse.ArgumentParser(
        prog="python -m bench.load", description="Load for one URL.", allow_abbrev=False
    )
    parser.add_argument("url")
    parser.add_argument("--body", default="{}", help="JSON to post (default %(default)s)")
    parser.add_argument("--header", action="append", default=[], metavar="'NAME: VALUE'")
    parser.add_argument("--callers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--downloads", action="store_true", help="also download each response's output")
    parsed = parser.parse_args()
    headers = {name: value.strip() for name, _, value in (each.partition(":") for each in parsed.header)}
    return Plan(
        url=parsed.url,
        body=parsed.body.encode(),
        headers={"Content-Type": "application/json", **headers},
        callers=parsed.callers,
        seconds=parsed.seconds,
        downloads=parsed.downloads,
    )


if __name__ == "__main__":
    load = asyncio.run(measured(_plan()))
    if load is not None:
        print(json.dumps(asdict(load)))
