"""Keeping trained weights: tries and their pauses in virtual time, storages on disk and on an S3 server, and expiry."""

import asyncio
import errno
import os
import time
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
from structlog.testing import capture_logs

from datasets.refusals import WeightsBroken
from files.directory import Directory
from files.hosts import OutputUnavailable, TemporarilyUnavailable
from files.spool import STALE
from files.weights import MAX_BYTES, TIDY_EVERY, KeptWeights, WeightsStore, WeightsUnavailable
from files.weights_directory import WeightsDirectory, name_of, parse_weights
from tests.support.output_hosts import GEN, PNG, FakeSource, content, in_file, names
from tests.support.virtual_time import Inline, in_virtual_time
from tests.support.wiring import on_a_loop

TRN = "trn_" + "0123456789abcdef" * 2
OTHER = "trn_" + "f" * 32
URL = "https://replicate.delivery/xezq/abc/flux-lora.tar"
WHOLE = b"weights " * 400_000
CUT = TemporarilyUnavailable("the connection was lost")


def refusal(status):
    kind = TemporarilyUnavailable if status in {404, 503} else OutputUnavailable
    return kind(f"its host answered {status}", status=status)


def check(path):
    if path.read_bytes() != WHOLE:
        raise WeightsBroken("its file lora.safetensors is cut short")


@pytest.fixture(params=["directory", "bucket"])
def storage(request, tmp_path):
    if request.param == "directory":
        return WeightsDirectory(tmp_path / "weights")
    return request.getfixturevalue("s3").new().weights()


@asynccontextmanager
async def opened(directory, source, *, executor=None, **named):
    store = WeightsStore(
        spool=directory,
        source=source,
        **{"storage": WeightsDirectory(directory), "check": check, "executor": executor, **named},
    )
    try:
        yield store
    finally:
        await store.aclose()


async def kept(directory, source, url=URL, *, token=None, **named):
    """Keep the weights at `url`. Returns what was kept, and the content that is then served."""
    async with opened(directory, source, executor=Inline(), **named) as store:
        found = await store.keep(TRN, url, token=token)
        return found, content(store.open(TRN, found.name))


def files(directory):
    return sorted(str(each.relative_to(directory)) for each in directory.rglob("*") if each.is_file())


# ── Tries


@in_virtual_time
async def test_weights_are_kept_under_the_name_of_their_url_and_leave_no_temporary_file(tmp_path):
    source = FakeSource([(1, WHOLE[:10]), (5, WHOLE[10:])])
    found, served = await kept(tmp_path, source)

    assert (KeptWeights("flux-lora.tar", len(WHOLE)), WHOLE) == (found, served)
    assert [f"{TRN}/flux-lora.tar"] == files(tmp_path)
    assert 0o700 == (tmp_path / TRN).stat().st_mode & 0o777


@pytest.mark.parametrize(
    "first",
    [[(0, WHOLE[:2_000_000]), (1, CUT)], WHOLE[:-1], WHOLE + b"more", b"", CUT, refusal(404), refusal(503)],
    ids=["interrupted", "truncated", "longer", "empty", "lost", "404", "503"],
)
@in_virtual_time
async def test_weights_that_are_not_whole_are_downloaded_again(tmp_path, first):
    source = FakeSource(first, WHOLE)
    found, served = await kept(tmp_path, source)

    assert (len(WHOLE), True) == (found.size, WHOLE == served)
    assert 2 == len(source.asked)
    assert [f"{TRN}/flux-lora.tar"] == files(tmp_path)


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (WHOLE[:-1], "it is broken: its file lora.safetensors is cut short"),
        (CUT, "the connection was lost"),
        (refusal(503), "its host answered 503"),
        (refusal(403), "its host answered 403"),
    ],
)
@in_virtual_time
async def test_after_ten_tries_with_growing_pauses_they_are_unavailable(tmp_path, outcome, reason):
    source = FakeSource(outcome)
    with pytest.raises(WeightsUnavailable) as caught, capture_logs() as logged:
        await kept(tmp_path, source)

    assert reason == str(caught.value)
    pauses = [later - sooner for sooner, later in pairwise(at for at, _ in source.asked)]
    for pause, longest in zip(pauses, [2, 4, 8, 16, 32, 60, 60, 60, 60], strict=True):
        assert longest / 2 <= pause <= longest
    assert [] == files(tmp_path)
    assert ("weights_unavailable", TRN, reason) == (
        logged[-1]["event"], logged[-1]["generation"], logged[-1]["reason"],
    )  # fmt: skip


@pytest.mark.parametrize(
    "final",
    [
        OutputUnavailable("its host has an address on a private network"),
        refusal(410),
        [(0, b"x")],  # too large by its Content-Length
    ],
)
@in_virtual_time
async def test_a_final_refusal_is_not_tried_again(tmp_path, final):
    source = FakeSource(final, length=MAX_BYTES + 1)
    with pytest.raises(WeightsUnavailable, match=r"private network|answered 410|larger than 10 GiB"):
        await kept(tmp_path, source)

    assert 1 == len(source.asked)


@in_virtual_time
async def test_no_try_begins_after_an_hour_since_the_file_is_deleted_then(tmp_path):
    source = FakeSource([(1, b"x")] * 10_000)
    with pytest.raises(WeightsUnavailable, match="it took too long"):
        await kept(tmp_path, source)

    first, second = [at for at, _ in source.asked]
    assert (0, True) == (first, 1801 <= second <= 1802)


@in_virtual_time
async def test_weights_that_are_stored_already_are_not_downloaded(tmp_path):
    first = await kept(tmp_path, FakeSource(WHOLE))
    source = FakeSource(OutputUnavailable("its host answered 410"))

    assert first == await kept(tmp_path, source)
    assert [] == source.asked


@in_virtual_time
async def test_a_cancelled_download_leaves_nothing(tmp_path):
    task = asyncio.create_task(kept(tmp_path, FakeSource([(0, WHOLE), (100, b"")])))
    await asyncio.sleep(50)
    assert [True] == [name.endswith(".part") for name in files(tmp_path)]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert task.cancelled()
    assert [] == files(tmp_path)


# ── The token


@pytest.mark.parametrize("status", [401, 403, 404])
@in_virtual_time
async def test_the_token_is_used_only_after_a_refusal_without_it(tmp_path, status):
    source = FakeSource(refusal(status), WHOLE)
    await kept(tmp_path, source, token="r8_one")

    assert [None, "r8_one"] == source.tokens


@pytest.mark.parametrize("outcome", [WHOLE[:-1], CUT, refusal(503), refusal(429)])
@in_virtual_time
async def test_a_token_is_not_used_for_other_failures(tmp_path, outcome):
    source = FakeSource(outcome)
    with pytest.raises(WeightsUnavailable):
        await kept(tmp_path, source, token="r8_one")

    assert {None} == set(source.tokens)


@in_virtual_time
async def test_each_try_begins_without_the_token(tmp_path):
    source = FakeSource(refusal(403), WHOLE[:-1], refusal(403), WHOLE)
    await kept(tmp_path, source, token="r8_one")

    assert [None, "r8_one"] * 2 == source.tokens


# ── The disk


def failing(number):
    """A storage on a disk that fails with this error number; None is that of a bucket."""

    class Failing(WeightsDirectory):
        calls = 0

        def put(self, name, source):  # noqa: ARG002
            source.file(True)
            self.calls += 1
            raise OSError(number, "it fails") if number else OSError("503 Slow Down")

    return Failing


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "the disk of the service is full"),
        (errno.EDQUOT, "the disk of the service is full"),
        (errno.EROFS, "the disk of the service is not writable"),
        (errno.EACCES, "the disk of the service is not writable"),
        (errno.EIO, "it could not be stored"),
    ],
)
@in_virtual_time
async def test_a_disk_that_fails_is_no_reason_for_a_further_download(tmp_path, number, reason):
    source = FakeSource(WHOLE)
    with pytest.raises(WeightsUnavailable) as caught:
        await kept(tmp_path, source, storage=failing(number)(tmp_path))

    assert (reason, 1) == (str(caught.value), len(source.asked))
    assert [] == files(tmp_path)


@in_virtual_time
async def test_a_bucket_that_fails_is_tried_again(tmp_path):
    storage = failing(None)(tmp_path)
    with pytest.raises(WeightsUnavailable, match="it could not be stored"):
        await kept(tmp_path, FakeSource(WHOLE), storage=storage)

    assert 10 == storage.calls
    assert [] == files(tmp_path)


@pytest.mark.parametrize("length", [len(WHOLE), None], ids=["declared", "not declared"])
@in_virtual_time
async def test_weights_leave_a_reserve_of_the_volume_free(tmp_path, length):
    source = FakeSource(WHOLE, length=length)
    free = 64 * 2**20 + len(WHOLE)
    with pytest.raises(WeightsUnavailable, match="the disk of the service is full"):
        await kept(tmp_path, source, disk_usage=lambda: (10**6, 0, free - 1))

    assert (1, []) == (len(source.asked), files(tmp_path))
    assert len(WHOLE) == (await kept(tmp_path, source, disk_usage=lambda: (10**6, 0, free)))[0].size


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@on_a_loop
async def test_a_directory_that_is_not_writable_is_a_plain_reason(tmp_path):
    tmp_path.chmod(0o500)
    async with opened(tmp_path / "weights", FakeSource(WHOLE)) as store:
        with pytest.raises(WeightsUnavailable, match="the disk of the service is not writable"):
            await store.keep(TRN, URL)


@in_virtual_time
async def test_a_check_that_crashes_is_logged_and_not_repeated(tmp_path):
    source = FakeSource(WHOLE)
    with pytest.raises(WeightsUnavailable, match="something went wrong"), capture_logs() as logged:
        await kept(tmp_path, source, check=lambda _: 1 / 0)

    assert (1, ["weights_store_failed"]) == (len(source.asked), [each["event"] for each in logged])


# ── Names

NO_NAMES = [
    "",
    "flux-lora.tar",
    f"{TRN}",
    f"{TRN}/",
    f"{TRN}/.tar",
    f"{TRN}/..",
    f"{TRN}/../{OTHER}/a.tar",
    f"../{TRN}/a.tar",
    f"/{TRN}/a.tar",
    f"{TRN}//a.tar",
    f"{TRN}/b/a.tar",
    f"{TRN}/b\\a.tar",
    f"{TRN}/a.tar\n",
    f"{TRN}/a.tar\0",
    f"{TRN}/a.part",
    f"{TRN}/a.TAR",
    f"{TRN}/a b.tar",
    f"{TRN}/%2e%2e.tar/",
    f"{TRN}/nul.tar",
    f"{TRN}/{'a' * 101}.tar",
    f"{TRN.upper()}/a.tar",
    f"{TRN[:-1]}/a.tar",
    f"{TRN}0/a.tar",
    f"{GEN}/a.tar",
    "trn_../../../../../../../../../../etc/a.tar",
]


@pytest.mark.parametrize("name", NO_NAMES)
def test_any_other_name_is_refused_before_it_becomes_a_path_or_a_key(storage, tmp_path, name):
    for act in (
        storage.open,
        storage.delete,
        lambda name: storage.put(name, in_file(tmp_path / "a.part", WHOLE)),
    ):
        with pytest.raises(ValueError, match="not the name of kept weights"):
            act(name)


@pytest.mark.parametrize(
    ("url", "file"),
    [
        ("https://replicate.delivery/a/flux-lora.tar", "flux-lora.tar"),
        ("https://replicate.delivery/a/trained_model.TAR?sig=a%2Fb.zip#c.zip", "trained_model.tar"),
        ("https://replicate.delivery/a/out.v2.tar.gz", "out.v2.tar.gz"),
        ("https://replicate.delivery/a/qwen.zip", "qwen.zip"),
        ("https://replicate.delivery/a/lora.safetensors", "lora.safetensors"),
        ("https://replicate.delivery/a/my%20l%C3%B6ra%0d%0a.tar", "my_l_ra_.tar"),
        ("https://replicate.delivery/a/%2e%2e%2f%2e%2e%2fetc%2fpasswd.tar", "passwd.tar"),
        ("https://replicate.delivery/a/..%5C..%5Cb.tar", "b.tar"),
        ("https://replicate.delivery/a/...tar", "weights.tar"),
        ("https://replicate.delivery/a/.tar", "weights.tar"),
        ("https://replicate.delivery/a/CON.tar", "weights.tar"),
        ("https://replicate.delivery/a/flux-lora", "weights.tar"),
        ("https://replicate.delivery/a/flux-lora.bin", "weights.tar"),
        ("https://replicate.delivery/a/run.sh", "weights.tar"),
        ("https://replicate.delivery/a/", "weights.tar"),
        ("https://replicate.delivery", "weights.tar"),
        ("https://[", "weights.tar"),
        ("", "weights.tar"),
        (f"https://replicate.delivery/{'a' * 5000}.tar", f"{'a' * 100}.tar"),
    ],
)
def test_the_name_of_a_url_becomes_a_safe_name(url, file):
    name = name_of(TRN, url)

    assert (TRN, file) == (name.training, name.file)
    assert name == parse_weights(str(name))


@in_virtual_time
async def test_the_id_of_something_else_is_refused_before_anything_is_downloaded(tmp_path):
    source = FakeSource(WHOLE)
    async with opened(tmp_path, source, executor=Inline()) as store:
        for wrong in (GEN, "trn_1", "../a", ""):
            with pytest.raises(ValueError, match="not the name"):
                await store.keep(wrong, URL)
            assert store.open(wrong, "flux-lora.tar") is None
    assert [] == source.asked


# ── Storages


@on_a_loop
async def test_weights_are_served_from_every_storage_until_they_are_removed(storage, tmp_path):
    async with opened(tmp_path / "weights", FakeSource(WHOLE), storage=storage) as store:
        await store.keep(TRN, URL)
        await store.keep(OTHER, "https://replicate.delivery/lora.safetensors")

        found = store.open(TRN, "flux-lora.tar")
        assert (len(WHOLE), "application/x-tar") == (found.size, found.media_type)
        assert WHOLE[4_000:3_000_000] == b"".join(found.chunks(4_000, 3_000_000))
        again = store.open(TRN, "flux-lora.tar")
        assert found.etag == again.etag
        for each in (found, again):
            each.close()
        assert store.open(TRN, "lora.safetensors") is None
        assert store.open(TRN, f"../{OTHER}/lora.safetensors") is None

        await store.remove(TRN, "flux-lora.tar")
        await store.remove(TRN, "flux-lora.tar")
        assert store.open(TRN, "flux-lora.tar") is None
        assert [f"{OTHER}/lora.safetensors"] == names(storage)
    assert [] == [each for each in files(tmp_path) if each.endswith(".part") or TRN in each]


@pytest.mark.parametrize("where", ["directory", "bucket"])
def test_outputs_and_weights_in_one_place_do_not_list_each_other(where, tmp_path, request):
    if where == "bucket":
        outputs = request.getfixturevalue("s3").new()
        weights = outputs.weights()
    else:
        outputs, weights = Directory(tmp_path), WeightsDirectory(tmp_path / "weights")
    outputs.put(f"{GEN}/0.png", in_file(tmp_path / "a.part", PNG))
    weights.put(f"{TRN}/a.tar", in_file(tmp_path / "b.part", WHOLE))

    assert ([f"{GEN}/0.png"], [f"{TRN}/a.tar"]) == (names(outputs), names(weights))


def test_a_link_in_the_place_of_weights_is_not_followed(tmp_path):
    (tmp_path / "secret.tar").write_bytes(b"secret")
    (tmp_path / "weights" / TRN).mkdir(parents=True)
    (tmp_path / "weights" / TRN / "a.tar").symlink_to(tmp_path / "secret.tar")
    storage = WeightsDirectory(tmp_path / "weights")

    assert (None, []) == (storage.open(f"{TRN}/a.tar"), names(storage))


# ── Expiry


@on_a_loop
async def test_weights_expire_after_their_ttl(storage, tmp_path):
    now = [time.time()]
    async with opened(tmp_path, FakeSource(WHOLE), storage=storage, ttl=3600, clock=lambda: now[0]) as store:
        await store.keep(TRN, URL)
        now[0] += 3500
        await store.tidy()
        assert WHOLE == content(store.open(TRN, "flux-lora.tar"))

        now[0] += 200
        assert store.open(TRN, "flux-lora.tar") is None
        assert [f"{TRN}/flux-lora.tar"] == names(storage)
        await store.tidy()
        assert [] == names(storage)
    assert not (tmp_path / TRN).exists()


@on_a_loop
async def test_without_a_ttl_weights_stay(storage, tmp_path):
    async with opened(
        tmp_path, FakeSource(WHOLE), storage=storage, clock=lambda: time.time() + 10**9
    ) as store:
        await store.keep(TRN, URL)
        await store.tidy()
        assert WHOLE == content(store.open(TRN, "flux-lora.tar"))


@pytest.mark.parametrize("ttl", [0, -1])
def test_a_ttl_below_zero_is_refused(tmp_path, ttl):
    with pytest.raises(ValueError, match="ttl must be above 0"):
        WeightsStore(
            storage=WeightsDirectory(tmp_path), spool=tmp_path, source=FakeSource(b""), check=check, ttl=ttl
        )


@in_virtual_time
async def test_leftovers_of_a_crashed_process_are_deleted_at_the_start_and_later(tmp_path):
    start = time.time()
    left, young = tmp_path / "1.0.part", tmp_path / "2.0.part"
    for path, age in ((left, STALE + 1), (young, STALE - TIDY_EVERY / 2)):
        path.write_bytes(b"half")
        os.utime(path, (start - age, start - age))
    loop = asyncio.get_running_loop()
    clock = lambda: start + loop.time()  # noqa: E731
    async with opened(tmp_path, FakeSource(WHOLE), executor=Inline(), clock=clock) as store:
        running = asyncio.create_task(store.run())
        await asyncio.sleep(1)
        assert [young.name] == files(tmp_path)
        await asyncio.sleep(TIDY_EVERY)
        assert [] == files(tmp_path)
        running.cancel()


@in_virtual_time
async def test_a_storage_that_fails_does_not_end_the_tidying(tmp_path):
    class Failing(WeightsDirectory):
        def list(self):
            raise OSError("503 Slow Down")

    store = opened(tmp_path, FakeSource(WHOLE), executor=Inline(), storage=Failing(tmp_path), ttl=60)
    with capture_logs() as logged:
        async with store as open_store:
            running = asyncio.create_task(open_store.run())
            await asyncio.sleep(2.5 * TIDY_EVERY)
            running.cancel()

    assert ["weights_tidy_failed"] * 3 == [each["event"] for each in logged]
