"""An upper bound of the tokens of a prompt, known without a request to Google.

A tokenizer has no token shorter than a byte of UTF-8, since it falls back to single bytes. So a text has at most one
token a byte in any language. Images cost by their tiles. `countTokens` is exact, and takes a request.
"""

import io
import json
from collections.abc import Mapping
from typing import Any, Final

from media.formats import GIF, JPEG, PNG, WEBP
from media.pictures import size_of
from providers.call_inputs import call_of_texts, images_of
from providers.calls import Call, Message, Picture
from providers.gemini.schemas import sent_schema

_PER_CALL: Final = 64
_PER_MESSAGE: Final = 16
"""Tokens for roles, marks of turns, and the instruction to answer in JSON."""

TOKENS_PER_TILE: Final = 258
"""An image of at most 384 pixels a side is one tile. A larger one is cut into squares of two thirds of its shorter
side, but of 256 to 768 pixels; and the whole image counts as one tile more (discuss.ai.google.dev/t/70143)."""

SMALLEST_PICTURE: Final = 1120
"""The tokens of an image by default at the 3.x models, which have no tiles. Source: ai.google.dev/gemini-api/docs/
media-resolution."""

UNKNOWN_TILES: Final = 200
"""For an image of unknown size: more than 100 megapixels."""

_SMALL: Final = 384
_SMALLEST_TILE, _LARGEST_TILE = 256, 768

_TYPES: Final = {media.name: media for media in (PNG, JPEG, GIF, WEBP)}


def tokens_bound(call: Call) -> int:
    """The most tokens that the prompt of this call may have, with its system prompt, images and schema."""
    total = _PER_CALL + _bytes(call.system) + sum(map(_of_message, call.messages))
    if call.schema is not None:
        total += len(json.dumps(sent_schema(call.schema)))  # with escapes, so no encoding of it is longer
    return total


def inputs_bound(inputs: Mapping[str, Any]) -> int:
    """The most tokens that a prompt of these inputs may have, before its images are fetched."""
    images = images_of(inputs) * max(SMALLEST_PICTURE, TOKENS_PER_TILE * UNKNOWN_TILES)
    return tokens_bound(call_of_texts(inputs, "")) + images


def picture_bound(picture: Picture) -> int:
    """The most tokens that an image may have."""
    media = _TYPES.get(picture.mime_type)
    try:
        tiles = UNKNOWN_TILES if media is None else tiles_of(*size_of(io.BytesIO(picture.data), media))
    except ValueError:
        tiles = UNKNOWN_TILES
    return max(SMALLEST_PICTURE, TOKENS_PER_TILE * tiles)


def tiles_of(width: int, height: int) -> int:
    """The tiles that an image of this size in pixels counts as."""
    if max(width, height) <= _SMALL:
        return 1
    side = min(_LARGEST_TILE, max(_SMALLEST_TILE, 2 * min(width, height) // 3))
    return 1 + -(-width // side) * -(-height // side)


def _of_message(message: Message) -> int:
    return _PER_MESSAGE + _bytes(message.text) + sum(map(picture_bound, message.pictures))


def _bytes(text: str) -> int:
    return len(text.encode(errors="surrogatepass"))
