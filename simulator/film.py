"""The films: a still picture as a real MP4, without a video encoder.

H.264 lets an encoder give up on compression and send a block's samples as they are (`I_PCM`), and
lets every later frame say "as before" in a few bytes (`P_Skip`). That is enough to write a film any
browser plays, in Constrained Baseline profile, with nothing but the standard library and a picture:

    one IDR frame of raw 16x16 macroblocks, then frames of skipped macroblocks, four a second

The numbers in the writers below follow ITU-T H.264 (7.3.2.1 SPS, 7.3.2.2 PPS, 7.3.3 slice header,
7.3.5 macroblock) and ISO/IEC 14496-12 and -15 (boxes, `avcC`).
"""

import re
import struct
from collections.abc import Iterator
from functools import lru_cache

from PIL import Image

from simulator import drawing
from simulator.drawing import Picture

CONTENT_TYPE = "video/mp4"
LONG_SIDE = 256
FRAMES_PER_SECOND = 4

_MACROBLOCK = 16
_I_PCM = 25
_PROFILE = bytes((66, 0xC0, 30))  # Baseline, constrained, level 3.0


@lru_cache(maxsize=16)
def encoded(picture: Picture, seconds: int) -> bytes:
    """An MP4 of `seconds` showing `picture`, whose sides must be multiples of 16."""
    image = drawing.paint(picture)
    wide, high = image.width // _MACROBLOCK, image.height // _MACROBLOCK
    frames = [_still(image)]
    frames += [_unchanged(n, wide * high) for n in range(1, seconds * FRAMES_PER_SECOND)]
    return _mp4(frames, sps=_sps(wide, high), pps=_pps(), width=image.width, height=image.height)


def size(aspect_ratio: object) -> tuple[int, int]:
    """Width and height of a ratio, rounded to whole macroblocks."""
    width, height = drawing.size(aspect_ratio, long_side=LONG_SIDE)
    return width // _MACROBLOCK * _MACROBLOCK, height // _MACROBLOCK * _MACROBLOCK


class _Bits:
    """A bit string under construction."""

    def __init__(self) -> None:
        self._digits: list[str] = []

    def u(self, bits: int, value: int) -> "_Bits":
        """`value` in so many bits."""
        self._digits.append(format(value, f"0{bits}b"))
        return self

    def ue(self, *values: int) -> "_Bits":
        """Each value as an unsigned Exp-Golomb code, which also writes a signed zero."""
        for value in values:
            digits = format(value + 1, "b")
            self._digits.append("0" * (len(digits) - 1) + digits)
        return self

    def aligned(self) -> bytes:
        """The bytes so far, filled up with zeros."""
        digits = "".join(self._digits)
        digits += "0" * (-len(digits) % 8)
        return int("1" + digits, 2).to_bytes(len(digits) // 8 + 1, "big")[1:]

    def ended(self) -> bytes:
        """The bytes with the stop bit that ends every unit."""
        return self.u(1, 1).aligned()


def _unit(header: int, payload: bytes) -> bytes:
    """A NAL unit: no three bytes in it may look like a start code."""
    return bytes((header,)) + re.sub(rb"\x00\x00(?=[\x00-\x03])", b"\x00\x00\x03", payload)


def _sps(wide: int, high: int) -> bytes:
    # Ids 0, four-bit frame numbers, output in decoding order, one reference frame, no gaps; then
    # the size, whole frames only, 8x8 inference, no cropping, no display information.
    bits = _Bits().ue(0, 0, 2, 1).u(1, 0).ue(wide - 1, high - 1)
    return _unit(0x67, _PROFILE + bits.u(4, 0b1100).ended())


def _pps() -> bytes:
    # CAVLC, one slice group, one reference, no weights, no quantiser offsets, default filtering.
    bits = _Bits().ue(0, 0).u(2, 0).ue(0, 0, 0).u(3, 0).ue(0, 0, 0).u(3, 0)
    return _unit(0x68, bits.ended())


def _still(image: Image.Image) -> bytes:
    """The IDR frame: every macroblock's 256 luma and 2 x 64 chroma samples as they are."""
    # First macroblock 0, an I slice, PPS 0, frame 0, IDR 0, no marking, no quantiser change.
    start = _Bits().ue(0, 7, 0).u(4, 0).ue(0).u(2, 0).ue(0)
    blocks = _macroblocks(image)
    parts = [start.ue(_I_PCM).aligned(), next(blocks)]
    kind = _Bits().ue(_I_PCM).aligned()
    for block in blocks:
        parts += (kind, block)
    return _unit(0x65, b"".join(parts) + b"\x80")


def _unchanged(number: int, macroblocks: int) -> bytes:
    """A P frame in which every macroblock is skipped."""
    # First macroblock 0, a P slice, PPS 0, its number; no overrides, no marking, no quantiser
    # change.
    return _unit(0x41, _Bits().ue(0, 5, 0).u(4, number % 16).u(3, 0).ue(0, macroblocks).ended())


def _macroblocks(image: Image.Image) -> Iterator[bytes]:
    # JPEG's full range, brought into the narrower one that players assume.
    luma, blue, red = image.convert("YCbCr").split()
    luma = luma.point([16 + n * 219 // 255 for n in range(256)])
    narrow = [16 + n * 224 // 255 for n in range(256)]
    half = (image.width // 2, image.height // 2)
    blue, red = (plane.resize(half, Image.Resampling.BOX).point(narrow) for plane in (blue, red))
    for y in range(0, image.height, _MACROBLOCK):
        for x in range(0, image.width, _MACROBLOCK):
            small = (x // 2, y // 2, x // 2 + 8, y // 2 + 8)
            block = luma.crop((x, y, x + _MACROBLOCK, y + _MACROBLOCK)).tobytes()
            yield block + blue.crop(small).tobytes() + red.crop(small).tobytes()


def _box(name: str, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), name.encode()) + body


def _words(*values: int) -> bytes:
    return struct.pack(f">{len(values)}I", *values)


def _mp4(frames: list[bytes], *, sps: bytes, pps: bytes, width: int, height: int) -> bytes:
    samples = [_words(len(frame)) + frame for frame in frames]
    kind = _box("ftyp", b"isom", _words(0x200), b"isomiso2avc1mp41")
    # The index comes first so that a browser can play at once; its length does not depend on where
    # it says the samples begin, so it is written twice.
    begin = 0
    for _ in range(2):
        index = _moov([len(s) for s in samples], begin, sps, pps, width, height)
        begin = len(kind) + len(index) + 8
    return kind + index + _box("mdat", *samples)


def _moov(sizes: list[int], begin: int, sps: bytes, pps: bytes, width: int, height: int) -> bytes:
    unity = _words(0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    clock = _words(0, 0, 0, FRAMES_PER_SECOND, len(sizes))
    movie = _box("mvhd", clock, _words(0x10000, 0x01000000, 0, 0), unity, bytes(24), _words(2))
    track = _box(
        "tkhd",
        _words(7, 0, 0, 1, 0, len(sizes), 0, 0, 0, 0),
        unity,
        _words(width << 16, height << 16),
    )
    media = _box(
        "mdia",
        _box("mdhd", clock, struct.pack(">HH", 0x55C4, 0)),  # language: undetermined
        _box("hdlr", _words(0, 0), b"vide", bytes(12), b"picture\0"),
        _box(
            "minf",
            _box("vmhd", _words(1, 0, 0)),
            _box("dinf", _box("dref", _words(0, 1), _box("url ", _words(1)))),
            _samples(sizes, begin, _avc1(sps, pps, width, height)),
        ),
    )
    return _box("moov", movie, _box("trak", track, media))


def _samples(sizes: list[int], begin: int, entry: bytes) -> bytes:
    """Where each frame lies: one chunk, one tick each, the first frame alone a place to start."""
    return _box(
        "stbl",
        _box("stsd", _words(0, 1), entry),
        _box("stts", _words(0, 1, len(sizes), 1)),
        _box("stss", _words(0, 1, 1)),
        _box("stsc", _words(0, 1, 1, len(sizes), 1)),
        _box("stsz", _words(0, 0, len(sizes), *sizes)),
        _box("stco", _words(0, 1, begin)),
    )


def _avc1(sps: bytes, pps: bytes, width: int, height: int) -> bytes:
    decoder = bytes((1, *_PROFILE, 0xFF, 0xE1)) + struct.pack(">H", len(sps)) + sps
    decoder += b"\x01" + struct.pack(">H", len(pps)) + pps
    return _box(
        "avc1",
        bytes(6) + struct.pack(">H", 1) + bytes(16),
        struct.pack(">HH", width, height),
        _words(0x480000, 0x480000, 0) + struct.pack(">H", 1),
        bytes(32) + struct.pack(">HH", 24, 0xFFFF),
        _box("avcC", decoder),
    )
