"""No kill loses a training or a picture, begins one twice, or lets a progress fall. The record is the simulator's."""

import pytest

from harness.ledger_file import LedgerFile
from harness.training_kills import AT_ONCE, OPTIONS, TrainingKills
from simulator import running

pytestmark = pytest.mark.slow


APART = (0.0, 0.3)
"""Seconds. Processes that live for longer get larger shares of the window of polls, which count for a minute after a
kill."""


def _check(report):
    assert [] == report.faults
    assert 0 < report.trainings == report.made
    assert 0 < report.pictures.generations == report.pictures.predictions
    assert 0 < report.peak <= AT_ONCE
    assert 0 < report.looks
    assert report.unknown_uploads <= report.kills * AT_ONCE


def test_kills_of_one_process_lose_no_training_and_begin_none_twice(tmp_path):
    with running(OPTIONS) as simulator:
        _check(TrainingKills(simulator, tmp_path, LedgerFile(tmp_path), seed=2, apart=APART).run(6))


def test_kills_of_three_processes_lose_no_training_and_begin_none_twice(own_server, tmp_path):
    with running(OPTIONS) as simulator:
        _check(TrainingKills(simulator, tmp_path, own_server, seed=3, apart=APART).run(6))
