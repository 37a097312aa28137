"""Records with usual facts, for tests to which only some facts matter."""

from typing import Any

from ledger.access_records import ApiKeyRecord
from ledger.records import GenerationRecord

_USUAL: dict[str, Any] = {
    "caller_id": "admin",
    "batch_id": None,
    "position": None,
    "state": "queued",
    "model": "m",
    "requested_model": "m",
    "prompt": "A lighthouse at dusk",
    "file_name": None,
    "lists_attempts": False,
    "request": "{}",
    "request_id": "r",
    "webhook": None,
    "address": "",
    "simulated": True,
    "accepted_at": 1.0,
}


def generation(generation_id: str, **facts: Any) -> GenerationRecord:
    """A generation's record."""
    return GenerationRecord(id=generation_id, **_USUAL | facts)


def api_key(number: int = 0, **facts: Any) -> ApiKeyRecord:
    """The record of a named key."""
    usual: dict[str, Any] = {
        "name": f"key {number}",
        "role": "caller",
        "digest": f"d{number}",
        "prefix": "rcg_",
        "created_at": 1.0,
    }
    return ApiKeyRecord(id=f"key_{number}", **usual | facts)
