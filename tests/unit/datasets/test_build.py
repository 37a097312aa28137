"""Zips that are built from images and captions."""

import os
import zipfile
from dataclasses import replace

import pytest

from datasets.build import Part, build
from datasets.examine import examine
from datasets.refusals import LARGEST, DatasetRefused, DatasetTooLarge
from tests.support.zips import image


@pytest.fixture
def part(tmp_path):
    """A part with this name and content."""

    def part(name, data):
        path = tmp_path / f"part{len(list(tmp_path.iterdir()))}"
        path.write_bytes(data)
        return Part(name, path)

    return part


@pytest.fixture
def target(tmp_path):
    folder = tmp_path / "built"
    folder.mkdir()
    return folder / "images.zip"


@pytest.fixture
def refusal(part, target):
    """The problems of parts, as pairs of a name and a message."""

    def refusal(*parts):
        with pytest.raises(DatasetRefused) as refused:
            build(parts, target)
        assert not target.exists()
        return [(each.name, each.message) for each in refused.value.problems]

    return refusal


def names(target):
    with zipfile.ZipFile(target) as archive:
        return archive.namelist()


def test_a_built_zip_passes_its_own_rules_and_those_of_the_standard_library(part, target):
    parts = [part(f"{number}.jpg", image()) for number in range(5)] + [
        part("ö.txt", b"words"),
        part("ö.png", image("PNG")),
    ]
    dataset = build(parts, target)

    assert dataset == examine(target)
    assert (6, 1, None, target.stat().st_size) == (
        dataset.images,
        dataset.captions,
        dataset.folder,
        dataset.size,
    )
    with zipfile.ZipFile(target) as archive:
        assert archive.testzip() is None
        assert b"words" == archive.read("ö.txt")
        assert {0} == {each.compress_type for each in archive.infolist()}


def test_the_same_parts_give_the_same_bytes_in_any_order_and_at_any_time(part, target):
    parts = [part(f"{number}.jpg", image()) for number in range(5)]
    build(parts, target)
    first = target.read_bytes()
    for each in parts:
        os.utime(each.path, (0, 0))
        each.path.chmod(0o600)
    build(parts[::-1], target)

    assert first == target.read_bytes()


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("photo", image(), "photo.jpg"),
        ("photo", image("PNG"), "photo.png"),
        ("photo", image("WEBP"), "photo.webp"),
        ("a.JPG", image(), "a.JPG"),
        ("a.png", image(), "a.png"),
        ("a.b", image(), "a.b.jpg"),
        ("a.heic", image(), "a.jpg"),
        ("a.HEIF", image(), "a.jpg"),
        ("a.jfif", image(), "a.jpg"),
        (".jpg", image(), ".jpg.jpg"),
        ("me/a.jpg", image(), "a.jpg"),
        ("C:\\fakepath\\a.jpg", image(), "a.jpg"),
        ("../../a.jpg", image(), "a.jpg"),
        ("/etc/a.jpg", image(), "a.jpg"),
    ],
)
def test_a_name_loses_its_path_and_gets_the_extension_of_its_image(part, target, name, data, expected):
    build([part(name, data)], target)

    assert [expected] == names(target)


@pytest.mark.parametrize(
    ("name", "shown", "message"),
    [
        ("", "", "has no name"),
        ("a/", "a/", "has no name"),
        ("..", "..", "has a path that may lead out of its folder"),
        ("a/..", "..", "has a path that may lead out of its folder"),
        ("a\0.jpg", "a?.jpg", "has an unprintable character in its name"),
        ("a\ud800.jpg", "a?.jpg", "has an unprintable character in its name"),
        ("C:a.jpg", "C:a.jpg", "has an absolute path"),
        ("x" * 254, "x" * 254 + "....", "has a name of more than 255 bytes"),
    ],
)
def test_an_unsafe_name_is_refused(refusal, part, name, shown, message):
    assert [(shown, message)] == refusal(part("b.jpg", image()), part(name, image()))


def test_two_parts_of_one_name_are_refused(refusal, part):
    assert [("a.jpg", "is there twice"), ("a.jpg", "is there twice")] == refusal(
        part("a.jpg", image()), part("me/a.jpg", image()), part("a", image()), part("A.jpg", image())
    )


def test_other_files_are_refused_as_in_a_zip_and_leftovers_left_out(refusal, part, target):
    assert [
        ("a.txt", "is a JPEG image, so its name must end in .jpg"),
        ("b.pdf", "is neither an image (.jpg, .png, .webp) nor a caption (.txt)"),
    ] == refusal(part("a.txt", image()), part("b.pdf", b"%PDF-1.7"), part("c.jpg", image()))
    assert [(None, "has no image: it needs JPEG, PNG or WebP files")] == refusal()
    assert [(None, "has more than 10,000 files")] == refusal(*[part("x", b"")] * 10_001)

    build([part(".DS_Store", b"x"), part("c.jpg", image())], target)
    assert ["c.jpg"] == names(target)


def test_a_zip_that_would_be_too_large_is_not_written(part, target):
    padded = [part("a.jpg", image()), part("b.jpg", image())]
    overhead = 2 * (30 + 46 + 2 * 5) + 22

    def fill(total):
        os.truncate(padded[1].path, total - overhead - len(image()))

    fill(LARGEST + 1)
    with pytest.raises(DatasetTooLarge):
        build(padded, target)
    assert not target.exists()

    fill(LARGEST)
    assert LARGEST == build(padded, target).size


def test_a_part_that_grows_while_it_is_copied_is_stopped(part, target, monkeypatch):
    grown = part("a.jpg", image())
    honest = type(grown.path).stat

    class Before:
        st_size = len(image()) - 1

    monkeypatch.setattr(
        type(grown.path), "stat", lambda path, **more: Before if path == grown.path else honest(path, **more)
    )

    with pytest.raises(DatasetTooLarge):
        build([grown], target)
    assert not target.exists()


def test_a_part_that_is_missing_leaves_no_zip(part, target, tmp_path):
    gone = replace(part("a.jpg", image()), path=tmp_path / "gone")

    with pytest.raises(FileNotFoundError):
        build([gone], target)
    assert not target.exists()
