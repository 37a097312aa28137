"""Files of callers: seen by their caller alone, kept for a day, and bounded."""

from contextlib import closing
from io import BytesIO

import pytest

from files import caller_files
from files.caller_files import LIFETIME, CallerFiles
from files.uploads import UploadDirectory
from parsing.attachments import LEFT_BEHIND, Attachments


class Clock:
    now = 1_800_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture(params=["directory", "bucket"])
def storage(request, tmp_path):
    if request.param == "directory":
        return UploadDirectory(tmp_path / "uploads")
    return request.getfixturevalue("s3").new().uploads(tmp_path)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def files(storage, clock):
    return CallerFiles(storage, clock=clock)


def create(files, caller="key_1", content=b"12345", **facts):
    usual = {"name": "cat.png", "content_type": "image/png", "metadata": {"a": "b"}}
    return files.create(caller, BytesIO(content), **usual | facts)


def test_a_file_is_found_with_its_facts_and_content(files):
    made = create(files)

    assert made == files.find("key_1", made.id)
    assert (5, "cat.png", "image/png", {"a": "b"}) == (made.size, made.name, made.content_type, made.metadata)
    assert "5994471abb01112afcc18159f6cc74b4f511b99806da59b3caf5a9c173cacfc5" == made.sha256
    with closing(files.open("key_1", made.id)) as opened:
        assert b"12345" == opened.read()


def test_a_caller_sees_only_its_own_files(files):
    mine, _ = create(files), create(files, "key_2")

    assert [mine] == files.latest("key_1")
    assert files.find("key_2", mine.id) is None
    assert files.open("key_2", mine.id) is None
    assert not files.delete("key_2", mine.id)
    assert files.delete("key_1", mine.id)
    assert not files.delete("key_1", mine.id)
    assert files.find("key_1", mine.id) is None


@pytest.mark.parametrize("file_id", ["", "../../etc/passwd", "0" * 47, "G" * 48, "0" * 48 + "/"])
def test_an_id_of_another_form_is_no_file(files, file_id):
    assert files.find("key_1", file_id) is None


def test_a_file_expires_after_a_day_and_is_then_deleted_and_never_before(storage, files, clock):
    made = create(files)
    uploads = Attachments(storage, clock=lambda: clock.now + LEFT_BEHIND + 1e9)

    clock.now += LIFETIME - 1
    assert made == files.find("key_1", made.id)
    Attachments(storage, clock=clock).sweep(lambda _: False)
    assert [made] == files.latest("key_1")
    clock.now += 1
    assert files.find("key_1", made.id) is None
    uploads.sweep(lambda _: True)
    assert [] == storage.owners(before=float("inf"))


def test_the_oldest_files_of_a_caller_with_too_many_are_deleted(monkeypatch, storage, clock):
    monkeypatch.setattr(caller_files, "MOST_FILES", 3)
    other = create(CallerFiles(storage, clock=clock), "key_2")
    made = []
    for _ in range(5):
        clock.now += 1
        made.append(create(CallerFiles(storage, clock=clock)))

    assert made[:0:-1][:4] == CallerFiles(storage, clock=clock).latest("key_1")
    assert other == CallerFiles(storage, clock=clock).find("key_2", other.id)
