"""Bounds: limits on tickets beside those of their account, as of a batch, a caller or a named semaphore.

A flow whose bound has no room is *parked* there: it leaves the turns, and returns when there is room. So no other flow
waits behind it, and it costs nothing meanwhile.
"""

import math
from collections.abc import Iterable
from typing import Any, Protocol

from admission.metered.windows import Entry, WeightedWindow
from admission.own_limits import UNLIMITED, OwnLimits
from admission.semaphores import Semaphore


class Bound(Protocol):
    """A limit on the tickets that hold a slot. `held` counts these."""

    def room(self, now: float) -> float:
        """How many more tickets it lets go now; negative after it was lowered."""

    def next_room(self, now: float) -> float:
        """If it has no room now: the moment at which time alone may give it some; infinity: never."""

    def waits(self, more: int) -> None:
        """So many more tickets wait for it."""

    def take(self) -> None:
        """A waiting ticket takes room."""

    def release(self) -> None:
        """A ticket frees its room."""


class AtOnce:
    """At most `limit` tickets hold a slot at once."""

    def __init__(self, limit: float = math.inf) -> None:
        self.limit = limit
        self.held = 0

    def room(self, _now: float) -> float:
        return self.limit - self.held

    def next_room(self, _now: float) -> float:
        return math.inf

    def waits(self, more: int) -> None:
        pass

    def take(self) -> None:
        self.held += 1

    def release(self) -> None:
        self.held -= 1


class Own(AtOnce):
    """The own limits of a caller, over all accounts and models (`admission.own_limits`), and its pause."""

    def __init__(self) -> None:
        super().__init__()
        self.limits = UNLIMITED
        self.window = WeightedWindow(math.inf)
        self.paused_until = -math.inf
        self.waiting = 0

    def set(self, limits: OwnLimits) -> None:
        """Change the limits. Running tickets continue, and taken places count still."""
        self.limits = limits
        self.limit = math.inf if limits.max_concurrent is None else limits.max_concurrent
        self.window.limit = math.inf if limits.per_minute is None else limits.per_minute

    def room(self, now: float) -> float:
        if now < self.paused_until:
            return 0
        return min(self.limit - self.held, self.window.free(now))

    def next_room(self, now: float) -> float:
        if self.held >= self.limit:
            return math.inf
        return self.paused_until if now < self.paused_until else self.window.next_expiry()

    def waits(self, more: int) -> None:
        self.waiting += more

    def take(self) -> None:
        super().take()
        self.waiting -= 1

    def place(self) -> tuple[Entry, ...]:
        """A place in its own window, if it has a limit there."""
        return () if self.limits.per_minute is None else (self.window.take(1),)

    def is_idle(self, now: float) -> bool:
        """Whether it may be forgotten."""
        is_used = self.held or self.waiting or self.limits != UNLIMITED or self.window.used(now)
        return not is_used and now >= self.paused_until


class Permits:
    """The permits of a semaphore, which other gates and services take as well."""

    def __init__(self, semaphore: Semaphore) -> None:
        self.semaphore = semaphore

    def room(self, now: float) -> float:
        return self.semaphore.room(now)

    def next_room(self, now: float) -> float:
        return self.semaphore.next_chance(now)

    def waits(self, more: int) -> None:
        self.semaphore.waiting += more

    def take(self) -> None:
        self.semaphore.take(1)

    def release(self) -> None:
        self.semaphore.held -= 1


class Parked:
    """The flows that wait for room of a bound, by account. Flows and accounts are those of `accounts`.

    One account returns for each room, the one that waits longest first. So accounts take turns at a bound that they
    share.
    """

    def __init__(self) -> None:
        self._flows: dict[Bound, dict[Any, list[Any]]] = {}

    def park(self, flow: Any, bound: Bound) -> None:
        flow.is_parked = True
        self._flows.setdefault(bound, {}).setdefault(flow.account, []).append(flow)

    def unpark(self, now: float) -> Iterable[Any]:
        """Return flows to their turns, as far as their bounds have room, and yield their accounts. Between two of them
        the caller may use that room."""
        for bound in [each for each in self._flows if each.room(now) > 0]:
            by_account = self._flows[bound]
            while by_account and bound.room(now) > 0:
                account = next(iter(by_account))
                for flow in by_account.pop(account):
                    flow.unpark()
                yield account
            if not by_account:
                del self._flows[bound]

    def has_room(self, bounds: Iterable[Bound], now: float) -> bool:
        """Whether one of these bounds has room for a flow that is parked there."""
        return any(each in self._flows and each.room(now) > 0 for each in bounds)

    def next_room(self, now: float) -> float:
        """When time alone gives room to a parked flow."""
        return min((each.next_room(now) for each in self._flows), default=math.inf)
