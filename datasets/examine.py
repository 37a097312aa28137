"""Examines a zip of images before a training is paid: a trainer that cannot read it fails late, or silently ignores
files.

A trainer unpacks the zip and takes the files whose names end in .jpg, .jpeg, .png or .webp, with captions in .txt files
beside them.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from datasets.contents import Broken, Content, Effort
from datasets.names import extension_of, folder_of, is_leftover, shown, stem_of, unsafe, wrong_mode
from datasets.refusals import LARGEST, DatasetRefused, DatasetTooLarge, Problem
from datasets.zips import Entry, data_offsets, read_directory
from media.files import AVIF, BMP, HEIC, JXL, TIFF, file_type
from media.formats import GIF, HEAD, JPEG, PNG, WEBP, MediaType
from media.pictures import size_of

MOST_FILES: Final = 10_000
MOST_UNPACKED: Final = 512 * 2**20
"""Bytes of all files together. Images hardly shrink in a zip, so a real one never comes near."""

MOST_RATIO: Final = 100
_FREE_OF_RATIO: Final = 2**20
"""Bytes. A smaller file may shrink to any size."""

MOST_READS: Final = 1_000_000
"""Reads of contents. A JPEG takes 20 to 100, and a PNG one for each of its chunks of some 8 kB."""

LONGEST_CAPTION: Final = 8192
"""Bytes in UTF-8. Text encoders of image models read at most 512 tokens."""

MOST_CAPTIONS: Final = 4_000_000
"""Bytes of all captions together, which may be compared with rules. It is as much as an input may have."""

MOST_PIXELS: Final = 178_956_970
"""Pillow, with which trainers read images, refuses larger ones as decompression bombs (`Image.MAX_IMAGE_PIXELS`)."""

FEWEST_IMAGES: Final = 5
SHORT_SIDE: Final = 512
"""Pixels. The least resolution at which trainers put images into buckets by default."""

EXTENSIONS: Final = (".jpg", ".jpeg", ".png", ".webp")
CAPTION: Final = ".txt"
_READABLE: Final = {JPEG: "JPEG", PNG: "PNG", WEBP: "WebP"}
_UNREADABLE: Final = {HEIC: "HEIC", AVIF: "AVIF", GIF: "GIF", TIFF: "TIFF", BMP: "BMP", JXL: "JPEG XL"}


@dataclass(frozen=True, slots=True)
class Dataset:
    """The content of a zip for a training: `images`, and `captions` that belong to one. `size` and `unpacked` are in
    bytes. `folder` is the one that all images are in, or None if they are at the top. `smallest` is the width and
    height in pixels of the image with the shortest side."""

    images: int
    captions: int
    size: int
    unpacked: int
    folder: str | None
    smallest: tuple[int, int] | None
    warnings: tuple[str, ...]


@dataclass(slots=True)
class _Findings:
    """The findings so far: sizes of images in pixels, and names of captions with their size together in bytes."""

    images: dict[str, tuple[int, int]] = field(default_factory=dict)
    captions: set[str] = field(default_factory=set)
    captions_size: int = 0
    problems: list[Problem] = field(default_factory=list)

    def refuse(self, name: str | None, message: str) -> None:
        self.problems.append(Problem(None if name is None else shown(name), message))


def examine(path: Path) -> Dataset:
    """Read a zip to its end, and describe its content. Raises DatasetTooLarge, and DatasetRefused with all
    problems, except that a zip which is not whole may hide others. Raises OSError if the file cannot be read."""
    size = path.stat().st_size
    if size > LARGEST:
        raise DatasetTooLarge
    with path.open("rb") as file:
        findings = _Findings()
        entries: tuple[Entry, ...] = ()
        try:
            directory = read_directory(file, MOST_FILES)
            entries = directory.entries
            _check_entries(entries, findings)
            refused = {problem.name for problem in findings.problems}
            offsets = list(data_offsets(file, directory))
            if sum(entry.unpacked for entry in entries) <= MOST_UNPACKED:
                _read_all(file, [each for each in offsets if shown(each[0].name) not in refused], findings)
        except Broken as broken:
            findings.refuse(broken.name, broken.reason)
    files = [entry.name for entry in entries if not entry.is_directory]
    names = [name for name in files if not is_leftover(name) and not unsafe(name)]
    folder = _folder(names, findings)
    if findings.captions_size > MOST_CAPTIONS:
        findings.refuse(None, f"has captions of more than {MOST_CAPTIONS:,} bytes together")
    if not findings.problems and not findings.images:
        findings.refuse(None, "has no image: it needs JPEG, PNG or WebP files")
    if findings.problems:
        raise DatasetRefused(findings.problems)
    return Dataset(
        images=len(findings.images),
        captions=len(_captioned(findings)),
        size=size,
        unpacked=sum(entry.unpacked for entry in entries),
        folder=folder.removesuffix("/") or None,
        smallest=min(findings.images.values(), key=min),
        warnings=tuple(_warnings(findings)),
    )


def _check_entries(entries: Iterable[Entry], findings: _Findings) -> None:
    """Find the problems that the directory alone shows."""
    seen: Counter[str] = Counter()
    for entry in entries:
        name = entry.name
        seen[name.removesuffix("/")] += 1
        message = unsafe(name) or unsafe(entry.literal_name) or wrong_mode(name, entry.mode)
        if not message and seen[name.removesuffix("/")] == 2:
            message = "is in it twice"
        if not message and entry.is_encrypted:
            message = "is encrypted"
        if not message and not entry.is_readable:
            message = "is compressed in a way that trainers may not read; use Deflate, or none"
        if not message and entry.unpacked > max(MOST_RATIO * entry.packed, _FREE_OF_RATIO):
            message = f"expands to more than {MOST_RATIO} times its size"
        if not message and entry.is_directory and entry.unpacked:
            message = "is a folder with content of its own"
        if message:
            findings.refuse(name, message)
    if sum(entry.unpacked for entry in entries) > MOST_UNPACKED:
        findings.refuse(None, f"unpacks to more than {MOST_UNPACKED // 2**20} MiB")


def _read_all(file: BinaryIO, offsets: Iterable[tuple[Entry, int]], findings: _Findings) -> None:
    """Read each file, and check its content and checksum."""
    effort = Effort(MOST_READS)
    for entry, offset in offsets:
        content = Content(file, offset, entry.method, (entry.packed, entry.unpacked), effort)
        try:
            if not entry.is_directory and not is_leftover(entry.name):
                _check_content(content, entry.name, findings)
            content.finish(entry.crc)
        except Broken as broken:
            findings.refuse(entry.name, broken.reason)


def _check_content(content: Content, name: str, findings: _Findings) -> None:
    extension = extension_of(name)
    head = content.read(HEAD)
    content.seek(0)
    media = file_type(head)
    if not head:
        findings.refuse(name, "is empty")
    elif media in _READABLE:
        _check_image(content, name, media, findings)
    elif name.rpartition("/")[2].startswith("._"):
        findings.refuse(name, "is not an image but a leftover of macOS; leave it out")
    elif extension == CAPTION:
        _check_caption(content, name, findings)
    elif media in _UNREADABLE:
        format_name = _UNREADABLE[media]
        findings.refuse(name, f"is an image in {format_name}, which trainers do not read; convert it to JPEG")
    elif extension.lower() in EXTENSIONS:
        findings.refuse(name, "is not a JPEG, PNG or WebP image, in spite of its name")
    else:
        findings.refuse(name, "is neither an image (.jpg, .png, .webp) nor a caption (.txt)")


def _check_image(content: Content, name: str, media: MediaType, findings: _Findings) -> None:
    """An image may have the extension of another format, since trainers look at the content."""
    if extension_of(name).lower() not in EXTENSIONS:
        findings.refuse(name, f"is a {_READABLE[media]} image, so its name must end in {media.extension}")
        return
    try:
        width, height = size_of(content, media)
    except ValueError as error:
        findings.refuse(name, str(error))
        return
    if width * height > MOST_PIXELS:
        findings.refuse(name, f"must have at most {MOST_PIXELS} pixels, not {width}x{height}")
    else:
        findings.images[name] = width, height


def _check_caption(content: Content, name: str, findings: _Findings) -> None:
    data = content.read(LONGEST_CAPTION + 1)
    if message := _caption_fault(data):
        findings.refuse(name, message)
    else:
        findings.captions.add(name)
        findings.captions_size += len(data)


def _caption_fault(data: bytes) -> str | None:
    if len(data) > LONGEST_CAPTION:
        return f"is longer than {LONGEST_CAPTION} bytes"
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return "is not text in UTF-8"
    if "\0" in text:
        return "is not text in UTF-8"
    return None if text.strip() else "is an empty caption"


def _folder(names: list[str], findings: _Findings) -> str:
    """The one folder of all files. Others are refused."""
    folders = Counter(folder_of(name) for name in names)
    for deep in [each for each in folders if each.count("/") > 1]:
        findings.refuse(deep, "is a folder in a folder: images must be at the top, or all in one folder")
        del folders[deep]
    if not folders:
        return ""
    main = max(folders, key=lambda each: (folders[each], each == ""))
    others = f"the others are in {shown(main)}" if main else "the others are at the top"
    for folder in folders:
        if folder != main:
            name = folder or next(each for each in names if "/" not in each)
            findings.refuse(name, f"must be where the other files are: {others}")
    return main


def _captioned(findings: _Findings) -> set[str]:
    """The captions that belong to an image."""
    stems = {stem_of(name) for name in findings.images}
    return {name for name in findings.captions if stem_of(name) in stems}


def _warnings(findings: _Findings) -> Iterator[str]:
    images, used = findings.images, _captioned(findings)
    if len(images) < FEWEST_IMAGES:
        yield f"Trainers recommend ten to twenty images; this has {len(images)}."
    stems = {stem_of(name) for name in used}
    bare = [name for name in images if stem_of(name) not in stems]
    if used and bare:
        yield f"Images without a caption: {len(bare)} of {len(images)}, such as {bare[0]}."
    if unused := sorted(findings.captions - used):
        yield f"Captions without an image, which are ignored: {len(unused)}, such as {unused[0]}."
    if small := [size for size in images.values() if min(size) < SHORT_SIDE]:
        width, height = min(small, key=min)
        count = f"{len(small)} of {len(images)}"
        yield f"Images with a side below {SHORT_SIDE} pixels: {count}; the smallest has {width}x{height}."
