"""Types of files of any kind, by content, and that no browser runs what a model made."""

import io
import json
import struct
import tarfile
import wave
import zipfile
from gzip import compress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from files.storage import parse_name
from media import files
from media.files import FILE_TYPES, ending_of, file_type
from media.formats import HEAD, JPEG, MP4, PNG, WEBM
from simulator import files as made
from tests.unit.test_media import KNOWN

GENERATION = "gen_" + "0a" * 16


def a_wav() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(100))
    return file.getvalue()


def a_zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", "a")
    return file.getvalue()


def a_tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("flux/lora.safetensors"), io.BytesIO())
    return file.getvalue()


def weights() -> bytes:
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(4)


FILES = [
    (a_wav(), files.WAV),
    (b"ID3\x03\0\0\0\0\0\0" + bytes(50), files.MP3),
    (b"\xff\xfb\x90\x64" + bytes(50), files.MP3),
    (b"\xff\xf1\x50\x80" + bytes(50), files.AAC),
    (b"OggS\0\2" + bytes(50), files.OGG),
    (b"fLaC\0\0\0\x22" + bytes(50), files.FLAC),
    (b"\0\0\0\x20ftypM4A \0\0\0\0", files.M4A),
    (b"MThd\0\0\0\6\0\1\0\1", files.MIDI),
    (b"\0\0\0\x1cftypavif" + bytes(20), files.AVIF),
    (b"\0\0\0\x18ftypheic" + bytes(20), files.HEIC),
    (b"BM\x36\0\0\0\0\0\0\0\x36\0\0\0", files.BMP),
    (b"II*\0\x08\0\0\0", files.TIFF),
    (b"MM\0*\0\0\0\x08", files.TIFF),
    (b"RIFF\0\0\0\0AVI LIST", files.AVI),
    (b"glTF\2\0\0\0" + bytes(20), files.GLB),
    (b"ply\nformat ascii 1.0\n", files.PLY),
    (b"ply\r\nformat binary_little_endian 1.0\r\n", files.PLY),
    (b"solid cube\n  facet normal 0 0 1\n    outer loop\n", files.STL),
    (b"# Blender\no Cube\nv 1.0 -1.0 1e-3\nv 0 0 0\n", files.OBJ),
    (b"v 0 0 0\nf 1 1 1\n", files.OBJ),
    (b"Kaydara FBX Binary  \0\x1a\0", files.FBX),
    (b"%PDF-1.7\n%\xe2\xe3", files.PDF),
    (a_zip(), files.ZIP),
    (compress(a_tar()), files.GZIP),
    (a_tar(), files.TAR),
    (weights(), files.SAFETENSORS),
    (b"\x93NUMPY\x01\0v\0{'descr'", files.NPY),
    (b'{"a": [1, 2]}', files.JSON),
    (b' \n[{"a": 1}]', files.JSON),
    (b"[-1.5, 2]", files.JSON),
    (b"[]", files.JSON),
    (b"{}", files.JSON),
    (b"WEBVTT\n\n00:00.000 --> 00:01.000\nHi\n", files.VTT),
    (b"1\n00:00:00,000 --> 00:00:01,000\nHi\n", files.SUBTITLES),
    (b"<svg xmlns='http://www.w3.org/2000/svg'/>", files.SVG),
    (b"<?xml version='1.0'?><!-- a --><svg/>", files.SVG),
    (b"<!DOCTYPE html><script>alert(1)</script>", files.HTML),
    (b"\n\n<html><svg/></html>", files.HTML),
    (b"<p onclick='x'>", files.XML),
    (b"<?xml version='1.0'?><collada/>", files.XML),
    (b"A fox.", files.TEXT),
    ("狐".encode() * 600, files.TEXT),
    (b"[fox] runs", files.TEXT),
    (b"", files.TEXT),
    (b"\x7fELF" + bytes(20), files.BINARY),
    (bytes(100), files.BINARY),
    *KNOWN.values(),
]


@pytest.mark.parametrize(("content", "expected"), FILES)
def test_the_type_of_a_file_follows_from_its_content(content, expected):
    assert expected == file_type(content[:HEAD])
    assert expected == file_type(content[:HEAD], "application/octet-stream", ".png")


@pytest.mark.parametrize(
    ("content", "declared", "ending", "expected"),
    [
        (b"a,b\n1,2\n", "text/csv", "", files.CSV),
        (b"a,b\n1,2\n", "", ".csv", files.CSV),
        (b"a,b\n1,2\n", "text/plain", ".txt", files.TEXT),
        (bytes(80) + struct.pack("<I", 1) + bytes(50), "", ".stl", files.STL),
        (b'{"asset": {"version": "2.0"}}', "", ".gltf", files.GLTF),
        (b"mtllib a.mtl\nusemtl b\n", "", ".obj", files.OBJ),
        (b"Sorry", "text/html", ".csv", files.HTML),
        (b"Sorry", "image/svg+xml", ".svg", files.TEXT),
        (b"Sorry", "application/zip", ".glb", files.TEXT),
        (b"\x89PNG\r\n\x1a\n", "text/html", ".html", PNG),
        (b"\xff\xd8\xff\xe0", "audio/mpeg", ".mp3", JPEG),
    ],
)
def test_a_declared_type_and_an_ending_only_tell_texts_apart(content, declared, ending, expected):
    assert expected == file_type(content, declared, ending)


@pytest.mark.parametrize(("extension", "kind"), made.KINDS.items())
def test_each_file_of_the_simulator_has_its_type(extension, kind):
    subject = made.Subject(text="a fox", foot="7", seed=7, ratio="1:1", seconds=5, quality=80)
    found = file_type(made.encode(subject, extension)[:HEAD], made.CONTENT_TYPES[extension], f".{extension}")

    assert (f".{extension}".replace(".jpeg", ".jpg"), kind) == (found.extension, found.kind)


@given(
    st.binary(max_size=HEAD),
    st.sampled_from(["", "text/html", "image/svg+xml"]),
    st.sampled_from([*FILE_TYPES, ""]),
)
def test_any_content_has_a_type_under_which_it_is_kept(content, declared, ending):
    media = file_type(content, declared, ending)

    assert FILE_TYPES[media.extension] == media
    assert media.name == parse_name(f"{GENERATION}/0{media.extension}").media_type


MARKUP = [
    b"<script>",
    b"<html>",
    b"<!doctype html>",
    b"<?xml version='1.0'?><html xmlns='http://www.w3.org/1999/xhtml'>",
]


@given(
    st.sampled_from(["", " ", "\n", "\ufeff", "<!-- a -->"]), st.sampled_from(MARKUP), st.text(max_size=20)
)
def test_no_markup_has_a_type_that_a_browser_runs(before, markup, after):
    media = file_type((before.encode() + markup + after.encode())[:HEAD], "text/html", ".html")

    assert media.name in {"text/plain", "application/octet-stream"}


def test_every_type_has_an_extension_of_its_own():
    assert all(ending == media.extension for ending, media in FILE_TYPES.items())
    assert {"text/html", "application/xhtml+xml", "application/xml", "text/xml"}.isdisjoint(
        media.name for media in FILE_TYPES.values()
    )
    assert {"image", "video", "audio", "3d", "text", "data"} == {media.kind for media in FILE_TYPES.values()}
    assert (MP4, WEBM) == (FILE_TYPES[".mp4"], FILE_TYPES[".webm"])


@pytest.mark.parametrize(
    ("url", "ending"),
    [
        ("https://replicate.delivery/a/b.GLB", ".glb"), ("https://replicate.delivery/a.csv?b=c.d#e.f", ".csv"),
        ("https://replicate.delivery/a.b/c", ""), ("https://replicate.delivery", ".delivery"),
        ("https://replicate.delivery/a.", ""), ("data:text/csv,a", ""), ("", ""),
    ],
)  # fmt: skip
def test_the_ending_of_a_url_is_that_of_its_path(url, ending):
    assert ending == ending_of(url)
