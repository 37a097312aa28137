"""The states of a generation, and how moments are written in answers."""

from datetime import UTC, datetime
from typing import Literal

State = Literal["queued", "submitting", "running", "succeeded", "failed", "canceled"]

UNFINISHED: tuple[State, ...] = ("queued", "submitting", "running")
ENDED: tuple[State, ...] = ("succeeded", "failed", "canceled")


def iso8601(moment: float) -> str:
    """A Unix time (seconds) as answers carry it: ISO 8601, UTC, milliseconds."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
