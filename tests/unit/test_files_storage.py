"""Storages: the behaviour that all of them share, on disk and on an S3 server."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from contract.ids import new_prediction_id
from files.bucket import PART, PIECE, Bucket
from files.directory import Directory
from files.storage import Source, parse_name
from tests.support.output_hosts import (
    GEN,
    PNG,
    at,
    content,
    generation,
    in_file,
    names,
    picture,
    written,
)

NO_NAMES = [
    "",
    GEN,
    f"{GEN}/",
    f"{GEN}/0",
    f"{GEN}/0.",
    f"{GEN}/.png",
    f"{GEN}/0.exe",
    f"{GEN}/0.htm",
    f"{GEN}/0.PNG",
    f"{GEN}/0.png/",
    f"{GEN}/0.png\n",
    f"{GEN}/0.png\0",
    f"{GEN}/1000.png",
    f"{GEN}/-1.png",
    f"{GEN}/\u0660.png",
    f"{GEN}/../{GEN}/0.png",
    f"../{GEN}/0.png",
    f"/{GEN}/0.png",
    f"{GEN}//0.png",
    f"{GEN}\\0.png",
    f"{GEN}/%30.png",
    f"{GEN.upper()}/0.png",
    f"{GEN[:-1]}/0.png",
    f"{GEN}0/0.png",
    "gen_../../../../../../../../../etc/passwd/0.png",
    "../../etc/passwd",
]


@pytest.fixture(params=["directory", "bucket"])
def storage(request, tmp_path):
    return (
        Directory(tmp_path / "kept") if request.param == "directory" else request.getfixturevalue("s3").new()
    )


@pytest.fixture
def put(storage, tmp_path):
    """Returns a function that stores bytes under a name."""

    def put(name: str, body: bytes) -> None:
        storage.put(name, in_file(tmp_path / "source.part", body))

    return put


def test_a_stored_file_is_opened_whole_and_with_its_media_type(storage, put):
    put(f"{GEN}/0.png", PNG)
    opened = storage.open(f"{GEN}/0.png")

    assert (len(PNG), "image/png") == (opened.size, opened.media_type)
    assert PNG == content(opened)


@pytest.mark.parametrize(
    ("file", "media_type"),
    [
        ("0.png", "image/png"),
        ("1.jpg", "image/jpeg"),
        ("2.webp", "image/webp"),
        ("3.gif", "image/gif"),
        ("10.mp4", "video/mp4"),
        ("100.mov", "video/quicktime"),
        ("999.webm", "video/webm"),
    ],
)
def test_the_extension_of_a_name_is_its_media_type(file, media_type):
    assert media_type == parse_name(f"{GEN}/{file}").media_type


def test_files_of_a_generation_with_an_id_of_replicates_form_are_stored_and_listed_like_others(storage, put):
    names = [f"{new_prediction_id()}/{number}.png" for number in range(3)]
    for name in names:
        put(name, PNG)

    assert sorted(names) == sorted(each.name for each in storage.list())
    assert [PNG] * 3 == [content(storage.open(name)) for name in names]
    assert storage.delete(names[0])
    assert storage.open(names[0]) is None


def test_any_range_of_bytes_can_be_read(storage, put):
    body = bytes(range(256)) * 20
    put(f"{GEN}/0.png", body)
    opened = storage.open(f"{GEN}/0.png")

    for start, stop in [(0, 1), (0, 5120), (17, 17), (0, 0), (5120, 5120), (100, 5000), (5119, 5120)]:
        assert body[start:stop] == b"".join(opened.chunks(start, stop)), (start, stop)
    opened.close()


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (2, 1), (0, 68), (68, 69)])
def test_a_range_outside_the_file_is_refused_before_reading(storage, put, start, stop):
    put(f"{GEN}/0.png", PNG[:67])
    opened = storage.open(f"{GEN}/0.png")

    with pytest.raises(ValueError, match="there are no bytes"):
        opened.chunks(start, stop)
    opened.close()


def test_an_etag_changes_only_with_the_content(storage, put):
    put(f"{GEN}/0.png", PNG)
    first, again = storage.open(f"{GEN}/0.png"), storage.open(f"{GEN}/0.png")
    put(f"{GEN}/0.png", PNG + b"more")
    other = storage.open(f"{GEN}/0.png")

    assert first.etag == again.etag != other.etag
    assert not set('"/ \\') & set(first.etag)
    for opened in (first, again, other):
        opened.close()


def test_a_listed_file_has_the_name_size_and_date_of_the_opened_one(storage, put):
    put(f"{GEN}/0.png", PNG)
    opened = storage.open(f"{GEN}/0.png")
    opened.close()

    (listed,) = storage.list()
    assert (f"{GEN}/0.png", len(PNG)) == (listed.name, listed.size)
    assert int(opened.modified) == int(listed.modified)


def test_opening_a_file_that_was_never_stored_returns_none(storage):
    assert storage.open(f"{GEN}/0.png") is None
    assert [] == names(storage)


def test_delete_removes_one_file_and_may_be_repeated(storage, put):
    put(f"{GEN}/0.png", PNG)
    put(f"{GEN}/1.png", PNG)
    storage.delete(f"{GEN}/0.png")
    storage.delete(f"{GEN}/0.png")

    assert [f"{GEN}/1.png"] == names(storage)
    assert storage.open(f"{GEN}/0.png") is None


def test_a_second_put_replaces_the_first(storage, put):
    put(f"{GEN}/0.png", PNG)
    put(f"{GEN}/0.png", picture(500))

    assert [500] == [each.size for each in storage.list()]


def test_list_has_every_stored_file(storage, put):
    kept = [f"{generation(number * 2**120)}/{number}.png" for number in range(12)]
    for name in kept:
        put(name, PNG)

    assert sorted(kept) == names(storage)


@pytest.mark.parametrize("name", NO_NAMES)
def test_an_invalid_name_is_refused_by_open_delete_and_put(storage, tmp_path, name):
    source = written(tmp_path / "source.part", PNG)
    for act in (storage.open, storage.delete, lambda name: storage.put(name, Source(lambda _: source))):
        with pytest.raises(ValueError, match="not the name of a kept file"):
            act(name)
    assert [] == names(storage)
    assert [source] == [path for path in tmp_path.rglob("*") if path.is_file()]


def test_putting_a_missing_source_raises_oserror_and_stores_nothing(storage, tmp_path):
    with pytest.raises(OSError, match=r"nowhere\.part|No such file"):
        storage.put(f"{GEN}/0.png", Source(lambda _: tmp_path / "nowhere.part"))
    assert [] == names(storage)


def test_content_in_memory_is_stored_whole(storage, tmp_path):
    source = Source(lambda _: written(tmp_path / "a.part", PNG), bytearray(PNG))
    storage.put(f"{GEN}/0.png", source)

    assert PNG == content(storage.open(f"{GEN}/0.png"))
    assert not (tmp_path / "a.part").exists()


# On disk


def test_a_directory_spreads_generations_over_256_subdirectories(tmp_path):
    Directory(tmp_path).put(f"{GEN}/0.png", in_file(tmp_path / "a.part", PNG))

    assert [tmp_path / "01" / f"{GEN}.0.png"] == [path for path in tmp_path.rglob("*") if path.is_file()]


def test_only_the_user_of_the_service_can_read_files_on_disk(tmp_path):
    directory = Directory(tmp_path / "kept")
    source = written(tmp_path / "a.part", PNG)
    source.chmod(0o600)
    directory.put(f"{GEN}/0.png", Source(lambda _: source))

    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "kept").rglob("*")}
    assert {0o700} == {mode for path, mode in modes.items() if path.is_dir()}
    assert {0o600} == {mode for path, mode in modes.items() if path.is_file()}
    assert 0o700 == stat.S_IMODE((tmp_path / "kept").stat().st_mode)


def test_an_open_file_can_be_read_after_its_deletion(tmp_path):
    directory = Directory(tmp_path)
    directory.put(f"{GEN}/0.png", in_file(tmp_path / "a.part", PNG))
    opened = directory.open(f"{GEN}/0.png")
    directory.delete(f"{GEN}/0.png")

    assert not opened.path.exists()
    assert PNG == content(opened)


def test_a_symbolic_link_is_neither_followed_nor_listed(tmp_path):
    secret = written(tmp_path / "secret", b"secret")
    shelf = tmp_path / "kept" / "01"
    shelf.mkdir(parents=True)
    (shelf / f"{GEN}.0.png").symlink_to(secret)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    written(elsewhere / f"{GEN}.1.png", PNG)
    (tmp_path / "kept" / "02").symlink_to(elsewhere)
    directory = Directory(tmp_path / "kept")

    assert None is directory.open(f"{GEN}/0.png")
    assert [] == names(directory)
    directory.delete(f"{GEN}/0.png")
    assert b"secret" == secret.read_bytes()


def test_other_files_in_a_directory_are_not_listed(tmp_path):
    directory = Directory(tmp_path)
    directory.put(f"{GEN}/0.png", in_file(tmp_path / "a.part", PNG))
    (tmp_path / "01" / "notes.txt").write_text("mine")
    (tmp_path / "01" / f"{GEN}.1.png").mkdir()
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / f"{GEN}.0.png").write_bytes(PNG)

    assert [f"{GEN}/0.png"] == names(directory)


def test_reading_a_file_that_was_truncated_after_opening_raises_oserror(tmp_path):
    directory = Directory(tmp_path)
    directory.put(f"{GEN}/0.png", in_file(tmp_path / "a.part", PNG))
    opened = directory.open(f"{GEN}/0.png")
    os.truncate(opened.path, 10)

    with pytest.raises(OSError, match="the file ended early"):
        content(opened)


# In a bucket


def test_a_large_file_is_uploaded_in_parts_and_read_in_pieces(s3, tmp_path):
    size = 2 * PART + 12_345
    bucket = s3.new()
    bucket.put(f"{GEN}/0.mp4", in_file(tmp_path / "a.part", bytes(1000) + b"\1" * (size - 1000)))
    opened = bucket.open(f"{GEN}/0.mp4")

    sizes = [len(piece) for piece in opened.chunks(500, size)]
    assert [PIECE] * 4 + [size - 500 - 4 * PIECE] == sizes
    assert opened.etag.endswith("-3"), "the ETag of an S3 object ends in its number of parts"
    assert b"\0" * 500 + b"\1" == b"".join(opened.chunks(500, 1001))


def test_reading_an_object_that_was_replaced_after_opening_raises_oserror(s3, tmp_path):
    bucket = s3.new()
    bucket.put(f"{GEN}/0.png", in_file(tmp_path / "a.part", picture(100)))
    opened = bucket.open(f"{GEN}/0.png")
    bucket.put(f"{GEN}/0.png", in_file(tmp_path / "b.part", picture(200)))

    with pytest.raises(OSError, match="precondition"):
        content(opened)


@pytest.mark.parametrize(
    "act",
    [
        lambda bucket, source: bucket.put(f"{GEN}/0.png", source),
        lambda bucket, _: bucket.open(f"{GEN}/0.png"),
        lambda bucket, _: list(bucket.list()),
        lambda bucket, _: bucket.delete(f"{GEN}/0.png"),
    ],
    ids=["put", "open", "list", "delete"],
)
def test_an_unreachable_bucket_raises_oserror_without_the_secret_key(act, tmp_path):
    with pytest.raises(OSError, match="S3") as caught:
        act(at("http://127.0.0.1:9", "nowhere"), in_file(tmp_path / "a.part", PNG))
    assert "secret" not in str(caught.value)


def test_a_bucket_is_configured_by_the_aws_environment_variables(s3, tmp_path, monkeypatch):
    for name, value in {
        "AWS_ENDPOINT_URL": s3.url,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "eu-central-1",
    }.items():
        monkeypatch.setenv(name, value)
    bucket = Bucket(f"s3://{s3.make()}")
    bucket.put(f"{GEN}/0.png", in_file(tmp_path / "a.part", PNG))

    assert [f"{GEN}/0.png"] == names(bucket)


def test_a_url_of_another_scheme_than_s3_is_refused():
    with pytest.raises(ValueError, match="s3://bucket/prefix"):
        Bucket("https://bucket.example/prefix")


def test_obstore_is_imported_only_for_buckets():
    code = "import files, files.directory, sys; print('obstore' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )

    assert "False" == done.stdout.strip()
