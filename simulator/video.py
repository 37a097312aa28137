"""Short MP4 videos of SMPTE colour bars, one for each aspect ratio and duration that a model offers.

The files are in `assets/`, with names like `16x9-8s.mp4`. A new ratio or duration needs a file made by the same command
(ffmpeg 9.0; H.264, 4 frames a second, long side 256 pixels):

    ffmpeg -f lavfi -i smptebars=size=256x144:rate=4:duration=8 -c:v libx264 -pix_fmt yuv420p \\
        -movflags +faststart -fflags +bitexact -flags:v +bitexact simulator/assets/16x9-8s.mp4
"""

import struct
from pathlib import Path

CONTENT_TYPE = "video/mp4"

_ASSETS = Path(__file__).parent / "assets"


def encode(aspect_ratio: str, seconds: int, *, label: str) -> bytes:
    """An MP4 of this ratio (`16:9`) and duration. `label` is in a `free` box at its end, which players skip. So
    two videos are equal exactly when their ratios, durations and labels are."""
    note = label.encode()
    content = (_ASSETS / f"{aspect_ratio.replace(':', 'x')}-{seconds}s.mp4").read_bytes()
    return content + struct.pack(">I4s", 8 + len(note), b"free") + note
