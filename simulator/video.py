"""Short MP4 videos of SMPTE colour bars, one for each aspect ratio and duration that the declared models offer.

Any other ratio or duration gets the nearest of them. The files are in `assets/`, with names like `16x9-8s.mp4`. All are
made by the same command
(ffmpeg 9.0; H.264, 4 frames a second, long side 256 pixels):

    ffmpeg -f lavfi -i smptebars=size=256x144:rate=4:duration=8 -c:v libx264 -pix_fmt yuv420p \\
        -movflags +faststart -fflags +bitexact -flags:v +bitexact simulator/assets/16x9-8s.mp4
"""

import math
import struct
from pathlib import Path

CONTENT_TYPE = "video/mp4"

_ASSETS = {path.stem: path for path in (Path(__file__).parent / "assets").glob("*.mp4")}


def encode(aspect_ratio: str, seconds: float, *, label: str) -> bytes:
    """An MP4 of this ratio (`16:9`) and duration. `label` is in a `free` box at its end, which players skip. So
    two videos are equal exactly when their ratios, durations and labels are."""
    note = label.encode()
    content = _nearest(aspect_ratio, seconds).read_bytes()
    return content + struct.pack(">I4s", 8 + len(note), b"free") + note


def _nearest(aspect_ratio: str, seconds: float) -> Path:
    wanted = _proportion(aspect_ratio.replace(":", "x"))

    def distance(stem: str) -> tuple[float, float]:
        ratio, _, length = stem.rpartition("-")
        return abs(_proportion(ratio) - wanted), abs(float(length.removesuffix("s")) - seconds)

    return _ASSETS[min(_ASSETS, key=distance)]


def _proportion(ratio: str) -> float:
    """The logarithm of width by height, so that 16:9 and 9:16 are equally far from a square. 16:9 for another text."""
    across, _, down = ratio.partition("x")
    is_ratio = across.isdecimal() and down.isdecimal() and int(across) and int(down)
    return math.log(int(across) / int(down)) if is_ratio else math.log(16 / 9)
