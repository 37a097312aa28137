"""Faults to order: what the network and Replicate do on a bad day, on demand.

An order names the requests it is for, lets some through first, and strikes a number of times. What
it does is exactly one of these:

    status=503            answers that, without handling the request (headers=, body= optional)
    reset="before"        the connection is reset, without handling the request
    reset="after"         the request is handled, then the connection is reset: no answer
    hang=seconds          the request is handled; the connection drops that much later, unanswered
    delay=seconds         the request is handled and answered that much later
    garbage=True          the request is handled; its answer is not JSON
    truncate=True         the request is handled; half of its answer comes, then a close
    drop=["version"]      the request is handled; its answer lacks these fields
    set={"status": "x"}   the request is handled; its answer has these fields
    slow=seconds          the answer's bytes trickle in, the last of them that much later

They are for requests of the API (`on="create"`, and so on; "any" is any of these), and for downloads of outputs
with `on="delivery"`. A delivery cannot have `drop` or `set`, for it is not JSON; `slow` is for deliveries only. To a
delivery, garbage is a page of HTML that says it is the picture; a redirect is `status=302` with
`headers={"Location": url}`. Nobody downloads with a token: `token` there means outputs of that account's predictions.

The ones that handle the request first are the expensive ones: the prediction exists, and is billed,
whatever its creator gets to hear.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

KINDS = ("status", "reset", "hang", "delay", "garbage", "truncate", "drop", "set", "slow")
REQUESTS = ("create", "get", "cancel", "list", "file", "account", "secret", "model", "any", "delivery")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What happens to one request: a kind and its value. `headers` and `body` go with `status`."""

    kind: str
    value: Any
    headers: Mapping[str, str] | None = None
    body: Any = None


@dataclass(slots=True, kw_only=True)
class Order:
    """A fault, whom it is for, and how often it still strikes."""

    on: str
    times: int
    after: int
    token: str | None
    fault: Fault

    def as_json(self) -> dict[str, Any]:
        """The order as it would have to be given to get what is left of it, without its token."""
        fault = asdict(self.fault)
        extras = {name: fault[name] for name in ("headers", "body") if fault[name] is not None}
        shown = {"on": self.on, "times": self.times, "after": self.after}
        return shown | {self.fault.kind: self.fault.value} | extras


class Faults:
    """The orders not yet used up, first come first served."""

    def __init__(self) -> None:
        self._orders: list[Order] = []

    def inject(self, *, on: str = "any", times: int = 1, after: int = 0, **rest: Any) -> None:
        """Order a fault.

        Args:
            on: The kind of request it is for.
            times: How many requests it strikes.
            after: How many such requests it lets through first.
            rest: `token` for one account only, and exactly one kind of fault.

        Raises:
            ValueError: If the order makes no sense.
        """
        self._orders.append(_parse(on=on, times=times, after=after, **rest))

    def inject_all(self, orders: Any) -> None:
        """Order faults given as JSON objects: all, or none if one makes no sense."""
        if not isinstance(orders, list) or not all(isinstance(order, dict) for order in orders):
            raise ValueError("faults are ordered as a JSON list of objects")
        self._orders += [_parse(**({"on": "any", "times": 1, "after": 0} | o)) for o in orders]

    def take(self, kind: str, token: str | None) -> Fault | None:
        """The fault that strikes this request of `kind`, if one does. Without a `token` it is nobody's."""
        meant = (kind,) if kind == "delivery" else (kind, "any")
        for order in self._orders:
            if order.on not in meant or order.token not in (None, token):
                continue
            if order.after:
                order.after -= 1
                continue
            order.times -= 1
            if not order.times:
                self._orders.remove(order)
            return order.fault
        return None

    def as_json(self) -> list[dict[str, Any]]:
        """What is still ordered."""
        return [order.as_json() for order in self._orders]

    def clear(self) -> None:
        """Call everything off."""
        self._orders.clear()


def edit(body: Any, fault: Fault) -> Any:
    """`body` with a fault's fields dropped or set; each of a page's results, if it is a page."""
    if not isinstance(body, dict):
        return body
    if "results" in body:
        return body | {"results": [edit(result, fault) for result in body["results"]]}
    if fault.kind == "drop":
        return {name: value for name, value in body.items() if name not in fault.value}
    return body | fault.value


def _parse(*, on: Any, times: Any, after: Any, token: Any = None, **rest: Any) -> Order:
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
    return Order(on=on, times=times, after=after, token=token, fault=fault)


def _check(kind: str, value: Any) -> None:
    match kind:
        case "status":
            good, wanted = _whole(value) and 200 <= value <= 599, "a status from 200 to 599"
        case "reset":
            good, wanted = value in ("before", "after"), '"before" or "after"'
        case "hang" | "delay" | "slow":
            good = _whole(value) or isinstance(value, float)
            good, wanted = good and 0 <= value <= 3600, "seconds, from 0 to 3600"
        case "garbage" | "truncate":
            good, wanted = value is True, "true"
        case "drop":
            good = isinstance(value, list) and all(isinstance(name, str) for name in value)
            wanted = "a list of field names"
        case _:
            good, wanted = isinstance(value, dict), "an object of fields"
    if not good:
        raise ValueError(f"{kind} must be {wanted}, got {value!r}")


def _texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
