"""Reads zips strictly: one that two programs could unpack differently is broken, and so is one with hidden bytes.

`zipfile` is made to open as much as possible. It skips bytes before the first file, believes the directory where a
file's own header differs, and before Python 3.11.8 unpacks files that share their bytes (gh-109858). Here,
files, directory and end record follow each other without a gap. Section numbers: PKWARE's APPNOTE 6.3.10.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from datasets.contents import DEFLATED, STORED, Broken

_END: Final = struct.Struct("<4s4H2IH")  # 4.3.16
_END64: Final = struct.Struct("<4sQ2H2I4Q")  # 4.3.14
_LOCATOR: Final = struct.Struct("<4sIQI")  # 4.3.15
_CENTRAL: Final = struct.Struct("<4s4B4HL2L5H2L")  # 4.3.12
_LOCAL: Final = struct.Struct("<4s2B4HL2L2H")  # 4.3.7

_ENCRYPTED: Final = 0x1 | 0x40 | 0x2000
_DESCRIBED: Final = 0x8
_PATCHED: Final = 0x20
_UTF_8: Final = 0x800

_SIZES64, _UNICODE_NAME = 0x0001, 0x7075
_MAX16, _MAX32 = 0xFFFF, 0xFFFFFFFF

_NEWEST: Final = 63
"""The version 6.3 of the format, the newest that programs know. `zipfile` refuses a zip with a newer file."""

_LONGEST_DIRECTORY: Final = 8 * 2**20
"""Bytes. A directory of 10,000 files has about 1 MB."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file in the zip's directory. `packed` and `unpacked` are sizes in bytes, `offset` is where its own header
    begins, and `mode` its mode bits on Unix, or 0. `version` is the one of the format that it needs, times ten."""

    name: str
    raw_name: bytes
    version: int
    flags: int
    method: int
    crc: int
    packed: int
    unpacked: int
    offset: int
    mode: int

    @property
    def is_directory(self) -> bool:
        return self.name.endswith("/")

    @property
    def literal_name(self) -> str:
        """The name by the letter of the format, as `zipfile` reads it: without the flag, UTF-8 becomes longer."""
        return self.raw_name.decode("utf-8" if self.flags & _UTF_8 else "cp437")

    @property
    def is_encrypted(self) -> bool:
        return bool(self.flags & _ENCRYPTED)

    @property
    def is_readable(self) -> bool:
        is_known = self.method in (STORED, DEFLATED) and self.version <= _NEWEST
        return is_known and not self.flags & _PATCHED


@dataclass(frozen=True, slots=True)
class Directory:
    """The files of a zip in its own order, and where its directory begins."""

    entries: tuple[Entry, ...]
    offset: int


def read_directory(file: BinaryIO, most: int) -> Directory:
    """The directory of a zip of at most `most` files. Raises Broken if it is not whole."""
    size = file.seek(0, 2)
    count, length, offset = _end(file, size)
    if count > most:
        raise Broken(f"has more than {most:,} files")
    if length > _LONGEST_DIRECTORY:
        raise Broken("has a directory that is too long")
    file.seek(offset)
    data = file.read(length)
    entries: list[Entry] = []
    at = 0
    while at < length and len(entries) < count:
        entry, at = _entry(data, at)
        if max(entry.offset, entry.packed) > offset:
            raise Broken("is longer than the zip", entry.name)
        entries.append(entry)
    if (len(entries), at) != (count, length):
        raise Broken("has a directory that is damaged")
    return Directory(tuple(entries), offset)


def data_offsets(file: BinaryIO, directory: Directory) -> Iterator[tuple[Entry, int]]:
    """Each file with the offset of its data, in the order of offsets. Raises Broken unless each file's own header
    agrees with the directory, and the files follow each other up to the directory."""
    entries = sorted(directory.entries, key=lambda entry: entry.offset)
    begin, *ends = [*(entry.offset for entry in entries), directory.offset]
    if begin != 0:
        raise Broken("has bytes before its first file")
    for entry, end in zip(entries, ends, strict=True):
        yield entry, _data_offset(file, entry, end)


def _end(file: BinaryIO, size: int) -> tuple[int, int, int]:
    """The number of files, and the length and offset of the directory."""
    begin = max(0, size - _END.size - _MAX16)
    file.seek(begin)
    tail = file.read(size - begin)
    at = tail.rfind(b"PK\5\6")
    if at < 0 or at + _END.size > len(tail):
        raise Broken("is not a zip, or is cut short: its end record is missing")
    _, disk, first_disk, here, count, length, offset, comment = _END.unpack_from(tail, at)
    if at + _END.size + comment != len(tail):
        raise Broken("has bytes after its end, or is cut short")
    found, end = (here, count, length, offset), begin + at
    if end >= _LOCATOR.size:
        file.seek(end - _LOCATOR.size)
        locator = file.read(_LOCATOR.size)
        if locator.startswith(b"PK\6\7"):
            found, end = _end64(file, locator, end, found)
    here, count, length, offset = found
    if disk or first_disk or here != count:
        raise Broken("is one part of several")
    if offset + length != end:
        raise Broken("has bytes that belong to none of its files, or its directory is cut short")
    return count, length, offset


def _end64(
    file: BinaryIO, locator: bytes, end: int, short: tuple[int, ...]
) -> tuple[tuple[int, int, int, int], int]:
    """The values of the end record of Zip64, and where it begins. The usual one has the same, or all bits set."""
    _, disk, offset, disks = _LOCATOR.unpack(locator)
    if disk or disks > 1 or offset != end - _LOCATOR.size - _END64.size:
        raise Broken("has a Zip64 end record in another place than it says")
    file.seek(offset)
    signature, length, _, _, disk, first_disk, *found = _END64.unpack(file.read(_END64.size))
    if signature != b"PK\6\6" or length != _END64.size - 12 or disk or first_disk:
        raise Broken("has a Zip64 end record that is damaged")
    unset = (_MAX16, _MAX16, _MAX32, _MAX32)
    if any(value not in (none, real) for value, none, real in zip(short, unset, found, strict=True)):
        raise Broken("has two end records that disagree")
    here, count, size, start = found
    return (here, count, size, start), offset


def _entry(data: bytes, at: int) -> tuple[Entry, int]:
    """The entry at an offset of the directory, and the offset of the next one."""
    if len(data) - at < _CENTRAL.size:
        raise Broken("has a directory that is cut short")
    (
        signature, _, _, version, _, flags, method, _, _, crc, packed, unpacked,
        name_length, extra_length, comment_length, disk, _, attributes, offset,
    ) = _CENTRAL.unpack_from(data, at)  # fmt: skip
    at += _CENTRAL.size
    extra_at = at + name_length
    end = extra_at + extra_length + comment_length
    if signature != b"PK\1\2" or end > len(data):
        raise Broken("has a directory that is damaged")
    raw_name = data[at:extra_at]
    name = _decoded(raw_name, flags)
    extra = _extra(data[extra_at : extra_at + extra_length], name)
    _check_unicode_name(extra, name)
    unpacked, packed, offset = _sizes64(extra, (unpacked, packed, offset), name)
    if disk:
        raise Broken("is in another part of the zip", name)
    return Entry(name, raw_name, version, flags, method, crc, packed, unpacked, offset, attributes >> 16), end


def _decoded(raw_name: bytes, flags: int) -> str:
    """The text of a name. Many programs write UTF-8 without its flag (4.4.4). Other bytes are code page 437."""
    try:
        return raw_name.decode()
    except UnicodeDecodeError:
        if flags & _UTF_8:
            raise Broken("has a name that is not UTF-8", repr(raw_name)[2:-1]) from None
        return raw_name.decode("cp437")


def _extra(data: bytes, name: str) -> dict[int, bytes]:
    """The extra fields by their numbers (4.5). Up to three zero bytes may pad them."""
    found, at = {}, 0
    while len(data) - at >= 4:
        number, length = struct.unpack_from("<2H", data, at)
        at += 4 + length
        if at > len(data) or (number in found and number in (_SIZES64, _UNICODE_NAME)):
            raise Broken("has a header that is damaged", name)
        found[number] = data[at - length : at]
    return found


def _check_unicode_name(extra: dict[int, bytes], name: str) -> None:
    """Raise Broken if the field for a name in Unicode has another one (4.6.9): programs differ in which they use."""
    if (field := extra.get(_UNICODE_NAME)) is not None and field[5:] != name.encode():
        raise Broken("has two different names", name)


def _sizes64(extra: dict[int, bytes], values: tuple[int, ...], name: str) -> tuple[int, ...]:
    """The values, with those of the Zip64 field in place of those that have all bits set (4.5.3)."""
    unset = [value == _MAX32 for value in values]
    if not any(unset):
        return values
    field = extra.get(_SIZES64, b"")
    if len(field) < 8 * sum(unset):
        raise Broken("has no sizes, or is larger than 4 GiB", name)
    real = iter(struct.unpack_from(f"<{sum(unset)}Q", field))
    return tuple(next(real) if missing else value for value, missing in zip(values, unset, strict=True))


def _data_offset(file: BinaryIO, entry: Entry, end: int) -> int:
    """Where the data of a file begins. The file ends at `end`, with its data descriptor."""
    file.seek(entry.offset)
    header = file.read(_LOCAL.size)
    if len(header) < _LOCAL.size or not header.startswith(b"PK\3\4"):
        raise Broken("is not where the directory says", entry.name)
    _, _, _, flags, method, _, _, crc, packed, unpacked, name_length, extra_length = _LOCAL.unpack(header)
    raw_name = file.read(name_length)
    extra = _extra(file.read(extra_length), entry.name)
    if (raw_name, method, flags & _ENCRYPTED) != (entry.raw_name, entry.method, entry.flags & _ENCRYPTED):
        raise Broken("has another name or format in its own header", entry.name)
    _check_unicode_name(extra, entry.name)
    begin: int = entry.offset + _LOCAL.size + name_length + extra_length
    gap = end - begin - entry.packed
    if gap < 0:
        raise Broken("overlaps another file, or is cut short", entry.name)
    expected = (entry.crc, entry.packed, entry.unpacked)
    unpacked, packed = _sizes64(extra, (unpacked, packed), entry.name)
    is_described = bool(flags & _DESCRIBED)
    own = (crc, packed, unpacked)
    if any(value != real and (value or not is_described) for value, real in zip(own, expected, strict=True)):
        raise Broken("has another size or checksum in its own header", entry.name)
    if gap or is_described:
        file.seek(end - gap)
        if not is_described or gap not in _DESCRIPTORS or _descriptor(file.read(gap)) != expected:
            raise Broken("is followed by bytes that belong to no file", entry.name)
    return begin


_DESCRIPTORS: Final = {12: "<L2L", 16: "<4xL2L", 20: "<L2Q", 24: "<4xL2Q"}
"""The data descriptors that may follow the data, by their length: checksum and sizes, in 4 or 8 bytes, often after a
signature (4.3.9)."""


def _descriptor(data: bytes) -> tuple[int, ...] | None:
    signature = b"PK\7\x08"
    if len(data) in (16, 24) and not data.startswith(signature):
        return None
    return struct.unpack(_DESCRIPTORS[len(data)], data)
