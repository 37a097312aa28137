"""Runs every section, prints it, and writes the report and its charts. Exits with 1 if a target is missed."""

import os
import platform
import signal
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from bench.background import in_background
from bench.comparison import comparison
from bench.comparison_faults import comparison_with_faults
from bench.crowd import crowd
from bench.kills import kills
from bench.ledger import ledger
from bench.measures import claims
from bench.overhead import overhead
from bench.plots import draw
from bench.report import Section, markdown
from bench.stalls import stalls
from bench.window import window

RESULTS = Path(__file__).parent / "results.md"


def main() -> int:
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(143)
    )  # unwinds the stack, so that all processes started here end
    conditions, done = _conditions(), []
    for section in _sections():
        done.append(section)
        print(f"\n{markdown(section)}", flush=True)
    results = "\n".join([conditions, *map(markdown, done)])
    RESULTS.write_text(results)
    draw(results)
    return 1 if any(section.missed for section in done) else 0


def _sections() -> Iterator[Section]:
    """First the sections that load the machine, one by one; then those that mostly wait, partly in parallel."""
    yield claims()
    yield overhead()
    yield ledger()
    yield kills()
    yield crowd()
    windows, still = in_background(window), in_background(stalls)
    yield comparison()
    yield comparison_with_faults()
    yield windows.result()
    yield still.result()


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
