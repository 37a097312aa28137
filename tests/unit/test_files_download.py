"""Downloading one output: attempts and backoff in virtual time, and content that is never stored."""

import asyncio
import base64
from contextlib import suppress
from itertools import pairwise
from urllib.parse import quote

import pytest

from files.download import MAX_CONSECUTIVE_FAILURES, Downloads, RetryPolicy
from files.hosts import OutputUnavailable, TemporarilyUnavailable
from files.spool import BUFFER, Spool
from files.volume import Volume
from loop_thread import Pool
from tests.support.output_hosts import MP4, PAGE, PNG, FakeSource, picture
from tests.support.virtual_time import Inline, in_virtual_time

URL = "https://replicate.delivery/a.png"


class Storage:
    """Has the content of the last stored output."""

    content = b""

    def put(self, name, source):  # noqa: ARG002
        if source.content is None:
            file = source.file(False)
            self.content = file.read_bytes()
            file.unlink()
        else:
            self.content = bytes(source.content)


async def fetched(tmp_path, source, url=URL, *, largest=10_000, any_type=False, **retry_policy):
    """Download and store `url`. Returns the content and its media type."""
    pool = Pool(Inline())
    downloads = Downloads(source, largest=largest, retry_policy=RetryPolicy(**retry_policy), pool=pool)
    storage = Storage()
    async with Spool(tmp_path, pool, Volume()).output() as output:
        media = await downloads.fetch(url, output, any_type=any_type)
        await output.store(storage, "0.png")
        assert output.size == len(storage.content)
    return storage.content, media.name


@in_virtual_time
async def test_a_download_is_whole_and_typed_by_its_content(tmp_path):
    source = FakeSource([(1, MP4[:3]), (1, MP4[3:]), (1, b"more" * 100)])

    assert (MP4 + b"more" * 100, "video/mp4") == await fetched(tmp_path, source)
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("lost", [100, BUFFER, 2 * BUFFER])
@pytest.mark.parametrize("whole", [200, 2 * BUFFER + 1])
@in_virtual_time
async def test_a_retried_download_has_no_bytes_of_the_lost_attempt(tmp_path, lost, whole):
    cut = [(0, picture(lost)), (0, b"half"), (1, TemporarilyUnavailable("the connection was lost"))]
    source = FakeSource(cut, picture(whole))

    assert (picture(whole), "image/png") == await fetched(tmp_path, source, largest=10**8)
    assert 2 == len(source.asked)
    assert [] == list(tmp_path.iterdir())


@in_virtual_time
async def test_four_attempts_have_growing_backoff_with_jitter(tmp_path):
    source = FakeSource(TemporarilyUnavailable("the connection was lost"))
    with pytest.raises(TemporarilyUnavailable, match="the connection was lost"):
        await fetched(tmp_path, source, first_backoff=1.0)

    times = [time for time, _ in source.asked]
    pauses = [later - sooner for sooner, later in pairwise(times)]
    assert 4 == len(times)
    for pause, longest in zip(pauses, [1, 2, 4], strict=True):
        assert longest / 2 <= pause <= longest
    assert [1, 2, 4] != pauses


@in_virtual_time
async def test_a_final_refusal_is_not_retried(tmp_path):
    source = FakeSource(OutputUnavailable("its host answered 403"))
    with pytest.raises(OutputUnavailable, match="403"):
        await fetched(tmp_path, source)
    assert 1 == len(source.asked)


@in_virtual_time
async def test_an_attempt_that_exceeds_its_timeout_is_retried(tmp_path):
    drip = [(9, b"\7")] * 1000
    source = FakeSource([(0, PNG[:16]), *drip], PNG)

    assert (PNG, "image/png") == await fetched(tmp_path, source, attempt_timeout=120, total_timeout=300)
    assert 120.25 <= source.asked[1][0] <= 120.5


@in_virtual_time
async def test_after_32_failures_in_a_row_each_output_gets_one_attempt_until_one_succeeds(tmp_path):
    source = FakeSource(
        *[TemporarilyUnavailable("cut")] * (MAX_CONSECUTIVE_FAILURES + 3),
        PNG,
        TemporarilyUnavailable("cut"),
        PNG,
    )
    downloads = Downloads(source, largest=10_000, retry_policy=RetryPolicy(), pool=Pool(Inline()))
    asked = []
    for _ in range(13):
        before = len(source.asked)
        async with Spool(tmp_path, Pool(Inline()), Volume()).output() as output:
            with suppress(TemporarilyUnavailable):
                await downloads.fetch(URL, output)
        asked.append(len(source.asked) - before)

    assert [4] * (MAX_CONSECUTIVE_FAILURES // 4) + [1] * 3 + [1] + [2] == asked


@in_virtual_time
async def test_total_timeout_ends_a_download_with_the_reason_of_the_last_failed_attempt(tmp_path):
    source = FakeSource(TemporarilyUnavailable("its host answered 404", missing=True), [(1e6, PNG)])
    with pytest.raises(TemporarilyUnavailable, match="its host answered 404") as lost:
        await fetched(tmp_path, source, attempt_timeout=1e5, total_timeout=300)
    assert not lost.value.missing
    assert 300 == asyncio.get_running_loop().time()


@in_virtual_time
async def test_a_download_without_content_ends_at_attempt_timeout(tmp_path):
    source = FakeSource([(1e6, PNG)])
    with pytest.raises(TemporarilyUnavailable, match="it took too long"):
        await fetched(tmp_path, source, max_attempts=1)
    assert RetryPolicy().attempt_timeout == asyncio.get_running_loop().time()


@pytest.mark.parametrize("max_attempts", [0, -1])
def test_max_attempts_must_be_at_least_1(max_attempts):
    with pytest.raises(ValueError, match=f"max_attempts must be at least 1, got {max_attempts}"):
        RetryPolicy(max_attempts=max_attempts)


@pytest.mark.parametrize(
    "body", [PAGE, b"<svg/>", b"", b"\0P", b'{"error": 1}', b"\x1f\x8b" + bytes(100), b"MZ" + bytes(100)]
)
@in_virtual_time
async def test_unknown_content_is_refused_and_the_next_attempt_may_succeed(tmp_path, body):
    source = FakeSource(body)
    with pytest.raises(OutputUnavailable, match="it is no picture or film"):
        await fetched(tmp_path, source, max_attempts=1)
    assert 1 == len(source.asked)
    await fetched(tmp_path, FakeSource(body, picture(16)), max_attempts=2)


@pytest.mark.parametrize(
    ("body", "announced", "missing"),
    [
        (b"", "image/png", True),
        (PAGE, "image/png", True),
        (b"<HTML><body>", "", True),
        (b"\xef\xbb\xbf\n <html>", "", True),
        (b"<!-- an error -->" * 9, "text/html", True),
        (b'<?xml version="1.0"?><html/>', "application/xhtml+xml", True),
        (b"<!-- x -->\n<!DOCTYPE html><p>hi", "image/png", True),
        ("<html>".encode("utf-16"), "image/png", True),
        (b'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"/>', "", True),
        (b"<body>Not found</body>", "application/octet-stream", True),
        (b"<Error><Code>NoSuchKey</Code></Error>", "application/xml", True),
        (b"\x1f\x8b\x08" + bytes(20), "text/html", True),
        (b"  \n\n ", "image/png", True),
        (b"I cannot draw", "text/plain", False),
        (b"I cannot draw", "image/png", False),
        (b'{"detail": "I cannot draw"}', "application/json", False),
        (b"P", "image/png", False),
        (b"\0P", "image/png", False),
        (b"\x1f\x8b\x08" + bytes(20), "image/png", False),
        (b"\0\0\0\x20ftypavif" + bytes(20), "image/avif", False),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "application/pdf", False),
        (b'<?xml version="1.0"?><svg/>', "image/svg+xml", False),
        (b"<!doctype svg><svg/>", "image/svg+xml", False),
    ],
)
@in_virtual_time
async def test_empty_and_markup_responses_count_as_missing_and_other_unknown_content_does_not(
    tmp_path, body, announced, missing
):
    source = FakeSource(body, media_type=announced)
    with pytest.raises(TemporarilyUnavailable, match="it is no picture or film") as lost:
        await fetched(tmp_path, source)

    assert (missing, 4) == (lost.value.missing, len(source.asked))


@in_virtual_time
async def test_a_picture_announced_as_html_is_stored_as_a_picture(tmp_path):
    assert (PNG, "image/png") == await fetched(tmp_path, FakeSource(PNG, media_type="text/html"))


@in_virtual_time
async def test_a_missing_output_gets_four_attempts_even_after_32_failures_in_a_row(tmp_path):
    gone = TemporarilyUnavailable("its host answered 404", missing=True)
    source = FakeSource(*[TemporarilyUnavailable("cut")] * MAX_CONSECUTIVE_FAILURES, gone)
    downloads = Downloads(source, largest=10_000, retry_policy=RetryPolicy(), pool=Pool(Inline()))
    for _ in range(MAX_CONSECUTIVE_FAILURES // 4 + 1):
        before = len(source.asked)
        async with Spool(tmp_path, Pool(Inline()), Volume()).output() as output:
            with suppress(TemporarilyUnavailable):
                await downloads.fetch(URL, output)

    assert 4 == len(source.asked) - before


@in_virtual_time
async def test_an_html_page_is_refused_before_its_end(tmp_path):
    source = FakeSource([(0, PAGE[:5]), (1, PAGE[5:1500]), (1e6, b"the rest")])
    with pytest.raises(OutputUnavailable, match="it is no picture or film"):
        await fetched(tmp_path, source, max_attempts=1)
    assert 1 == asyncio.get_running_loop().time()


@in_virtual_time
async def test_an_endless_download_ends_at_the_size_limit(tmp_path):
    source = FakeSource([(1, picture(16))] + [(1, bytes(1000))] * 1000)
    with pytest.raises(OutputUnavailable, match="it is larger than 10000 bytes"):
        await fetched(tmp_path, source)
    assert 11 == asyncio.get_running_loop().time()


@in_virtual_time
async def test_a_download_announced_as_too_large_is_not_read(tmp_path):
    source = FakeSource([(1, PNG)], length=10_001)
    with pytest.raises(OutputUnavailable, match="it is larger than 10000 bytes"):
        await fetched(tmp_path, source)
    assert 0 == asyncio.get_running_loop().time()


@pytest.mark.parametrize("size", [9_999, 10_000])
@in_virtual_time
async def test_a_file_of_exactly_the_largest_size_is_accepted(tmp_path, size):
    assert picture(size) == (await fetched(tmp_path, FakeSource(picture(size), length=size)))[0]


@pytest.mark.parametrize(
    "head", ["data:image/png;base64,", "DATA:text/html;charset=x;BASE64,", "data:;base64,"]
)
@in_virtual_time
async def test_a_data_uri_is_decoded_and_typed_by_its_content(tmp_path, head):
    source = FakeSource(b"never asked")

    assert (PNG, "image/png") == await fetched(tmp_path, source, head + base64.b64encode(PNG).decode())
    assert (PNG, "image/png") == await fetched(tmp_path, source, "data:image/png," + quote(PNG))
    assert [] == source.asked


@in_virtual_time
async def test_a_data_uri_of_unknown_content_is_refused(tmp_path):
    with pytest.raises(OutputUnavailable, match="it is no picture or film"):
        await fetched(tmp_path, FakeSource(PNG), "data:image/svg+xml,<svg/>")


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        ("not base64!", "its data: URI is not base64"),
        ("iVBORw0KG", "its data: URI is not base64"),
        ("\u00e9\u00e9\u00e9\u00e9", "its data: URI is not base64"),
        (base64.b64encode(PAGE).decode(), "it is no picture or film"),
        ("", "it is no picture or film"),
        (base64.b64encode(picture(10_001)).decode(), "it is larger than 10000 bytes"),
        ("A" * 20_000, "it is larger than 10000 bytes"),
    ],
    ids=["garbage", "cut", "letters", "page", "empty", "just too large", "far too large"],
)
@in_virtual_time
async def test_a_malformed_or_oversized_data_uri_is_refused(tmp_path, encoded, reason):
    with pytest.raises(OutputUnavailable, match=reason):
        await fetched(tmp_path, FakeSource(b""), "data:image/png;base64," + encoded)
    assert [] == list(tmp_path.iterdir())


@in_virtual_time
async def test_a_download_larger_than_the_buffer_is_written_in_order(tmp_path):
    parts = [picture(1000)] + [bytes([number % 256]) * 70_001 for number in range(50)]
    body, _ = await fetched(tmp_path, FakeSource([(0, part) for part in parts]), largest=10**8)

    assert b"".join(parts) == body


@in_virtual_time
async def test_a_cancelled_download_leaves_no_temporary_file(tmp_path):
    source = FakeSource([(0, picture(BUFFER)), (1e6, b"")])
    task = asyncio.create_task(fetched(tmp_path, source, largest=10**8))
    await asyncio.sleep(1)
    assert 1 == len(list(tmp_path.iterdir()))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("url", "body", "kind"),
    [
        (URL, PNG, "image/png"),
        ("https://replicate.delivery/a.csv?x=1", b"a,b\n1,2\n", "text/csv"),
        (URL, PAGE, "text/plain"),
        (URL, b"<svg/>", "image/svg+xml"),
        (URL, b'{"error": 1}', "application/json"),
        (URL, b"MZ" + bytes(100), "application/octet-stream"),
        ("data:audio/wav;base64,UklGRgAAAABXQVZF", b"RIFF\0\0\0\0WAVE", "audio/wav"),
        ("data:text/csv,a%2Cb", b"a,b", "text/csv"),
        ("data:,a%20fox", b"a fox", "text/plain"),
    ],
)
@in_virtual_time
async def test_a_file_of_any_type_is_kept_where_any_is_wanted(tmp_path, url, body, kind):
    assert (body, kind) == await fetched(tmp_path, FakeSource(body), url, any_type=True)


@in_virtual_time
async def test_an_empty_file_is_missing_whatever_type_is_wanted(tmp_path):
    with pytest.raises(OutputUnavailable, match="it is empty") as lost:
        await fetched(tmp_path, FakeSource(b""), any_type=True)
    assert lost.value.missing
