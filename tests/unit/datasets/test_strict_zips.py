"""Zips that two programs could unpack differently, or that are cut or changed, are refused."""

import io
import struct
import subprocess
import zipfile
import zlib
from dataclasses import replace

import pytest

from datasets.contents import Broken, Inflater
from tests.support.zips import (
    Member,
    deflated,
    described,
    end_record,
    end_record64,
    image,
    images,
    zip64_of,
    zip_of,
)

PICTURE = Member("a.jpg", image())
SENTINEL = 0xFFFFFFFF


def size_field(*values):
    return struct.pack(f"<2H{len(values)}Q", 1, 8 * len(values), *values)


def test_a_zip_of_the_standard_library_passes(look):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(5):
            archive.writestr(f"{number}.jpg", image())
        with archive.open("6.jpg", "w", force_zip64=True) as member:
            member.write(image())
        archive.comment = b"holidays"

    assert 6 == look(file.getvalue()).images


class Pipe(io.RawIOBase):
    """Takes bytes, and cannot seek."""

    def __init__(self):
        self.written = b""

    def writable(self):
        return True

    def write(self, data):
        self.written += bytes(data)
        return len(data)


@pytest.mark.parametrize("force", [False, True])
def test_a_zip_that_was_written_to_a_pipe_passes(look, force):
    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(5):
            with archive.open(f"{number}.jpg", "w", force_zip64=force) as member:
                member.write(image())

    assert 5 == look(pipe.written).images


@pytest.mark.parametrize("target", ["images.zip", "-"])
def test_a_zip_of_info_zip_passes(look, tmp_path, target):
    (tmp_path / "häuser").mkdir()
    (tmp_path / "häuser/ö.jpg").write_bytes(image())
    done = subprocess.run(["zip", "-r", target, "häuser"], cwd=tmp_path, capture_output=True, check=True)
    content = done.stdout if target == "-" else (tmp_path / target).read_bytes()

    assert ("häuser", 1) == ((found := look(content)).folder, found.images)


@pytest.mark.parametrize("form", ["<4sL2L", "<L2L", "<4sL2Q", "<L2Q"])
@pytest.mark.parametrize("method", [0, 8])
def test_sizes_behind_the_data_are_read_in_all_four_forms(look, form, method):
    assert 5 == look(zip_of(*(described(each, form=form) for each in images(method=method)))).images


def test_sizes_behind_the_data_need_their_signature_if_there_is_room_for_it(refusal):
    message = "is followed by bytes that belong to no file"

    assert [("a.jpg", message)] == refusal(described(PICTURE, form="<4xL2L"))
    assert [("a.jpg", message)] == refusal(described(PICTURE, sizes=(1, 2, 3)))


def test_sizes_may_stand_before_and_behind_the_data_if_they_agree(look, refusal):
    assert 1 == look(zip_of(replace(described(PICTURE), local_sizes=PICTURE.sizes))).images
    crc, packed, unpacked = PICTURE.sizes
    for wrong in ((crc + 1, packed, unpacked), (0, packed + 1, 0), (0, 0, unpacked - 1)):
        assert [("a.jpg", "has another size or checksum in its own header")] == refusal(
            replace(described(PICTURE), local_sizes=wrong)
        )


def test_bytes_after_packed_data_are_found_in_a_later_block():
    inflater = Inflater(iter([deflated(b"x"), b"more"]).__next__, -15)
    assert b"x" == inflater.block(9)
    with pytest.raises(Broken, match="has bytes after its data"):
        inflater.block(9)


def test_zip64_records_are_read_and_their_lies_refused(look, refusal):
    assert 5 == look(zip64_of(*images())).images

    members = images()
    large = replace(
        PICTURE,
        unpacked=SENTINEL,
        packed_size=SENTINEL,
        local_sizes=(zlib.crc32(image()), SENTINEL, SENTINEL),
    )
    real = size_field(len(image()), len(image()))
    assert 1 == look(zip_of(replace(large, extra=real, local_extra=real))).images
    lie = size_field(len(image()) + 1, len(image()))
    assert [("a.jpg", "has another size or checksum in its own header")] == refusal(
        replace(large, extra=lie, local_extra=real)
    )
    assert [("a.jpg", "has no sizes, or is larger than 4 GiB")] == refusal(large)

    plain = zip_of(*members, end=b"")
    length = sum(len(each.central(0)) for each in members)
    offset = len(plain) - length
    assert [(None, "has two end records that disagree")] == refusal(
        plain + end_record64(5, length, offset) + end_record(4, length, offset)
    )
    assert [(None, "has a Zip64 end record in another place than it says")] == refusal(
        plain
        + end_record64(5, length, offset)[:-12]
        + struct.pack("<QL", 0, 1)
        + end_record(5, length, offset)
    )
    longer = end_record64(5, length, offset).replace(struct.pack("<Q", 44), struct.pack("<Q", 45))
    assert [(None, "has a Zip64 end record that is damaged")] == refusal(
        plain + longer + end_record(5, length, offset)
    )
    assert [(None, "has a Zip64 end record that is damaged")] == refusal(
        plain + end_record64(5, length, offset).replace(b"PK\6\6", b"PK\0\0") + end_record(5, length, offset)
    )


@pytest.mark.parametrize(
    "content",
    [b"", b"PK", b"\x1f\x8b\x08" + b"\0" * 100, image(), b"Rar!\x1a\x07\0" + b"\0" * 100],
    ids=["empty", "two bytes", "gzip", "jpeg", "rar"],
)
def test_other_files_are_no_zip(refusal, content):
    assert [(None, "is not a zip, or is cut short: its end record is missing")] == refusal(content)


def test_a_zip_that_is_cut_anywhere_is_refused(refusal):
    content = zip_of(*(Member(f"{number}.txt", b"words") for number in range(3)))

    assert all(refusal(content[:length]) for length in range(len(content)))
    assert all(refusal(content[length:]) for length in range(1, len(content)))


def test_bytes_around_the_files_are_refused(refusal):
    content = zip_of(*images())
    hidden = [(None, "has bytes that belong to none of its files, or its directory is cut short")]

    assert hidden == refusal(b"#!/bin/sh\n" + content)
    assert [(None, "has bytes after its end, or is cut short")] == refusal(content + b"\n")
    assert [("4.jpg", "is followed by bytes that belong to no file")] == refusal(
        zip_of(*images(), between=b"hidden")
    )
    shifted = [replace(each, offset=10 + number * len(each.local)) for number, each in enumerate(images())]
    directory = b"".join(each.central(0) for each in shifted)
    body = b"#!/bin/sh\n" + b"".join(each.local for each in shifted)
    assert [(None, "has bytes before its first file")] == refusal(
        body + directory + end_record(5, len(directory), len(body))
    )


def test_two_end_records_are_refused(refusal):
    content = zip_of(*images())
    inner = zip_of(Member("b.jpg", image("JPEG", (8, 8))))
    commented = content[:-2] + struct.pack("<H", len(inner)) + inner

    assert refusal(commented)
    assert [(None, "is one part of several")] == refusal(content[:-18] + b"\1" + content[-17:])


def test_files_that_share_their_bytes_are_refused(refusal):
    """The better zip bomb (Fifield 2019): many entries for one kernel, or headers that are quoted as data."""
    overlap = "overlaps another file, or is cut short"
    first, second = PICTURE, replace(PICTURE, name="b.jpg", offset=0)
    assert [("a.jpg", overlap)] == refusal(first, second)

    quoted = Member("a.jpg", second.local, packed=b"", packed_size=len(second.local))
    assert [("a.jpg", overlap)] == refusal(quoted, replace(second, offset=None))

    assert ("a.jpg", "is in it twice") in refusal(first, replace(first, offset=0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"local_name": b"b.jpg"}, "has another name or format in its own header"),
        ({"local_name": b"../.ssh/id"}, "has another name or format in its own header"),
        ({"local_method": 8}, "has another name or format in its own header"),
        ({"local_sizes": (1, 2, 3)}, "has another size or checksum in its own header"),
        ({"descriptor": b"PK\7\x08" + bytes(12)}, "is followed by bytes that belong to no file"),
        ({"flags": 8}, "is followed by bytes that belong to no file"),
        ({"flags": 8, "descriptor": b"PK\7\x08" + bytes(12)}, "is followed by bytes that belong to no file"),
        ({"disk": 1}, "is in another part of the zip"),
        ({"crc": 7}, "is damaged: its checksum is wrong"),
        ({"unpacked": 7}, "is longer than its header says"),
        ({"unpacked": 10**6}, "is shorter than its header says"),
        ({"method": 8, "packed": b"\xff" * 100}, "is damaged: its data cannot be unpacked"),
        ({"method": 8, "packed": deflated(image())[:-3]}, "is damaged: its data ends early"),
        ({"method": 8, "packed": deflated(image()) + b"more"}, "has bytes after its data"),
        ({"method": 8, "unpacked": 7}, "is longer than its header says"),
        ({"extra": b"\x99\x99\xff\xff"}, "has a header that is damaged"),
        ({"local_extra": b"\x99\x99\xff\xff"}, "has a header that is damaged"),
        ({"extra": size_field(1) * 2}, "has a header that is damaged"),
        ({"extra": struct.pack("<2HBL", 0x7075, 10, 1, 0) + b"b.jpg"}, "has two different names"),
        ({"local_extra": struct.pack("<2HBL", 0x7075, 10, 1, 0) + b"b.jpg"}, "has two different names"),
    ],
)
def test_a_file_that_differs_from_its_headers_is_refused_by_name(refusal, change, message):
    assert [("a.jpg", message)] == refusal(replace(PICTURE, **change))


def test_a_directory_that_names_other_numbers_is_refused(refusal):
    content = zip_of(*images(3), end=b"")
    length = sum(len(each.central(0)) for each in images(3))
    offset = len(content) - length

    def ends(*numbers):
        return refusal(content + end_record(*numbers))

    assert [(None, "has a directory that is damaged")] == ends(2, length, offset)
    assert [(None, "has a directory that is damaged")] == ends(4, length, offset)
    assert [(None, "has a directory that is cut short")] == refusal(
        content[:-50] + end_record(3, length - 50, offset)
    )
    assert [(None, "has more than 10,000 files")] == ends(10_001, length, offset)
    assert ends(3, length - 1, offset)
    assert ends(3, length, offset + 1)
    assert ends(3, length + offset, 0)
    assert [(None, "has a directory that is too long")] == refusal(
        bytes(9 * 2**20) + end_record(3, 9 * 2**20, 0)
    )


def test_an_entry_beyond_the_file_is_refused(refusal):
    assert [("a.jpg", "is longer than the zip")] == refusal(replace(PICTURE, offset=10**9))
    assert [("a.jpg", "is longer than the zip")] == refusal(replace(PICTURE, packed_size=10**9))


def test_a_name_that_is_flagged_as_utf_8_must_be_it(look, refusal):
    name = "é.jpg".encode("cp437")

    assert 1 == look(zip_of(replace(PICTURE, name=name))).images
    assert [("\\x82.jpg", "has a name that is not UTF-8")] == refusal(
        replace(PICTURE, name=name, flags=0x800)
    )
