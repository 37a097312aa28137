"""The user that a call of the door is for."""

from typing import Any, Final

from parsing.pairs import LONGEST_PAIR_VALUE

_NAMES: Final = ("safety_identifier", "user")


def user_as_metadata(fields: dict[str, Any]) -> None:
    """Move the user among the fields of a call to its metadata, unless these have one. Of both names, the first
    counts."""
    found = [str(fields.pop(name)) for name in _NAMES if name in fields]
    metadata = fields.get("metadata", {})
    if (user := next(filter(str.strip, found), None)) and isinstance(metadata, dict):
        fields["metadata"] = {"user": user[:LONGEST_PAIR_VALUE], **metadata}
