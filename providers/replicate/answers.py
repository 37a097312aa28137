"""What Replicate answers, read leniently: real answers leave fields out, and none of that is an error.

Facts: replicate.com/docs/reference/http, and recorded answers.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from providers import Prediction
from providers.replicate.transport import Lost

_LOGS_READ = 2_000
"""Characters of the logs, from their end: they may be long, and are read at every look."""

_PER_CENT = re.compile(r"(?<![0-9.])([0-9]{1,3}(?:\.[0-9]{1,9})?)%")


@dataclass(frozen=True, slots=True)
class Page:
    """Part of an account's predictions, by id. `oldest` is when the oldest of them was created, by the
    upstream's clock; None if there are no older ones."""

    predictions: Mapping[str, Prediction]
    oldest: datetime | None


def read_prediction(answer: Any) -> Prediction:
    """A prediction from its JSON; only `id` and `status` must be there. Raises Lost when they are not."""
    if not isinstance(answer, dict):
        raise Lost("the answer is no prediction")
    identity, status = answer.get("id"), answer.get("status")
    if not isinstance(identity, str) or not identity or not isinstance(status, str):
        raise Lost("the answer is no prediction")
    created_at = moment(answer.get("created_at"))
    return Prediction(
        id=identity,
        status=status,
        outputs=_outputs(answer.get("output")),
        error=_error_text(answer.get("error")),
        created_at=created_at,
        seconds=_seconds(created_at, moment(answer.get("completed_at"))),
        # A real answer may leave it out; who cannot know takes it for billed.
        started=status in {"processing", "succeeded"} or bool(answer.get("started_at", status == "canceled")),
        is_removed=answer.get("data_removed") is True,
        progress=_progress(answer.get("logs")),
    )


def read_page(answer: Any) -> Page:
    """A page of predictions; what is none of them is left out. Raises Lost when it is no page."""
    items = listed(answer)
    predictions: dict[str, Prediction] = {}
    oldest: datetime | None = None
    for item in items:
        try:
            prediction = read_prediction(item)
        except Lost:
            continue
        if not (prediction.id in predictions and predictions[prediction.id].is_over):
            predictions[prediction.id] = prediction
        oldest = prediction.created_at or oldest
    return Page(predictions, oldest if answer.get("next") else None)


def listed(page: Any) -> list[Any]:
    """What stands on a page of a list. Raises Lost when it is no page."""
    items = page.get("results") if isinstance(page, dict) else None
    if not isinstance(items, list):
        raise Lost("the answer is no list of predictions")
    return items


def moment(text: Any) -> datetime | None:
    """A time as Replicate tells it (ISO 8601, UTC unless it says otherwise), or None."""
    try:
        read = datetime.fromisoformat(text)
        return read.astimezone(UTC) if read.tzinfo else read.replace(tzinfo=UTC)
    except (TypeError, ValueError, OverflowError):
        return None


def _outputs(output: Any) -> tuple[str, ...]:
    """One URL or a list of them, by model; always a tuple here."""
    every = output if isinstance(output, list) else [output]
    return tuple(url for url in every if isinstance(url, str) and url)


def _progress(logs: Any) -> float | None:
    """The last percentage that was printed. Models mostly print bars: ` 40%|████      | 12/30`."""
    if not isinstance(logs, str):
        return None
    told = [share for found in _PER_CENT.findall(logs[-_LOGS_READ:]) if (share := float(found)) <= 100]
    return told[-1] if told else None


def _error_text(error: Any) -> str | None:
    return error if error is None or isinstance(error, str) else str(error)


def _seconds(created: datetime | None, completed: datetime | None) -> float | None:
    """None, too, if it was completed before it was created."""
    if created is None or completed is None or completed <= created:
        return None
    return (completed - created).total_seconds()
