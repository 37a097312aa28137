"""A contender's turn: it works before a simulator of its own, and what it tells stands beside what the simulator saw.

The simulator is the same for all that meet the same scenario: same arguments, same seed. A contender that does
not come to an end is ended.
"""

import json
import os
import select
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory
from typing import Any

import requests

from bench.processes import (
    TOKEN,
    asked_of_replicate,
    counts,
    cpu_seconds,
    peak_megabytes,
    predictions,
    service_before,
    simulated,
)
from bench.report import Section
from harness.service_process import ROOT

OURS = "this_service"
CONTENDERS = {
    OURS: "this service, `POST /generate-batch`",
    "async_run": "`replicate.async_run` behind a semaphore: held open",
    "polling": "`replicate.async_run(wait=False)` behind a semaphore: polled",
    "retrying": "`replicate.async_run` behind a semaphore, tried again up to six times",
    "threads": "`replicate.run` in `asyncio.to_thread`",
    "batch_process": "`replicate-batch-process`",
}

_PYTHON = ROOT / ".venv-bench" / "bin" / "python"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What the contenders of a table meet.

    Attributes:
        pictures: How many pictures are wanted.
        slots: How many may be in the making at once.
        simulator: What the simulator is started with.
        service: The service's settings, beside its slots.
        faults: What the simulator is ordered to do wrong.
        failing: How many of the first predictions fail in passing at the first try.
        bound: Seconds after which a contender is ended.
    """

    pictures: int
    slots: int
    simulator: Sequence[str]
    service: Mapping[str, Any] = field(default_factory=dict)
    faults: Sequence[Mapping[str, Any]] = ()
    failing: int = 0
    bound: int


@dataclass(frozen=True, slots=True)
class ContenderRun:
    """What became of a contender.

    Attributes:
        scenario: What it met.
        told: What it ended with, see `bench.contenders.task`; None if it did not end.
        undone: What it came to instead; empty if it ended.
        seen: What the simulator counted.
        made: The predictions the simulator made.
        cpu: Seconds of CPU, from the start of its processes to the last picture.
        memory: The most it held, in megabytes.
    """

    scenario: Scenario
    result: Mapping[str, Any] | None
    undone: str
    seen: Mapping[str, Any]
    made: Sequence[Mapping[str, Any]]
    cpu: float
    memory: float

    @property
    def got(self) -> int:
        """Pictures its user holds; while it had not ended, those there were."""
        return int(self.result["got"] if self.result else self.seen["finished"].get("succeeded", 0))

    @property
    def in_vain(self) -> int:
        """Predictions that are paid for, which all are that did not fail, beyond one for each picture got."""
        return int(self.seen["creations_accepted"] - self.seen["finished"].get("failed", 0) - self.got)

    @property
    def requests_a_picture(self) -> float:
        return asked_of_replicate(self.seen) / max(self.got, 1)

    @property
    def throttled(self) -> int:
        return int(self.seen["refusals"].get("429", 0))


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table of contenders: its head, its cell, and this service's target, if it has one."""

    head: str
    cell: Callable[[ContenderRun], str]
    target: str = ""
    meets: Callable[[ContenderRun], bool] = lambda _: True


def requests_a_picture(*, most: float) -> Column:
    return Column(
        "requests a picture",
        lambda it: f"{it.requests_a_picture:.1f}",
        f"≤ {most:g}",
        lambda it: it.requests_a_picture <= most,
    )


def none_of(head: str, count: Callable[[ContenderRun], int]) -> Column:
    """What there should be none of. Nobody knows it of a contender that did not end."""
    return Column(
        head,
        lambda it: str(count(it)) if it.result else "",
        "0",
        lambda it: it.result is not None and not count(it),
    )


THROTTLED = Column("429s", lambda it: str(it.throttled), "0", lambda it: not it.throttled)
IN_VAIN = none_of("paid in vain", lambda it: it.in_vain)
COSTS = (
    Column("CPU", lambda it: f"{it.cpu:.1f} s"),
    Column("memory at most", lambda it: f"{it.memory:.0f} MB"),
)


def table(title: str, columns: Sequence[Column], runs: Mapping[str, ContenderRun], *, note: str) -> Section:
    """The turns by the name of who had them, this service first, then its targets."""
    rows = [(CONTENDERS[name], *(column.cell(run) for column in columns)) for name, run in runs.items()]
    rows.insert(1, ("… its target", *(column.target for column in columns)))
    ours = runs[OURS]
    missed = [f"{it.head}: {it.cell(ours)}, not {it.target}" for it in columns if not it.meets(ours)]
    return Section(title, ("contender", *(column.head for column in columns)), rows, missed, note)


def run_contender(name: str, scenario: Scenario) -> ContenderRun:
    """Let a contender have its turn."""
    print(f"{CONTENDERS[name]}: {scenario.pictures} pictures …", flush=True)
    with simulated(*scenario.simulator) as simulator, ExitStack() as stack:
        requests.post(f"{simulator}/simulator/faults", json=scenario.faults, timeout=30).raise_for_status()
        where = {"REPLICATE_BASE_URL": simulator, "REPLICATE_API_TOKEN": TOKEN["X-Replicate-API-Key"]}
        service = None
        if name == OURS:
            # Nobody else keeps what was made.
            settings = {"REPLICATE_CONCURRENT_LIMIT": scenario.slots, "FILES_TTL": 0, **scenario.service}
            service = stack.enter_context(service_before(simulator, **settings))
            where["SERVICE_URL"] = service.url
        process = stack.enter_context(_started(name, scenario, where))
        result, undone = _result(process, scenario)
        watched = service.process if service else process
        alive = watched.poll() is None  # one that broke off left nothing to look at
        cpu, memory = (cpu_seconds(watched.pid), peak_megabytes(watched.pid)) if alive else (0.0, 0.0)
        return ContenderRun(scenario, result, undone, counts(simulator), predictions(simulator), cpu, memory)


@contextmanager
def _started(name: str, scenario: Scenario, where: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A contender as a process, in a folder of its own that goes with it; ended by force if need be."""
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", **where}
    task = map(str, (scenario.pictures, scenario.slots, scenario.failing))
    command = [str(_PYTHON), "-m", f"bench.contenders.{name}", *task]
    with (
        TemporaryDirectory() as folder,
        subprocess.Popen(
            command, cwd=folder, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def _result(process: subprocess.Popen[str], scenario: Scenario) -> tuple[dict[str, Any] | None, str]:
    """The line a contender ends with, or why there is none."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], scenario.bound)
    if not ready:
        return None, f"not done after {scenario.bound} s"
    line = process.stdout.readline()
    if not line:
        return None, f"ended with {process.wait()}"
    result: dict[str, Any] = json.loads(line)
    return result, ""
