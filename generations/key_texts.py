"""The texts of named keys.

A text is random, or, for a request with an idempotency key, derived from that and the ledger's own secret. So a
repeated request gets the same text, on every process and after a restart, though no text is stored.
"""

import base64
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from auth import KEY_START

_TEXT, _ACT = "text of a named key ", "act of a request "
"""The starts of the texts that are hashed. No key and no token has a space, so none has a hash that is a text here."""

_ACT_ID: Final = 32
"""Characters of the id of an act."""


@dataclass(frozen=True, slots=True)
class NewText:
    """The text of a new or rotated key. `act_id` is the id of the act that gives it to the key, by which a repetition
    finds it; None for a request that is not repeated."""

    text: str = field(repr=False)
    act_id: str | None = None


def new_text(actor_id: str, idempotency_key: str | None, digest: Callable[[str], str]) -> NewText:
    """The text for a request of this actor. `digest` returns the HMAC-SHA256 of a text under the ledger's own secret,
    in hexadecimal digits."""
    if idempotency_key is None:
        return NewText(KEY_START + secrets.token_urlsafe(32))
    request = json.dumps([actor_id, idempotency_key])
    code = base64.urlsafe_b64encode(bytes.fromhex(digest(_TEXT + request))).decode().rstrip("=")
    return NewText(KEY_START + code, digest(_ACT + request)[:_ACT_ID])
