"""Errors below `/v1` and `/replicate/v1`, in the shape of the door that stands there. All others are problem documents.

A shape is a pure function of the problem document and the headers. It returns the body, its content type, and further
headers.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import unquote

from doors import OPENAI_ROOT, REPLICATE_ROOT
from doors.openai import errors as openai
from doors.replicate import errors as replicate

Shaped = tuple[dict[str, Any], str, dict[str, str]]

_SHAPES: Final[Mapping[str, Callable[[Mapping[str, Any], Mapping[str, str]], Shaped]]] = {
    OPENAI_ROOT: openai.shape,
    REPLICATE_ROOT: replicate.shape,
}
"""The shape of the errors below each path."""

PROBLEM: Final = "application/problem+json"


def shape(problem: dict[str, Any], headers: Mapping[str, str], path: str, *, public: str = "") -> Shaped:
    """The body, the content type and further headers of the response to an error. If the body has a `status`, that is
    the one of the response. `path` is that of the request, and `public` the one of PUBLIC_URL, which may be before
    it."""
    before = unquote(public)
    path = path.removeprefix(before) if path.startswith(f"{before}/") else path
    for root, shaped in _SHAPES.items():
        if path == root or path.startswith(f"{root}/"):
            return shaped(problem, headers)
    return problem, PROBLEM, {}
