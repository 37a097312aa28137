"""Reads JSON strictly (RFC 8259): a lenient reader guesses, and the caller would pay for the guess.

Python's reader takes NaN, lets the last of two equal keys win and turns 1e999 into infinity. Here each of these, and
any other text that is not JSON, raises an `InvalidJSON` that gives the fault and its position.
"""

import json
import math
import re
from collections import Counter
from typing import Any, Never

from errors import InvalidJSON, PayloadTooLarge

MAX_VALUES = 500_000
"""JSON values of one body: a batch of 10,000 items has about 150,000. Each takes a hundred bytes or so when parsed."""

_PIECE = 65_536

_SURROGATE = re.compile("[\ud800-\udfff]")


def loads(body: bytes | bytearray) -> Any:
    """The value that `body` holds, UTF-8 as JSON prescribes. Raises InvalidJSON, or PayloadTooLarge for more than
    MAX_VALUES values."""
    if not body or body.isspace():
        raise InvalidJSON("The body is empty; a JSON object is expected.")
    if len(body) > MAX_VALUES:  # a shorter body cannot have so many
        raise_if_too_many(count_values(body))
    try:
        return json.loads(
            body.decode("utf-8-sig"),  # an editor may have written a byte order mark
            object_pairs_hook=_object,
            parse_float=_float,
            parse_int=_integer,
            parse_constant=_constant,
        )
    except UnicodeDecodeError as error:
        raise InvalidJSON(f"The body is not UTF-8 (at byte {error.start}).") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InvalidJSON(f"The body is not JSON: {error.msg} ({where}).") from None
    except RecursionError:
        raise InvalidJSON("The body is nested too deeply.") from None


def count_values(body: bytes | bytearray, *, most: int = MAX_VALUES, piece_size: int = _PIECE) -> int:
    """How many values this JSON has. An empty list or object counts as two. Counting stops once `most` is exceeded.

    Parsing 16 MB of small values takes 400 MB and several seconds, in which other threads hardly run. Counting them
    takes a tenth of a second, in pieces short enough for other threads to run in between.
    """
    count, start, in_string = 1, 0, False
    view = memoryview(body)
    while start < len(body) and count <= most:
        stop = start + piece_size
        piece = bytes(view[start:stop])
        if (len(piece) - len(piece.rstrip(b"\\"))) % 2:  # the end of a piece must not split an escape
            stop += 1
            piece = bytes(view[start:stop])
        if b"\\" in piece:
            piece = piece.replace(rb"\\", b"").replace(rb"\"", b"")
        between = piece.split(b'"')
        outside = b"".join(between[1 if in_string else 0 :: 2])
        count += outside.count(b",") + outside.count(b"[") + outside.count(b"{")
        in_string ^= len(between) % 2 == 0
        start = stop
    return count


def raise_if_too_many(values: int) -> None:
    """Raises PayloadTooLarge."""
    if values > MAX_VALUES:
        raise PayloadTooLarge(f"The body has more than {MAX_VALUES} JSON values.")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise InvalidJSON(f"The key {json.dumps(twice[:100])} is repeated in one object.")
    if any(not key.isascii() and _SURROGATE.search(key) for key in keys):
        raise InvalidJSON("A key contains an unpaired surrogate.")
    return keys


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise InvalidJSON(f"The number {text[:40]} is too large.")
    return number


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:  # more digits than Python converts (sys.set_int_max_str_digits)
        raise InvalidJSON(f"An integer of {len(text)} digits is too large.") from None


def _constant(name: str) -> Never:
    raise InvalidJSON(f"{name} is not a JSON value.")
