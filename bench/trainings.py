"""Kills the service a hundred times while it trains and makes pictures: no training is begun twice, and none is lost.

    python -m bench.trainings --kills 100    # about twelve minutes

`tests/process/test_training_kills.py` asserts the same for fewer kills. The simulator runs in this process.
"""

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from bench.report import RESULTS, Claim, Section, claimed, counted, exit_on_sigterm, recorded
from harness.ledger_file import LedgerFile
from harness.postgres import Server
from harness.training_kills import AT_ONCE, OPTIONS, TrainingKills, TrainingReport
from simulator import running

_KILLS: Final = 100

_NOTE: Final = f"""\
Eight callers train, each the next time when its training has ended, and three request pictures. Each request has an
`Idempotency-Key`, and is repeated at any process until one answers. A training takes 1 to 3 s, a picture 0.2 to 0.6
s, a message up to 0.2 s each way. At most {AT_ONCE} trainings run at once. Processes are killed at random moments,
some before they serve, and 0 to 0.3 s after the simulator has received an upload, a creation, a poll, a download of
weights or the deletion of an upload; of three processes one, two or all. Before a third of the kills the answer to a
creation is lost or unreadable. Half of the callers poll, and half read the stream of events. The counts are the
simulator's. An upload of a process that was killed before it knew the address cannot be deleted; Replicate deletes
it after a day. Directories that a kill left are made an hour older, and must be gone after a new start."""


def training_kills(kills: int = _KILLS) -> Section:
    """The claims of one scenario with one process, and of one with three."""
    return claimed("100 kills during trainings and pictures", _claims(kills), note=_NOTE)


def _claims(kills: int) -> Iterator[Claim]:
    with running(OPTIONS) as simulator, TemporaryDirectory() as folder:
        data = Path(folder)
        report = TrainingKills(simulator, data, LedgerFile(data), seed=1).run(kills)
    yield from _of(report, f"{kills} kills of one process on SQLite")
    server = Server()
    try:
        with running(OPTIONS) as simulator, TemporaryDirectory() as folder:
            report = TrainingKills(simulator, Path(folder), server, seed=2).run(kills)
    finally:
        server.close()
    yield from _of(report, f"{kills} kills of three processes on PostgreSQL")


def _of(report: TrainingReport, scenario: str) -> Iterator[Claim]:
    for sentence in report.faults:
        print(f"     {sentence}", flush=True)
    targeted = sum(number for kind, number in report.moments.items() if kind != "any")
    yield counted(f"{scenario}: trainings made for those that were accepted", report.made, report.trainings)
    yield Claim("… kills after a certain request, lost answers", f"{targeted}, {report.lost_answers}")
    yield counted("… lost", len(report.lost))
    yield counted("… begun twice, or of another training", len(report.twice))
    yield Claim("… at once, at the most", f"{report.peak}", f"≤ {AT_ONCE}", report.peak <= AT_ONCE)
    yield counted(f"… values of progress that fell, of {report.looks}", len(report.falls))
    yield counted("… with another cost than the bill", len(report.costs))
    yield counted("… without their weights", len(report.weights))
    yield counted("… uploads there with a known address, or here after an hour", len(report.uploads))
    left = f"{report.unknown_uploads}, {report.directories}"
    yield Claim("… uploads there with a lost address, directories here", left)
    yield counted("… requests that no repetition healed", len(report.errors) + len(report.pictures.errors))
    pictures = report.pictures
    yield counted("… pictures made for those that were accepted", pictures.predictions, pictures.generations)
    yield counted("… lost, or made twice", len(pictures.lost) + len(pictures.twice))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.trainings", allow_abbrev=False)
    parser.add_argument("--kills", type=int, default=_KILLS, help="of each scenario")
    kills: int = parser.parse_args(arguments).kills
    exit_on_sigterm()
    results = RESULTS if kills == _KILLS else None  # the report has the usual conditions
    return 1 if recorded(partial(training_kills, kills), results).missed else 0


if __name__ == "__main__":
    sys.exit(main())
