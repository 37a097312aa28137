"""Runs every section, prints it, and writes the report and its charts. Exits with 1 if a target is missed.

`--against REF` names the commit to compare with, `--pinned` adds the comparison with `PIN_TO_CORE=1`.
"""

import argparse
import os
import platform
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version

from bench.against import PINNED_HELP, REFERENCE_HELP, against
from bench.background import in_background
from bench.batch_kills import batch_kills
from bench.call_kills import call_kills
from bench.calls import limits, path, streams
from bench.command import command
from bench.commits import Commit, NoCommit, find
from bench.comparison import comparison
from bench.comparison_faults import comparison_with_faults
from bench.crowd import crowd
from bench.doors import doors, keys
from bench.kills import kills
from bench.ledger import ledger
from bench.measures import claims
from bench.overhead import overhead
from bench.pinned import pinned
from bench.plots import draw
from bench.report import RESULTS, Section, exit_on_sigterm, markdown
from bench.rotations import rotations
from bench.safety import safety
from bench.stalls import stalls
from bench.trainings import training_kills
from bench.window import window


def main(arguments: list[str] | None = None) -> int:
    parsed = _parser().parse_args(arguments)
    try:
        commit = find(parsed.against)
    except NoCommit as error:
        sys.stderr.write(f"{error}\n")
        return 2
    exit_on_sigterm()
    conditions, done = _conditions(), []
    for section in _sections(commit, with_pinned=parsed.pinned):
        done.append(section)
        print(f"\n{markdown(section)}", flush=True)
    results = "\n".join([conditions, *map(markdown, done)])
    RESULTS.write_text(results)
    draw(results)
    return 1 if any(section.missed for section in done) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="All benchmarks.", allow_abbrev=False
    )
    parser.add_argument("--against", metavar="REF", help=REFERENCE_HELP)
    parser.add_argument("--pinned", action="store_true", help=PINNED_HELP)
    return parser


def _sections(commit: Commit, *, with_pinned: bool) -> Iterator[Section]:
    """First the sections that load the machine, one by one; then those that mostly wait, partly in parallel."""
    yield claims()
    yield against(commit)
    if with_pinned and (section := pinned()):
        yield section
    yield overhead()
    yield safety()
    yield ledger()
    yield command()
    yield keys()
    yield doors()
    yield path()
    yield streams()
    yield kills()
    yield batch_kills()
    yield call_kills()
    yield training_kills()
    yield rotations()
    yield crowd()
    windows, still, calls = in_background(window), in_background(stalls), in_background(limits)
    yield comparison()
    yield comparison_with_faults()
    yield windows.result()
    yield still.result()
    yield calls.result()


def _conditions() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("gunicorn", "flask", "replicate", "aiohttp"))
    machine = f"Python {platform.python_version()}, {platform.system()}, {os.cpu_count()} cores, {packages}"
    return "\n".join(
        [
            "# Results of `make bench`",
            "",
            f"{datetime.now(UTC):%Y-%m-%d}, {machine}.",
            f"The machine's load average was {os.getloadavg()[0]:.1f} before it began.",
            "Service, simulator and callers share the machine over loopback; each is a process of its own.",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
