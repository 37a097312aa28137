"""Output files: storing, opening, expiry and eviction, on disk and in a bucket; downloads over real connections."""

import asyncio
import errno
import functools
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from files import Files, StoredOutputs
from files.directory import Directory
from files.download import RetryPolicy
from files.hosts import OutputHosts, OutputUnavailable, TemporarilyUnavailable
from files.spool import BUFFER
from files.storage import Source, StoredFile
from tests.support.output_hosts import (
    GEN,
    MP4,
    PAGE,
    PNG,
    FakeSource,
    at,
    content,
    for_ever,
    generation,
    host,
    in_file,
    names,
    picture,
    redirect,
    reply,
    then_silence,
    until,
    written,
)
from tests.support.virtual_time import Inline, in_virtual_time
from tests.support.wiring import on_a_loop

UPSTREAM = "https://api.replicate.com"
URL = "https://replicate.delivery/a.png"


class Days:
    """A clock that the test sets by hand. It starts at the present."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=["directory", "bucket"])
def storage(request, tmp_path):
    return (
        Directory(tmp_path / "kept") if request.param == "directory" else request.getfixturevalue("s3").new()
    )


@pytest.fixture
def spool(tmp_path):
    return tmp_path / "spool"


@pytest.fixture
def events():
    """The events logged so far."""
    with capture_logs() as logged:
        yield logged


@pytest.fixture
def logged(events):
    """Returns the names of the events logged so far, or of those at one level."""
    return lambda level=None: [each["event"] for each in events if level in {None, each["log_level"]}]


@asynccontextmanager
async def opened_files(storage, spool, *, source=None, ttl=3600.0, max_bytes=10**6, **named):
    """Start `Files` and close them at the end of the block."""
    source = source or OutputHosts(UPSTREAM)
    files = Files(storage=storage, spool=spool, source=source, ttl=ttl, max_bytes=max_bytes, **named)
    await files.start()
    try:
        yield files
    finally:
        await files.aclose()


virtual = functools.partial(opened_files, executor=Inline())


def temporaries(spool) -> list[Path]:
    return list(spool.glob("*.part"))


def written_to(spool) -> bool:
    return any(path.stat().st_size for path in temporaries(spool))


# Storing


@in_virtual_time
async def test_an_outputs_name_is_its_number_and_media_type(storage, spool):
    async with virtual(storage, spool, source=FakeSource(PNG, MP4)) as files:
        kept = await files.keep(GEN, [URL, "https://replicate.delivery/film.png"])
        assert StoredOutputs(("0.png", "1.mp4"), None) == kept
        assert [PNG, MP4] == [content(files.open(GEN, name)) for name in kept.names]
    assert [f"{GEN}/0.png", f"{GEN}/1.mp4"] == names(storage)
    assert [] == temporaries(spool)


@in_virtual_time
async def test_a_generation_without_outputs_stores_nothing_without_error(storage, spool):
    async with virtual(storage, spool) as files:
        assert StoredOutputs((), None) == await files.keep(GEN, [])


@in_virtual_time
async def test_an_unavailable_output_is_reported_and_the_others_are_stored(tmp_path, spool):
    source = FakeSource(PNG, OutputUnavailable("its host answered 403"), PNG, PAGE, PAGE, PAGE, PAGE)
    async with virtual(Directory(tmp_path), spool, source=source) as files:
        kept = await files.keep(GEN, [URL + "?signature=secret"] * 4)

    assert ("0.png", None, "2.png", None) == kept.names
    assert kept.error == (
        "2 of 4 outputs could not be kept: its host answered 403; "
        "it is no picture or film of a kind that is known here."
    )
    assert [] == temporaries(spool)


@in_virtual_time
async def test_a_missing_output_is_distinguished_from_one_that_could_not_be_stored(tmp_path, spool):
    gone, down = (
        TemporarilyUnavailable("its host answered 404", missing=True),
        TemporarilyUnavailable("its host answered 503"),
    )
    source = FakeSource(
        PNG, OutputUnavailable("its host answered 410", missing=True), down, down, down, down, gone
    )
    async with virtual(
        Directory(tmp_path), spool, source=source, retry_policy=RetryPolicy(max_attempts=1)
    ) as files:
        kept = await files.keep(GEN, [URL] * 7)

    assert ("0.png", *[None] * 6) == kept.names
    assert {1, 6} == kept.missing


@in_virtual_time
async def test_the_error_for_an_only_output_has_no_counts(tmp_path, spool):
    async with virtual(
        Directory(tmp_path), spool, source=FakeSource(TemporarilyUnavailable("the download stalled"))
    ) as files:
        kept = await files.keep(GEN, [URL])
    assert StoredOutputs((None,), "The output could not be kept: the download stalled.") == kept


@in_virtual_time
async def test_an_unexpected_error_is_logged_and_reported_without_details(tmp_path, spool, logged):
    source = FakeSource(RuntimeError("inside"))
    async with virtual(Directory(tmp_path), spool, source=source) as files:
        kept = await files.keep(GEN, [URL, None])

    assert (None, None) == kept.names
    assert kept.error == "2 of 2 outputs could not be kept: something went wrong inside this service."
    assert ["output_fetch_failed"] * 2 == logged("error")


@in_virtual_time
async def test_urls_appear_neither_in_results_nor_in_logs(tmp_path, spool, events):
    source = FakeSource(TemporarilyUnavailable("the connection was lost"))
    async with virtual(Directory(tmp_path), spool, source=source) as files:
        kept = await files.keep(GEN, [URL + "?signature=secret"])

    said = f"{events} {kept}"
    assert "download_interrupted" in said
    assert "secret" not in said
    assert "delivery" not in said


@in_virtual_time
async def test_at_most_32_downloads_run_at_once(tmp_path, spool):
    source = FakeSource([(10, PNG)])
    async with virtual(Directory(tmp_path), spool, source=source) as files:
        await asyncio.gather(*(files.keep(generation(number), [URL] * 10) for number in range(10)))

    assert {0: 32, 10: 32, 20: 32, 30: 4} == {
        at: [time for time, _ in source.asked].count(at) for at in (0, 10, 20, 30)
    }
    assert 100 == len(names(Directory(tmp_path)))


@in_virtual_time
async def test_outputs_after_the_thousandth_are_not_stored(tmp_path, spool):
    async with virtual(Directory(tmp_path), spool, source=FakeSource(PNG)) as files:
        kept = await files.keep(GEN, [URL] * 1001)
    assert ("999.png", None) == kept.names[-2:]
    assert kept.error == "1 of 1001 outputs could not be kept: more than 1000 outputs are not kept."


@in_virtual_time
async def test_put_stores_content_that_was_not_downloaded(storage, spool):
    async with virtual(storage, spool) as files:
        assert await files.put(GEN, 3, PNG) == "3.png"
        assert content(files.open(GEN, "3.png")) == PNG
    assert [] == temporaries(spool)


@in_virtual_time
async def test_files_of_any_type_are_kept_and_opened_under_their_types(storage, spool):
    weights = b'\x60\0\0\0\0\0\0\0{"a": 1}'
    source = FakeSource(b"glTF\2\0\0\0", b"a,b\n", weights, PAGE)
    urls = ["https://replicate.delivery/a.glb", "https://replicate.delivery/b.csv", URL, URL]
    async with virtual(storage, spool, source=source) as files:
        kept = await files.keep(GEN, urls, any_type=True)
        assert StoredOutputs(("0.glb", "1.csv", "2.safetensors", "3.html"), None) == kept
        opened = [files.open(GEN, name) for name in kept.names]
        assert ["model/gltf-binary", "text/csv", "application/octet-stream", "text/plain"] == [
            each.media_type for each in opened
        ]
        assert [b"glTF\2\0\0\0", b"a,b\n", weights, PAGE] == [content(each) for each in opened]
    assert [f"{GEN}/{name}" for name in kept.names] == names(storage)


@in_virtual_time
async def test_put_stores_text_and_json(tmp_path, spool):
    async with virtual(Directory(tmp_path), spool) as files:
        assert "0.json" == await files.put(GEN, 0, b'[{"a": 1}]')
        assert "1.txt" == await files.put(GEN, 1, b"a fox")


@in_virtual_time
async def test_only_the_user_of_the_service_can_read_stored_and_temporary_files(tmp_path, spool):
    source = FakeSource(PNG, [(0, picture(BUFFER)), (1e6, b"")])
    async with virtual(Directory(tmp_path / "kept"), spool, source=source, max_bytes=10**7) as files:
        await files.keep(GEN, [URL])
        pending = asyncio.create_task(files.keep(generation(1), [URL]))
        await asyncio.sleep(1)
        opened = files.open(GEN, "0.png")
        opened.close()
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (opened.path, *temporaries(spool), spool)]
        pending.cancel()
    assert [0o600, 0o600, 0o700] == modes


@in_virtual_time
async def test_put_refuses_invalid_names_and_oversized_files(tmp_path, spool):
    async with virtual(Directory(tmp_path / "kept"), spool, max_bytes=1000) as files:
        for generation_id, number in [("gen_1", 0), ("../../etc", 0), (GEN, 1000), (GEN, -1)]:
            with pytest.raises(ValueError, match="not the name"):
                await files.put(generation_id, number, PNG)
        with pytest.raises(OSError, match="larger than 1000 bytes"):
            await files.put(GEN, 0, picture(1001))
    assert [] == [path for path in tmp_path.rglob("*") if path.is_file()]


# Opening


@pytest.mark.parametrize(
    ("generation_id", "name"),
    [
        (GEN, "1.png"),
        (GEN, "0.jpg"),
        (GEN, "0.svg"),
        (GEN, ""),
        (GEN, "../" + GEN + "/0.png"),
        (GEN, "0.png\0"),
        (GEN, "\u0660.png"),
        ("gen_" + "f" * 32, "0.png"),
        ("..", "0.png"),
        ("", "0.png"),
        ("../kept/01", f"{GEN}.0.png"),
        (GEN + "/0.png", ""),
        (GEN.upper(), "0.png"),
    ],
)
@in_virtual_time
async def test_opening_an_unknown_or_malformed_name_returns_none(tmp_path, spool, generation_id, name):
    async with virtual(Directory(tmp_path / "kept"), spool, source=FakeSource(PNG)) as files:
        await files.keep(GEN, [URL])
        assert files.open(generation_id, name) is None


@in_virtual_time
async def test_a_file_cannot_be_opened_once_its_ttl_is_over(storage, spool):
    days = Days()
    async with virtual(storage, spool, source=FakeSource(PNG), ttl=3600, clock=days) as files:
        await files.keep(GEN, [URL])
        opened = files.open(GEN, "0.png")
        opened.close()

        days.now = opened.modified + 3599.5
        files.open(GEN, "0.png").close()
        days.now = opened.modified + 3600
        assert files.open(GEN, "0.png") is None
        assert [f"{GEN}/0.png"] == names(storage), "the janitor has not run yet"


@in_virtual_time
async def test_the_same_file_opens_after_a_restart_with_the_same_etag(storage, spool):
    etags = []
    for _ in range(2):
        async with virtual(storage, spool, source=FakeSource(PNG)) as files:
            if not etags:
                await files.keep(GEN, [URL])
            opened = files.open(GEN, "0.png")
            etags.append(opened.etag)
            opened.close()
    assert 1 == len(set(etags))


@in_virtual_time
async def test_opening_from_an_unreachable_storage_raises_oserror(spool):
    async with virtual(at("http://127.0.0.1:9", "nowhere"), spool) as files:
        with pytest.raises(OSError, match="S3"):
            files.open(GEN, "0.png")


# Expiry and eviction


@in_virtual_time
async def test_the_janitor_removes_expired_files_without_new_outputs(storage, spool):
    days = Days()
    async with virtual(storage, spool, source=FakeSource(PNG), ttl=3600, clock=days) as files:
        await files.keep(generation(1), [URL])
        days.now += 1800
        await files.keep(generation(2), [URL])
        days.now += 1801
        await asyncio.sleep(61)
        assert [f"{generation(2)}/0.png"] == names(storage)
        days.now += 1801
        await asyncio.sleep(61)
        assert [] == names(storage)


@in_virtual_time
async def test_files_that_expired_before_the_start_are_removed(storage, spool, tmp_path):
    storage.put(f"{GEN}/0.png", in_file(tmp_path / "a.part", PNG))
    days = Days()
    days.now += 7200
    async with virtual(storage, spool, ttl=3600, clock=days):
        await asyncio.sleep(1)
        assert [] == names(storage)


@in_virtual_time
async def test_the_oldest_files_are_evicted_one_by_one_to_make_room(storage, spool):
    days = Days()
    async with virtual(storage, spool, source=FakeSource(picture(100)), max_bytes=350, clock=days) as files:
        left = []
        for number in (9, 2, 7, 1, 8, 3):
            await files.keep(generation(number), [URL])
            left.append({int(name[4:36], 16) for name in names(storage)})
    assert [{9}, {9, 2}, {9, 2, 7}, {2, 7, 1}, {7, 1, 8}, {1, 8, 3}] == left


@in_virtual_time
async def test_content_that_was_not_downloaded_evicts_the_oldest_files(tmp_path, spool):
    storage = Directory(tmp_path)
    async with virtual(storage, spool, max_bytes=250) as files:
        for number in range(3):
            await files.put(generation(number), 0, picture(100))
    assert [f"{generation(number)}/0.png" for number in (1, 2)] == names(storage)


@in_virtual_time
async def test_a_large_output_evicts_no_more_files_than_it_needs(tmp_path, spool):
    storage = Directory(tmp_path)
    source = FakeSource(*[picture(100)] * 5, picture(250))
    async with virtual(storage, spool, source=source, max_bytes=500) as files:
        for number in range(6):
            await files.keep(generation(number), [URL])
    assert [f"{generation(number)}/0.png" for number in (3, 4, 5)] == names(storage)


@in_virtual_time
async def test_after_a_restart_files_are_evicted_in_order_of_their_dates(tmp_path, spool):
    storage = Directory(tmp_path)
    for number, age in [(1, 10), (2, 30), (3, 20)]:
        path = written(tmp_path / "a.part", picture(100))
        os.utime(path, (time.time() - age, time.time() - age))
        storage.put(f"{generation(number)}/0.png", Source(lambda _, path=path: path))
    async with virtual(storage, spool, source=FakeSource(picture(100)), max_bytes=300) as files:
        await files.keep(generation(4), [URL])
        assert [1, 3, 4] == [int(name[4:36], 16) for name in names(storage)]
        await files.keep(generation(5), [URL])
        assert [1, 4, 5] == [int(name[4:36], 16) for name in names(storage)]


@in_virtual_time
async def test_an_output_larger_than_max_bytes_is_reported_and_evicts_nothing(tmp_path, spool):
    storage = Directory(tmp_path)
    async with virtual(storage, spool, source=FakeSource(PNG, picture(1001)), max_bytes=1000) as files:
        await files.keep(generation(1), [URL])
        kept = await files.keep(generation(2), [URL])
    assert StoredOutputs((None,), "The output could not be kept: it is larger than 1000 bytes.") == kept
    assert [f"{generation(1)}/0.png"] == names(storage)


@in_virtual_time
async def test_an_output_evicted_by_others_of_its_generation_is_reported(tmp_path, spool):
    storage = Directory(tmp_path)
    source = FakeSource(*([(seconds, picture(400))] for seconds in (1, 2, 3)))
    async with virtual(storage, spool, source=source, max_bytes=1000) as files:
        kept = await files.keep(GEN, [URL] * 3)
    assert (
        StoredOutputs((None, "1.png", "2.png"), "1 of 3 outputs could not be kept: there is no room for it.")
        == kept
    )
    assert [f"{GEN}/1.png", f"{GEN}/2.png"] == names(storage)


@in_virtual_time
async def test_files_of_another_process_count_within_an_hour(tmp_path, spool):
    storage = Directory(tmp_path)
    async with virtual(storage, spool, source=FakeSource(picture(600)), max_bytes=1000) as files:
        await files.keep(generation(1), [URL])
        storage.put(f"{generation(2)}/0.png", in_file(tmp_path / "a.part", picture(600)))
        await asyncio.sleep(3700)
        assert [f"{generation(2)}/0.png"] == names(storage)


@in_virtual_time
async def test_evicting_a_file_that_another_process_deleted_is_no_error(tmp_path, spool):
    storage = Directory(tmp_path)
    async with virtual(storage, spool, source=FakeSource(picture(400)), max_bytes=1000) as files:
        for number in range(3):
            await files.keep(generation(number), [URL])
            storage.delete(f"{generation(number - 1)}/0.png" if number else f"{GEN}/0.png")
        assert [f"{generation(2)}/0.png"] == names(storage)


@in_virtual_time
async def test_two_processes_with_one_storage_evict_together_no_more_than_one_would(tmp_path, spool, events):
    storage = Directory(tmp_path)
    first = virtual(storage, spool, source=FakeSource(picture(100)), max_bytes=1000, shared=True)
    second = virtual(storage, spool, source=FakeSource(picture(100)), max_bytes=1000, shared=True)
    async with first as one, second as other:
        for number in range(60):
            await (one, other)[number % 2].keep(generation(number), [URL])
            await asyncio.sleep(61)  # both have listed the files of the other
        left = names(storage)
        opened = one.open(generation(59), "0.png")  # which the other has stored

    assert opened is not None
    opened.close()
    assert [f"{generation(number)}/0.png" for number in range(50, 60)] == left
    deleted = sum(each["files"] for each in events if each["event"] == "files_evicted")
    assert 50 == deleted


@in_virtual_time
async def test_processes_that_store_much_at_once_exceed_the_limit_by_what_they_store_in_a_minute(
    tmp_path, spool
):
    storage = Directory(tmp_path)
    first = virtual(storage, spool, source=FakeSource(picture(100)), max_bytes=10_000, shared=True)
    second = virtual(storage, spool, source=FakeSource(picture(100)), max_bytes=10_000, shared=True)
    most = 0
    async with first as one, second as other:
        for number in range(300):
            await (one, other)[number % 2].keep(generation(number), [URL])
            most = max(most, len(names(storage)))
            await asyncio.sleep(10)

    assert 100 <= most <= 106


@in_virtual_time
async def test_only_temporary_files_older_than_an_hour_are_removed_from_the_spool(tmp_path, spool):
    spool.mkdir()
    for name, age in [("dead.part", 3601), ("another's.part", 3599), ("notes.txt", 10**6)]:
        os.utime(written(spool / name, b"half"), (time.time() - age, time.time() - age))
    days = Days()
    async with virtual(Directory(tmp_path / "kept"), spool, clock=days):
        assert {"another's.part", "notes.txt"} == {path.name for path in spool.iterdir()}
        days.now += 3700
        await asyncio.sleep(3700)
        assert {"notes.txt"} == {path.name for path in spool.iterdir()}


# Failures


class Failing:
    """A storage without content. Its methods raise the errors in `failing`."""

    def __init__(self, **failing: Exception | None) -> None:
        self.failing = failing
        self.put_names: list[str] = []

    def put(self, name, source):  # noqa: ARG002
        self._fail("put")
        self.put_names.append(name)

    def open(self, name):  # noqa: ARG002
        return self._fail("open")

    def list(self):
        self._fail("list")
        return iter([StoredFile(f"{GEN}/0.png", 100, 0.0)])

    def delete(self, name):  # noqa: ARG002
        self._fail("delete")
        return True

    def _fail(self, what):
        if error := self.failing.get(what):
            raise error


@in_virtual_time
async def test_a_full_disk_is_reported_and_logged_and_leaves_no_temporary_file(spool, logged):
    storage = Failing(put=OSError(errno.ENOSPC, "No space left on device", "/srv/kept"))
    async with virtual(storage, spool, source=FakeSource(PNG)) as files:
        kept = await files.keep(GEN, [URL])
        with pytest.raises(OSError, match="No space"):
            await files.put(GEN, 0, PNG)

    assert StoredOutputs((None,), "The output could not be kept: it could not be stored.") == kept
    assert "output_store_failed" in logged()
    assert [] == temporaries(spool)


@in_virtual_time
async def test_the_timeout_includes_the_wait_for_a_download_slot(tmp_path, spool):
    async with virtual(Directory(tmp_path), spool, source=FakeSource([(1e6, PNG)])) as files:
        kept = await files.keep(GEN, [URL] * 200)

    assert {None} == set(kept.names)
    assert RetryPolicy().total_timeout == asyncio.get_running_loop().time()


@in_virtual_time
async def test_an_output_that_runs_out_of_time_has_the_reason_of_its_last_failed_attempt(tmp_path, spool):
    source = FakeSource(TemporarilyUnavailable("its host answered 503"), [(1e6, PNG)])
    policy = RetryPolicy(attempt_timeout=1e5)
    async with virtual(Directory(tmp_path), spool, source=source, retry_policy=policy) as files:
        kept = await files.keep(GEN, [URL])

    assert StoredOutputs((None,), "The output could not be kept: its host answered 503.") == kept


@in_virtual_time
async def test_an_unwritable_spool_is_reported(tmp_path):
    spool = written(tmp_path / "spool", b"a file where a directory should be")
    async with virtual(Directory(tmp_path / "kept"), spool, source=FakeSource(PNG)) as files:
        assert (await files.keep(GEN, [URL])).error == "The output could not be kept: it could not be stored."


@in_virtual_time
async def test_an_unreachable_storage_is_reported_without_an_exception(spool, logged):
    async with virtual(at("http://127.0.0.1:9", "nowhere"), spool, source=FakeSource(PNG)) as files:
        kept = await files.keep(GEN, [URL])

    assert StoredOutputs((None,), "The output could not be kept: it could not be stored.") == kept
    assert ["files_list_failed", "output_store_failed"] == logged("error")


@in_virtual_time
async def test_a_failed_listing_is_retried_after_a_minute(tmp_path, spool):
    storage = Failing(list=OSError("down"))
    async with virtual(storage, spool, ttl=10.0) as files:
        assert 0 == files.number_kept
        storage.failing = {"delete": OSError("read only")}
        await asyncio.sleep(61)
        assert 1 == files.number_kept


@pytest.mark.parametrize("error", [OSError("down"), RuntimeError("never thought of")])
@in_virtual_time
async def test_a_failed_deletion_is_retried_by_the_janitor(spool, error, logged):
    storage = Failing(delete=error)
    async with virtual(storage, spool, ttl=10.0) as files:
        await asyncio.sleep(130)
        assert 1 == files.number_kept
        storage.failing = {}
        await asyncio.sleep(60)
        assert 0 == files.number_kept
    assert 3 == logged().count("files_delete_failed")


@in_virtual_time
async def test_a_cancelled_keep_leaves_no_temporary_file_and_frees_its_slots(tmp_path, spool):
    source = FakeSource([(0, picture(BUFFER)), (1e6, b"")])
    async with virtual(Directory(tmp_path / "kept"), spool, source=source, max_bytes=10**7) as files:
        task = asyncio.create_task(files.keep(GEN, [URL] * 40))
        await asyncio.sleep(1)
        assert 32 == len(temporaries(spool))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [] == temporaries(spool)

        again = asyncio.create_task(files.keep(GEN, [URL] * 40))
        await asyncio.sleep(1)
        assert 32 == len(temporaries(spool))
        again.cancel()
        with pytest.raises(asyncio.CancelledError):
            await again


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"ttl": 0.0}, "ttl must be above 0, got 0.0"),
        ({"max_bytes": 0}, "max_bytes must be at least 1, got 0"),
    ],
)
def test_a_ttl_or_size_limit_out_of_range_is_refused(tmp_path, named, message):
    with pytest.raises(ValueError, match=message):
        Files(
            **{
                "storage": Directory(tmp_path),
                "spool": tmp_path,
                "source": FakeSource(),
                "ttl": 1.0,
                "max_bytes": 1,
                **named,
            }
        )


# Real connections and real threads


@on_a_loop
async def test_whole_files_from_a_real_host_are_stored_and_every_other_response_is_reported(storage, spool):
    film = MP4 + os.urandom(3_000_000)
    answers = {
        "/0": reply(PNG),
        "/1": reply(film, headers="Content-Type: text/html\r\n"),
        "/2": redirect("/0"),
        "/3": reply(PAGE, headers="Content-Type: image/png\r\n"),
        "/4": for_ever(PAGE[:20]),
        "/5": for_ever(PNG),
        "/6": reply(PNG, length=1000),
        "/7": then_silence(reply(PNG, length=1000)),
        "/8": reply(b"", status="503 Busy"),
    }
    retry_policy = RetryPolicy(max_attempts=2, first_backoff=0.01)
    async with (
        host(answers) as upstream,
        opened_files(
            storage,
            spool,
            source=OutputHosts(upstream.url, stall=1),
            retry_policy=retry_policy,
            max_bytes=4_000_000,
        ) as files,
    ):
        kept = await files.keep(GEN, [upstream.url + target for target in answers])
        assert [PNG, film, PNG] == [content(files.open(GEN, name)) for name in kept.names[:3]]

    assert ("0.png", "1.mp4", "2.png", *[None] * 6) == kept.names
    assert kept.error == (
        "6 of 9 outputs could not be kept: it is no picture or film of a kind that is known here; "
        "it is larger than 4000000 bytes; the connection was lost; the download stalled; its host answered 503."
    )
    tried = [seen.split(" ")[1] for seen in upstream.seen]
    assert {"/3": 2, "/4": 2, "/5": 1, "/6": 2, "/7": 2, "/8": 2} == {
        target: tried.count(target) for target in list(answers)[3:]
    }
    assert [] == temporaries(spool)


@on_a_loop
async def test_concurrent_calls_of_keep_store_their_own_outputs(storage, spool):
    answers = {f"/{number}": reply(picture(1000 + number)) for number in range(60)}
    async with (
        host(answers) as upstream,
        opened_files(storage, spool, source=OutputHosts(upstream.url)) as files,
    ):
        kept = await asyncio.gather(
            *(files.keep(generation(number), [f"{upstream.url}/{number}"]) for number in range(60))
        )
        assert [StoredOutputs(("0.png",), None)] * 60 == kept
        sizes = {each.name: each.size for each in storage.list()}
    assert {f"{generation(number)}/0.png": 1000 + number for number in range(60)} == sizes


@on_a_loop
async def test_a_keep_cancelled_during_a_download_leaves_no_file(tmp_path, spool):
    storage = Directory(tmp_path / "kept")
    async with (
        host({"/a": then_silence(reply(picture(3_000_000), length=4_000_000))}) as upstream,
        opened_files(storage, spool, source=OutputHosts(upstream.url), max_bytes=10**7) as files,
    ):
        task = asyncio.create_task(files.keep(GEN, [upstream.url + "/a"]))
        await until(lambda: task.done() or written_to(spool))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [] == temporaries(spool)
        assert [] == names(storage)


KEEP_ONE = """
import asyncio, sys
from pathlib import Path
from files import Files
from files.directory import Directory
from files.hosts import OutputHosts

async def keep(root, upstream, id):
    kept, source = Directory(root / "kept"), OutputHosts(upstream)
    files = Files(storage=kept, spool=root / "spool", source=source, ttl=60.0, max_bytes=10**9)
    await files.start()
    await files.keep(id, [upstream + "/a"])

asyncio.run(keep(Path(sys.argv[1]), *sys.argv[2:]))
"""


@on_a_loop
async def test_a_start_removes_the_temporary_file_of_a_killed_process_after_an_hour(tmp_path, spool):
    async with host({"/a": then_silence(reply(picture(3_000_000), length=4_000_000))}) as upstream:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", KEEP_ONE, str(tmp_path), upstream.url, GEN),
            cwd=Path(__file__).parents[2],
            stdout=subprocess.DEVNULL,
        )
        await until(lambda: process.returncode is not None or written_to(spool))
        process.send_signal(signal.SIGKILL)
        await process.wait()

    assert temporaries(spool) == [path for path in tmp_path.rglob("*") if path.is_file()]
    days = Days()
    async with opened_files(Directory(tmp_path / "kept"), spool, clock=days):
        assert 1 == len(temporaries(spool))
    days.now += 3700
    async with opened_files(Directory(tmp_path / "kept"), spool, clock=days):
        assert [] == temporaries(spool)


@on_a_loop
async def test_close_leaves_no_task_or_thread(tmp_path, spool):
    before = asyncio.all_tasks()
    async with opened_files(Directory(tmp_path / "kept"), spool) as files:
        await files.put(GEN, 0, PNG)
    assert before == asyncio.all_tasks()
    assert [] == [each for each in threading.enumerate() if each.name.startswith("files")]
