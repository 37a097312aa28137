"""Digests of inputs, by which a prediction is recognised."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def fingerprint(sent: Mapping[str, Any]) -> str:
    """A digest that identifies an input in any process: the same for any order of its keys, and whether a whole
    number is written 3 or 3.0. Raises RecursionError for an input nested too deep."""
    # Parsed again so that every float is seen, however deep: a provider may return 3 for 3.0.
    alike = json.loads(json.dumps(dict(sent)), parse_float=number)
    return hashlib.sha256(json.dumps(alike, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def number(text: str) -> int | float:
    """Parse a JSON number. It becomes an int if its value is whole: 3.0 and 3e0 are 3."""
    value = float(text)
    return int(value) if value.is_integer() else value
