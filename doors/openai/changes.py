"""The changes that a generation made to its parameters, from its body (`generations/views.py`)."""

from collections.abc import Mapping, Sequence
from typing import Any


def changes_of(body: Mapping[str, Any]) -> Sequence[Any]:
    """Those of its last attempt, as JSON."""
    attempts = body["attempts"]
    changes: Sequence[Any] = (
        attempts[-1]["changes"] if isinstance(attempts, list) and attempts else body.get("changes", ())
    )
    return changes
