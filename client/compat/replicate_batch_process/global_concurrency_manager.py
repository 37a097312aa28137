"""The slots of the service, which all scripts of an account share."""

from typing import Any

from replicate_concurrent import Client

from replicate_batch_process.connection import options


class GlobalReplicateConcurrencyManager:
    """The slots as a token sees them. `global_max_concurrent` bounds the batches of one processor further."""

    def __init__(self, api_token: str | None = None, global_max_concurrent: int | None = None) -> None:
        self._api_token = api_token
        self.global_max_concurrent = global_max_concurrent

    def get_global_status(self) -> dict[str, Any]:
        """The limit, the predictions in flight, the free slots, and how much of the limit is in use in per cent."""
        with Client(**options(self._api_token)) as client:
            slots = client.status().raw["concurrency"]
        limit, in_flight = slots["concurrent_limit"], slots["current_concurrent"]
        return {
            "global_max_concurrent": limit,
            "current_concurrent": in_flight,
            "available_slots": slots["available_slots"],
            "utilization_percentage": 100 * in_flight / limit,
        }


def get_global_status() -> dict[str, Any]:
    """As `GlobalReplicateConcurrencyManager.get_global_status`, with the token of the environment."""
    return GlobalReplicateConcurrencyManager().get_global_status()
