"""Tokens that are replaced and revoked under load, at one process on SQLite and at three on PostgreSQL."""

import pytest

from harness.ledger_file import LedgerFile
from harness.rotations import Rotations
from simulator import Options, running

pytestmark = pytest.mark.slow

ROTATIONS = 2


def rotate(database, size, data):
    with running(Options(prediction_seconds=0.1, jitter=0.0)) as simulator:
        report = Rotations(simulator, data, database, size).run(ROTATIONS)

    assert ([], [], []) == (report.failed, report.wrong_account, report.leaks)
    assert report.calls >= report.predictions > 0


def test_no_call_of_one_process_fails_or_is_paid_by_another_account(tmp_path):
    rotate(LedgerFile(tmp_path), 1, tmp_path)


def test_no_call_of_three_processes_fails_or_is_paid_by_another_account(own_server, tmp_path):
    rotate(own_server, 3, tmp_path)
