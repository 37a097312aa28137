"""The cost of the path through the service: no limits, predictions that end at once.

The same load goes to two services, of which one keeps files, as by default, to a bare forwarder (`bench/forwarder.py`),
which keeps none, and, with one caller, directly to the simulator. A figure is the median of its rounds, and the CPU of
the service is also compared with the forwarder's in the worst round: a claim must hold in every round. The services log
every request, as by default; the forwarder has no log.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

from bench import forwarder
from bench.processes import service_before, simulated
from bench.report import Section
from bench.rounds import (
    BODY,
    BOUNDLESS,
    LIFTED,
    WITHOUT_FILES,
    Round,
    Target,
    Turns,
    creating,
    failures,
    generating,
    round_of,
)
from harness.service_process import ROOT, free_port

CALLERS = (1, 10, 50, 200)

MOST_CPU = 3.0
"""Target: the service's CPU for a request as a multiple of the forwarder's, without files, at any number of callers and
in any round. 2.5 and a fifth of that for the ledger (`bench/ledger.py`)."""

MOST_ADDED = 4.0
"""Target: milliseconds that the service without files adds to the p50 of direct requests to the simulator, with one
caller."""

_NOTE = """\
Predictions end at once, and there are no limits. The forwarder keeps no files. So the targets are those of the service
without files (`FILES_TTL=0`), and the rows with files kept, as by default, have none. The CPU ratio is the service's
CPU of a request over the forwarder's in the same round: the median, and the worst round, which the target counts."""

_SERVICE, _KEEPING, _FORWARDER, _DIRECT = "service", "service, files kept", "forwarder", "simulator"
_FIGURES = ("p50 ms", "p99 ms", "req/s", "CPU ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The rounds of a service and the others at one number of callers. `direct` is empty but for one caller."""

    callers: int
    keeps_files: bool
    service: list[Round]
    forwarder: list[Round]
    direct: list[Round]

    @property
    def ratios(self) -> list[float]:
        """The service's CPU for a request as a multiple of the forwarder's, in each round."""
        pairs = zip(self.service, self.forwarder, strict=True)
        return [ours.cpu / theirs.cpu for ours, theirs in pairs]

    @property
    def added(self) -> float | None:
        """Milliseconds that the service adds to p50."""
        if not self.direct:
            return None
        through, direct = (median(each.load.p50 for each in rounds) for rounds in (self.service, self.direct))
        return through - direct

    def row(self) -> tuple[str, ...]:
        return (
            str(self.callers),
            "kept" if self.keeps_files else "none",
            *_cells(self.service),
            *_cells(self.forwarder),
            f"{median(self.ratios):.2f}",
            f"{max(self.ratios):.2f}",
            "" if self.added is None else f"{self.added:.1f}",
        )

    def missed(self) -> Iterator[str]:
        at = f"At {self.callers} callers" if self.callers > 1 else "At one caller"
        if failed := failures((*self.service, *self.forwarder, *self.direct)):
            yield f"{at} {failed}"
        if self.keeps_files:
            return
        if (worst := max(self.ratios)) > MOST_CPU:
            yield f"{at} the service uses {worst:.2f} times the forwarder's CPU in the worst round, not ≤ {MOST_CPU}."
        if self.added is not None and self.added >= MOST_ADDED:
            yield f"{at} the service adds {self.added:.1f} ms, not < {MOST_ADDED:g}."


def overhead() -> Section:
    """Services and forwarder under the same load. Takes about two minutes."""
    with _targets() as targets:
        for name in (_SERVICE, _KEEPING, _FORWARDER):
            round_of(targets[name], callers=max(CALLERS))
        found = [each for callers in CALLERS for each in _compared(targets, callers=callers)]
    return table(found)


def table(found: list[Comparison]) -> Section:
    """The comparisons as a section."""
    columns = [f"{who} {what}" for who in ("service", "forwarder") for what in _FIGURES]
    return Section(
        f"The path alone: at most {MOST_CPU} times a bare forwarder's CPU, under {MOST_ADDED:g} ms added",
        ("callers", "files", *columns, "CPU ratio", "worst round", "added ms"),
        [each.row() for each in found],
        [sentence for each in found for sentence in each.missed()],
        _NOTE,
    )


@contextmanager
def _targets() -> Iterator[dict[str, Target]]:
    """Both services, forwarder and simulator, each a process of its own."""
    with (
        simulated("--seconds", "0", *BOUNDLESS) as simulator,
        service_before(simulator, **WITHOUT_FILES) as service,
        service_before(simulator, **LIFTED) as keeping,
        _forwarding(simulator) as (bare, pid),
    ):
        yield {
            _SERVICE: generating(service),
            _KEEPING: generating(keeping),
            _FORWARDER: Target(f"{bare}/generate", BODY, {}, pid),
            _DIRECT: creating(simulator, downloads=False),
        }


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


def _compared(targets: dict[str, Target], *, callers: int) -> Iterator[Comparison]:
    if callers > 1:
        targets = {name: target for name, target in targets.items() if name != _DIRECT}
    rounds = Turns().loaded(targets, callers=callers)
    for name in (_SERVICE, _KEEPING):
        yield Comparison(
            callers=callers,
            keeps_files=name == _KEEPING,
            service=rounds[name],
            forwarder=rounds[_FORWARDER],
            direct=rounds.get(_DIRECT, []),
        )


def _cells(rounds: list[Round]) -> tuple[str, ...]:
    """The medians, as `_FIGURES` names them."""
    return (
        f"{median(each.load.p50 for each in rounds):.1f}",
        f"{median(each.load.p99 for each in rounds):.1f}",
        f"{median(each.load.requests_per_second for each in rounds):.0f}",
        f"{median(each.cpu for each in rounds):.2f}",
    )
