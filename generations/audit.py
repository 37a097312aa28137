"""The audit trail: what administrators did. An act is in the ledger before its response.

The details never hold a secret: of keys only their limits, of work only its id and owner.
"""

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ledger.access_records import AuditRecord


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts: the id of the caller, the name of its key, and the id of the request."""

    id: str
    name: str
    request_id: str

    def act(self, action: str, target: str, details: Mapping[str, Any] | None = None) -> AuditRecord:
        """The record of an act now, such as `keys.create` of the key with the id `target`."""
        return AuditRecord(
            at=time.time(),
            id=secrets.token_hex(8),
            actor=self.id,
            actor_name=self.name,
            action=action,
            target=target,
            details=json.dumps(details or {}),
            request_id=self.request_id,
        )
