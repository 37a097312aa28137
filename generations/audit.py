"""The audit trail: what administrators did. An act is in the ledger before its response.

The details never hold a secret: of keys only their limits, of work only its id and owner.
"""

import json
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from contract.states import iso8601
from ledger import Ledger
from ledger.access_records import AuditRecord


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts: the id of the caller, the name of its key, and the id of the request."""

    id: str
    name: str
    request_id: str

    def act(
        self,
        action: str,
        target: str,
        details: Mapping[str, Any] | None = None,
        *,
        act_id: str | None = None,
    ) -> AuditRecord:
        """The record of an act now, such as `keys.create` of the key with the id `target`. Its own id is random unless
        there is an `act_id`."""
        return AuditRecord(
            at=time.time(),
            id=act_id or secrets.token_hex(8),
            actor=self.id,
            actor_name=self.name,
            action=action,
            target=target,
            details=json.dumps(details or {}),
            request_id=self.request_id,
        )


@asynccontextmanager
async def noted(ledger: Ledger, act: AuditRecord) -> AsyncIterator[None]:
    """Write an act while the block does it. It is on the disk at the end, and not if the block raises an error. If the
    wait for the block is cancelled, the act stays, since it may be done. Raises LedgerDown."""
    ledger.upsert(act)
    try:
        yield
        await ledger.flush()
    except Exception:
        ledger.delete(AuditRecord, act.at, act.id)
        raise


def view(act: AuditRecord) -> dict[str, Any]:
    """An act as JSON."""
    return {
        "at": iso8601(act.at),
        "id": act.id,
        "actor": act.actor,
        "actor_name": act.actor_name,
        "action": act.action,
        "target": act.target,
        "details": json.loads(act.details),
        "request_id": act.request_id,
    }
