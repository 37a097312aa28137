"""The states of a generation, and the format of times in responses."""

from datetime import UTC, datetime
from typing import Literal

State = Literal["queued", "submitting", "running", "succeeded", "failed", "canceled"]

UNFINISHED: tuple[State, ...] = ("queued", "submitting", "running")
ENDED: tuple[State, ...] = ("succeeded", "failed", "canceled")


def iso8601(moment: float) -> str:
    """A Unix time (seconds) in the format of responses: ISO 8601, UTC, milliseconds."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
