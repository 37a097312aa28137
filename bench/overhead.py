"""The cost of the path through the service: no limits, predictions that end at once.

The same load goes to the service, to a bare forwarder (`bench/forwarder.py`) and, with one caller, directly to the
simulator, in short alternating rounds, so that other load of the machine affects all of them. A figure is the median of
its rounds. CPU is compared for each request, user and system time of the server's processes, round by round, since the
speed of a shared machine varies. The service logs every request, as by default; the forwarder has no log.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench import forwarder
from bench.load import Load
from bench.processes import TOKEN, cpu_seconds, service_before, simulated
from bench.report import Section
from harness.service_process import ROOT, free_port

CALLERS = (1, 10, 50, 200)

MOST_CPU = 3.0
"""Target: the service's CPU for a request as a multiple of the forwarder's, at any number of callers. 2.5 and a fifth
of that for the ledger (`bench/ledger.py`)."""

MOST_ADDED = 4.0
"""Target: milliseconds that the service adds to the p50 of direct requests to the simulator, with one caller."""

_ROUNDS = 5
_SECONDS = 1.2
_BOUNDLESS = "10000000"
LIFTED: dict[str, Any] = {
    "REPLICATE_CONCURRENT_LIMIT": 1000,
    "REPLICATE_REQUESTS_PER_MINUTE": 60_000,
    "REPLICATE_OTHER_REQUESTS_PER_MINUTE": 60_000,
    "FILES_TTL": 0,  # the forwarder stores no outputs
    "LOG_LEVEL": "info",
}
"""Settings of a service without effective limits."""

BOUNDLESS = ("--creations-per-minute", _BOUNDLESS, "--others-per-minute", _BOUNDLESS)
"""Arguments of a simulator without effective limits."""

_INPUTS = {"prompt": "a red fox in the snow", "aspect_ratio": "16:9"}
BODY = {"model_name": "flux-dev", **_INPUTS}
"""The body of each request to the service."""

_FIGURES = ("p50 ms", "p99 ms", "req/s", "CPU ms")


@dataclass(frozen=True, slots=True)
class Target:
    """The target of a load. `pid` is the process whose CPU is counted, with all its descendants; None counts none."""

    url: str
    body: dict[str, Any]
    headers: dict[str, str]
    pid: int | None = None

    def spent(self) -> float:
        """CPU seconds so far."""
        return 0.0 if self.pid is None else cpu_seconds(self.pid)


@dataclass(frozen=True, slots=True)
class Round:
    """A load, and the server's CPU milliseconds for each request."""

    load: Load
    cpu: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """The rounds at one number of callers. Only with one caller there are direct rounds to the simulator."""

    callers: int
    service: list[Round]
    forwarder: list[Round]
    direct: list[Round]

    @property
    def ratio(self) -> float:
        """The service's CPU for a request as a multiple of the forwarder's."""
        pairs = zip(self.service, self.forwarder, strict=True)
        return median(ours.cpu / theirs.cpu for ours, theirs in pairs)

    @property
    def added(self) -> float | None:
        """Milliseconds that the service adds to p50."""
        if not self.direct:
            return None
        through, direct = (median(each.load.p50 for each in rounds) for rounds in (self.service, self.direct))
        return through - direct

    def row(self) -> tuple[str, ...]:
        added = "" if self.added is None else f"{self.added:.1f}"
        return (str(self.callers), *_cells(self.service), *_cells(self.forwarder), f"{self.ratio:.2f}", added)

    def missed(self) -> Iterator[str]:
        at = f"At {self.callers} callers" if self.callers > 1 else "At one caller"
        if self.ratio > MOST_CPU:
            yield f"{at} the service uses {self.ratio:.2f} times the forwarder's CPU, not ≤ {MOST_CPU}."
        if self.added is not None and self.added >= MOST_ADDED:
            yield f"{at} the service adds {self.added:.1f} ms, not < {MOST_ADDED:g}."
        rounds = (*self.service, *self.forwarder, *self.direct)
        if errors := [error for each in rounds for error in each.load.errors]:
            yield f"{at} {len(errors)} requests failed, the first with: {errors[0]}"


def overhead() -> Section:
    """Service and forwarder under the same load. Takes about 80 seconds."""
    with _targets() as (service, bare, simulator):
        for target in (service, bare):
            round_of(target, callers=max(CALLERS))
        found = [_compared(service, bare, simulator, callers=callers) for callers in CALLERS]
    columns = [f"{who} {what}" for who in ("service", "forwarder") for what in _FIGURES]
    return Section(
        f"The path alone: at most {MOST_CPU} times a bare forwarder's CPU, under {MOST_ADDED:g} ms added",
        ("callers", *columns, "CPU ratio", "added ms"),
        [each.row() for each in found],
        [sentence for each in found for sentence in each.missed()],
    )


@contextmanager
def _targets() -> Iterator[tuple[Target, Target, Target]]:
    """Service, forwarder and simulator, each a process of its own."""
    with (
        simulated("--seconds", "0", *BOUNDLESS) as simulator,
        service_before(simulator, **LIFTED) as service,
        _forwarding(simulator) as (bare, pid),
    ):
        creations = f"{simulator}/v1/models/black-forest-labs/flux-dev/predictions"
        yield (
            Target(f"{service.url}/generate", BODY, TOKEN, service.process.pid),
            Target(f"{bare}/generate", BODY, {}, pid),
            Target(creations, {"input": _INPUTS}, {"Authorization": "Bearer r8_direct"}),
        )


@contextmanager
def _forwarding(simulator: str) -> Iterator[tuple[str, int]]:
    """A forwarder process; gives its URL and process id."""
    port = free_port()
    command = [sys.executable, "-m", forwarder.__name__, "--upstream", simulator, "--port", str(port)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            if "Serving on" not in process.stdout.readline():
                raise RuntimeError("the forwarder did not start")
            yield f"http://127.0.0.1:{port}", process.pid
        finally:
            process.terminate()


def _compared(service: Target, bare: Target, simulator: Target, *, callers: int) -> Comparison:
    found = Comparison(callers, [], [], [])
    for _ in range(_ROUNDS):
        found.service.append(round_of(service, callers=callers))
        found.forwarder.append(round_of(bare, callers=callers))
        if callers == 1:
            found.direct.append(round_of(simulator, callers=callers))
    return found


def round_of(target: Target, *, callers: int) -> Round:
    """A round of load from a process of its own."""
    command = [sys.executable, "-m", "bench.load", target.url, "--body", json.dumps(target.body)]
    command += ["--callers", str(callers), "--seconds", str(_SECONDS)]
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


def _cells(rounds: list[Round]) -> tuple[str, ...]:
    """The medians, as `_FIGURES` names them."""
    return (
        f"{median(each.load.p50 for each in rounds):.1f}",
        f"{median(each.load.p99 for each in rounds):.1f}",
        f"{median(each.load.requests_per_second for each in rounds):.0f}",
        f"{median(each.cpu for each in rounds):.2f}",
    )
