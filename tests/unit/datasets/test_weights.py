"""Trained weights are whole: archives by their own rules, safetensors by their header."""

import gzip
import io
import json
import struct
import tarfile
import tracemalloc
import zipfile
from dataclasses import replace

import pytest

from datasets import weights as rules
from datasets.refusals import WeightsBroken
from datasets.weights import Weights, check_weights
from tests.support.zips import Member, zip_of

TENSORS = {
    "a": {"dtype": "F16", "shape": [4, 3], "data_offsets": [0, 24]},
    "none": {"dtype": "F32", "shape": [0, 3], "data_offsets": [24, 24]},
    "b": {"dtype": "F32", "shape": [], "data_offsets": [24, 28]},
}


def safetensors(tensors=None, data=bytes(28), **more):
    header = json.dumps((TENSORS if tensors is None else tensors) | more).encode()
    return struct.pack("<Q", len(header)) + header + data


WHOLE = safetensors(__metadata__={"format": "pt"})
LORA = "output/flux_train_replicate/lora.safetensors"


def tar_of(files, mode="w", **options):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, **options) as archive:
        folder = tarfile.TarInfo("output")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


TRAINED = {"output/captions/0.txt": b"a photo", LORA: WHOLE, "output/config.yaml": b"x" * 513}


@pytest.fixture
def check(tmp_path):
    def check(content):
        path = tmp_path / "lora.safetensors"
        path.write_bytes(content)
        return check_weights(path)

    return check


@pytest.fixture
def reason(check):
    """Why this file is refused."""

    def reason(content):
        with pytest.raises(WeightsBroken) as broken:
            check(content)
        return broken.value.reason

    return reason


def test_a_safetensors_file_passes(check):
    assert Weights(len(WHOLE), ("lora.safetensors",), 3) == check(WHOLE)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_passes(check, mode, format):  # noqa: A002 - its name in tarfile
    content = tar_of(TRAINED, mode, format=format)

    assert Weights(len(content), (LORA,), 3) == check(content)


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_of_a_tar_are_read(check, format):  # noqa: A002 - its name in tarfile
    name = "ö" * 60 + "/" + "x" * 100 + ".safetensors"
    content = tar_of({"a/" * 60 + "b.txt": b"", name: WHOLE, "c.txt": b"x"}, format=format)

    assert (name,) == check(content).files


def test_the_folders_of_a_ustar_name_are_read(check):
    name = "a" * 90 + "/" + "b" * 60 + ".safetensors"

    assert (name,) == check(tar_of({name: WHOLE}, format=tarfile.USTAR_FORMAT)).files


def test_a_size_in_a_pax_header_counts(check):
    field = b"%d size=%d\n" % (9 + len(str(len(WHOLE))), len(WHOLE))
    file = entry(b"0", WHOLE, size=0, name="a.safetensors")

    assert ("a.safetensors",) == check(entry(b"x", field) + file + bytes(1024)).files


def test_a_checksum_of_signed_bytes_counts(check, reason):
    content = bytearray(tar_of({"é.safetensors": WHOLE}, format=tarfile.USTAR_FORMAT))
    header = content[512:1024]
    signed = struct.unpack("512b", header)
    total = sum(signed) - sum(signed[148:156]) + 8 * 32
    content[512 + 148 : 512 + 156] = b"%06o\0 " % total
    assert 3 == check(content).tensors

    content[512 + 148 : 512 + 156] = b"%06o\0 " % (total + 1)
    assert "the file is damaged: the checksum of an entry is wrong" == reason(content)


def test_links_and_folders_of_a_tar_are_passed_over(check):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            link = tarfile.TarInfo("link.safetensors")
            link.type, link.linkname, link.size = kind, "/etc/passwd", 10**6
            archive.addfile(link)
        info = tarfile.TarInfo("a.safetensors")
        info.size = len(WHOLE)
        archive.addfile(info, io.BytesIO(WHOLE))

    assert ("a.safetensors",) == check(buffer.getvalue()).files


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_passes(check, method):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("settings.txt", "steps=1000")
        archive.writestr("lora.safetensors", WHOLE)
        archive.writestr("more/b.safetensors", WHOLE)
    found = check(buffer.getvalue())

    assert (("lora.safetensors", "more/b.safetensors"), 6) == (found.files, found.tensors)


def test_a_file_without_weights_is_refused(reason):
    none = "the file has no .safetensors file"

    assert none == reason(tar_of({"a.txt": b"x", "._lora.safetensors": b"\0\5\x16\7"}))
    assert none == reason(zip_of(Member("a.txt", b"x")))
    assert "the file is empty" == reason(b"")
    assert reason(b"<html>error</html>").startswith("the file is cut short, or not a safetensors file")


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_that_is_cut_anywhere_is_refused(reason, mode):
    content = tar_of(TRAINED, mode, format=tarfile.GNU_FORMAT)
    end = len(content) if mode == "w:gz" else len(content.rstrip(b"\0")) + 512

    for length in range(0, end, 7):
        assert reason(content[:length])


def test_a_tar_that_is_changed_is_refused(reason):
    content = tar_of(TRAINED, format=tarfile.USTAR_FORMAT)

    assert "the file is damaged: the checksum of an entry is wrong" == reason(b"0" + content[1:])
    assert "the file has bytes after its end" == reason(content + b"x")
    packed = gzip.compress(content)
    assert "the file is damaged: its data cannot be unpacked" == reason(packed[:-6] + b"xxxxxx")
    assert "the file has bytes after its data" == reason(packed + b"x")


def entry(kind, data=b"", size=None, name="x"):
    """A header of a tar with its data."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(data) if size is None else size
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (entry(b"L", size=2**33), "has a header that is too long"),
        (entry(b"x", size=10**6), "has a header that is too long"),
        (entry(b"0", size=2**80), "is cut short"),
        (entry(b"x", b"99 path=x\n"), "is damaged: a header is not whole"),
        (entry(b"x", b"0 path=x\n"), "is damaged: a header is not whole"),
        (entry(b"x", b"-1 path=x\n"), "is damaged: a header is not whole"),
        (entry(b"x", b"9 size=x\n"), "is damaged: an entry has no size"),
        (entry(b"x", b"10 size=-5\n"), "is damaged: a header is not whole"),
        (entry(b"x", b"11 size=-5\n"), "is damaged: an entry has no size"),
        (entry(b"0") * 10_001, "has more than 10,000 entries"),
    ],
)
def test_a_hostile_header_of_a_tar_is_refused(reason, content, expected):
    assert f"the file {expected}" == reason(content)


def test_a_bomb_of_zeros_is_stopped(reason, monkeypatch):
    header = entry(b"L", size=2**33)
    bomb = gzip.compress(header + bytes(2**27), 9)
    plain = gzip.compress(entry(b"0", size=2**27) + bytes(2**27 + 1024), 9)
    monkeypatch.setattr(rules, "MOST_UNPACKED", 2**26)
    tracemalloc.start()
    try:
        assert "the file has a header that is too long" == reason(bomb)
        assert "the file unpacks to more than 0 GiB" == reason(plain)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert 8 * 2**20 > peak


def test_a_zip_that_is_damaged_is_refused(reason):
    lora = Member("lora.safetensors", WHOLE)

    assert "lora.safetensors is damaged: its checksum is wrong" == reason(zip_of(replace(lora, crc=1)))
    assert "lora.safetensors is encrypted, or compressed in another way than Deflate" == reason(
        zip_of(replace(lora, flags=1))
    )
    assert "a.txt is damaged: its checksum is wrong" == reason(zip_of(Member("a.txt", b"x", crc=1), lora))
    assert "the file unpacks to more than 8 GiB" == reason(
        zip_of(*(replace(lora, name=str(number), unpacked=2**31 + 1) for number in range(4)))
    )


def tensor(**fields):
    return safetensors({"a": {"dtype": "F16", "shape": [7, 2], "data_offsets": [0, 28]} | fields})


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\1", "is too short for a safetensors file"),
        (WHOLE[:-1], "has 27 bytes of data, but its header describes 28"),
        (WHOLE + b"\0", "has 29 bytes of data, but its header describes 28"),
        (WHOLE[:100], "is cut short, or not a safetensors file: its header is longer than it"),
        (b"\xff" * 100, "is cut short, or not a safetensors file: its header is longer than it"),
        (struct.pack("<Q", 10_000_001) + bytes(10_000_001), "has a header of more than 10,000,000 bytes"),
        (struct.pack("<Q", 2) + b"[]", "has a header that is not a JSON object"),
        (struct.pack("<Q", 3) + b" {}", "has a header that is not a JSON object"),
        (struct.pack("<Q", 2) + b"{\xff", "has a header that is not a JSON object"),
        (struct.pack("<Q", 0), "has a header that is not a JSON object"),
        (struct.pack("<Q", 200_005) + b'{"a":' + b"[" * 200_000, "has a header that is not a JSON object"),
        (struct.pack("<Q", 5005) + b'{"a":' + b"9" * 4999 + b"}", "has a header that is not a JSON object"),
        (struct.pack("<Q", 9) + b'{"a":NaN}', "has a header that is not a JSON object"),
        (struct.pack("<Q", 15) + b'{"a":{},"a":{}}', "has a header that is not a JSON object"),
        (struct.pack("<Q", 2) + b"{}", "has no tensors"),
        (safetensors({}, b"", __metadata__={"a": "b"}), "has no tensors"),
        (safetensors(__metadata__={"a": 1}), "has metadata that are not texts"),
        (safetensors(__metadata__=[]), "has metadata that are not texts"),
        (safetensors({"a": []}), "has a tensor without type, shape or place: 'a'"),
        (safetensors({"a": {}}), "has a tensor without type, shape or place: 'a'"),
        (tensor(data_offsets=[0]), "has a tensor without type, shape or place: 'a'"),
        (tensor(data_offsets="ab"), "has a tensor without type, shape or place: 'a'"),
        (tensor(more=1), "has a tensor of an unknown type or shape: 'a'"),
        (tensor(dtype="F17"), "has a tensor of an unknown type or shape: 'a'"),
        (tensor(shape=[-7, -2]), "has a tensor of an unknown type or shape: 'a'"),
        (tensor(shape=[7.0, 2]), "has a tensor of an unknown type or shape: 'a'"),
        (tensor(shape=[True, 14]), "has a tensor of an unknown type or shape: 'a'"),
        (tensor(shape=[7, 2] + [1] * 15), "has a tensor of an unknown type or shape: 'a'"),
        (tensor(data_offsets=[-28, 0]), "has a tensor of an unknown type or shape: 'a'"),
        (tensor(shape=[7, 3]), "has a tensor whose data has another size than its shape: 'a'"),
        (tensor(shape=[2**62, 2**62]), "has a tensor whose data has another size than its shape: 'a'"),
        (tensor(dtype="F4", shape=[3]), "has a tensor whose data has another size than its shape: 'a'"),
        (tensor(data_offsets=[28, 0]), "has a tensor whose data has another size than its shape: 'a'"),
        (tensor(data_offsets=[4, 32]), "has a gap or an overlap before the tensor 'a'"),
        (
            safetensors(TENSORS | {"c": TENSORS["a"]}),
            "has a gap or an overlap before the tensor 'c'",
        ),
        (
            safetensors({"a": TENSORS["a"], "b": TENSORS["b"] | {"data_offsets": [25, 29]}}, bytes(29)),
            "has a gap or an overlap before the tensor 'b'",
        ),
    ],
)
def test_a_safetensors_file_that_is_not_whole_is_refused_everywhere(reason, content, expected):
    assert f"the file {expected}" == reason(content)
    assert f"{LORA} {expected}" == reason(tar_of({LORA: content}))
    assert f"{LORA} {expected}" == reason(zip_of(Member(LORA, content)))


def test_all_types_of_the_library_pass(check):
    for dtype, size in (("F4", 2), ("F8_E4M3", 4), ("BF16", 8), ("C64", 32), ("BOOL", 4)):
        tensors = {"a": {"dtype": dtype, "shape": [2, 2], "data_offsets": [0, size]}}
        assert 1 == check(safetensors(tensors, bytes(size))).tensors
