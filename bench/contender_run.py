"""Runs a contender before a simulator of its own, and combines its result with the simulator's counts.

All contenders of a scenario get the same simulator: same arguments, same seed. A contender that does not finish in time
is ended.
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
    api_requests,
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
    """The conditions of a table's contenders.

    Attributes:
        pictures: The number of pictures to make.
        slots: The most predictions at once.
        simulator: The simulator's arguments.
        service: The service's settings, besides its slots.
        faults: The faults to inject.
        failing: The number of prompts, from the first, whose first prediction fails transiently.
        bound: Seconds until a contender is ended.
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
    """The result of a contender.

    Attributes:
        scenario: Its conditions.
        result: The JSON that it printed, see `bench.contenders.task`; None if it did not finish.
        undone: The reason why it did not finish; empty if it did.
        seen: The simulator's counts.
        made: The simulator's predictions.
        cpu: Seconds of CPU, from the start of its processes to the last picture.
        memory: Peak memory in megabytes.
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
        """The number of pictures that its user got; if it did not finish, the number of successes at the simulator."""
        return int(self.result["got"] if self.result else self.seen["finished"].get("succeeded", 0))

    @property
    def in_vain(self) -> int:
        """Predictions that did not fail, and so are paid for, beyond one for each picture got."""
        return int(self.seen["creations_accepted"] - self.seen["finished"].get("failed", 0) - self.got)

    @property
    def requests_a_picture(self) -> float:
        return api_requests(self.seen) / max(self.got, 1)

    @property
    def throttled(self) -> int:
        return int(self.seen["refusals"].get("429", 0))


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its head, its cell, and this service's target, if it has one."""

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
    """A column with the target 0. It is empty for a contender that did not finish."""
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
    """A table of `runs` by contender, this service first, then its targets."""
    rows = [(CONTENDERS[name], *(column.cell(run) for column in columns)) for name, run in runs.items()]
    rows.insert(1, ("… its target", *(column.target for column in columns)))
    ours = runs[OURS]
    missed = [f"{it.head}: {it.cell(ours)}, not {it.target}" for it in columns if not it.meets(ours)]
    return Section(title, ("contender", *(column.head for column in columns)), rows, missed, note)


def run_contender(name: str, scenario: Scenario) -> ContenderRun:
    """Run a contender."""
    print(f"{CONTENDERS[name]}: {scenario.pictures} pictures …", flush=True)
    with simulated(*scenario.simulator) as simulator, ExitStack() as stack:
        requests.post(f"{simulator}/simulator/faults", json=scenario.faults, timeout=30).raise_for_status()
        where = {"REPLICATE_BASE_URL": simulator, "REPLICATE_API_TOKEN": TOKEN["X-Replicate-API-Key"]}
        service = None
        if name == OURS:
            # No other contender stores outputs.
            settings = {"REPLICATE_CONCURRENT_LIMIT": scenario.slots, "FILES_TTL": 0, **scenario.service}
            service = stack.enter_context(service_before(simulator, **settings))
            where["SERVICE_URL"] = service.url
        process = stack.enter_context(_started(name, scenario, where))
        result, undone = _result(process, scenario)
        watched = service.process if service else process
        alive = watched.poll() is None  # an ended process has no figures
        cpu, memory = (cpu_seconds(watched.pid), peak_megabytes(watched.pid)) if alive else (0.0, 0.0)
        return ContenderRun(scenario, result, undone, counts(simulator), predictions(simulator), cpu, memory)


@contextmanager
def _started(name: str, scenario: Scenario, where: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A contender as a process in a temporary folder. It is killed at the end."""
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
    """The contender's result, or the reason why there is none."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], scenario.bound)
    if not ready:
        return None, f"not done after {scenario.bound} s"
    line = process.stdout.readline()
    if not line:
        return None, f"ended with {process.wait()}"
    result: dict[str, Any] = json.loads(line)
    return result, ""
