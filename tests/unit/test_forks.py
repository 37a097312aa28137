"""`harness.forks`."""

import os

import pytest

from harness import forks
from harness.service_process import ROOT

APP = [str(ROOT / "app.py")]


def _refused(pid: int) -> int:
    raise OSError(1, "Operation not permitted")


def test_services_start_as_forks_where_they_can_be_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(forks.VARIABLE, "1")
    monkeypatch.setattr(os, "pidfd_open", lambda pid: os.open(os.devnull, os.O_RDONLY), raising=False)
    assert forks.is_enabled(APP)
    assert not forks.is_enabled(["/elsewhere/app.py"])
    monkeypatch.setenv(forks.VARIABLE, "")
    assert not forks.is_enabled(APP)


def test_services_start_as_new_pythons_without_descriptors_of_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(forks.VARIABLE, "1")
    monkeypatch.setattr(os, "pidfd_open", _refused, raising=False)
    assert not forks.is_enabled(APP)
    monkeypatch.delattr(os, "pidfd_open")
    assert not forks.is_enabled(APP)
