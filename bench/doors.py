"""Named keys and doors: the cost of a request with a named key, and through each door.

    python -m bench.doors                          # two and a half minutes
    python -m bench.doors --rounds 2 --seconds 0.5
    python -m bench.doors --write                  # also puts the sections into bench/results.md

All contenders take turns before one simulator whose predictions end at once. The figure is CPU: the user and
system time of the service's processes, which other work on the machine changes less than it does a duration.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import requests

from bench.figures import AGAIN, NEW, OLD, Figure, compared, load_figure
from bench.processes import service_before, simulated
from bench.report import RESULTS, Section, exit_on_sigterm, recorded
from bench.rounds import (
    BODY,
    BOUNDLESS,
    INPUTS,
    LIFTED,
    WITHOUT_FILES,
    Round,
    Target,
    Turns,
    generating,
    round_of,
)
from harness.service_process import ServiceProcess
from ledger.access_records import ApiKeyRecord
from ledger.sqlite import SqliteBackend
from ledger.writer import SqlLedger

CALLERS: Final = 10

KEYS: Final = 10_000
"""Keys in the ledger, of which only one sends work."""

TURNS: Final = Turns(rounds=5, seconds=1.6)
"""A load uses more than a second of CPU, so that ticks of 10 ms make its figure wrong by less than 2 %."""

MOST_CPU: Final[Mapping[str, float]] = {"OpenAI": 1.3, "Replicate": 1.3}
"""Targets: the CPU of a call at a door as a multiple of that of `POST /generate`."""

LEAST_RATE: Final = 0.6
"""Target: its calls a second as a part of those of `POST /generate`. Other work on the machine changes this more."""

_ADMIN_KEY: Final = "bench-admin-key"
_LIMITED: Final = "limited"
_ADMIN: Final = {"X-Admin-API-Key": _ADMIN_KEY}
_OWN: Final = {"CONCURRENT_DOCKER_ADMIN_API_KEY": _ADMIN_KEY, "REPLICATE_API_TOKEN": "r8_bench"}

_DOORS: Final[Mapping[str, tuple[str, dict[str, Any], dict[str, str]]]] = {
    "OpenAI": ("/v1/images/generations", {"model": BODY["model_name"], **INPUTS}, {}),
    "Replicate": (
        "/replicate/v1/predictions",
        {"version": "black-forest-labs/flux-dev", "input": INPUTS},
        {"Prefer": "wait"},
    ),
}
"""The path, the body and the headers of the same picture at each door."""

_LIMITS: Final = {
    "max_concurrent": 1000, "requests_per_minute": 60_000, "budget_usd": 100_000.0, "budget_period": "month",
}  # fmt: skip
"""Limits of a key that are never reached."""

_KEYS_NOTE: Final = f"""\
In the first row, a named key takes turns at a service with {KEYS:,} keys in its ledger and at two without another key.
Then two keys of the first service, without and with limits and a budget, take turns with its admin key. The last ratio
shows how far noise alone goes."""

_DOORS_NOTE: Final = """\
The same picture with the same named key, through each door and through `POST /generate` of one service, by turns. The
service keeps files, as by default, and has no `PUBLIC_URL`: so the Replicate door, called with `Prefer: wait`, returns
the picture itself as a `data:` URI, and the others a link to it."""


def keys(turns: Turns = TURNS) -> Section:
    """The CPU of a request with a named key beside the admin key, and with many keys beside one."""
    return compared(
        "Named keys: no more CPU than the admin key",
        _of_keys(turns),
        names=("this", "before"),
        note=_KEYS_NOTE,
    )


def doors(turns: Turns = TURNS) -> Section:
    """The CPU and the throughput of each door beside those of `POST /generate`."""
    return compared("The doors", _of_doors(turns), names=("door", "generate"), note=_DOORS_NOTE)


def _of_keys(turns: Turns) -> Iterator[Figure]:
    with ExitStack() as stack:
        simulator = stack.enter_context(simulated("--seconds", "0", *BOUNDLESS))
        services = {
            name: stack.enter_context(_service_with_keys(simulator, number))
            for name, number in ((NEW, KEYS), (OLD, 1), (AGAIN, 1))
        }
        named = {name: generating(service, _named_key(service)) for name, service in services.items()}
        for target in named.values():
            _warmed_up(target)
        rounds = turns.loaded(named, callers=CALLERS)  # first, while their ledgers have as much work
        yield load_figure(f"CPU a request, {KEYS:,} keys / one key", "ms", rounds, _cpu)
        admin = generating(services[NEW], _ADMIN)
        limited = generating(services[NEW], _named_key(services[NEW], **_LIMITS))
        rounds = turns.loaded({NEW: named[NEW], _LIMITED: limited, OLD: admin, AGAIN: admin}, callers=CALLERS)
        yield load_figure("CPU a request, named key / admin key", "ms", rounds, _cpu)
        yield load_figure("… a key with limits and a budget", "ms", rounds | {NEW: rounds[_LIMITED]}, _cpu)


def _of_doors(turns: Turns) -> Iterator[Figure]:
    with (
        simulated("--seconds", "0", *BOUNDLESS) as simulator,
        service_before(simulator, **LIFTED, **_OWN) as service,
    ):
        key = _named_key(service)
        generate = generating(service, key)
        through = {name: _at_door(service, key, name) for name in MOST_CPU}
        for target in (generate, *through.values()):
            _warmed_up(target)
        rounds = turns.loaded({OLD: generate, AGAIN: generate, **through}, callers=CALLERS)
    for name, most in MOST_CPU.items():
        of_door = {NEW: rounds[name], OLD: rounds[OLD], AGAIN: rounds[AGAIN]}
        yield load_figure(f"CPU a request, {name} door", "ms", of_door, _cpu, ratio=most)
        yield load_figure(
            f"requests a second, {name} door",
            "req/s",
            of_door,
            lambda it: it.load.requests_per_second,
            is_more_better=True,
            ratio=LEAST_RATE,
        )


def _cpu(measured: Round) -> float:
    return measured.cpu


@contextmanager
def _service_with_keys(simulator: str, number: int) -> Iterator[ServiceProcess]:
    """A service that keeps no files, on a ledger with so many named keys less one."""
    with TemporaryDirectory() as data:
        asyncio.run(make_keys(Path(data) / "ledger.db", number - 1))
        with service_before(simulator, DATA_DIR=data, **WITHOUT_FILES, **_OWN) as service:
            yield service


async def make_keys(path: Path, number: int) -> None:
    """Make a ledger with so many keys, each with limits and a budget."""
    ledger = SqlLedger(SqliteBackend(f"sqlite:///{path}"))
    ledger.start()
    for each in range(1, number + 1):
        ledger.upsert(
            ApiKeyRecord(
                id=f"key_{each:032x}",
                name=f"service {each}",
                role="caller",
                digest=f"{each:064x}",
                prefix="rcg_bench",
                max_concurrent=10,
                requests_per_minute=600,
                budget_usd=100.0,
                budget_period="month",
                created_at=time.time(),
                revision=each,
            )
        )
    await ledger.flush()
    ledger.close()


def _named_key(service: ServiceProcess, **limits: object) -> dict[str, str]:
    """A header with a new named key."""
    made = requests.post(f"{service.url}/keys", json={"name": "bench", **limits}, headers=_ADMIN, timeout=60)
    made.raise_for_status()
    return {"X-API-Key": made.json()["key"]}


def _at_door(service: ServiceProcess, key: dict[str, str], name: str) -> Target:
    """The same picture through a door."""
    path, body, headers = _DOORS[name]
    return Target(service.url + path, body, key | headers, service.process.pid)


def _warmed_up(target: Target) -> None:
    """Send some load. Raises RuntimeError unless a response has a picture."""
    answer = requests.post(target.url, json=target.body, headers=target.headers, timeout=60)
    made = answer.json() if answer.ok else {}
    if not (made.get("data") or made.get("output")):
        raise RuntimeError(f"{target.url} made no picture: {answer.status_code} {answer.text[:200]}")
    round_of(target, callers=CALLERS)


def main(arguments: list[str] | None = None) -> int:
    """Print both sections. Returns the exit status: 1 if a target is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.doors", description="Named keys and doors.", allow_abbrev=False
    )
    parser.add_argument("--rounds", type=int, default=TURNS.rounds, help="default %(default)s")
    parser.add_argument("--seconds", type=float, default=TURNS.seconds, help="of a load, default %(default)s")
    parser.add_argument("--write", action="store_true", help="put the sections into bench/results.md")
    parsed = parser.parse_args(arguments)
    turns = Turns(rounds=parsed.rounds, seconds=parsed.seconds)
    exit_on_sigterm()
    results = RESULTS if parsed.write else None
    done = [recorded(partial(measure, turns), results) for measure in (keys, doors)]
    return 1 if any(section.missed for section in done) else 0


if __name__ == "__main__":
    sys.exit(main())
