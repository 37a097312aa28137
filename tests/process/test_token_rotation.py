"""Tokens that are replaced and revoked under load, at one process on SQLite and at three on PostgreSQL."""

import pytest

from harness.ledger_file import LedgerFile
from harness.postgres import Server
from harness.rotations import Rotations
from simulator import Options, running

pytestmark = pytest.mark.slow

ROTATIONS = 2


@pytest.fixture(params=[1, 3])
def size(request):
    return request.param


@pytest.fixture
def database(size, tmp_path):
    server = LedgerFile(tmp_path) if size == 1 else Server()
    yield server
    if isinstance(server, Server):
        server.close()


def test_no_call_fails_and_none_is_paid_by_another_account(size, database, tmp_path):
    with running(Options(prediction_seconds=0.1, jitter=0.0)) as simulator:
        report = Rotations(simulator, tmp_path, database, size).run(ROTATIONS)

    assert ([], [], []) == (report.failed, report.wrong_account, report.leaks)
    assert report.calls >= report.predictions > 0
