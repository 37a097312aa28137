"""Checks the file of weights that a training made, before the training counts as succeeded: Replicate has reported
success for files that could not be loaded (github.com/replicate/cog-comfyui, issue 329).

A training gives a tar, such as `output/flux_train_replicate/lora.safetensors` with captions, or a zip; some give a
safetensors file alone.
"""

import io
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from datasets.contents import BLOCK, Broken, Content, Effort, Inflater
from datasets.names import shown
from datasets.refusals import WeightsBroken
from datasets.safetensors import check_tensors
from datasets.tars import TarFile, tar_files
from datasets.zips import Entry, data_offsets, read_directory

MOST_FILES: Final = 10_000
MOST_UNPACKED: Final = 8 * 2**30
"""Bytes. A LoRA of the highest rank has 1.4 GB, and a whole model of images up to some 7 GB in 16 bits."""

_SUFFIX: Final = ".safetensors"
_GZIP: Final = 16 + zlib.MAX_WBITS


@dataclass(frozen=True, slots=True)
class Weights:
    """`size` of the file in bytes, the names of the safetensors `files` in it, and the number of their `tensors`."""

    size: int
    files: tuple[str, ...]
    tensors: int


def check_weights(path: Path) -> Weights:
    """Read a .tar, .tar.gz, .zip or .safetensors file to its end. Its content shows which of them it is. Raises
    WeightsBroken, and OSError if the file cannot be read."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            found = _found(file, path.name, size)
    except Broken as broken:
        name = "the file" if broken.name is None else shown(broken.name)
        raise WeightsBroken(f"{name} {broken.reason}") from None
    if not found:
        raise WeightsBroken(f"the file has no {_SUFFIX} file")
    return Weights(size, tuple(shown(name) for name, _ in found), sum(tensors for _, tensors in found))


def _found(file: BinaryIO, name: str, size: int) -> list[tuple[str, int]]:
    """The safetensors files by name, with their numbers of tensors."""
    head = file.read(512)
    file.seek(0)
    if head.startswith(b"PK"):
        return list(_in_zip(file))
    if head.startswith(b"\x1f\x8b"):
        return list(_in_tar(io.BufferedReader(_Gunzipped(file), BLOCK).read))
    if head[257:262] == b"ustar":
        return list(_in_tar(file.read))
    if not size:
        raise Broken("is empty")
    return [(name, check_tensors(file.read, size))]


def _in_tar(read: Callable[[int], bytes]) -> Iterator[tuple[str, int]]:
    for entry in tar_files(read, MOST_FILES):
        if _is_weights(entry.name):
            yield entry.name, _checked(entry.name, entry)


def _in_zip(file: BinaryIO) -> Iterator[tuple[str, int]]:
    directory = read_directory(file, MOST_FILES)
    if sum(entry.unpacked for entry in directory.entries) > MOST_UNPACKED:
        raise Broken(f"unpacks to more than {MOST_UNPACKED // 2**30} GiB")
    effort = Effort(3 * MOST_FILES)
    for entry, offset in data_offsets(file, directory):
        if entry.is_encrypted or not entry.is_readable:
            raise Broken("is encrypted, or compressed in another way than Deflate", entry.name)
        content = Content(file, offset, entry.method, (entry.packed, entry.unpacked), effort)
        if _is_weights(entry.name):
            yield entry.name, _checked(entry.name, content)
        _finish(content, entry)


def _finish(content: Content, entry: Entry) -> None:
    try:
        content.finish(entry.crc)
    except Broken as broken:
        raise Broken(broken.reason, entry.name) from None


def _checked(name: str, file: TarFile | Content) -> int:
    try:
        return check_tensors(file.read, file.size)
    except Broken as broken:
        raise Broken(broken.reason, name) from None


def _is_weights(name: str) -> bool:
    own = name.rpartition("/")[2]
    return own.endswith(_SUFFIX) and not own.startswith("._")


class _Gunzipped(io.RawIOBase):
    """The unpacked bytes of a gzip file. Raises Broken if it is not whole, or unpacks to too much."""

    def __init__(self, file: BinaryIO) -> None:
        self._inflater = Inflater(lambda: file.read(BLOCK), _GZIP)
        self._left = MOST_UNPACKED

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block = self._inflater.block(len(buffer))
        self._left -= len(block)
        if self._left < 0:
            raise Broken(f"unpacks to more than {MOST_UNPACKED // 2**30} GiB")
        buffer[: len(block)] = block
        return len(block)
