"""The files that predictions put out: small and real, of each type that models make.

Two files are equal exactly when their predictions asked for the same. Pictures are drawn (`drawing`), films are kept
(`video`), and the rest is written here: a tone, a triangle in 3D, and texts in the forms of their types. Each has the
label of its prediction in it.
"""

import io
import json
import math
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from simulator import drawing, video
from simulator.drawing import Picture
from simulator.model import Kind

CONTENT_TYPES: Final = drawing.CONTENT_TYPES | {
    "jpeg": "image/jpeg",
    "svg": "image/svg+xml",
    "mp4": video.CONTENT_TYPE,
    "wav": "audio/wav",
    "glb": "model/gltf-binary",
    "ply": "application/octet-stream",
    "txt": "text/plain",
    "srt": "application/x-subrip",
    "csv": "text/csv",
    "json": "application/json",
    "zip": "application/zip",
}
"""The content type of each file by its extension."""

KINDS: Final[dict[str, Kind]] = {
    "webp": "image",
    "jpg": "image",
    "jpeg": "image",
    "png": "image",
    "svg": "image",
    "mp4": "video",
    "wav": "audio",
    "glb": "3d",
    "ply": "3d",
    "txt": "text",
    "srt": "text",
    "json": "data",
    "csv": "data",
    "zip": "data",
}
"""The kind of each file by its extension."""

_RATE = 8000
_TONE_SECONDS = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What a file shows. `ratio` is `a:b`, `seconds` the length of a film, `quality` 0 to 100."""

    text: str
    foot: str
    seed: int
    ratio: str
    seconds: float
    quality: int

    @property
    def label(self) -> str:
        return f"{self.text}\n{self.foot}"


def encode(subject: Subject, extension: str) -> bytes:
    """The file with this extension."""
    write = _WRITERS.get(extension, partial(_drawn, extension=extension))
    return write(subject)


def _drawn(subject: Subject, extension: str) -> bytes:
    width, height = drawing.size(subject.ratio)
    picture = Picture(
        text=subject.text,
        foot=subject.foot,
        seed=subject.seed,
        width=width,
        height=height,
        format="jpg" if extension == "jpeg" else extension,
        quality=subject.quality,
    )
    return drawing.encode(picture)


def _film(subject: Subject) -> bytes:
    return video.encode(subject.ratio, subject.seconds, label=subject.label)


def _tone(subject: Subject) -> bytes:
    """A second of sound, 8 bits at 8 kHz, whose pitch comes from the seed. The label is in a `LIST` chunk."""
    step = 2 * math.pi * (220 + subject.seed % 440) / _RATE
    samples = bytes(round(128 + 60 * math.sin(step * each)) for each in range(_RATE * _TONE_SECONDS))
    note = subject.label.encode()
    comment = b"INFOICMT" + struct.pack("<I", len(note)) + note + b"\0" * (len(note) % 2)
    chunks = b"WAVE" + b"".join(
        name + struct.pack("<I", len(content)) + content
        for name, content in (
            (b"fmt ", struct.pack("<HHIIHH", 1, 1, _RATE, _RATE, 1, 8)),
            (b"data", samples),
            (b"LIST", comment),
        )
    )
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


def _triangle(subject: Subject) -> bytes:
    """A binary glTF 2.0 of one triangle, with the label as its generator."""
    points = struct.pack("<9f", 0, 0, 0, 1, 0, 0, 0, 1, 0)
    scene = {
        "asset": {"version": "2.0", "generator": subject.label},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
        "buffers": [{"byteLength": len(points)}],
        "bufferViews": [{"buffer": 0, "byteLength": len(points)}],
        "accessors": [
            {
                "bufferView": 0,
                "componentType": 5126,
                "count": 3,
                "type": "VEC3",
                "min": [0, 0, 0],
                "max": [1, 1, 0],
            }
        ],
    }
    text = json.dumps(scene).encode()
    text += b" " * (-len(text) % 4)
    total = 12 + 8 + len(text) + 8 + len(points)
    return b"".join(
        (
            struct.pack("<4sII", b"glTF", 2, total),
            struct.pack("<I4s", len(text), b"JSON") + text,
            struct.pack("<I4s", len(points), b"BIN\0") + points,
        )
    )


def _points(subject: Subject) -> bytes:
    comments = "".join(f"comment {line}\n" for line in subject.label.splitlines())
    properties = "".join(f"property float {axis}\n" for axis in "xyz")
    head = f"ply\nformat ascii 1.0\n{comments}element vertex 1\n{properties}end_header\n"
    return f"{head}0 0 0\n".encode()


def _vector(subject: Subject) -> bytes:
    shown = subject.label.replace("&", "&amp;").replace("<", "&lt;")
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64">'
        f"<title>{shown}</title><circle cx='32' cy='32' r='24'/></svg>\n"
    ).encode()


def _archive(subject: Subject) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo("label.txt"), subject.label)
    return file.getvalue()


_WRITERS: Final[dict[str, Callable[[Subject], bytes]]] = {
    "mp4": _film,
    "wav": _tone,
    "glb": _triangle,
    "ply": _points,
    "svg": _vector,
    "zip": _archive,
    "json": lambda it: json.dumps({"text": it.text, "seed": it.seed}).encode(),
    "srt": lambda it: f"1\n00:00:00,000 --> 00:00:01,000\n{it.label}\n".encode(),
    "csv": lambda it: f"seed,text\n{it.seed},{json.dumps(it.text)}\n".encode(),
    "txt": lambda it: f"{it.label}\n".encode(),
}
