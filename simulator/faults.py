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

`on` is a kind of API request ("any" for all of them), "delivery" for downloads of outputs, or "weights" for downloads
of what trainings made. A download cannot have `drop` or `set`, since it is not JSON; `slow` is only for downloads. The
garbage of a download is an HTML page with the content type of the file. A redirect is `status=302` with
`headers={"Location": url}`. Downloads have no token, so for them `token` selects the outputs of that account.

After a fault that handles the request first, the prediction exists and is billed although its creator may not know it.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from simulator.injections import Injections, check_headers, check_scope, is_whole

KINDS = ("status", "reset", "hang", "delay", "garbage", "truncate", "drop", "set", "slow")
REQUESTS = (
    *("create", "get", "cancel", "list", "file", "account", "secret"),
    *("train", "training", "train_cancel", "trainings", "file_delete", "model_create"),
    *("model", "version", "versions", "deployment", "search", "any", "delivery", "weights"),
)
DELIVERIES = ("delivery", "weights")


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


class Faults(Injections[Injection]):
    """The injections that are not used up, in the order of their arrival."""

    def __init__(self) -> None:
        super().__init__(_parse)
        self._released = asyncio.Event()

    def take(self, kind: str, token: str | None) -> Fault | None:
        """The fault of this request of `kind`, or None. `token` is None if the request has no account."""
        kinds = (kind,) if kind in DELIVERIES else (kind, "any")
        found = self.next(lambda each: each.on in kinds and each.token in (None, token))
        return None if found is None else found.fault

    async def pause(self, seconds: float) -> None:
        """Wait for so many seconds, or until `end_pauses` if that is sooner."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._released.wait()

    def end_pauses(self) -> None:
        """Let all present calls of `pause` return."""
        self._released.set()
        self._released = asyncio.Event()


def edit(body: Any, fault: Fault) -> Any:
    """`body` with the fault's fields dropped or set, in each result if it is a page of the list."""
    if not isinstance(body, dict):
        return body
    if "results" in body:
        return body | {"results": [edit(result, fault) for result in body["results"]]}
    if fault.kind == "drop":
        return {name: value for name, value in body.items() if name not in fault.value}
    return body | fault.value


def _parse(*, on: Any = "any", times: Any = 1, after: Any = 0, token: Any = None, **rest: Any) -> Injection:
    check_scope(REQUESTS, on=on, times=times, after=after)
    headers, body = rest.pop("headers", None), rest.pop("body", None)
    if len(rest) != 1 or next(iter(rest)) not in KINDS:
        raise ValueError(f"a fault is exactly one of {', '.join(KINDS)}, got {sorted(rest)}")
    if token is not None and not isinstance(token, str):
        raise ValueError(f"token must be text, got {token!r}")
    check_headers(headers)
    kind, value = rest.popitem()
    if kind != "status" and (headers is not None or body is not None):
        raise ValueError("headers and body go with status only")
    _check(kind, value)
    if on in DELIVERIES and kind in ("drop", "set"):
        raise ValueError(f"{kind} edits JSON, so on must be something else than {on}")
    if on not in DELIVERIES and kind == "slow":
        raise ValueError(f"on must be delivery or weights for slow, got {on!r}")
    fault = Fault(kind=kind, value=value, headers=headers, body=body)
    return Injection(on=on, times=times, after=after, token=token, fault=fault)


def _check(kind: str, value: Any) -> None:
    match kind:
        case "status":
            valid, expected = is_whole(value) and 200 <= value <= 599, "a status from 200 to 599"
        case "reset":
            valid, expected = value in ("before", "after"), '"before" or "after"'
        case "hang" | "delay" | "slow":
            valid = is_whole(value) or isinstance(value, float)
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
