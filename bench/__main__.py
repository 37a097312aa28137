"""Run every measure, print the table, write it with its conditions. Exits with 1 if a target is missed."""

import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from bench.measures import MEASURES, Row

RESULTS = Path(__file__).parent / "results.md"


def main() -> int:
    rows: list[Row] = []
    for measure in MEASURES:
        for row in measure():
            print(f"{'ok  ' if row.met else 'MISS'} {row.what}: {row.figure}  {row.target}", flush=True)
            rows.append(row)
    RESULTS.write_text(_report(rows))
    return 0 if all(row.met for row in rows) else 1


def _report(rows: list[Row]) -> str:
    lines = [f"| {row.what} | {row.figure} | {row.target} | {'yes' if row.met else 'no'} |" for row in rows]
    packages = ", ".join(f"{name} {version(name)}" for name in ("gunicorn", "flask", "replicate", "aiohttp"))
    machine = f"Python {platform.python_version()}, {platform.system()}, {os.cpu_count()} cores, {packages}"
    return "\n".join(
        [
            "# Results of `make bench`",
            "",
            f"{datetime.now(UTC):%Y-%m-%d}, {machine}.",
            "Service, simulator and callers share the machine over loopback; each is a process of its own.",
            "",
            "| what | figure | target | met |",
            "| --- | --- | --- | --- |",
            *lines,
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
