"""Detects the type of any file that a model may make, by its content. The type that its host declares, and the ending
of its URL, only help where the content says too little: between texts, and for the few formats without a signature.

A text that a browser might run, such as HTML, has the type of plain text. Signatures: those of the formats' own
specifications, as in the list of the file program (github.com/file/file, magic/Magdir).
"""

import re
from typing import Final

from media.formats import BY_EXTENSION, PAGES, MediaType, is_svg, media_type, plain_text

_ENDING: Final = re.compile(r"\.[A-Za-z0-9]{1,11}$")

_BYTES: Final = "application/octet-stream"
_PLAIN: Final = "text/plain"

AVIF: Final = MediaType("image/avif", ".avif", "image")
HEIC: Final = MediaType("image/heic", ".heic", "image")
JXL: Final = MediaType("image/jxl", ".jxl", "image")
BMP: Final = MediaType("image/bmp", ".bmp", "image")
TIFF: Final = MediaType("image/tiff", ".tiff", "image")
EXR: Final = MediaType("image/x-exr", ".exr", "image")
SVG: Final = MediaType("image/svg+xml", ".svg", "image")
AVI: Final = MediaType("video/x-msvideo", ".avi", "video")
MP3: Final = MediaType("audio/mpeg", ".mp3", "audio")
WAV: Final = MediaType("audio/wav", ".wav", "audio")
OGG: Final = MediaType("audio/ogg", ".ogg", "audio")
FLAC: Final = MediaType("audio/flac", ".flac", "audio")
M4A: Final = MediaType("audio/mp4", ".m4a", "audio")
AAC: Final = MediaType("audio/aac", ".aac", "audio")
MIDI: Final = MediaType("audio/midi", ".mid", "audio")
GLB: Final = MediaType("model/gltf-binary", ".glb", "3d")
GLTF: Final = MediaType("model/gltf+json", ".gltf", "3d")
PLY: Final = MediaType("model/ply", ".ply", "3d")
OBJ: Final = MediaType("model/obj", ".obj", "3d")
STL: Final = MediaType("model/stl", ".stl", "3d")
FBX: Final = MediaType(_BYTES, ".fbx", "3d")
TEXT: Final = MediaType(_PLAIN, ".txt", "text")
SUBTITLES: Final = MediaType(_PLAIN, ".srt", "text")
VTT: Final = MediaType("text/vtt", ".vtt", "text")
HTML: Final = MediaType(_PLAIN, ".html", "text")
XML: Final = MediaType(_PLAIN, ".xml", "data")
CSV: Final = MediaType("text/csv", ".csv", "data")
JSON: Final = MediaType("application/json", ".json", "data")
PDF: Final = MediaType("application/pdf", ".pdf", "data")
ZIP: Final = MediaType("application/zip", ".zip", "data")
GZIP: Final = MediaType("application/gzip", ".gz", "data")
TAR: Final = MediaType("application/x-tar", ".tar", "data")
NPY: Final = MediaType(_BYTES, ".npy", "data")
SAFETENSORS: Final = MediaType(_BYTES, ".safetensors", "data")
BINARY: Final = MediaType(_BYTES, ".bin", "data")

FILE_TYPES: Final = {
    **BY_EXTENSION,
    **{
        each.extension: each
        for each in (
            AVIF, HEIC, JXL, BMP, TIFF, EXR, SVG, AVI, MP3, WAV, OGG, FLAC, M4A, AAC, MIDI, GLB, GLTF, PLY, OBJ, STL,
            FBX, TEXT, SUBTITLES, VTT, HTML, XML, CSV, JSON, PDF, ZIP, GZIP, TAR, NPY, SAFETENSORS, BINARY,
        )
    },
}  # fmt: skip
"""All types of kept files, by their extensions."""

_SIGNATURES: Final = [
    (re.compile(pattern, re.DOTALL), media)
    for pattern, media in (
        (rb".{4}ftyp(?:avif|avis)", AVIF),
        (rb".{4}ftyp(?:heic|heix|heim|heis|hevc|mif1|msf1)", HEIC),
        (rb".{4}ftypM4[AB] ", M4A),
        (rb"RIFF.{4}WAVE", WAV),
        (rb"RIFF.{4}AVI ", AVI),
        (rb"ID3[\x02-\x04]|\xff[\xe2\xe3\xf2\xf3\xfa\xfb]", MP3),
        (rb"\xff[\xf0\xf1\xf8\xf9]", AAC),
        (rb"OggS", OGG),
        (rb"fLaC", FLAC),
        (rb"MThd\0\0\0\x06", MIDI),
        (rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n", JXL),
        (rb"BM.{4}\0\0\0\0", BMP),
        (rb"II\*\0|MM\0\*", TIFF),
        (rb"v/1\x01", EXR),
        (rb"glTF[\x01\x02]\0\0\0", GLB),
        (rb"ply\r?\n", PLY),
        (rb"Kaydara FBX Binary  \0", FBX),
        (rb"%PDF-", PDF),
        (rb"PK(?:\x03\x04|\x05\x06|\x07\x08)", ZIP),
        (rb"\x1f\x8b\x08", GZIP),
        (rb".{257}ustar", TAR),
        (rb"\x93NUMPY", NPY),
        (rb".{5}\0{3}\{\s*[\"}]", SAFETENSORS),
    )
]

_TEXTS: Final = [
    (re.compile(pattern), media)
    for pattern, media in (
        (r"<!doctype html|<html\b", HTML),
        (r"<", XML),
        (r'\{\s*["}]|\[\s*(?:["\[{\]0-9-]|true\b|false\b|null\b)', JSON),
        (r"webvtt\b", VTT),
        (r"1\s*\n\d\d:\d\d:\d\d,\d{3} -->", SUBTITLES),
        (r"solid\b[^\n]*\n\s*(?:facet|endsolid)\b", STL),
        (r"(?:[ \t\r]*(?:(?:#|o |g |mtllib )[^\n]*)?\n)*+v(?: +-?\d[\d.e+-]*){3}", OBJ),
    )
]
"""Matched at the start of a text in lower case."""


def file_type(head: bytes, declared: str = "", ending: str = "") -> MediaType:
    """The type of a file that begins with `head` (HEAD bytes, or the whole file). `declared` is the type in its
    Content-Type header, and `ending` that of its URL in lower case, such as `.csv`."""
    for signature, media in _SIGNATURES:
        if signature.match(head):
            return media
    if found := media_type(head):
        return found
    text = plain_text(head)
    if is_svg(text or "", declared):
        return SVG
    if text is None:
        return STL if ending == STL.extension else BINARY
    lower = text.lower()
    found = next((media for pattern, media in _TEXTS if pattern.match(lower)), TEXT)
    if found is TEXT and declared in PAGES:
        return HTML
    hinted = FILE_TYPES.get(ending)
    if (found, hinted) == (JSON, GLTF) or (found is TEXT and hinted in (CSV, OBJ)):
        return hinted or found
    return CSV if found is TEXT and declared == CSV.name else found


def ending_of(url: str) -> str:
    """The ending of the last part of a URL in lower case, such as `.csv`, or an empty text."""
    found = _ENDING.search(re.split(r"[?#]", url, maxsplit=1)[0])
    return found[0].lower() if found else ""
