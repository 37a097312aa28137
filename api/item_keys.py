"""The idempotency keys of the items of a batch: `requests[i].idempotency_key`.

They are of the same kind as the header `Idempotency-Key` of `/generate`, so an item also joins a generation of that
route.
"""

from collections.abc import Mapping
from typing import Any

from api import incoming
from errors import InvalidRequest, Problem
from generations.submission import NO_KEYS, ItemKey, ledger_key
from generations.supervisor import new_id
from parsing.batch import KEY
from parsing.context import ParseContext
from parsing.shapes import BatchRequest


def item_keys(
    wanted: BatchRequest, body: Any, context: ParseContext, *, beside: str | None
) -> Mapping[int, ItemKey]:
    """The keys of the items of a batch, by their places. An item has the fingerprint of the same body at `/generate`.
    `beside` is the key of the batch itself. Raises InvalidRequest if an item has that, too. Reads uploaded files;
    blocks."""
    keys = {place: each.idempotency_key for place, each in enumerate(wanted.requests) if each.idempotency_key}
    if not keys:
        return NO_KEYS
    if same := [place for place, key in keys.items() if key == beside]:
        raise InvalidRequest(
            [Problem(f"requests[{same[0]}].{KEY}", "is the Idempotency-Key of the batch", beside)]
        )
    simulated = incoming.service().settings.REPLICATE_SIMULATE
    requests = body["requests"]
    return {
        place: ItemKey(
            ledger_key(key, simulated=simulated) or key,
            incoming.fingerprint("gen", _without_key(requests[place]), context),
            new_id("gen"),
        )
        for place, key in keys.items()
    }


def _without_key(item: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name != KEY}
