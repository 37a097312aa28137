"""Faults of the network and of Replicate, injected on request.

An injection names the kind of request (`on`), the number of requests to let through first (`after`), and the number of
requests to affect (`times`). It has exactly one of these faults:

    status=503            this status, without handling the request (headers=, body= optional)
    reset="before"        the connection is reset, without handling the request
    reset="after"         the request is handled, then the connection is reset without a response
    hang=seconds          the request is handled; after so many seconds the connection is reset without a response
    delay=seconds         the request is handled; the response is sent so many seconds later
    garbage=True          the request is handled; its response is not JSON
    truncate=True         the request is handled; the connection is closed after half of the response
    drop=["version"]      the request is handled; its response lacks these fields
    set={"status": "x"}   the request is handled; its response has these fields
    slow=seconds          the bytes of the response are spread over so many seconds

`on` is a kind of API request ("any" for all of them), or "delivery" for downloads of outputs. A delivery cannot have
`drop` or `set`, since it is not JSON; `slow` is only for deliveries. The garbage of a delivery is an HTML page with the
content type of the picture. A redirect is `status=302` with `headers={"Location": url}`. Downloads have no token, so
for them `token` selects the outputs of that account's predictions.

After a fault that handles the request first, the prediction exists and is billed although its creator may not know it.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

KINDS = ("status", "reset", "hang", "delay", "garbage", "truncate", "drop", "set", "slow")
REQUESTS = (
    *("create", "get", "cancel", "list", "file", "account", "secret"),
    *("model", "version", "versions", "deployment", "search", "any", "delivery"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A fault of one request: its kind and value. `headers` and `body` are for the kind `status`."""

    kind: str
    value: Any
    headers: Mapping[str, str] | None = None
    body: Any = None


@dataclass(slots=True, kw_only=True)
class Injection:
    """A fault, the requests that it is for, and how many requests it will still affect."""

    on: str
    times: int
    after: int
    token: str | None
    fault: Fault

    def as_json(self) -> dict[str, Any]:
        """The arguments that would inject the rest of it, without its token."""
        fault = asdict(self.fault)
        extras = {name: fault[name] for name in ("headers", "body") if fault[name] is not None}
        shown = {"on": self.on, "times": self.times, "after": self.after}
        return shown | {self.fault.kind: self.fault.value} | extras


class Faults:
    """The injections that are not used up, in the order of their arrival."""

    def __init__(self) -> None:
        self._injections: list[Injection] = []
        self._released = asyncio.Event()

    def inject(self, *, on: str = "any", times: int = 1, after: int = 0, **rest: Any) -> None:
        """Inject a fault.

        Args:
            on: The kind of request.
            times: The number of requests to affect.
            after: The number of such requests to let through first.
            rest: `token` for one account only, and exactly one kind of fault.

        Raises:
            ValueError: If an argument is invalid.
        """
        self._injections.append(_parse(on=on, times=times, after=after, **rest))

    def inject_all(self, injections: Any) -> None:
        """Inject faults from a list of JSON objects: all, or none if one is invalid."""
        if not isinstance(injections, list) or not all(isinstance(each, dict) for each in injections):
            raise ValueError("faults must be a JSON list of objects")
        self._injections += [_parse(**({"on": "any", "times": 1, "after": 0} | each)) for each in injections]

    def take(self, kind: str, token: str | None) -> Fault | None:
        """The fault of this request of `kind`, or None. `token` is None if the request has no account."""
        kinds = (kind,) if kind == "delivery" else (kind, "any")
        for injection in self._injections:
            if injection.on not in kinds or injection.token not in (None, token):
                continue
            if injection.after:
                injection.after -= 1
                continue
            injection.times -= 1
            if not injection.times:
                self._injections.remove(injection)
            return injection.fault
        return None

    async def pause(self, seconds: float) -> None:
        """Wait for so many seconds, or until `end_pauses` if that is sooner."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._released.wait()

    def end_pauses(self) -> None:
        """Let all present calls of `pause` return."""
        self._released.set()
        self._released = asyncio.Event()

    def as_json(self) -> list[dict[str, Any]]:
        """The injections that are not used up."""
        return [injection.as_json() for injection in self._injections]

    def clear(self) -> None:
        """Remove all injections."""
        self._injections.clear()


def edit(body: Any, fault: Fault) -> Any:
    """`body` with the fault's fields dropped or set, in each result if it is a page of the list."""
    if not isinstance(body, dict):
        return body
    if "results" in body:
        return body | {"results": [edit(result, fault) for result in body["results"]]}
    if fault.kind == "drop":
        return {name: value for name, value in body.items() if name not in fault.value}
    return body | fault.value


def _parse(*, on: Any, times: Any, after: Any, token: Any = None, **rest: Any) -> Injection:
    if on not in REQUESTS:
        raise ValueError(f"on must be one of {', '.join(REQUESTS)}, got {on!r}")
    if not _whole(times) or times < 1:
        raise ValueError(f"times must be a whole number of at least 1, got {times!r}")
    if not _whole(after) or after < 0:
        raise ValueError(f"after must be a whole number of at least 0, got {after!r}")
    headers, body = rest.pop("headers", None), rest.pop("body", None)
    if len(rest) != 1 or next(iter(rest)) not in KINDS:
        raise ValueError(f"a fault is exactly one of {', '.join(KINDS)}, got {sorted(rest)}")
    if token is not None and not isinstance(token, str):
        raise ValueError(f"token must be text, got {token!r}")
    if headers is not None and not _texts(headers):
        raise ValueError(f"headers must be an object of texts, got {headers!r}")
    kind, value = rest.popitem()
    if kind != "status" and (headers is not None or body is not None):
        raise ValueError("headers and body go with status only")
    _check(kind, value)
    if on == "delivery" and kind in ("drop", "set"):
        raise ValueError(f"{kind} edits JSON, so on must be something else than delivery")
    if on != "delivery" and kind == "slow":
        raise ValueError(f"on must be delivery for slow, got {on!r}")
    fault = Fault(kind=kind, value=value, headers=headers, body=body)
    return Injection(on=on, times=times, after=after, token=token, fault=fault)


def _check(kind: str, value: Any) -> None:
    match kind:
        case "status":
            valid, expected = _whole(value) and 200 <= value <= 599, "a status from 200 to 599"
        case "reset":
            valid, expected = value in ("before", "after"), '"before" or "after"'
        case "hang" | "delay" | "slow":
            valid = _whole(value) or isinstance(value, float)
            valid, expected = valid and 0 <= value <= 3600, "seconds, from 0 to 3600"
        case "garbage" | "truncate":
            valid, expected = value is True, "true"
        case "drop":
            valid = isinstance(value, list) and all(isinstance(name, str) for name in value)
            expected = "a list of field names"
        case _:
            valid, expected = isinstance(value, dict), "an object of fields"
    if not valid:
        raise ValueError(f"{kind} must be {expected}, got {value!r}")


def _texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
