"""The queue of injected faults, for both simulated services.

An injection lets the first `after` requests that it is for through, and affects the next `times`.
"""

from collections.abc import Callable, Collection
from typing import Any, Generic, Protocol, TypeVar


class Injection(Protocol):
    """A fault, and how many requests it will still let through and affect."""

    times: int
    after: int

    def as_json(self) -> dict[str, Any]:
        """The arguments that would inject the rest of it, without secrets."""
        ...


T = TypeVar("T", bound=Injection)


class Injections(Generic[T]):
    """The injections that are not used up, in the order of their arrival.

    Args:
        parse: Makes an injection from its fields. It raises ValueError if one is unknown or invalid.
    """

    def __init__(self, parse: Callable[..., T]) -> None:
        self._parse = parse
        self._injections: list[T] = []

    def inject(self, **fields: Any) -> None:
        """Inject a fault.

        Raises:
            ValueError: If a field is unknown or invalid.
        """
        self._injections.append(self._parse(**fields))

    def inject_all(self, injections: Any) -> None:
        """Inject faults from a list of JSON objects: all, or none if one is invalid."""
        if not isinstance(injections, list) or not all(isinstance(each, dict) for each in injections):
            raise ValueError("faults must be a JSON list of objects")
        self._injections += [self._parse(**each) for each in injections]

    def next(self, is_for_request: Callable[[T], bool]) -> T | None:
        """The injection that affects this request, or None. Counts the request."""
        for injection in self._injections:
            if not is_for_request(injection):
                continue
            if injection.after:
                injection.after -= 1
                continue
            injection.times -= 1
            if not injection.times:
                self._injections.remove(injection)
            return injection
        return None

    def as_json(self) -> list[dict[str, Any]]:
        """The injections that are not used up."""
        return [injection.as_json() for injection in self._injections]

    def clear(self) -> None:
        """Remove all injections."""
        self._injections.clear()


def check_scope(kinds: Collection[str], *, on: Any, times: Any, after: Any) -> None:
    """Check the requests that an injection is for.

    Raises:
        ValueError: If a field is invalid.
    """
    if on not in kinds:
        raise ValueError(f"on must be one of {', '.join(kinds)}, got {on!r}")
    for name, value, least in (("times", times, 1), ("after", after, 0)):
        if not is_whole(value) or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")


def check_headers(headers: Any) -> None:
    """Check the headers of a fault, which may be None.

    Raises:
        ValueError: If they are not an object of texts.
    """
    are_texts = isinstance(headers, dict) and all(isinstance(each, str) for each in headers.values())
    if headers is not None and not are_texts:
        raise ValueError(f"headers must be an object of texts, got {headers!r}")


def is_whole(value: Any) -> bool:
    """Whether it is a whole number. True and False are not."""
    return isinstance(value, int) and not isinstance(value, bool)
