"""The reader of the text of a call while it comes."""

from typing import Protocol

from generations.archive import Stored
from generations.batch import Work


class Reader(Protocol):
    """Reads the text of one call, on its way to its caller."""

    @property
    def answers(self) -> bool:
        """Whether the answer has begun, so that its client has a status and the first of the text."""

    def begin(self, work: Work | Stored, /) -> object:
        """Read the text of this work."""
