"""Injected faults: they choose the course of the next calls, and precede the marks of prompts.

A fault names the kind of call (`on`: generate, stream, count, models, or any), the calls to let through first (`after`)
and those to affect (`times`), and optionally the key and the model. It has marks (`marks`), or an answer of its own:
`status` with `body` (JSON or a text) and `headers`. Marks other than refusals, `reset`, `lost` and `silence` have no
effect on `count` and `models`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from simulator.gemini import marks as prompt_marks
from simulator.injections import Injections, check_headers, check_scope

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
        check_scope(KINDS, on=self.on, times=self.times, after=self.after)
        for name in ("key", "model"):
            if not isinstance(getattr(self, name), str | None):
                raise ValueError(f"{name} must be a text, got {getattr(self, name)!r}")
        if (self.marks is None) == (self.status is None):
            raise ValueError("a fault has either marks or a status")
        if self.marks is not None:
            prompt_marks.check(self.marks)
        elif not isinstance(self.status, int) or not 200 <= self.status <= 599:
            raise ValueError(f"status must be from 200 to 599, got {self.status!r}")
        check_headers(self.headers)

    def as_json(self) -> dict[str, Any]:
        """The arguments that would inject the rest of it, without its key."""
        return {name: value for name, value in asdict(self).items() if name != "key" and value is not None}


class Faults(Injections[Fault]):
    """The faults that are not used up, in the order of their arrival."""

    def __init__(self) -> None:
        super().__init__(_parse)

    def take(self, kind: str, *, key: str, model: str) -> Fault | None:
        """The fault of a call of this kind, or None."""
        return self.next(
            lambda each: each.on in (kind, "any") and each.key in (None, key) and each.model in (None, model)
        )


def _parse(**fields: Any) -> Fault:
    try:
        return Fault(**fields)
    except TypeError as reason:
        raise ValueError(f"a fault has no such field: {reason}") from reason
