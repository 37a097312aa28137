"""Steps: the effects of an operation, which a driver performs. An operation is a generator that yields steps, receives
their results, and returns its own. So the logic is written once; `drivers.py` performs steps, with and without asyncio.

    Send(request)     the response, with its body         Now()              seconds of a monotonic clock
    Open(request)     a response whose body is unread     Pause(seconds)
    Chunk(response)   its next bytes, None at the end     Do(function, …)    the result of a function that may block
    Read(response)    all of its body                     Emit(value)        gives a value to the loop over them
    Close(response)
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx

T = TypeVar("T")

Operation = Generator[Any, Any, T]
"""A generator of steps, with a result of the type T."""


@dataclass(frozen=True)
class Part:
    """A part of a form: a text if it has no `filename`, else a file, whose content is at hand or at a path."""

    name: str
    content: bytes | Path
    filename: str | None = None
    content_type: str | None = None


@dataclass(frozen=True)
class Request:
    """A request to an absolute `url`. With `parts` it is a form. `timeout` is in seconds, for each read."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    json: Any = None
    params: Mapping[str, Any] | None = None
    parts: tuple[Part, ...] = ()
    timeout: float = 60.0
    follow_redirects: bool = False


@dataclass(frozen=True)
class Send:
    request: Request


@dataclass(frozen=True)
class Open:
    request: Request


@dataclass(frozen=True)
class Chunk:
    response: httpx.Response


@dataclass(frozen=True)
class Read:
    response: httpx.Response


@dataclass(frozen=True)
class Close:
    response: httpx.Response


@dataclass(frozen=True)
class Now:
    pass


@dataclass(frozen=True)
class Pause:
    seconds: float


@dataclass(frozen=True)
class Emit:
    value: Any


@dataclass(frozen=True)
class Do:
    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()


def do(function: Callable[..., T], *arguments: Any) -> Operation[T]:
    """The result of a function that may block."""
    result: T = yield Do(function, arguments)
    return result


def now() -> Operation[float]:
    result: float = yield Now()
    return result
