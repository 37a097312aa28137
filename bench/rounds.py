"""Rounds of load by turns, and the CPU that a request costs the server.

Rounds are short and contenders take turns, so that other load of the machine affects all of them. The order is reversed
in every other round, so that no contender is always the first. CPU is the user and system time of the server's
processes. It is compared within a round, since the speed of a shared machine varies.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from bench.load import Load
from bench.processes import TOKEN, cpu_seconds
from harness.service_process import ROOT, ServiceProcess

T = TypeVar("T")

LIFTED: dict[str, Any] = {
    "REPLICATE_CONCURRENT_LIMIT": 1000,
    "REPLICATE_REQUESTS_PER_MINUTE": 60_000,
    "REPLICATE_OTHER_REQUESTS_PER_MINUTE": 60_000,
    "LOG_LEVEL": "info",
}
"""Settings of a service without effective limits. It logs every request, as by default, and keeps files."""

WITHOUT_FILES: dict[str, Any] = {**LIFTED, "FILES_TTL": 0}
"""The same, but outputs stay at Replicate."""

_BOUNDLESS = "10000000"
BOUNDLESS = ("--creations-per-minute", _BOUNDLESS, "--others-per-minute", _BOUNDLESS)
"""Arguments of a simulator without effective limits."""

INPUTS = {"prompt": "a red fox in the snow", "aspect_ratio": "16:9", "seed": 7}
"""With a seed all pictures are the same one, so the simulator draws only once. A drawing takes as long as a request."""

BODY = {"model_name": "flux-dev", **INPUTS}
"""The body of each request to the service."""


@dataclass(frozen=True, slots=True)
class Target:
    """The target of a load. `pid` is the process whose CPU is counted, with all its descendants; None counts none.
    With `downloads`, callers also download the output."""

    url: str
    body: dict[str, Any]
    headers: Mapping[str, str]
    pid: int | None = None
    downloads: bool = False

    def spent(self) -> float:
        """CPU seconds so far."""
        return 0.0 if self.pid is None else cpu_seconds(self.pid)


@dataclass(frozen=True, slots=True)
class Round:
    """A load, and the server's CPU milliseconds for each request."""

    load: Load
    cpu: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """How contenders are measured: the number of rounds, and the seconds of a load."""

    rounds: int = 5
    seconds: float = 1.2

    def measured(self, contenders: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
        """Call each contender once in each round. Returns the results of each, in the order of the rounds."""
        found: dict[str, list[T]] = {name: [] for name in contenders}
        order = list(contenders)
        for _ in range(self.rounds):
            for name in order:
                found[name].append(contenders[name]())
            order.reverse()
        return found

    def loaded(self, targets: Mapping[str, Target], *, callers: int) -> dict[str, list[Round]]:
        """The rounds of each target at a number of callers."""
        return self.measured(
            {
                name: partial(round_of, target, callers=callers, seconds=self.seconds)
                for name, target in targets.items()
            }
        )


def generating(service: ServiceProcess, headers: Mapping[str, str] = TOKEN) -> Target:
    """`POST /generate` of a service."""
    return Target(f"{service.url}/generate", BODY, headers, service.process.pid)


def creating(simulator: str, *, downloads: bool) -> Target:
    """The same prediction, created at the simulator directly by callers who may also download its output."""
    url = f"{simulator}/v1/models/black-forest-labs/flux-dev/predictions"
    headers = {"Authorization": "Bearer r8_direct"}
    return Target(url, {"input": INPUTS}, headers, downloads=downloads)


def round_of(target: Target, *, callers: int, seconds: float = 1.2) -> Round:
    """A round of load from a process of its own."""
    command = [sys.executable, "-m", "bench.load", target.url, "--body", json.dumps(target.body)]
    command += ["--callers", str(callers), "--seconds", str(seconds)]
    command += ["--downloads"] if target.downloads else []
    for name, value in target.headers.items():
        command += ["--header", f"{name}: {value}"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError("the load did not start")
        before = target.spent()
        process.stdin.write("go\n")
        process.stdin.flush()
        load = Load(**json.loads(process.stdout.readline()))
        return Round(load, cpu=(target.spent() - before) * 1000 / load.requests)


def failures(rounds: Iterable[Round]) -> str:
    """A sentence about the requests that failed; empty if none did."""
    errors = [error for each in rounds for error in each.load.errors]
    return f"{len(errors)} requests failed, the first with: {errors[0]}" if errors else ""
