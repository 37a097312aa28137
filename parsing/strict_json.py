"""JSON read strictly (RFC 8259), because a lenient reader guesses, and the caller pays for the guess.

Python's reader takes NaN, lets the last of two equal keys win and turns 1e999 into infinity. Here each of these, and
any other text that is not JSON, raises an `InvalidJSON` that gives the fault and its position.
"""

import json
import math
import re
from collections import Counter
from typing import Any, Never

from errors import InvalidJSON

_SURROGATE = re.compile("[\ud800-\udfff]")


def loads(body: bytes) -> Any:
    """The value that `body` holds, UTF-8 as JSON prescribes. Raises InvalidJSON."""
    if not body.strip():
        raise InvalidJSON("The body is empty; a JSON object is expected.")
    try:
        return json.loads(
            body.decode("utf-8"),
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


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise InvalidJSON(f"The key {_quoted(twice)} stands twice in one object.")
    if any(not key.isascii() and _SURROGATE.search(key) for key in keys):
        raise InvalidJSON("A key holds half of a surrogate pair.")
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


def _quoted(text: str) -> str:
    return json.dumps(text[:100])


def _constant(name: str) -> Never:
    raise InvalidJSON(f"{name} is not a JSON value.")
