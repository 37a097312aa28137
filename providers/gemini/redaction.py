"""Removes keys from the texts of Google's errors, which are logged, stored and shown.

Of keys that are not the caller's, it removes those that begin as Google's do (`AIza`, and since May 2026 `AQ.`), and
the value of `key=` in an address. The texts that a model writes are not changed: it never sees a key.
"""

import re
from typing import Any, Final

from auth import Caller
from providers.redaction import REDACTED, redaction_of

_KEYS: Final = re.compile(r"\bAIza[\w-]+|\bAQ\.[\w.-]+|(?i:(?<=\bkey=)[^\s&\"'<>]+)")


def quoted(text: Any, caller: Caller, *, most: int = 300) -> str:
    """The start of a text of Google's without keys. Empty if it is no text."""
    if not isinstance(text, str):
        return ""
    return _KEYS.sub(REDACTED, redaction_of(caller).words(text)).strip()[:most]
