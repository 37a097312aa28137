"""Submissions from parsed requests, or the responses to dry runs: the same for all models.

All functions run in a Flask thread, inside a request.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from flask import Response, jsonify

from api import incoming
from api.item_keys import item_keys as item_keys_of
from auth import Caller
from generations import views
from generations.submission import ItemKey, Submission
from parsing.context import ParseContext
from parsing.shapes import BatchRequest, GenerationRequest
from service import Runtime


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of a submission that are not in its body: who pays, the address and idempotency key of the request, the
    seconds to wait for the end (None: without limit), and the door that it came through."""

    caller: Caller
    address: str
    key: str | None
    seconds: float | None
    door: str | None = None


def terms(caller: Caller, seconds: float | None, door: str | None = None) -> Terms:
    """Those of this request. Raises InvalidRequest."""
    return Terms(caller, incoming.address(), incoming.idempotency_key(), seconds, door)


def of_generation(
    parsed: GenerationRequest, body: Any, context: ParseContext, terms: Terms, *, is_token_checked: bool
) -> Submission | Response:
    """The submission of a generation, or the response to its dry run. Raises as `incoming.submission`."""
    service = incoming.service()
    if parsed.dry_run:
        batch = BatchRequest([parsed], semaphore=parsed.semaphore)
        forecast = service.loop.run(service.generations.forecast(batch, terms.caller))
        return jsonify(views.dry_run(parsed, forecast, is_token_checked=is_token_checked))
    return incoming.submission(
        "gen", parsed, body, context=context, caller=terms.caller, address=terms.address, key=terms.key,
        seconds=terms.seconds, door=terms.door,
    )  # fmt: skip


def of_batch(parsed: BatchRequest, body: Any, context: ParseContext, terms: Terms) -> Submission | Response:
    """The submission of a batch with its plan, or the response to its dry run. Raises as `incoming.submission`, and
    InvalidRequest for a key of an item."""
    service, caller = incoming.service(), terms.caller
    item_keys = item_keys_of(parsed, body, context, beside=terms.key)
    may_exist = terms.key is not None and not parsed.dry_run
    # Work under the key of the batch is answered as it is, so its items need no look-up.
    joined = {} if may_exist else _joined(service, caller, item_keys)
    planned = parsed.without(joined) if joined else parsed
    forecast = service.loop.run(service.generations.forecast(planned, caller, may_exist=may_exist))
    if parsed.dry_run:
        return jsonify(views.forecast(len(parsed.requests), forecast, joined))
    submission = incoming.submission(
        "batch", parsed, body, context=context, caller=caller, address=terms.address, key=terms.key,
        seconds=terms.seconds, plan=forecast.plan, door=terms.door,
    )  # fmt: skip
    return replace(submission, item_keys=item_keys)


def _joined(service: Runtime, caller: Caller, item_keys: Mapping[int, ItemKey]) -> Mapping[int, str]:
    """The ids of the items that are there already, by their places."""
    return service.loop.run(service.generations.joined(item_keys, caller)) if item_keys else {}
