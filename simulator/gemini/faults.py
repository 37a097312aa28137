"""Ordered faults: courses for the next calls, whatever their prompts say.

A fault names the kind of call (`on`: generate, stream, count, models, or any), the calls to let through first (`after`)
and those to affect (`times`), and optionally the key and the model. It has marks (`marks`), or an answer of its own:
`status` with `body` (JSON or a text) and `headers`. Marks other than refusals, `reset`, `lost` and `silence` have no
effect on `count` and `models`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from simulator.gemini import marks as prompt_marks

KINDS = ("generate", "stream", "count", "models", "any")


@dataclass(slots=True, kw_only=True)
class Fault:
    """A course for calls, and how many calls it will still affect."""

    on: str = "any"
    times: int = 1
    after: int = 0
    key: str | None = None
    model: str | None = None
    marks: str | None = None
    status: int | None = None
    body: Any = None
    headers: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        if self.on not in KINDS:
            raise ValueError(f"on must be one of {', '.join(KINDS)}, got {self.on!r}")
        for name, least in (("times", 1), ("after", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
        for name in ("key", "model"):
            if not isinstance(getattr(self, name), str | None):
                raise ValueError(f"{name} must be a text, got {getattr(self, name)!r}")
        if (self.marks is None) == (self.status is None):
            raise ValueError("a fault has either marks or a status")
        if self.marks is not None:
            prompt_marks.check(self.marks)
        elif not isinstance(self.status, int) or not 200 <= self.status <= 599:
            raise ValueError(f"status must be from 200 to 599, got {self.status!r}")
        headers = {} if self.headers is None else self.headers
        if not isinstance(headers, Mapping) or not all(isinstance(each, str) for each in headers.values()):
            raise ValueError(f"headers must be an object of texts, got {self.headers!r}")

    def as_json(self) -> dict[str, Any]:
        """The arguments that would inject the rest of it, without its key."""
        return {name: value for name, value in asdict(self).items() if name != "key" and value is not None}


class Faults:
    """The faults that are not used up, in the order of their arrival."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def inject(self, **arguments: Any) -> None:
        """Inject a fault.

        Raises:
            ValueError: If an argument is unknown or invalid.
        """
        self.inject_all([arguments])

    def inject_all(self, faults: Any) -> None:
        """Inject faults from a list of JSON objects: all, or none if one is invalid."""
        if not isinstance(faults, list) or not all(isinstance(each, dict) for each in faults):
            raise ValueError("faults must be a JSON list of objects")
        try:
            self._faults += [Fault(**each) for each in faults]
        except TypeError as reason:
            raise ValueError(f"a fault has no such field: {reason}") from reason

    def take(self, kind: str, *, key: str, model: str) -> Fault | None:
        """The fault of a call of this kind, or None."""
        for fault in self._faults:
            if (
                fault.on not in (kind, "any")
                or fault.key not in (None, key)
                or fault.model not in (None, model)
            ):
                continue
            if fault.after:
                fault.after -= 1
                continue
            fault.times -= 1
            if not fault.times:
                self._faults.remove(fault)
            return fault
        return None

    def as_json(self) -> list[dict[str, Any]]:
        """The faults that are not used up."""
        return [fault.as_json() for fault in self._faults]

    def clear(self) -> None:
        """Remove all faults."""
        self._faults.clear()
