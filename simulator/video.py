"""The films: short MP4 files of SMPTE colour bars, one for each aspect ratio and duration that a model offers.

The files are in `assets/`, named `16x9-8s.mp4`. Each was made by ffmpeg 9.0 (H.264, 4 frames a second, long side 256
pixels), and so is the one that a new ratio or duration needs:

    ffmpeg -f lavfi -i smptebars=size=256x144:rate=4:duration=8 -c:v libx264 -pix_fmt yuv420p \\
        -movflags +faststart -fflags +bitexact -flags:v +bitexact simulator/assets/16x9-8s.mp4
"""

import struct
from pathlib import Path

CONTENT_TYPE = "video/mp4"

_ASSETS = Path(__file__).parent / "assets"


def encode(aspect_ratio: str, seconds: int, *, label: str) -> bytes:
    """An MP4 of this ratio (`16:9`) and duration. A `free` box at its end, which players skip, holds `label` in UTF-8,
    so that films are equal byte for byte exactly when their ratios, durations and labels are."""
    note = label.encode()
    content = (_ASSETS / f"{aspect_ratio.replace(':', 'x')}-{seconds}s.mp4").read_bytes()
    return content + struct.pack(">I4s", 8 + len(note), b"free") + note
