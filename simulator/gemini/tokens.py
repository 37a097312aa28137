"""Counts tokens, by rules of the simulator's own.

A digit is a token, and so is a character of Chinese, Japanese or Korean, a sign and a run of white space that is not
one space. A Latin word has a token for each four letters begun, a space before it included; a word of another script
has one for each two. An emoji has two, and so has each part of a joined one. No text has more tokens than bytes in
UTF-8.

An image has 258 tokens for each tile of 768 by 768, one tile if both sides are at most 384, and 1,120 at
`mediaResolution` high, 560 at medium and 280 at low (ai.google.dev/gemini-api/docs/tokens and /media-resolution).
Sound has 32 tokens a second and film 263, here by a usual number of bytes a second.
"""

import re
from functools import lru_cache
from io import BytesIO

from PIL import Image

TILE = 258
_TILE_SIDE, _SMALL_SIDE = 768, 384
_BY_RESOLUTION = {
    "MEDIA_RESOLUTION_LOW": 280,
    "MEDIA_RESOLUTION_MEDIUM": 560,
    "MEDIA_RESOLUTION_HIGH": 1120,
    "MEDIA_RESOLUTION_ULTRA_HIGH": 2240,
}
_BYTES_PER_SECOND = {"audio": (16_000, 32), "video": (250_000, 263)}

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
_EMOJI = "\u2600-\u27bf\U0001f000-\U0001faff"
_LATIN = "A-Za-z\u00c0-\u024f"
_TOKEN = re.compile(
    rf"\d|[{_CJK}]|[{_EMOJI}]| ?[{_LATIN}]{{1,4}}|\s+| ?[^\W\d_{_LATIN}{_CJK}{_EMOJI}]{{1,2}}|[^\w\s]|_"
)
_IS_EMOJI = re.compile(f"[{_EMOJI}]")


class NotAnImage(ValueError):
    """Bytes that claim to be an image and are none."""


@lru_cache(maxsize=256)
def of_text(text: str) -> int:
    """The tokens of a text."""
    return len(_TOKEN.findall(text)) + (0 if text.isascii() else len(_IS_EMOJI.findall(text)))


def prefix(text: str, amount: int) -> str:
    """The longest beginning of a text with at most so many tokens."""
    for found in _TOKEN.finditer(text):
        amount -= 2 if _IS_EMOJI.fullmatch(found[0]) else 1
        if amount < 0:
            return text[: found.start()]
    return text


def of_media(kind: str, data: bytes, resolution: str | None) -> int:
    """The tokens of a picture, sound or film with this media type.

    Raises:
        NotAnImage: If a picture cannot be read.
    """
    family = kind.partition("/")[0]
    if family in _BYTES_PER_SECOND:
        rate, per_second = _BYTES_PER_SECOND[family]
        return max(1, len(data) // rate) * per_second
    width, height = size(data)
    if resolution in _BY_RESOLUTION:
        return _BY_RESOLUTION[resolution]
    if max(width, height) <= _SMALL_SIDE:
        return TILE
    return -(-width // _TILE_SIDE) * -(-height // _TILE_SIDE) * TILE


def size(data: bytes) -> tuple[int, int]:
    """The width and height of a picture, from its head alone."""
    try:
        with Image.open(BytesIO(data)) as picture:
            return picture.size
    except (OSError, ValueError, Image.DecompressionBombError) as reason:
        raise NotAnImage from reason
