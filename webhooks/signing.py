"""The signatures of deliveries, and the secrets that make them.

A message is signed as Replicate signs its own: HMAC-SHA256 over `id.timestamp.body`, keyed with the bytes after
`whsec_`. Each named key has a secret of its own, so that no service can forge a webhook to another. It is derived from
the ledger's own secret and the id of the key, and stored nowhere. So it is the same in all processes on one ledger,
before and after a rotation, and for work that is delivered after the key was deleted.
"""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from standardwebhooks import Webhook

from contract.callers import KEY_PREFIX
from settings.rotating import RotatingSecret

_START: Final = "whsec_"

_PURPOSE: Final = "webhook secret "
"""The start of the text that is hashed. No key and no token has a space, so none has a hash that is a secret here."""


@dataclass(frozen=True, slots=True)
class Message:
    """The body of a delivery, and the caller whose work it reports."""

    caller_id: str
    content: bytes


class SigningSecrets:
    """The secrets of all callers, each `whsec_` and base64.

    `digest` returns the HMAC-SHA256 of a text under the ledger's own secret, in hexadecimal digits. `common` signs the
    work of every caller, if it is not None. Raises ValueError if it is malformed."""

    def __init__(self, digest: Callable[[str], str], common: str | None) -> None:
        if common is not None:
            decode_secret(common)
        self._digest = digest
        self.common = RotatingSecret(common)
        """The secret of every caller. One that it replaced still signs for a while, so that receivers may learn the new
        one before or after the service."""

    def shown_to(self, caller_id: str) -> str | None:
        """The secret with which a caller verifies the webhooks of its work: that of a named key, or the common one.
        Raises LedgerDown while the ledger is not open."""
        return self.own(caller_id) or self.common.value

    def own(self, caller_id: str) -> str | None:
        """The secret of a named key, which may be deleted. None for any other caller. Raises LedgerDown while the
        ledger is not open."""
        if not caller_id.startswith(KEY_PREFIX):
            return None
        return _START + base64.b64encode(bytes.fromhex(self._digest(_PURPOSE + caller_id))).decode()

    def signing(self, caller_id: str) -> Sequence[str]:
        """All secrets that sign the webhooks of a caller's work, the common one first. Raises LedgerDown while the
        ledger is not open."""
        own = self.own(caller_id)
        return [*self.common.valid, *([] if own is None else [own])]


def signed_headers(content: bytes, *, message_id: str, secrets: Sequence[str], now: float) -> dict[str, str]:
    """The headers of an attempt at `now` (Unix time), with a signature by each of the secrets. Raises ValueError as
    `decode_secret` does."""
    timestamp = int(now)
    headers = {
        "Content-Type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
    }
    if secrets:
        date, text = datetime.fromtimestamp(timestamp, UTC), content.decode()
        headers["webhook-signature"] = " ".join(
            Webhook(decode_secret(each)).sign(message_id, date, text) for each in secrets
        )
    return headers


def decode_secret(secret: str) -> bytes:
    """The signing key in a secret (`whsec_` and base64). Raises ValueError for any other text."""
    try:
        key = base64.b64decode(secret.removeprefix(_START), validate=True)
    except ValueError:
        key = b""
    if not secret.startswith(_START) or not key:
        raise ValueError("a webhook secret must be whsec_ and base64")
    return key
