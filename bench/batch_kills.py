"""Kills `rcg batch` and the service during a batch: no row is lost, none is made twice, and each file has its name.

    python -m bench.batch_kills    # about a minute

`tests/client/test_batch_kills.py` asserts the same for fewer rows and kills. The simulator runs in this process.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from bench.report import Claim, Section, claimed, counted, run_alone
from harness.killed_batch import KilledBatch, Report
from simulator import Options, running

_ROWS: Final = 300
_CLIENT_KILLS: Final = 30
_SERVICE_KILLS: Final = 10
_SLOTS: Final = 5
_LONGEST: Final = 1.0
"""Seconds that a client runs at most before its kill."""

_OPTIONS: Final = Options(prediction_seconds=0.5, jitter=0.5, seed=1)

_NOTE: Final = f"""\
`rcg batch` makes {_ROWS} rows into files, and is killed {_CLIENT_KILLS} times, each time 0.2 to {_LONGEST:g} s after
its start. During {_SERVICE_KILLS} of these runs master and worker of the service are killed then, and started again on
their ledger, and the client is killed up to {_LONGEST:g} s later. After the last kill the same command runs to its end.
A prediction takes 0.25 to 0.75 s, at {_SLOTS} slots. The predictions are the simulator's. The number in each file's
name is compared with its row, and its content with the output of the generation with that row's prompt."""


def batch_kills() -> Section:
    title = f"{_CLIENT_KILLS} kills of `rcg batch`, {_SERVICE_KILLS} of the service"
    return claimed(title, _claims(), note=_NOTE)


def _claims() -> Iterator[Claim]:
    prompts = [f"picture {number}" for number in range(1, _ROWS + 1)]
    names = [f"{number:04d}-picture-{number}.jpg" for number in range(1, _ROWS + 1)]
    with running(_OPTIONS) as simulator, TemporaryDirectory() as folder:
        batch = KilledBatch(simulator, Path(folder), prompts, REPLICATE_CONCURRENT_LIMIT=_SLOTS)
        report = batch.run(client_kills=_CLIENT_KILLS, service_kills=_SERVICE_KILLS, seed=1, longest=_LONGEST)
    yield counted("Kills of a running client", report.client_kills, _CLIENT_KILLS)
    yield counted("… of a running service", report.service_kills, _SERVICE_KILLS)
    before = report.files_at_last_kill
    yield Claim("Files at the last kill", f"{before}", f"< {_ROWS}", before < _ROWS)
    yield counted("Exit status of the last run", report.exit_status)
    yield from _files(report, names)
    yield counted("Predictions", report.predictions, _ROWS)
    yield counted("… more than one for a row", len(report.repeated))
    yield Claim("Seconds from the first start to the last end", f"{report.seconds:.0f} s")


def _files(report: Report, names: list[str]) -> Iterator[Claim]:
    yield counted("Files", len(report.names), len(names))
    yield counted("… with a name of no row", len({*report.names} - {*names}))
    yield counted("… with the picture of another row", len(report.foreign))


if __name__ == "__main__":
    sys.exit(run_alone(batch_kills))
