"""Zips made by hand, so that any field can be wrong."""

import struct
import zlib
from dataclasses import dataclass, replace
from functools import cache
from io import BytesIO
from typing import Any

from PIL import Image


@cache
def image(format: str = "JPEG", size: tuple[int, int] = (640, 512)) -> bytes:  # noqa: A002 - Pillow's name for it
    """A picture with one color."""
    file = BytesIO()
    Image.new("RGB", size, "teal").save(file, format)
    return file.getvalue()


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


@dataclass(frozen=True)
class Member:
    """A file in a zip. A field that is None follows from the others; `local_...` differs from the directory."""

    name: str | bytes
    data: bytes = b""
    method: int = 0
    packed: bytes | None = None
    flags: int = 0
    version: int = 20
    mode: int = 0o100644
    crc: int | None = None
    unpacked: int | None = None
    packed_size: int | None = None
    offset: int | None = None
    disk: int = 0
    extra: bytes = b""
    local_name: bytes | None = None
    local_method: int | None = None
    local_sizes: tuple[int, int, int] | None = None
    local_extra: bytes = b""
    descriptor: bytes = b""

    @property
    def raw_name(self) -> bytes:
        return self.name.encode() if isinstance(self.name, str) else self.name

    @property
    def content(self) -> bytes:
        if self.packed is not None:
            return self.packed
        return deflated(self.data) if self.method == 8 else self.data

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Checksum, packed and unpacked size."""
        crc = zlib.crc32(self.data) if self.crc is None else self.crc
        packed = len(self.content) if self.packed_size is None else self.packed_size
        return crc, packed, len(self.data) if self.unpacked is None else self.unpacked

    @property
    def local(self) -> bytes:
        name = self.raw_name if self.local_name is None else self.local_name
        method = self.method if self.local_method is None else self.local_method
        sizes = self.local_sizes or self.sizes
        header = struct.pack("<4s5H", b"PK\3\4", 20, self.flags, method, 0, 33)
        lengths = struct.pack("<3L2H", *sizes, len(name), len(self.local_extra))
        return header + lengths + name + self.local_extra + self.content + self.descriptor

    def central(self, offset: int) -> bytes:
        header = struct.pack("<4s6H", b"PK\1\2", 0x0314, self.version, self.flags, self.method, 0, 33)
        rest = (len(self.raw_name), len(self.extra), 0, self.disk, 0, self.mode << 16)
        at = offset if self.offset is None else self.offset
        return header + struct.pack("<3L5HLL", *self.sizes, *rest, at) + self.raw_name + self.extra


def described(member: Member, sizes: tuple[int, int, int] | None = None, form: str = "<4sL2L") -> Member:
    """With sizes behind its data instead of in its own header, as a program writes that cannot seek."""
    values = member.sizes if sizes is None else sizes
    descriptor = struct.pack(form, *([b"PK\7\x08"] if "s" in form else []), *values)
    return replace(member, flags=member.flags | 8, local_sizes=(0, 0, 0), descriptor=descriptor)


def end_record(count: int, length: int, offset: int, comment: bytes = b"", disk: int = 0) -> bytes:
    return struct.pack("<4s4H2LH", b"PK\5\6", disk, 0, count, count, length, offset, len(comment)) + comment


def end_record64(count: int, length: int, offset: int) -> bytes:
    """The end record of Zip64 and its locator."""
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, length, offset)
    return record + struct.pack("<4sLQL", b"PK\6\7", 0, offset + length, 1)


def zip_of(*members: Member, end: bytes | None = None, between: bytes = b"") -> bytes:
    """A zip of these files, with another end record and with bytes before the directory if there are."""
    body, directory = b"", b""
    for member in members:
        directory += member.central(len(body))
        body += member.local
    body += between
    return body + directory + (end_record(len(members), len(directory), len(body)) if end is None else end)


def zip64_of(*members: Member) -> bytes:
    """A zip with a usual end record that refers to that of Zip64."""
    plain = zip_of(*members, end=b"")
    length = sum(len(member.central(0)) for member in members)
    record = end_record64(len(members), length, len(plain) - length)
    return plain + record + end_record(0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)


def images(count: int = 5, **fields: Any) -> list[Member]:
    """Files with a picture each."""
    return [Member(f"{number}.jpg", image(), **fields) for number in range(count)]
