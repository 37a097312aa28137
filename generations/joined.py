"""The items of a batch that were there before, under the same idempotency key: the batch has joined them.

Such a generation belongs to another batch or to none. The row of the batch has its id, and the batch shows it in its
place. It neither counts as the cost of the batch nor is cancelled with it.
"""

import json
from collections.abc import Mapping, Sequence

from errors import NotFound
from ledger import Queries
from ledger.records import BatchRecord, Failure, GenerationRecord


def joined_json(ids: Mapping[int, str]) -> str | None:
    """The ids of joined items by their places, as a record has them."""
    return json.dumps(ids) if ids else None


def joined_ids(record: BatchRecord) -> Mapping[int, str]:
    """The ids of its joined items by their places."""
    return {int(place): each for place, each in json.loads(record.joined or "{}").items()}


def items_of_record(queries: Queries, record: BatchRecord) -> Sequence[GenerationRecord]:
    """All items of a batch, in input order. Blocks. Raises LedgerDown."""
    own = queries.batch_items(record.id)
    ids = joined_ids(record)
    if not ids:
        return own
    found = {each.id: each for each in queries.members(ids.values())}
    items = {place: found.get(each) or lost_item(each, record) for place, each in ids.items()}
    items |= {each.position or 0: each for each in own}
    return [items[place] for place in sorted(items)]


def lost_item(work_id: str, batch: BatchRecord) -> GenerationRecord:
    """The record of a joined item that is not in the ledger any more, such as after a loss of commits. Only its id is
    known."""
    detail = "The ledger does not have this generation any more. Whether it succeeded is not known."
    return GenerationRecord(
        id=work_id, caller_id=batch.caller_id, batch_id=None, position=None, state="failed", model="",
        requested_model="", prompt="", file_name=None, lists_attempts=False, request=None, request_id="", webhook=None,
        address=batch.address, simulated=batch.simulated, accepted_at=batch.accepted_at, ended_at=batch.accepted_at,
        error=Failure(NotFound.code, detail, retryable=False),
    )  # fmt: skip
