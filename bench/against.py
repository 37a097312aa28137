"""This commit against an earlier one: CPU, latency, memory and start of both services before one simulator.

    python -m bench.against            # HEAD^, or HEAD if the work tree has changes
    python -m bench.against HEAD~5 --rounds 3 --seconds 1

The earlier commit is exported into a temporary folder and runs with the packages of this Python. Both variants and a
second process of the earlier one take turns; see `bench/figures.py`. `--pinned` adds the section of `bench/pinned.py`.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

import requests

from bench.commits import Commit, NoCommit, exported, find, has_changes, version_of
from bench.figures import AGAIN, NEW, OLD, TOLERANCE, Figure, compared, load_figure
from bench.pinned import pinned
from bench.processes import (
    Variant,
    prompts,
    resident_megabytes,
    services_before,
    simulated,
    timed_post,
)
from bench.report import Section, exit_on_sigterm, markdown
from bench.rounds import (
    BOUNDLESS,
    LIFTED,
    WITHOUT_FILES,
    Round,
    Turns,
    creating,
    failures,
    generating,
    round_of,
)
from harness.service_process import ServiceProcess, launched_service

CALLERS = (1, 10, 50)

MOST_ADDED = {False: 2.8, True: 3.8}
"""Target: milliseconds added to the p50 of direct requests with one caller, without files and with files kept."""

MOST_MAKESPAN = 1.10
MOST_IDLE, MOST_LOADED = 100.0, 120.0
"""Targets: megabytes."""

MOST_START = 0.7
"""Target: seconds."""

_BATCH = 1000
_FILES = {False: "without files", True: "with files"}
_DIRECT = "simulator"

REFERENCE_HELP = "the commit to compare with (default: HEAD^, or HEAD if the work tree has changes)"
PINNED_HELP = "also compare PIN_TO_CORE=1 with the default"

TURNS = Turns(rounds=5, seconds=1.6)
"""A load uses more than a second of CPU, so that ticks of 10 ms make its figure wrong by less than 2 %."""


@dataclass(frozen=True, slots=True)
class Targets:
    """The targets of ratios to a version. `cpu` has those of the CPU of a request, by whether files are kept and by the
    number of callers; `pictures` is that of a batch's pictures a second."""

    cpu: Mapping[tuple[bool, int], float]
    pictures: float | None


NO_TARGETS = Targets({}, None)
TARGETS = {
    "0.8.0": Targets(
        {
            (False, 1): 0.8,
            (False, 10): 0.75,
            (False, 50): 0.75,
            (True, 1): 0.8,
            (True, 10): 0.6,
            (True, 50): 0.6,
        },
        pictures=1.5,
    )
}
"""By the version of the earlier commit. A ratio to any other must be no worse than the noise explains."""


def against(commit: Commit, turns: Turns = TURNS) -> Section:
    """All figures. Takes seven minutes. Raises NoCommit."""
    with exported(commit) as tree:
        version = version_of(tree)
        variants = {NEW: Variant(), OLD: Variant(tree), AGAIN: Variant(tree)}
        return compared(
            f"This commit against {commit.name} ({version or 'no version'})",
            _figures(variants, turns, TARGETS.get(version, NO_TARGETS)),
            names=("this", "before"),
            note=_note(turns),
        )


def _note(turns: Turns) -> str:
    here = "This commit, with changes that are not committed," if has_changes() else "This commit"
    return f"""\
{here} and the earlier one take turns before one simulator, in {turns.rounds} rounds (a batch of {_BATCH:,} in three),
and so does a second process of the earlier one. A load lasts {turns.seconds:g} s. Figures are medians of the rounds.
Ratios are made round by round; the range is in brackets. `before / before` compares the two processes of one commit: it
is what noise alone explains. A ratio without a target of its own must not be worse than the worst round of the noise,
or worse than {TOLERANCE * 100:g} %. Predictions end at once, and there are no limits, unless the row says otherwise."""


def _figures(variants: Mapping[str, Variant], turns: Turns, targets: Targets) -> Iterator[Figure]:
    return chain(
        _starts(variants, turns),
        _path(variants, turns, targets, keeps_files=False),
        _path(variants, turns, targets, keeps_files=True),
        _makespan(variants, turns),
    )


def _starts(variants: Mapping[str, Variant], turns: Turns) -> Iterator[Figure]:
    """The time and the memory of a start."""
    with simulated() as simulator:
        starts = {name: partial(_start, variant, simulator) for name, variant in variants.items()}
        for name in (NEW, OLD):
            starts[name]()  # compiles the modules
        found = turns.measured(starts)
    listening, serving, megabytes = (
        {name: [each[number] for each in rounds] for name, rounds in found.items()} for number in range(3)
    )
    yield Figure(what="launch until 'Serving on'", unit="s", values=listening, most=MOST_START)
    yield Figure(what="launch until /health responds", unit="s", values=serving)
    yield Figure(what="memory idle", unit="MB", values=megabytes, most=MOST_IDLE)


def _start(variant: Variant, simulator: str) -> tuple[float, float, float]:
    """The seconds until a process says that it serves, those until `/health` responds, and its megabytes then."""
    began = time.perf_counter()
    with launched_service(**variant.launch_settings(simulator)) as service:
        if not service.is_serving(within=60):
            raise RuntimeError(f"the service in {variant.tree} did not start")
        listening = time.perf_counter() - began
        requests.get(f"{service.url}/health", timeout=60).raise_for_status()
        serving, megabytes = time.perf_counter() - began, resident_megabytes(service)
        service.kill()  # a stop would take as long as the start
        return listening, serving, megabytes


def _path(
    variants: Mapping[str, Variant], turns: Turns, targets: Targets, *, keeps_files: bool
) -> Iterator[Figure]:
    """CPU and latency of the path, and with files also the loaded memory and a batch."""
    settings = LIFTED if keeps_files else WITHOUT_FILES
    files = _FILES[keeps_files]
    with (
        simulated("--seconds", "0", *BOUNDLESS) as simulator,
        services_before(simulator, variants, **settings) as services,
    ):
        loads = {name: generating(service) for name, service in services.items()}
        for load in loads.values():
            round_of(load, callers=max(CALLERS))
        for callers in CALLERS:
            direct = {_DIRECT: creating(simulator, downloads=keeps_files)} if callers == 1 else {}
            rounds = turns.loaded(loads | direct, callers=callers)
            yield load_figure(
                f"CPU a request {files}, {callers} at once",
                "ms",
                rounds,
                lambda it: it.cpu,
                ratio=targets.cpu.get((keeps_files, callers)),
            )
            if direct:
                yield _added(
                    f"p50 {files}, 1 at once, less that of the simulator", rounds, MOST_ADDED[keeps_files]
                )
        if keeps_files:
            memory = {name: [resident_megabytes(service)] for name, service in services.items()}
            yield Figure(
                what=f"memory after {max(CALLERS)} at once, with files",
                unit="MB",
                values=memory,
                most=MOST_LOADED,
            )
            yield _pictures(services, turns, targets.pictures)


def _added(what: str, rounds: Mapping[str, list[Round]], most: float) -> Figure:
    """The milliseconds that a service adds to the p50 of direct requests in the same round."""
    direct = [each.load.p50 for each in rounds[_DIRECT]]
    added = {
        name: [each.load.p50 - base for each, base in zip(rounds[name], direct, strict=True)]
        for name in (NEW, OLD, AGAIN)
    }
    return Figure(what=what, unit="ms", values=added, most=most, failed=failures(rounds[_DIRECT]))


def _pictures(services: Mapping[str, ServiceProcess], turns: Turns, ratio: float | None) -> Figure:
    """The pictures a second of a batch. It takes long, so it has three rounds."""
    few = replace(turns, rounds=min(turns.rounds, 3))
    batches = few.measured({name: partial(_batch, each, _BATCH) for name, each in services.items()})
    rates = {name: [_BATCH / seconds for seconds in rounds] for name, rounds in batches.items()}
    return Figure(
        what=f"a batch of {_BATCH:,} with files",
        unit="pictures/s",
        values=rates,
        is_more_better=True,
        ratio=ratio,
    )


def _makespan(variants: Mapping[str, Variant], turns: Turns) -> Iterator[Figure]:
    """300 generations of exactly 1 s at 60 slots: five waves, ideally 5 s."""
    with (
        simulated("--seconds", "1", "--jitter", "0", *BOUNDLESS) as simulator,
        services_before(simulator, variants, **LIFTED | {"REPLICATE_CONCURRENT_LIMIT": 60}) as services,
    ):
        batches = turns.measured({name: partial(_batch, each, 300) for name, each in services.items()})
    ratios = {name: [seconds / 5 for seconds in rounds] for name, rounds in batches.items()}
    what = "300 generations of 1 s at 60 slots with files: makespan / ideal"
    yield Figure(what=what, unit="", values=ratios, most=MOST_MAKESPAN)


def _batch(service: ServiceProcess, size: int) -> float:
    """The seconds of a batch. All of it must succeed, and all files must be kept."""
    batch, seconds = timed_post(service, "/generate-batch", prompts(size))
    kept = sum(len(each["files"]) for each in batch["results"])
    if (batch["succeeded"], kept) != (size, size):
        raise RuntimeError(f"of a batch of {size}, {batch['succeeded']} succeeded and {kept} were kept")
    return seconds


def main(arguments: list[str] | None = None) -> int:
    """Print the section. Returns the exit status: 1 if a target is missed, 2 if the commit is."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.against",
        description="This commit against an earlier one.",
        allow_abbrev=False,
    )
    parser.add_argument("reference", nargs="?", help=REFERENCE_HELP)
    parser.add_argument("--rounds", type=int, default=TURNS.rounds, help="default %(default)s")
    parser.add_argument("--seconds", type=float, default=TURNS.seconds, help="of a load, default %(default)s")
    parser.add_argument("--pinned", action="store_true", help=PINNED_HELP)
    parsed = parser.parse_args(arguments)
    turns = Turns(rounds=parsed.rounds, seconds=parsed.seconds)
    exit_on_sigterm()
    try:
        sections = [against(find(parsed.reference), turns)]
    except NoCommit as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if parsed.pinned and (section := pinned(turns)):
        sections.append(section)
    for section in sections:
        print(f"\n{markdown(section)}", flush=True)
    return 1 if any(section.missed for section in sections) else 0


if __name__ == "__main__":
    sys.exit(main())
