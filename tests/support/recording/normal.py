"""Makes two recorded answers comparable.

Numbered names replace ids, times and other values that change from run to run (`Names`). Titles, details, descriptions
and summaries are prose for people: `without_prose` keeps their presence and type only, so their wording may change.
"""

import hashlib
import json
import re
from typing import Any, Final

_VOLATILE: Final = re.compile(
    r"(?P<gen>gen_[0-9a-f]{32})|(?P<batch>batch_[0-9a-f]{32})|(?P<user>user_[0-9a-f]{32})|(?P<request>req_[0-9a-f]{24})"
    r"|(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|\+00:00))|(?P<day>\d{4}-\d\d-\d\d)(?=\"|$)"
    r"|(?P<nonce>(?<=nonce-)[\w-]{22}|(?<=nonce=\")[\w-]{22})|(?P<port>(?<=127\.0\.0\.1:)\d+)"
    r"|(?P<delivery>(?<=/delivery/)[^\s\"?]+/)|(?P<prediction>\b[a-z2-7]{26}\b)|(?P<place>/tmp/[\w./-]+)"
)
_NUMBERS: Final = {
    "queued", "predicting", "total", "actual_seconds", "estimated_seconds", "uptime_seconds", "current_rate_per_minute",
    "paused_seconds", "progress",
}  # fmt: skip
"""Fields whose numbers are measured, or follow from measured ones."""
_MOVING: Final = (
    "status", "place", "prediction_id", "attempts", "counts", "progress", "timing", "estimated_seconds", "cost_usd",
    "actual_cost_usd", "succeeded", "failed", "results",
)  # fmt: skip
"""Fields of unfinished work, which may change between the request and its answer."""
_UNFINISHED: Final = ("queued", "submitting", "running")

HEADERS: Final = (
    "Content-Type", "Location", "Preference-Applied", "Allow", "Content-Range", "Accept-Ranges", "Cache-Control",
    "X-Content-Type-Options", "Content-Disposition", "Content-Security-Policy",
)  # fmt: skip
PRESENT: Final = (
    "Retry-After",
    "ETag",
    "Last-Modified",
    "X-Request-ID",
    "WWW-Authenticate",
    "Vary",
    "Server",
)
"""Headers of which only the presence is compared."""


_PROSE: Final = frozenset({"title", "detail", "description", "summary"})
_PROSE_IN_HTML: Final = re.compile(r'(?<=>)[^<>]+(?=<)|"[^"<>]* [^"<>]*"')
"""Text between tags, and quoted strings of several words."""


def without_prose(value: Any) -> Any:
    """A recorded value with `<prose>` in place of each title, detail, description and summary, and of text in HTML."""
    if isinstance(value, dict):
        return {
            name: "<prose>" if name in _PROSE and isinstance(each, str) else without_prose(each)
            for name, each in value.items()
        }
    if isinstance(value, list):
        is_html = value[:1] == ["<!doctype html>"]
        return [_PROSE_IN_HTML.sub("<prose>", each) if is_html else without_prose(each) for each in value]
    return value


class Names:
    """The names that stand for what changes, over one recording."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._numbers: dict[str, int] = {}

    def text(self, text: str) -> str:
        return _VOLATILE.sub(self._name, text)

    def value(self, value: Any, *, field: str = "", exact: bool = False) -> Any:
        """A value of a JSON body. `exact` keeps the state of unfinished work."""
        if isinstance(value, dict):
            moving = _MOVING if value.get("status") in _UNFINISHED and not exact else ()
            return {
                self.text(name): "unfinished" if name in moving else self.value(each, field=name, exact=exact)
                for name, each in value.items()
            }
        if isinstance(value, list):
            return [self.value(each, exact=exact) for each in value]
        if isinstance(value, str):
            return self.text(value)
        is_measured = isinstance(value, float) and field in _NUMBERS
        return "measured" if is_measured or field == "current_rate_per_minute" else value

    def body(self, content: bytes, mimetype: str, *, exact: bool = False) -> Any:
        if not content:
            return None
        if mimetype in {"application/json", "application/problem+json"}:
            return self.value(json.loads(content), exact=exact)
        if mimetype == "application/x-ndjson":
            return [self.value(json.loads(line), exact=exact) for line in content.splitlines()]
        if mimetype == "text/event-stream":
            events = [self._event(event, exact) for event in content.decode().split("\n\n") if event]
            return [each for number, each in enumerate(events) if each[:1] != ["progress"] or number == 2]
        if mimetype.startswith("text/"):
            return self.text(content.decode()).splitlines()
        return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    def _event(self, event: str, exact: bool) -> Any:
        if event.startswith(":"):
            return event
        name, data = event.split("\n")
        return [
            name.removeprefix("event: "),
            self.value(json.loads(data.removeprefix("data: ")), exact=exact),
        ]

    def _name(self, found: re.Match[str]) -> str:
        kind, text = str(found.lastgroup), found[0]
        if kind in {"time", "day", "nonce", "port", "place", "request"}:
            return f"<{kind}>"
        if text not in self._names:
            self._numbers[kind] = number = self._numbers.get(kind, 0) + 1
            self._names[text] = f"<{kind} {number}>"
        return self._names[text]
