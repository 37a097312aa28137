"""The command `rcg batch` beside the package whose place it takes, with the same work.

    python -m bench.command    # half a minute

The clock runs from the launch of the command until its end, with all files on disk.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from bench.contender_run import Scenario, run_contender
from bench.processes import counts, service_before, simulated
from bench.report import Claim, Section, claimed, run_alone
from harness.service_process import ROOT

ITEMS: Final = 300
SLOTS: Final = 60
SECONDS: Final = 1
IDEAL: Final = SECONDS * ITEMS / SLOTS
MOST: Final = 1.3

_SIMULATOR: Final = ("--seconds", str(SECONDS), "--jitter", "0")
_KEY: Final = "bench-admin-key"
_RCG: Final = (sys.executable, "-c", "from replicate_concurrent.cli import main; main()")
_THEIRS: Final = Scenario(pictures=ITEMS, slots=SLOTS, simulator=_SIMULATOR, bound=120)

_NOTE: Final = f"""\
{ITEMS} pictures of {SECONDS} s at {SLOTS} slots, so ideally {IDEAL:.0f} s. `rcg batch` starts, sends the rows of a
text file, and saves each picture, which the service has fetched before. `replicate-batch-process` gets the same
work in a script that has already started, and also saves the pictures."""


def command() -> Section:
    return claimed("The command `rcg batch`", [*_ours(), *_theirs()], note=_NOTE)


def _ours() -> Iterator[Claim]:
    settings = {"CONCURRENT_DOCKER_ADMIN_API_KEY": _KEY, "REPLICATE_API_TOKEN": "r8_bench"}
    with (
        simulated(*_SIMULATOR) as simulator,
        service_before(simulator, REPLICATE_CONCURRENT_LIMIT=SLOTS, FILES_TTL=600, **settings) as service,
        TemporaryDirectory() as directory,
    ):
        rows, out = Path(directory, "rows.txt"), Path(directory, "out")
        rows.write_text("".join(f"Lighthouse {number}\n" for number in range(ITEMS)))
        environment = os.environ | {
            "PYTHONPATH": str(ROOT / "client"), "RCG_URL": service.url, "RCG_API_KEY": _KEY,
        }  # fmt: skip
        began = time.perf_counter()
        subprocess.run(
            [*_RCG, "batch", str(rows), "-m", "flux-dev", "-o", str(out), "--yes"],
            env=environment, stdout=subprocess.DEVNULL, check=True, timeout=120,
        )  # fmt: skip
        ratio = (time.perf_counter() - began) / IDEAL
        seen = counts(simulator)
        files = sum(each.suffix != ".jsonl" for each in out.iterdir())
    yield Claim("`rcg batch`: launch to end / ideal", f"{ratio:.2f}", f"≤ {MOST}", ratio <= MOST)
    made = seen["creations_accepted"]
    yield Claim("… files, predictions", f"{files}, {made}", f"{ITEMS}, {ITEMS}", files == made == ITEMS)


def _theirs() -> Iterator[Claim]:
    run = run_contender("batch_process", _THEIRS)
    shown = f"{float(run.result['seconds']) / IDEAL:.2f}" if run.result else run.undone
    yield Claim("`replicate-batch-process`: makespan / ideal", shown)
    yield Claim("… pictures, predictions", f"{run.got}, {run.seen['creations_accepted']}")


if __name__ == "__main__":
    sys.exit(run_alone(command))
