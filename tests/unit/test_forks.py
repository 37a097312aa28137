"""`harness.forks`."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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


def _templates() -> list[str]:
    """The processes to fork that this process has started."""
    children = [path.read_text().split() for path in Path("/proc/self/task").glob("*/children")]
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for each in children for pid in each}
    return [pid for pid, command in commands.items() if b"harness.service_template" in command]


@pytest.mark.skipif(sys.platform != "linux", reason="services are forks on Linux only")
def test_threads_that_make_the_first_forks_at_once_start_one_process(tmp_path: Path) -> None:
    before = _templates()
    template = forks.Template()

    def end_at_once(_: int) -> None:
        with Path(os.devnull).open("w") as log, template.fork({}, str(tmp_path), 0, log.fileno()) as made:
            made.kill()

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(end_at_once, range(3)))

    assert len(before) + 1 == len(_templates())
