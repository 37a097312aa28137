"""Checks that a picture is whole: real files, files cut at every length, and each kind of damage."""

import struct
import zlib
from io import BytesIO
from tempfile import SpooledTemporaryFile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from media.formats import GIF, black_png, media_type
from media.pictures import MAX_PIXELS, check_whole


def drawn(format: str, size=(23, 17), mode="RGB", frames: int = 1, **options) -> bytes:  # noqa: A002 - Pillow's name for it
    """Draw a picture with some detail and encode it with Pillow."""
    file = BytesIO()
    images = [Image.effect_noise(size, 80 + number).convert(mode) for number in range(frames)]
    more = {"save_all": True, "append_images": images[1:]} if frames > 1 else {}
    images[0].save(file, format, **more, **options)
    return file.getvalue()


def exif_with_thumbnail() -> bytes:
    """A JPEG whose EXIF block contains a second, whole JPEG."""
    photo, thumbnail = drawn("JPEG"), drawn("JPEG", (8, 8))
    block = b"Exif\0\0" + thumbnail
    return photo[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + photo[2:]


def chunk(name: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks)


PIXELS, END = chunk(b"IDAT", zlib.compress(b"\0" * 4)), chunk(b"IEND")


def resized(content: bytes, at: int, layout: str, *sides: int) -> bytes:
    """Return the picture with another width and height in its header."""
    written = struct.pack(layout, *sides)
    return content[:at] + written + content[at + len(written) :]


def frame(content: bytes) -> int:
    """The offset of the height and width in a JPEG."""
    return content.index(b"\xff\xc0") + 5


WHOLE = {
    "png": drawn("PNG"),
    "png, grey": drawn("PNG", mode="L"),
    "png, palette": drawn("PNG", mode="P"),
    "png, animated": drawn("PNG", frames=3),
    "png, black": black_png(1, 1),
    "png, in many chunks": png(1, 1, *[chunk(b"IDAT")] * 50, PIXELS, chunk(b"tEXt", b"a\0b"), END),
    "jpeg": drawn("JPEG"),
    "jpeg, progressive": drawn("JPEG", progressive=True),
    "jpeg, with restarts": drawn("JPEG", (64, 64), restart_marker_blocks=1),
    "jpeg, grey": drawn("JPEG", mode="L"),
    "jpeg, noise": drawn("JPEG", (400, 300), quality=100),
    "jpeg, with a thumbnail": exif_with_thumbnail(),
    "jpeg, with filled markers": drawn("JPEG").replace(b"\xff\xdb", b"\xff\xff\xff\xdb", 1),
    "gif": drawn("GIF", mode="P"),
    "gif, animated": drawn("GIF", mode="P", frames=4),
    "gif, with a comment": drawn("GIF", mode="P", comment=b"x" * 700),
    "webp, lossy": drawn("WEBP"),
    "webp, lossless": drawn("WEBP", lossless=True),
    "webp, transparent": drawn("WEBP", mode="RGBA"),
    "webp, animated": drawn("WEBP", frames=3),
    "one pixel": drawn("WEBP", (1, 1)),
}

DAMAGED = {
    "png without pixels": (png(1, 1, END), "it has no pixels"),
    "png without a header": (b"\x89PNG\r\n\x1a\n" + PIXELS + END, "does not begin with its header"),
    "png of nothing but its signature": (b"\x89PNG\r\n\x1a\n", "its end is missing (IEND)"),
    "png with zeros for its end": (png(1, 1, PIXELS) + bytes(5000), "has no name"),
    "png 0 wide": (png(0, 1, PIXELS, END), "must be at least 1x1 pixels, not 0x1"),
    "png 0 high": (png(1, 0, PIXELS, END), "must be at least 1x1"),
    "png too large": (png(2**14, 2**14 + 1, PIXELS, END), "must have at most 268435456 pixels"),
    "jpeg without a scan": (b"\xff\xd8\xff\xe0\0\x04ab\xff\xd9", "it has no pixels"),
    "jpeg that begins twice": (b"\xff\xd8" + drawn("JPEG"), "another begins before its end"),
    "jpeg cut in its thumbnail's rest": (exif_with_thumbnail()[:-2], "its end is missing (EOI)"),
    "jpeg 0 wide": (resized(drawn("JPEG"), frame(drawn("JPEG")), ">HH", 17, 0), "must be at least 1x1"),
    "jpeg 0 high": (resized(drawn("JPEG"), frame(drawn("JPEG")), ">HH", 0, 23), "must be at least 1x1"),
    "jpeg too large": (
        resized(drawn("JPEG"), frame(drawn("JPEG")), ">HH", 65535, 65535),
        "must have at most 268435456 pixels, not 65535x65535",
    ),
    "jpeg with a segment of no length": (b"\xff\xd8\xff\xe0\0\0\xff\xd9", "has no length"),
    "gif without an image": (b"GIF89a\1\0\1\0\0\0\0;", "it has no image"),
    "gif 0 wide": (resized(drawn("GIF", mode="P"), 6, "<H", 0), "must be at least 1x1"),
    "gif too large": (resized(drawn("GIF", mode="P"), 6, "<HH", 65535, 65535), "must have at most"),
    "gif with a strange block": (b"GIF89a\1\0\1\0\0\0\0\x99;", "is of no known kind"),
    "webp without an image": (b"RIFF\x0c\0\0\0WEBPXMP \0\0\0\0", "it has no image"),
    "webp of nothing": (b"RIFF\x04\0\0\0WEBP", "it has no image"),
    "webp too large": (
        b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff" * 6 + b"VP8L\0\0\0\0",
        "must have at most",
    ),
    "webp whose chunk is longer than it": (
        b"RIFF\x0c\0\0\0WEBPVP8L\x05\0\0\0\x2f\0\0\0\0",
        "is longer than it",
    ),
}


def reason(content: bytes) -> str | None:
    """Why a picture is refused, or None if it is accepted."""
    try:
        check_whole(BytesIO(content), media_type(content))
    except ValueError as wrong:
        return str(wrong)
    return None


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_picture_is_accepted_even_with_bytes_after_its_end(name):
    content = WHOLE[name]

    assert [None] * 4 == [reason(content + rest) for rest in (b"", b"\0" * 99, b"\xff\xd8\xff", content)]


@pytest.mark.parametrize("name", WHOLE)
def test_a_picture_cut_at_any_length_is_refused_for_its_missing_end(name):
    content = WHOLE[name]
    cuts = {*range(16, min(len(content), 1500)), *range(max(len(content) - 300, 16), len(content))}

    reasons = {size: reason(content[:size]) for size in cuts}
    assert {} == {size: why for size, why in reasons.items() if why is None or "is missing" not in why}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_picture_is_refused_with_the_reason(name):
    content, expected = DAMAGED[name]
    assert expected in reason(content)


def test_a_picture_of_max_pixels_is_accepted():
    assert MAX_PIXELS == 2**28
    assert reason(png(2**14, 2**14, PIXELS, END)) is None


@given(st.sampled_from(sorted(WHOLE)), st.integers(0, 2000), st.binary(min_size=1, max_size=4))
def test_an_overwritten_picture_raises_nothing_but_valueerror(name, at, change):
    content = WHOLE[name]
    at = 16 + at % (len(content) - 16)
    reason(content[:at] + change + content[at + len(change) :])


class Counted(BytesIO):
    """A file that records the most bytes returned by one read."""

    most = 0

    def read(self, size=-1):
        found = super().read(size)
        self.most = max(self.most, len(found))
        return found


@pytest.mark.parametrize(
    "content",
    [
        png(1, 1, chunk(b"IDAT", bytes(8_000_000)), END),
        drawn("JPEG")[:-2] + b"ab\xff\0" * 2_000_000 + b"\xff\xd9",
        drawn("GIF", mode="P")[:-1] + (b"!\xfe" + b"\xff".ljust(256, b"x") * 30_000 + b"\0;"),
    ],
    ids=["png", "jpeg", "gif"],
)
def test_no_read_of_a_large_picture_exceeds_a_mebibyte(content):
    file = Counted(content)
    check_whole(file, media_type(content))

    assert 1024 * 1024 >= file.most


def test_a_picture_of_too_many_parts_is_refused():
    parts = {
        "png": png(1, 1) + chunk(b"IDAT") * 500_001 + END,
        "jpeg": b"\xff\xd8" + b"\xff\xe0\0\2" * 100_000 + b"\xff\xd9",
        "jpeg, apart": b"\xff\xd8\xff\xe0\0\2" + b"x\xff\xe0\0\2" * 100_000 + b"\xff\xd9",
        "gif": b"GIF89a\1\0\1\0\0\0\0!\xfe" + b"\1x" * 100_000 + b"\0;",
    }

    assert ["it has too many parts"] * 4 == [
        reason(content).rpartition(": ")[2] for content in parts.values()
    ]


def test_a_gif_of_50000_small_frames_is_accepted():
    frame = b"!\xf9\4\0\1\0\0\0,\0\0\0\0\1\0\1\0\0\2\2D\1\0"

    assert reason(b"GIF89a\1\0\1\0\x80\0\0" + bytes(6) + frame * 50_000 + b";") is None


def test_a_spooled_upload_is_checked_like_any_file():
    with SpooledTemporaryFile(10) as file:
        file.write(WHOLE["gif, animated"])
        check_whole(file, GIF)
        file.seek(-1, 2)
        file.truncate()
        with pytest.raises(ValueError, match="is missing"):
            check_whole(file, GIF)
