"""Detection of media types from the first bytes: real files, similar files, and files cut at every length."""

import zlib
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from media.formats import (
    BY_EXTENSION,
    GIF,
    HEAD,
    JPEG,
    MP4,
    PNG,
    QUICKTIME,
    WEBM,
    WEBP,
    black_png,
    is_page,
    is_text,
    media_type,
)


def drawn(format: str) -> bytes:  # noqa: A002 - Pillow's name for it
    file = BytesIO()
    Image.new("RGB", (3, 2)).save(file, format)
    return file.getvalue()


KNOWN = {
    "png": (drawn("PNG"), PNG),
    "jpeg": (drawn("JPEG"), JPEG),
    "webp": (drawn("WEBP"), WEBP),
    "gif": (drawn("GIF"), GIF),
    "gif 87": (b"GIF87a" + bytes(20), GIF),
    "mp4": (b"\0\0\0\x20ftypisom" + bytes(20), MP4),
    "mp4, other brand": (b"\0\0\0\x18ftypmp42" + bytes(20), MP4),
    "quicktime": (b"\0\0\0\x14ftypqt  " + bytes(20), QUICKTIME),
    "webm": (b"\x1a\x45\xdf\xa3\x9fB\x86\x81\x01B\xf7\x81\x01B\xf2\x81", WEBM),
}

UNKNOWN = {
    "nothing": b"",
    "a page": b"<!doctype html><html>",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "xml": b"<?xml version='1.0'?><svg/>",
    "json": b'{"detail": "not found"}',
    "a page that speaks of pictures": b"\n\n\x89PNG\r\n\x1a\n",
    "png of old mac line ends": b"\x89PNG\n\x1a\n" + bytes(20),
    "wav": b"RIFF\0\0\0\0WAVEfmt ",
    "avi": b"RIFF\0\0\0\0AVI LIST",
    "avif": b"\0\0\0\x1cftypavif" + bytes(20),
    "heic": b"\0\0\0\x18ftypheic" + bytes(20),
    "bmp": drawn("BMP"),
    "tiff": drawn("TIFF"),
    "pdf": b"%PDF-1.7\n" + bytes(20),
    "zip": b"PK\3\4" + bytes(20),
    "gzip": b"\x1f\x8b\x08" + bytes(20),
    "elf": b"\x7fELF" + bytes(20),
    "gif of no version": b"GIF88a" + bytes(20),
}


@pytest.mark.parametrize("name", KNOWN)
def test_the_media_type_depends_only_on_the_first_bytes(name):
    content, expected = KNOWN[name]
    assert expected == media_type(content) == media_type(content[:HEAD])


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_format_has_no_media_type(name):
    assert media_type(UNKNOWN[name]) is None


@pytest.mark.parametrize("name", KNOWN)
def test_a_cut_head_has_the_right_media_type_or_none(name):
    content, expected = KNOWN[name]
    told = {media_type(content[:size]) for size in range(HEAD)}
    assert {expected, None} >= told
    assert media_type(content[:2]) is None


@given(st.binary(max_size=64))
def test_any_bytes_can_be_examined_and_those_after_the_head_change_nothing(content):
    assert media_type(content[:HEAD]) == media_type(content)


SVG = "<svg xmlns='http://www.w3.org/2000/svg'/>"

TEXTS = [
    (b"", ""), (b" \n", ""), (b"\xef\xbb\xbf no", ""), ("Fuchs ü 狐".encode(), "image/png"),
    ("狐".encode()[:2], ""), (b"\x1b[31mno\x1b[0m", ""), ("no".encode("utf-16"), ""),
    ("no".encode("utf-16-be").join([b"\xfe\xff", b""]), ""), ("<p>no".encode("utf-16-le"), ""),
    ("<p>no".encode("utf-16-be"), ""), (b"<p>caf\xe9", ""), (b"\xe9t\xe9", "text/html"),
    (b"<?xml version='1.0'?><html/>", "image/svg+xml"),
    (b"<html><svg/>", "image/svg+xml"), (b"<!doctype html><svg/>", "image/svg+xml"), (b"no", "image/svg+xml"),
    (b"<p><svg/>", ""), (b"<!---->" * 200 + b"<p>", ""), (b"<svgs/>", ""),
]  # fmt: skip

NO_TEXTS = [
    (SVG.encode(), ""), (SVG.encode("utf-16"), ""), (SVG.encode(), "text/plain"),
    (b"\xef\xbb\xbf\n" + SVG.encode(), ""),
    (b"<?xml version='1.0'?><!-- a > b --><!DOCTYPE svg [<!ENTITY a 'b'>]>\n<svg:svg>", ""),
    (b"<!-- " + b"a" * HEAD, "image/svg+xml"), (bytes(9), ""), (b"\xe9t\xe9", ""), (b"II*\0" + bytes(9), "image/tiff"),
    (b"\0\0\0<ftypavif" + bytes(9), "image/avif"), (b"\xff\xfe" + bytes(9), ""),
]  # fmt: skip


@pytest.mark.parametrize(("head", "announced"), TEXTS)
def test_text_is_recognised_by_its_first_bytes_or_its_announced_type(head, announced):
    assert is_text(head, announced)


@pytest.mark.parametrize(("head", "announced"), NO_TEXTS)
def test_svg_and_binary_formats_are_not_text(head, announced):
    assert not is_text(head, announced)


def test_text_without_markup_is_not_a_page():
    assert not is_page(b"I cannot draw that.", "text/plain")
    assert not is_page(b'{"detail": "no"}', "application/json")


@given(st.binary(max_size=64), st.sampled_from(["", "image/png", "text/html", "image/svg+xml"]))
def test_every_page_is_text(content, announced):
    assert is_text(content, announced) >= is_page(content, announced)


def test_every_media_type_has_an_extension_of_its_own():
    every = [PNG, JPEG, WEBP, GIF, MP4, QUICKTIME, WEBM]
    assert every == [BY_EXTENSION[each.extension] for each in every]
    assert len(every) == len(BY_EXTENSION) == len({each.name for each in every})
    assert all(each.name.startswith(f"{each.kind}/") for each in every)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (64, 3), (1024, 1024)])
def test_a_black_png_has_the_requested_size_and_only_black_pixels(size):
    content = black_png(*size)
    with Image.open(BytesIO(content)) as image:
        image.verify()
    with Image.open(BytesIO(content)) as image:
        assert ("PNG", size, "RGB") == (image.format, image.size, image.mode)
        assert [(size[0] * size[1], (0, 0, 0))] == image.getcolors()
    assert PNG == media_type(content)


def test_a_black_png_of_a_megapixel_takes_less_than_5000_bytes():
    assert 5000 > len(black_png(1024, 1024))
    assert zlib.crc32(b"IEND") == int.from_bytes(black_png(1, 1)[-4:])
