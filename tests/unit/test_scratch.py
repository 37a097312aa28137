"""Directories of requests that are being received: deleted with the request, or at the next start after a kill."""

import subprocess
import sys
import time
from signal import SIGKILL

import pytest

from files import scratch
from files.scratch import remove_left, scratch_directory
from files.uploads import UploadDirectory
from harness.service_process import ROOT
from parsing.attachments import Attachments

PROGRAM = """
import sys, time
from pathlib import Path
from files.scratch import scratch_directory
with scratch_directory(Path(sys.argv[1])) as made:
    (made / "images.zip").write_bytes(b"PK")
    print(made, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def other(tmp_path):
    """Another process, and the directory that it has."""
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process, tmp_path / process.stdout.readline().strip()
        finally:
            process.kill()


def test_a_directory_is_deleted_with_its_block(tmp_path):
    with scratch_directory(tmp_path) as made:
        (made / "images.zip").write_bytes(b"PK")
        remove_left(tmp_path, before=time.time() + 1e9)
        assert made.is_dir()
    assert [] == list(tmp_path.iterdir())


def test_a_directory_is_left_to_the_process_that_has_it_and_deleted_at_once_when_that_is_dead(
    other, tmp_path
):
    process, made = other

    remove_left(tmp_path, before=time.time() + 1e9)
    assert (made / "images.zip").is_file()
    process.send_signal(SIGKILL)
    process.wait()
    remove_left(tmp_path, before=0)
    assert not made.exists()


def test_where_directories_cannot_be_locked_only_old_ones_are_deleted(monkeypatch, other, tmp_path):
    def flock(descriptor, operation):
        raise OSError(9, "no locks here")

    monkeypatch.setattr(scratch.fcntl, "flock", flock)
    _, made = other

    with scratch_directory(tmp_path) as mine:
        remove_left(tmp_path, before=time.time() - 60)
        assert made.is_dir()
        assert mine.is_dir()
    remove_left(tmp_path, before=time.time() + 60)
    assert not made.exists()


def test_a_new_directory_that_another_process_deletes_at_once_is_made_again(monkeypatch, tmp_path):
    made, mkdtemp = [], scratch.mkdtemp

    def deleted_at_first(**place):
        made.append(mkdtemp(**place))
        if len(made) == 1:
            scratch.shutil.rmtree(made[0])
        return made[-1]

    monkeypatch.setattr(scratch, "mkdtemp", deleted_at_first)

    with scratch_directory(tmp_path) as mine:
        assert [str(mine)] == made[1:]


def test_other_directories_are_kept_and_there_may_be_none(tmp_path):
    (tmp_path / "gen_1").mkdir()

    remove_left(tmp_path, before=time.time() + 1e9)
    remove_left(tmp_path / "nowhere", before=0)

    assert (tmp_path / "gen_1").is_dir()


def test_a_sweep_deletes_what_was_left_though_files_are_stored_elsewhere(other, tmp_path):
    process, made = other
    uploads = Attachments(UploadDirectory(tmp_path / "shared"), spool=tmp_path)

    uploads.sweep(lambda _: False)
    assert made.is_dir()
    process.kill()
    process.wait()
    uploads.sweep(lambda _: False)
    assert not made.exists()
