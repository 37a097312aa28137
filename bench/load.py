"""Load: so many callers, each sending one request after the other over a connection it keeps.

    python -m bench.load http://127.0.0.1:5000/generate --callers 10 --seconds 2 \\
        --header 'X-Replicate-API-Key: r8_bench' --body '{"model_name": "flux-dev", "prompt": "a fox"}'

It is a process of its own, so that what it costs is not counted as the server's. Every caller sends one request
that is not measured, which opens its connection; then `ready` is printed, and a line on standard input (the return
key) starts the measuring. So whoever started it can read the server's clocks right before and after. If standard
input ends instead, so does this. The result is one line of JSON, the `Load`.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass

import aiohttp

_GIVE_UP_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Load:
    """What the callers saw. Latencies in milliseconds; `errors` says what came in place of a 2xx."""

    requests: int
    errors: list[str]
    requests_per_second: float
    p50: float
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to send and where; `seconds` is for how long."""

    url: str
    body: bytes
    headers: dict[str, str]
    callers: int
    seconds: float


async def measured(plan: Plan) -> Load | None:
    """Run the plan when told to on standard input; None if that ends instead."""
    latencies: list[float] = []
    errors: list[str] = []

    async def ask(session: aiohttp.ClientSession) -> None:
        try:
            async with session.post(plan.url, data=plan.body, headers=plan.headers) as answer:
                text = await answer.text()
                if not answer.ok:
                    errors.append(f"{answer.status} {text[:200]}")
        except (aiohttp.ClientError, TimeoutError) as error:
            errors.append(repr(error))

    async def call(session: aiohttp.ClientSession, until: float) -> None:
        while (began := time.perf_counter()) < until:
            await ask(session)
            latencies.append(time.perf_counter() - began)

    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=_GIVE_UP_SECONDS)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        await asyncio.gather(*(ask(session) for _ in range(plan.callers)))
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


def _plan() -> Plan:
    parser = argparse.ArgumentParser(
        prog="python -m bench.load", description="Load for one URL.", allow_abbrev=False
    )
    parser.add_argument("url")
    parser.add_argument("--body", default="{}", help="JSON to post (default %(default)s)")
    parser.add_argument("--header", action="append", default=[], metavar="'NAME: VALUE'")
    parser.add_argument("--callers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0)
    asked = parser.parse_args()
    headers = {name: value.strip() for name, _, value in (each.partition(":") for each in asked.header)}
    return Plan(
        url=asked.url,
        body=asked.body.encode(),
        headers={"Content-Type": "application/json", **headers},
        callers=asked.callers,
        seconds=asked.seconds,
    )


if __name__ == "__main__":
    load = asyncio.run(measured(_plan()))
    if load is not None:
        print(json.dumps(asdict(load)))
