"""Output files leave a reserve free on their volume: the oldest are evicted for it, and no new file takes it."""

import asyncio
import os
import threading
import time
from concurrent.futures import Executor
from contextlib import ExitStack, asynccontextmanager

import pytest
from structlog.testing import capture_logs

from files import WARN_EVERY, Files, StoredOutputs
from files.directory import Directory
from files.storage import Source
from files.volume import RESERVE, disk_usage
from tests.support.output_hosts import (
    MP4,
    PNG,
    FakeSource,
    buckets,
    content,
    generation,
    in_file,
    names,
    picture,
    until,
)
from tests.support.virtual_time import Delayed, Inline, in_virtual_time
from tests.support.wiring import on_a_loop

URL = "https://replicate.delivery/a.png"
NO_ROOM = "The output could not be kept: it could not be stored."
MEGABYTE = 1024 * 1024
INLINE = Inline()


class Volume:
    """A fake volume of `total` bytes, taken up by the files in `directory` and by `others` bytes of other data."""

    def __init__(self, directory, *, total=1000 * MEGABYTE, spare=0):
        """At the start `spare` bytes are free beyond the reserve."""
        self.directory = directory
        self.total = total
        self.others = total - max(RESERVE, total // 100) - spare
        self.least = total
        """The fewest free bytes so far."""

    def __call__(self):
        taken = sum(each.stat().st_size for each in self.directory.rglob("*") if each.is_file())
        free = self.total - self.others - taken
        self.least = min(self.least, free)
        return self.total, self.total - free, free


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "files"


@asynccontextmanager
async def files_on(
    volume,
    *outputs,
    directory,
    max_bytes=10**9,
    executor: Executor | None = INLINE,
    storage=None,
    shared=False,
):
    """Start `Files` on this volume. Each download returns the next of `outputs`."""
    files = Files(
        storage=storage or Directory(directory),
        spool=directory,
        source=FakeSource(*(outputs or [PNG])),
        ttl=3600.0,
        max_bytes=max_bytes,
        disk_usage=volume,
        shared=shared,
        executor=executor,
    )
    await files.start()
    try:
        yield files
    finally:
        await files.aclose()


def kept_in(directory):
    """The numbers of the generations with stored outputs."""
    return [int(name[4:36], 16) for name in names(Directory(directory))]


@in_virtual_time
async def test_the_oldest_outputs_are_evicted_until_a_new_one_leaves_the_reserve_free(directory):
    volume = Volume(directory, spare=1000)
    async with files_on(
        volume, *[picture(400)] * 2, picture(500), picture(900), directory=directory
    ) as files:
        kept = []
        for number in range(4):
            await files.keep(generation(number), [URL])
            kept.append(kept_in(directory))

    assert [[0], [0, 1], [1, 2], [3]] == kept
    assert RESERVE <= volume.least


@in_virtual_time
async def test_an_output_that_would_take_from_the_reserve_is_not_stored(directory):
    volume = Volume(directory, spare=999)
    async with files_on(volume, picture(1000), picture(999), directory=directory) as files:
        with capture_logs() as logs:
            refused = await files.keep(generation(0), [URL])
        kept = await files.keep(generation(1), [URL])

    assert StoredOutputs((None,), NO_ROOM) == refused
    assert ["files_reserve_unreachable", "output_store_failed"] == [each["event"] for each in logs]
    assert StoredOutputs(("0.png",), None) == kept
    assert RESERVE <= volume.least


@in_virtual_time
async def test_a_long_download_ends_when_it_would_take_from_the_reserve(directory):
    volume = Volume(directory, spare=5 * MEGABYTE)
    film = [(1, MP4.ljust(MEGABYTE, b"\7"))] * 500
    async with files_on(volume, film, directory=directory) as files:
        began = asyncio.get_running_loop().time()
        kept = await files.keep(generation(0), [URL])

    assert StoredOutputs((None,), NO_ROOM) == kept
    assert 6 == asyncio.get_running_loop().time() - began
    assert RESERVE <= volume.least
    assert [] == list(directory.glob("*.part"))


@in_virtual_time
async def test_a_long_download_evicts_no_more_than_its_size(directory):
    volume = Volume(directory, spare=4 * MEGABYTE)
    pictures = [picture(MEGABYTE)] * 4
    async with files_on(volume, *pictures, picture(2 * MEGABYTE + 1), directory=directory) as files:
        for number in range(5):
            await files.keep(generation(number), [URL])

        assert [3, 4] == kept_in(directory)


@in_virtual_time
async def test_concurrent_downloads_do_not_count_the_same_space_twice(directory):
    volume = Volume(directory, spare=MEGABYTE)
    async with files_on(volume, [(1, picture(MEGABYTE))], directory=directory) as files:
        await asyncio.gather(*(files.keep(generation(number), [URL]) for number in range(40)))

        assert 1 == len(kept_in(directory))
    assert RESERVE <= volume.least


class RacingVolume(Volume):
    """Once `races` is set, a measurement waits for the next one. That comes at once unless it waits for the write."""

    measured = 0
    races = False

    def __init__(self, directory, *, spare):
        super().__init__(directory, spare=spare)
        self._next = threading.Event()

    def __call__(self):
        usage = super().__call__()
        self.measured += 1
        self._next.set()
        if self.races:
            self.races = False
            self._next.clear()
            self._next.wait(0.5)
        return usage


class Held(Directory):
    """A storage in which each output is written and then waits for `release`."""

    def __init__(self, path):
        super().__init__(path)
        self.written = 0
        self.release = threading.Event()

    def put(self, name, source):
        path = source.file(True)
        self.written += 1
        self.release.wait(30)
        super().put(name, Source(lambda _: path))


@on_a_loop
async def test_writes_on_two_threads_do_not_count_on_the_same_room(directory):
    directory.mkdir()
    volume, storage = RacingVolume(directory, spare=1000), Held(directory)
    async with files_on(volume, picture(1000), directory=directory, storage=storage, executor=None) as files:
        await until(lambda: volume.measured == 2)  # by the start and by the janitor
        volume.races = True
        tasks = [asyncio.create_task(files.keep(generation(number), [URL])) for number in range(2)]
        await until(lambda: storage.written == 2 or any(each.done() for each in tasks))
        volume()
        storage.release.set()
        kept = await asyncio.gather(*tasks)

    assert {(None,), ("0.png",)} == {each.names for each in kept}
    assert RESERVE <= volume.least


@in_virtual_time
async def test_another_write_does_not_take_the_room_that_evictions_made_for_one(directory):
    volume = Volume(directory, spare=1000)
    executor = Delayed()
    outputs = [*[picture(100)] * 10, picture(500)]
    async with files_on(volume, *outputs, directory=directory, executor=executor) as files:
        for number in range(10):
            await files.keep(generation(number), [URL])
        executor.seconds = 1
        first = asyncio.create_task(files.keep(generation(10), [URL]))
        # The first write finds no room after 1 s, measures it after 2 s, evicts after 3 s, and writes after 4 s.
        await asyncio.sleep(2.5)
        second = asyncio.create_task(files.keep(generation(11), [URL]))

        assert [StoredOutputs(("0.png",), None)] * 2 == await asyncio.gather(first, second)
        assert [10, 11] == kept_in(directory)
    assert RESERVE <= volume.least


@in_virtual_time
async def test_the_oldest_outputs_are_evicted_when_other_data_fills_the_volume(directory):
    volume = Volume(directory, spare=1000)
    async with files_on(volume, *[picture(100)] * 5, directory=directory) as files:
        for number in range(5):
            await files.keep(generation(number), [URL])
        volume.others += 750
        with capture_logs() as logs:
            await asyncio.sleep(61)
        first = kept_in(directory)
        volume.others += 250
        await asyncio.sleep(61)

    assert [3, 4] == first
    assert [] == kept_in(directory)
    warning = {"event": "files_reserve_short", "short": 250, "bytes": 500, "log_level": "warning"}
    assert [warning] == [each for each in logs if each["log_level"] == "warning"]


@in_virtual_time
async def test_a_file_that_another_process_has_deleted_frees_no_room_for_an_output(directory):
    volume = Volume(directory, spare=1000)
    async with (
        files_on(volume, picture(250), directory=directory, shared=True) as one,
        files_on(volume, picture(250), directory=directory, shared=True) as other,
    ):
        for number in range(4):
            await one.keep(generation(number), [URL])
        await asyncio.sleep(3700)  # the other knows them
        kept = []
        for number, files in enumerate([one, other, one, other], 4):
            assert await files.keep(generation(number), [URL]) == StoredOutputs(("0.png",), None)
            kept.append(kept_in(directory))

    assert [[1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6], [4, 5, 6, 7]] == kept
    assert RESERVE <= volume.least


@in_virtual_time
async def test_a_process_makes_room_by_deleting_what_another_has_stored_since(directory):
    volume = Volume(directory, spare=1000)
    async with (
        files_on(volume, picture(250), directory=directory, shared=True) as one,
        files_on(volume, picture(500), directory=directory, shared=True) as other,
    ):
        for number in range(4):
            await one.keep(generation(number), [URL])
        await asyncio.sleep(100)

        assert await other.keep(generation(4), [URL]) == StoredOutputs(("0.png",), None)
        assert [2, 3, 4] == kept_in(directory)


@in_virtual_time
async def test_nothing_is_evicted_if_evicting_all_outputs_could_not_restore_the_reserve(directory):
    volume = Volume(directory, spare=1000)
    async with files_on(volume, *[picture(100)] * 5, directory=directory) as files:
        for number in range(5):
            await files.keep(generation(number), [URL])
        volume.others += 1001
        with capture_logs() as logs:
            await asyncio.sleep(61)
            refused = await files.keep(generation(5), [URL])
            await asyncio.sleep(3500)
            kept = kept_in(directory)

    assert StoredOutputs((None,), NO_ROOM) == refused
    assert [0, 1, 2, 3, 4] == kept
    warning = {"event": "files_reserve_unreachable", "short": 501, "bytes": 500, "log_level": "warning"}
    assert [warning] == [each for each in logs if each["event"].startswith("files_")]


@in_virtual_time
async def test_an_unreachable_reserve_is_logged_once_an_hour(directory):
    async with files_on(Volume(directory, spare=-1), directory=directory):
        with capture_logs() as logs:
            await asyncio.sleep(3 * WARN_EVERY - 1)

    warnings = [each["event"] for each in logs if each["log_level"] == "warning"]
    assert ["files_reserve_unreachable"] * 3 == warnings


@in_virtual_time
async def test_max_bytes_holds_even_if_the_reserve_cannot_be_restored(directory):
    volume = Volume(directory, spare=1000)
    async with files_on(volume, *[picture(100)] * 5, directory=directory) as files:
        for number in range(5):
            await files.keep(generation(number), [URL])
    for age, path in enumerate(sorted(directory.rglob("*.png"), reverse=True)):
        os.utime(path, (time.time() - age, time.time() - age))
    volume.others += 5000
    async with files_on(volume, directory=directory, max_bytes=250):
        await asyncio.sleep(61)

        assert [3, 4] == kept_in(directory)


@in_virtual_time
async def test_deleted_files_with_open_readers_cause_no_further_evictions(directory):
    """A volume regains the space of a deleted file only when every reader has closed it."""
    volume = Volume(directory, spare=1000)
    usage = None
    async with files_on(lambda: usage or volume(), *[picture(100)] * 5, directory=directory) as files:
        for number in range(5):
            await files.keep(generation(number), [URL])
        opened = files.open(generation(0), "0.png")
        usage = volume.total, 0, RESERVE - 150
        await asyncio.sleep(61)

        assert [2, 3, 4] == kept_in(directory)
        assert picture(100) == content(opened)


@in_virtual_time
async def test_the_reserve_of_a_large_volume_is_a_hundredth_of_it(directory):
    volume = Volume(directory, total=10**12, spare=999)
    async with files_on(volume, picture(1000), picture(999), directory=directory) as files:
        assert StoredOutputs((None,), NO_ROOM) == await files.keep(generation(0), [URL])
        assert StoredOutputs(("0.png",), None) == await files.keep(generation(1), [URL])
    assert 10**10 <= volume.least


@in_virtual_time
async def test_put_takes_nothing_from_the_reserve(directory):
    async with files_on(Volume(directory, spare=len(PNG) - 1), directory=directory) as files:
        with pytest.raises(OSError, match="reserved"):
            await files.put(generation(0), 0, PNG)


@in_virtual_time
@pytest.mark.parametrize(("max_bytes", "warns"), [(1000, False), (1001, True), (10**10, True)])
async def test_the_start_warns_if_max_bytes_exceeds_the_space_of_the_volume(directory, max_bytes, warns):
    """Space that stored files take up counts as available to outputs."""
    directory.mkdir()
    Directory(directory).put(f"{generation(1)}/0.png", in_file(directory / "a", picture(600)))
    volume = Volume(directory, spare=1000)
    with capture_logs() as logs:
        async with files_on(volume, directory=directory, max_bytes=max_bytes):
            pass

    warning = {"event": "files_exceed_volume", "max_bytes": max_bytes, "room": 1000, "log_level": "warning"}
    assert [warning] * warns == [each for each in logs if each["event"] == "files_exceed_volume"]


@in_virtual_time
async def test_a_volume_below_its_reserve_has_no_space_and_evicts_nothing(directory):
    directory.mkdir()
    Directory(directory).put(f"{generation(1)}/0.png", in_file(directory / "a", picture(600)))
    with capture_logs() as logs:
        async with files_on(Volume(directory, spare=-5000), directory=directory):
            await asyncio.sleep(1)

    assert [0] == [each["room"] for each in logs if each["event"] == "files_exceed_volume"]
    assert [1] == kept_in(directory)


@in_virtual_time
async def test_outputs_are_stored_when_the_disk_usage_cannot_be_read(directory):
    def unknown():
        raise PermissionError("no")

    async with files_on(unknown, directory=directory) as files:
        assert StoredOutputs(("0.png",), None) == await files.keep(generation(0), [URL])


def test_disk_usage_is_known_before_the_directory_exists(tmp_path):
    total, used, free = disk_usage(tmp_path / "not" / "yet")

    assert disk_usage(tmp_path)[0] == total
    assert 0 < used <= total
    assert 0 <= free <= total


@pytest.mark.parametrize("is_bucket", [False, True])
def test_the_service_reserves_space_for_a_directory_but_not_for_a_bucket(make_app, capfd, is_bucket):
    with ExitStack() as stack:
        elsewhere = {}
        if is_bucket:
            store = stack.enter_context(buckets())
            elsewhere = {
                "FILES_URL": f"s3://{store.make()}/kept", "AWS_ENDPOINT_URL": store.url, "AWS_REGION": "us-east-1",
                "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret",
            }  # fmt: skip
        make_app(FILES_MAX_BYTES=10**18, LOG_LEVEL="warning", **elsewhere)

    assert is_bucket is ("files_exceed_volume" not in capfd.readouterr().err)
