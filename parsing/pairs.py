"""Pairs of texts that a caller or an operator attaches to something."""

from typing import Annotated, Final

from pydantic import AfterValidator

from catalog.text_values import usable_text

MOST_PAIRS: Final = 16
LONGEST_PAIR_NAME: Final = 64
LONGEST_PAIR_VALUE: Final = 512


def bounded(pairs: dict[str, str]) -> dict[str, str]:
    """The pairs. Raises ValueError if they are too many or too long."""
    if len(pairs) > MOST_PAIRS:
        raise ValueError(f"must have at most {MOST_PAIRS} pairs")
    for name, value in pairs.items():
        if not 1 <= len(name) <= LONGEST_PAIR_NAME:
            raise ValueError(f"must have names of 1 to {LONGEST_PAIR_NAME} characters")
        if len(value) > LONGEST_PAIR_VALUE:
            raise ValueError(f"must have values of at most {LONGEST_PAIR_VALUE} characters")
        usable_text(name), usable_text(value)  # the ledger searches them as JSON
    return pairs


BoundedPairs = Annotated[dict[str, str], AfterValidator(bounded)]
"""At most 16 names with a text each."""
