"""Replaces and revokes the service's token twenty times under load, over three processes: no call fails.

    python -m bench.rotations    # about a minute

`tests/process/test_token_rotation.py` asserts the same for fewer rotations. The simulator runs in this process.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from bench.report import Claim, Section, claimed, counted, run_alone
from harness.postgres import Server
from harness.rotations import Rotations
from simulator import Options, running

_ROTATIONS: Final = 20
_PROCESSES: Final = 3
_A_MINUTE: Final = 600

_NOTE: Final = f"""\
{_PROCESSES} processes share a ledger in PostgreSQL, and each reads the token from a file of its own. The files are
replaced 0.3 s apart, and 0.3 s after the last one the old token is revoked. So most processes learn of the new one by a
refusal. Eight callers send pictures that take 0.1 or 2.5 s; one of them is a user with a token of another account."""


def rotations() -> Section:
    return claimed(f"{_ROTATIONS} rotations of the token under load", _claims(), note=_NOTE)


def _claims() -> Iterator[Claim]:
    server = Server()
    try:
        with running(Options(prediction_seconds=0.1, jitter=0.0)) as simulator, TemporaryDirectory() as data:
            report = Rotations(simulator, Path(data), server, _PROCESSES).run(_ROTATIONS)
    finally:
        server.close()
    for sentence in (*report.failed, *report.wrong_account):
        print(f"     {sentence}", flush=True)
    yield Claim("calls", f"{report.calls}")
    yield counted("… that failed", len(report.failed))
    yield counted("… paid by another account", len(report.wrong_account))
    yield counted("tokens in a log or in /status", len(report.leaks))
    densest = report.densest_minute
    yield Claim("creations in the densest 60 s", f"{densest}", f"≤ {_A_MINUTE}", densest <= _A_MINUTE)


if __name__ == "__main__":
    sys.exit(run_alone(rotations))
