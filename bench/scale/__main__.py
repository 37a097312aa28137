"""Runs the parts, prints each, and writes its section of `bench/results-scale.md`. Exits with 1 if a target is missed.

Parts can be named. `--scale 0.1` runs a tenth of each, and writes nothing.
"""

import argparse
import os
import platform
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from bench.report import Section, exit_on_sigterm, recorded
from bench.scale.any_model import any_model
from bench.scale.faults import blackholes, crashes, freezes
from bench.scale.kills import kills
from bench.scale.latency import latency
from bench.scale.lives import lives
from bench.scale.rolling import rolling
from bench.scale.stage import Scale
from bench.scale.stalls import stalls
from bench.scale.use import slots, window

PARTS: Mapping[str, Callable[[Scale], Section]] = {
    "window": window,
    "slots": slots,
    "kills": kills,
    "any_model": any_model,
    "freezes": freezes,
    "crashes": crashes,
    "blackholes": blackholes,
    "rolling": rolling,
    "stalls": stalls,
    "latency": latency,
    "lives": lives,
}
RESULTS = Path(__file__).parents[1] / "results-scale.md"

_HEAD = f"""\
# Results of `make bench-scale`

Python {platform.python_version()}, {platform.system()}, {os.cpu_count()} cores, PostgreSQL 18.
Processes, simulator, database and callers share the machine over loopback.
"""


def main(arguments: list[str] | None = None) -> int:
    parsed = _parser().parse_args(arguments)
    exit_on_sigterm()
    done = []
    for name in parsed.parts or PARTS:
        print(f"\n{name}, from {datetime.now(UTC):%H:%M:%S} on", flush=True)
        measure = partial(PARTS[name], Scale(parsed.scale))
        done.append(recorded(measure, RESULTS if parsed.scale == 1 else None, head=_HEAD))
    return 1 if any(section.missed for section in done) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.scale", description="Benchmarks of many processes.", allow_abbrev=False
    )
    names = ", ".join(PARTS)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{names}; default all")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="the part of the full size (default %(default)s)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
