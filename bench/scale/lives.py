"""Creations that a shared gate admits a second: the gate and the ledger without HTTP and without an upstream.

Each process has the gate and the ledger of the service. Some hundred lives run at once in each. A life writes a
generation, waits until it is on disk, acquires a lease, writes that it is about to be sent, is answered at once, writes
its end, and waits until that is on disk.
"""

import asyncio
import json
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import structlog

from admission.metered.limits import MeteredLimits
from bench.report import Claim, Section, claimed
from bench.scale.stage import Scale
from cluster import AnyGate
from cluster.group import Group
from concurrency import Gate
from harness.postgres import Server
from harness.service_process import ROOT
from ledger.courier import Courier
from ledger.postgres import PostgresBackend
from ledger.records import AttemptRecord, GenerationRecord
from ledger.writer import SqlLedger

_PROCESSES = 4
_AT_ONCE = 100
"""Lives at once in each process."""

_SECONDS = 30.0
_WARM_UP = 3.0
_LEAST_RATE = 1000.0
_REQUEST = json.dumps({"model_name": "flux-dev", "prompt": "a red fox in the snow", "notes": "n" * 800})
"""Together with the rest a row of 1.2 kB."""

_LIMITS = {"concurrent_limit": 1000, "requests_per_minute": 600_000}
_CALLS = {"concurrent_limit": 1, "limits": MeteredLimits()}


def lives(scale: Scale) -> Section:
    note = "The gate and the ledger of the service, without HTTP and without an upstream."
    return claimed(
        f"The shared gate of {_PROCESSES} processes", _claims(scale.seconds(_SECONDS, least=5)), note=note
    )


def _claims(seconds: float) -> Iterator[Claim]:
    server = Server(
        on_disk=True, max_connections="200", fsync="on", full_page_writes="on", shared_buffers="128MB"
    )
    try:
        url = server.url()
        with ExitStack() as stack:
            command = [
                sys.executable,
                *__import__("os").environ.get("LIVES", "-m bench.scale.lives").split(),
                url,
                str(seconds),
            ]
            started = [
                stack.enter_context(
                    subprocess.Popen(
                        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                    )
                )
                for _ in range(_PROCESSES)
            ]
            for each in started:
                assert each.stdout is not None
                assert each.stdout.readline() == "ready\n"
            for each in started:
                assert each.stdin is not None
                each.stdin.close()
            ended = [json.loads(each.stdout.readline()) for each in started if each.stdout]
    finally:
        server.close()
    made, cpu = (sum(numbers) for numbers in zip(*ended, strict=True))
    rate = made / seconds
    what = (
        f"{_AT_ONCE} lives at once in each process ({1000 * cpu / made:.1f} ms of CPU each): lives a second"
    )
    yield Claim(what, f"{rate:.0f}", f"≥ {_LEAST_RATE:g}", rate >= _LEAST_RATE)


async def _process(url: str, seconds: float) -> None:
    """One of the processes. Prints `ready`, begins at the end of its standard input, and prints the number of lives
    within these seconds and the CPU seconds that they took."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    backend = PostgresBackend(url, ttl=5.0, alone=False)
    ledger = SqlLedger(backend)
    others = Gate(concurrent_limit=1, requests_per_minute=600)
    group = Group(Courier(backend), ledger, _LIMITS, others, 600, _CALLS)
    await asyncio.to_thread(ledger.start)
    group.start()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    counter = _Counter()
    running = [asyncio.create_task(_lives(group.gate, ledger, counter)) for _ in range(_AT_ONCE)]
    await asyncio.sleep(_WARM_UP)
    made, cpu = counter.made, time.process_time()
    await asyncio.sleep(seconds)
    print(json.dumps([counter.made - made, time.process_time() - cpu]), flush=True)
    for each in running:
        each.cancel()
    await asyncio.wait(running)
    await group.aclose()
    await asyncio.to_thread(ledger.close)


class _Counter:
    made = 0


async def _lives(gate: AnyGate, ledger: SqlLedger, counter: _Counter) -> None:
    """One life after another."""
    while True:
        now, name = time.time(), secrets.token_hex(16)
        record = GenerationRecord(
            id=name, caller_id="admin", batch_id=None, position=None, state="queued", model="flux-dev",
            requested_model="flux-dev", prompt="a red fox in the snow", file_name=None, lists_attempts=False,
            request=_REQUEST, request_id=f"req_{name}", webhook=None, address="http://127.0.0.1",
            simulated=False, accepted_at=now,
        )  # fmt: skip
        ledger.upsert(record)
        await ledger.flush()
        with await gate.acquire("admin", batch=None) as lease:
            attempt = AttemptRecord(
                generation_id=name, number=1, model="flux-dev", open=True, submitted_at=now
            )
            ledger.upsert(replace(record, state="submitting", attempts=(attempt,)))
            await lease.persist(ledger, f"{name}.1")
            lease.sent()
            lease.answered()
            made = replace(attempt, open=False, prediction_id=name, answered_at=now, cost_usd=0.025)
        ledger.upsert(
            replace(record, state="succeeded", request=None, ended_at=now, attempts=(made,), cost_usd=0.025)
        )
        await ledger.flush()
        counter.made += 1


if __name__ == "__main__":
    asyncio.run(_process(sys.argv[1], float(sys.argv[2])))
