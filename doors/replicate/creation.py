"""Requests that create predictions, translated into bodies of `POST /generate`.

The path or `version` names the model, and `input` has its inputs. Headers have the time to hold the answer (`Prefer`)
and the time that the prediction may take (`Cancel-After`). The fields around `input` are checked here, and then the
parser checks the input.

Facts: Replicate's OpenAPI document (`predictions.create`), and the source of the official client at 1.0.7.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from errors import InvalidRequest, Problem
from parsing.shapes import MAX_TIMEOUT

EVENTS: Final = ("start", "output", "logs", "completed")

USUAL_EVENTS: Final = ("output", "completed")
"""The events of a webhook without a filter."""

LONGEST_WAIT: Final = 60
"""Seconds for which an answer may be held."""

_EARLIER: Final = 1.0
"""Seconds by which the answer comes before the end of a longer hold: the official client reads for half a second more
than the wait that it requests, and forgets a prediction if the answer is late."""

_SHORTEST_DEADLINE: Final = 5

_WAIT: Final = re.compile(r"(?:^|[,;\s])wait(?:\s*=\s*\"?(\d{1,9})\"?)?(?:$|[,;\s])")
_DURATION: Final = re.compile(r"(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6})s)?")

_FIELDS: Final = ("version", "input", "webhook", "webhook_events_filter", "webhook_completed", "stream")


@dataclass(frozen=True, slots=True)
class Creation:
    """`body` is the equivalent body of `POST /generate`, and `target` the requested model, version or deployment.
    Events of `webhook_events` go to the `webhook`. The prediction is cancelled after `deadline` seconds."""

    target: str
    body: Mapping[str, Any]
    webhook: str | None
    webhook_events: tuple[str, ...]
    deadline: float | None

    @property
    def gets_end(self) -> bool:
        """Whether its webhook gets its end or its output, which come together."""
        return "completed" in self.webhook_events or "output" in self.webhook_events

    @property
    def input(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.body["input"]
        return found


def read_creation(body: Any, *, target: str | None = None, cancel_after: str | None = None) -> Creation:
    """Read the body of a creation, for the `target` of the path or else the `version` of the body, and the header
    `Cancel-After`. Raises InvalidRequest with all problems."""
    if not isinstance(body, dict):
        raise InvalidRequest([Problem("body", "must be an object")])
    problems = [
        Problem(name, "is not allowed", body[name])
        for name in body
        if name not in _FIELDS or (name == "version" and target is not None)
    ]
    named = body.get("version") if target is None else target
    if named is None:
        problems.append(Problem("version", "is required"))
    elif not isinstance(named, str):
        problems.append(Problem("version", "must be a string", named))
    inputs = body.get("input")
    if inputs is None:
        problems.append(Problem("input", "is required"))
    elif not isinstance(inputs, dict):
        problems.append(Problem("input", "must be an object", inputs))
    if body.get("stream") not in (None, False):
        problems.append(
            Problem("stream", "is not offered by this service: leave it out, and get the prediction")
        )
    webhook, events = webhook_of(body, problems)
    deadline = deadline_of(cancel_after, problems)
    if problems:
        raise InvalidRequest(problems)
    sent: dict[str, Any] = {"model_name": named, "input": inputs}
    if deadline is not None:
        sent |= dict.fromkeys(("timeout", "start_timeout"), min(deadline, MAX_TIMEOUT))
    if webhook is not None:
        sent["webhook"] = webhook
    return Creation(str(named), sent, webhook, events, deadline)


def wait_seconds(prefer: str | None) -> float:
    """The seconds to hold the answer by a `Prefer` header, 0 without a wait."""
    found = _WAIT.search(prefer or "")
    if found is None:
        return 0.0
    seconds = min(max(int(found[1] or LONGEST_WAIT), 1), LONGEST_WAIT)
    return seconds - _EARLIER if seconds > 2 * _EARLIER else float(seconds)


def webhook_of(body: Mapping[str, Any], problems: list[Problem]) -> tuple[str | None, tuple[str, ...]]:
    """The webhook of a body and its events. The older `webhook_completed` counts without a `webhook`. Problems are
    added."""
    name = "webhook" if body.get("webhook") is not None else "webhook_completed"
    url, events = body.get(name), body.get("webhook_events_filter")
    if url is not None and not isinstance(url, str):
        problems.append(Problem(name, "must be a string", url))
        url = None
    if events is None:
        chosen = USUAL_EVENTS if name == "webhook" else ("completed",)
        return url, chosen if url is not None else ()
    if not isinstance(events, list) or not all(each in EVENTS for each in events):
        problems.append(Problem("webhook_events_filter", f"must be a list of {', '.join(EVENTS)}", events))
        return url, ()
    return url, tuple(dict.fromkeys(events)) if url is not None else ()


def deadline_of(header: str | None, problems: list[Problem]) -> float | None:
    """The seconds in a `Cancel-After` header: `30s`, `5m`, `1h30m`, or a number of seconds. Problems are added."""
    if header is None:
        return None
    text = header.strip()
    found = _DURATION.fullmatch(f"{text}s" if text.isascii() and text.isdecimal() else text)
    if not text or found is None:
        problems.append(Problem("Cancel-After", "must be a duration such as 30s, 5m or 1h30m", header))
        return None
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    total = hours * 3600 + minutes * 60 + seconds
    if total < _SHORTEST_DEADLINE:
        problems.append(Problem("Cancel-After", f"must be at least {_SHORTEST_DEADLINE} seconds", header))
        return None
    return float(total)


def with_files(value: Any, upload_of: Callable[[str], Any]) -> Any:
    """An input, or a list of them, with what `upload_of` returns in place of each text for which it is not None."""
    if isinstance(value, list):
        return [with_files(each, upload_of) for each in value]
    if not isinstance(value, str):
        return value
    found = upload_of(value)
    return value if found is None else found
