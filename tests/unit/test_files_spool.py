"""How outputs reach the storage: a small one in one job of the pool, a larger one through a temporary file."""

import asyncio
import errno
import functools
import itertools
import os
import stat
import threading
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from files import Files, StoredOutputs
from files.directory import Directory
from files.spool import BUFFER, MAX_DOWNLOADS
from files.volume import disk_usage
from tests.support.output_hosts import (
    GEN,
    PNG,
    FakeSource,
    content,
    generation,
    names,
    picture,
    until,
)
from tests.support.virtual_time import Delayed, Inline, in_virtual_time
from tests.support.wiring import on_a_loop

URL = "https://replicate.delivery/a.png"


class Counting(Inline):
    """Counts the jobs."""

    jobs = 0

    def submit(self, function, /, *arguments, **named):
        self.jobs += 1
        return super().submit(function, *arguments, **named)


@pytest.fixture(params=["directory", "bucket"])
def storage(request, tmp_path):
    return (
        Directory(tmp_path / "files") if request.param == "directory" else request.getfixturevalue("s3").new()
    )


@asynccontextmanager
async def opened_files(storage, directory, *outputs, executor=None):
    files = Files(
        storage=storage,
        spool=directory,
        source=FakeSource(*outputs),
        ttl=3600.0,
        max_bytes=10**9,
        disk_usage=functools.partial(disk_usage, directory) if isinstance(storage, Directory) else None,
        executor=executor,
    )
    await files.start()
    try:
        yield files
    finally:
        await files.aclose()


def in_parts(*sizes):
    """An output that arrives in parts of these sizes."""
    whole = picture(sum(sizes))
    ends = [sum(sizes[: number + 1]) for number in range(len(sizes))]
    return whole, [(1, whole[end - size : end]) for size, end in zip(sizes, ends, strict=True)]


@pytest.mark.parametrize("parts", [[len(PNG)], [100_000] * 10, [BUFFER - 1]], ids=["one part", "ten", "full"])
@in_virtual_time
async def test_a_small_output_is_stored_in_one_job(storage, tmp_path, parts):
    whole, output = in_parts(*parts)
    jobs = Counting()
    async with opened_files(storage, tmp_path / "files", output, executor=jobs) as files:
        await asyncio.sleep(1)
        before = jobs.jobs
        kept = await files.keep(GEN, [URL])

        assert (StoredOutputs(("0.png",), None), 1) == (kept, jobs.jobs - before)
        assert whole == content(files.open(GEN, "0.png"))


@in_virtual_time
async def test_content_that_was_not_downloaded_is_stored_in_one_job(storage, tmp_path):
    jobs = Counting()
    async with opened_files(storage, tmp_path / "files", PNG, executor=jobs) as files:
        await asyncio.sleep(1)
        before = jobs.jobs
        await files.put(GEN, 0, PNG)

        assert 1 == jobs.jobs - before


@in_virtual_time
async def test_a_large_output_is_written_a_megabyte_in_a_job_and_stored_in_one(storage, tmp_path):
    whole, output = in_parts(*[BUFFER // 2] * 7, 1000)
    jobs = Counting()
    async with opened_files(storage, tmp_path / "files", output, executor=jobs) as files:
        await asyncio.sleep(1)
        before = jobs.jobs
        await files.keep(GEN, [URL])

        assert 4 == jobs.jobs - before
        assert whole == content(files.open(GEN, "0.png"))
    assert [] == list((tmp_path / "files").glob("*.part"))


@in_virtual_time
async def test_a_small_output_for_a_bucket_needs_no_local_directory(s3, tmp_path):
    async with opened_files(s3.new(), tmp_path / "files", PNG, executor=Inline()) as files:
        assert StoredOutputs(("0.png",), None) == await files.keep(GEN, [URL])
    assert [] == list(tmp_path.iterdir())


@pytest.fixture
def flushed(monkeypatch):
    """The calls that make a file durable, in order: `content` with its size, `names` with the directory, and `move`."""
    seen = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(descriptor):
        status = os.fstat(descriptor)
        seen.append(("names", status.st_ino) if stat.S_ISDIR(status.st_mode) else ("content", status.st_size))
        fsync(descriptor)

    def watched_replace(source, target):
        replace(source, target)
        seen.append(("move", target.name))

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    return seen


@pytest.mark.parametrize("size", [1000, 2 * BUFFER + 1])
@in_virtual_time
async def test_content_is_flushed_before_the_file_gets_its_name_and_the_name_after_it(
    tmp_path, flushed, size
):
    """A file that is reported as kept survives a power cut, whole."""
    root = tmp_path / "files"
    async with opened_files(Directory(root), root, picture(size), executor=Inline()) as files:
        first = await files.keep(GEN, [URL])
        in_new_directory, flushed[:] = flushed[:], []
        second = await files.keep(GEN, [URL])

    kept = [("content", size), ("move", f"{GEN}.0.png"), ("names", (root / "01").stat().st_ino)]
    assert StoredOutputs(("0.png",), None) == first == second
    assert kept == flushed
    assert [kept[0], ("names", root.stat().st_ino), *kept[1:]] == in_new_directory


def open_descriptors():
    return len([*Path("/proc/self/fd").iterdir()])


def failing(call, turn):
    """The system call, which fails on its `turn`, after it wrote a part or closed the file."""
    calls = itertools.count(1)

    def called(*arguments, **named):
        if next(calls) != turn:
            return call(*arguments, **named)
        if call.__name__ == "write":
            call(arguments[0], arguments[1][:1000])
        if call.__name__ == "close":
            call(*arguments)
        raise OSError(errno.EIO, "the disk is broken")

    return called


@pytest.mark.parametrize("size", [1000, 2 * BUFFER + 1])
@pytest.mark.parametrize(
    ("call", "turn"),
    [
        *(("open", turn) for turn in (1, 2, 3, 4)),
        ("write", 1),
        *(("fsync", turn) for turn in (1, 2, 3)),
        *(("close", turn) for turn in (1, 2, 3)),
        *(("replace", turn) for turn in (1, 2)),
    ],
)
@in_virtual_time
async def test_a_disk_that_fails_at_any_call_leaves_no_file_and_no_descriptor(
    tmp_path, monkeypatch, size, call, turn
):
    """The calls of the first output in a new directory: of its file, its directory, and the directory above."""
    root = tmp_path / "files"
    async with opened_files(Directory(root), root, picture(size), executor=Inline()) as files:
        before = open_descriptors()
        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing(getattr(os, call), turn))
            lost = await files.keep(GEN, [URL])
        after = open_descriptors()
        left = [path for path in root.rglob("*") if path.is_file()]
        kept = await files.keep(GEN, [URL])

    assert ((None,), [], before) == (lost.names, left, after)
    assert StoredOutputs(("0.png",), None) == kept


class Stuck(Directory):
    """A storage in which outputs of some generations are stored only after `release` is set."""

    def __init__(self, path, generations):
        super().__init__(path)
        self.release = threading.Event()
        self.stuck = 0
        self._generations = generations

    def put(self, name, source):
        if name.partition("/")[0] in self._generations:
            self.stuck += 1
            self.release.wait(30)
        super().put(name, source)


@on_a_loop
async def test_an_output_that_was_stored_although_it_was_cancelled_is_counted(tmp_path):
    """Otherwise it would take space beyond `max_bytes`, and could not be evicted, until the next listing."""
    storage = Stuck(tmp_path / "files", {GEN})
    async with opened_files(storage, tmp_path / "files", PNG) as files:
        keeping = asyncio.create_task(files.keep(GEN, [URL]))
        await until(lambda: storage.stuck)
        keeping.cancel()
        await asyncio.sleep(0)
        storage.release.set()
        await asyncio.wait([keeping])
        counted = files.number_kept

    assert keeping.cancelled()
    assert [f"{GEN}/0.png"] == names(storage)
    assert 1 == counted


@on_a_loop
async def test_slow_uploads_of_all_other_downloads_do_not_delay_an_output(tmp_path):
    slow = [generation(number) for number in range(1, MAX_DOWNLOADS)]
    storage = Stuck(tmp_path, slow)
    async with opened_files(storage, tmp_path, PNG) as files:
        waiting = [asyncio.create_task(files.keep(each, [URL])) for each in slow]
        try:
            await until(lambda: storage.stuck == len(slow))
            kept = await files.keep(GEN, [URL])
            stored = names(storage)
        finally:
            storage.release.set()
        await asyncio.gather(*waiting)

    assert StoredOutputs(("0.png",), None) == kept
    assert [f"{GEN}/0.png"] == stored


@in_virtual_time
async def test_while_the_storage_is_slow_at_most_32_outputs_are_in_memory(tmp_path):
    """The others end by their timeout, which does not apply to the storage."""
    executor = Delayed()
    async with opened_files(Directory(tmp_path), tmp_path, PNG, executor=executor) as files:
        await asyncio.sleep(1)
        executor.seconds = 1000
        kept = await files.keep(GEN, [URL] * (MAX_DOWNLOADS + 8))

    assert [f"{number}.png" for number in range(MAX_DOWNLOADS)] + [None] * 8 == list(kept.names)
    assert "8 of 40 outputs could not be kept: it took too long." == kept.error
