"""Origins: how a prediction was made, as its provider shows it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from providers.fingerprints import fingerprint

NOTHING_HIDDEN: Final[frozenset[str]] = frozenset()


@dataclass(frozen=True)
class Origin:
    """How a prediction was made. None is not shown: providers may leave out any part."""

    model: str | None = None
    """`owner/name`; of a deployment's prediction, that of its release."""
    version: str | None = None
    """The id of the version (64 hex digits), or another word."""
    deployment: str | None = None
    """`owner/name`, or only the name."""
    input: Any = field(default=None, repr=False)
    """It may contain secrets."""
    identify: Callable[[Mapping[str, Any]], str] = field(default=fingerprint, repr=False, compare=False)
    """Returns the mark by which a lost creation with this input is recognized (`Provider.content_of`)."""
    _contents: dict[frozenset[str], str] = field(default_factory=dict, init=False, repr=False, compare=False)

    def content(self, hidden: frozenset[str] = NOTHING_HIDDEN) -> str | None:
        """The mark of its input, without the inputs named in `hidden`. None if no input is shown, empty if it
        cannot be computed."""
        if not isinstance(self.input, dict):
            return None
        shown = hidden and hidden.intersection(self.input)
        if shown not in self._contents:
            self._contents[shown] = self._content(shown)
        return self._contents[shown]

    def _content(self, hidden: frozenset[str]) -> str:
        try:
            return self.identify({name: each for name, each in self.input.items() if name not in hidden})
        except (ValueError, RecursionError):
            return ""
