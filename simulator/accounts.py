"""Accounts: the limits of each token, measured exactly.

A limit is a log of arrivals. A request is admitted if fewer than `limit` requests were admitted in the 60 seconds
before it. A token bucket would admit nearly twice the limit around its refill, and tests must notice a caller that
exceeds it by one.

Refused requests take no place in the window. They count as *arrivals*, whose densest minute `Counts` reports.
"""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

from simulator.first_uses import FirstUses
from simulator.options import Options
from simulator.windows import MINUTE, SECOND, Window

Credit = Literal["ok", "low", "empty"]

LOW_CREDIT_CREATIONS = 6
LOW_CREDIT_BURST = 1
_REMEMBERED_ACCOUNTS = 10_000


@dataclass(frozen=True, slots=True)
class Allowance:
    """The free places of a window, and the nanoseconds until the next place is free."""

    remaining: int
    reset: int

    @property
    def seconds(self) -> int:
        """`reset` in whole seconds, rounded up, so that waiting so long is always enough."""
        return -(-self.reset // SECOND)


@dataclass(slots=True)
class Limit:
    """At most `most` arrivals in the window."""

    window: Window
    most: int

    def allowance(self, now: int) -> Allowance:
        """The allowance at `now`."""
        taken = self.window.used(now)
        if not taken:
            return Allowance(self.most, 0)
        # After a limit was lowered, several arrivals must expire before a place is free.
        next_free = self.window.wait(now, 1, min(self.most, taken))
        return Allowance(max(0, self.most - taken), next_free)


class Account:
    """The limits, the credit and the arrivals of one token."""

    def __init__(self, options: Options, *, username: str = "simulated") -> None:
        self.username = username
        self.credit: Credit = "ok"
        self.creations_per_minute = options.creations_per_minute
        self.others_per_minute = options.others_per_minute
        self.burst: int | None = None
        self.prompts = FirstUses()
        self._arrivals = {True: Window(), False: Window()}
        self._admitted = {True: Window(), False: Window()}
        self._bursts = Window()

    def count_arrival(self, now: int, *, creation: bool) -> int:
        """Count an arrival. Returns the arrivals of the last minute, this one included."""
        arrivals = self._arrivals[creation]
        arrivals.add(now)
        return arrivals.used(now)

    def admit(self, now: int, *, creation: bool) -> bool:
        """Take a place for a request that arrives at `now`, if every window has one."""
        limits = self._limits(creation=creation)
        if any(each.allowance(now).remaining == 0 for each in limits):
            return False
        for each in limits:
            each.window.add(now)
        return True

    def allowance(self, now: int, *, creation: bool) -> Allowance:
        """The allowance at `now` of the window with the least room."""
        left = [each.allowance(now) for each in self._limits(creation=creation)]
        return min(left, key=lambda each: (each.remaining, -each.reset))

    def _limits(self, *, creation: bool) -> tuple[Limit, ...]:
        admitted = self._admitted[creation]
        if not creation:
            return (Limit(admitted, self.others_per_minute),)
        low = self.credit == "low"
        burst = LOW_CREDIT_BURST if low else self.burst
        a_minute = LOW_CREDIT_CREATIONS if low else self.creations_per_minute
        if burst is None:
            return (Limit(admitted, a_minute),)
        # A burst of 1 at 6 a minute is one creation every ten seconds.
        self._bursts.span = min(MINUTE, MINUTE * burst // a_minute)
        return (Limit(admitted, a_minute), Limit(self._bursts, burst))


class Accounts:
    """The ten thousand most recently used accounts, by token."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._by_token: OrderedDict[str, Account] = OrderedDict()
        self._rejected: set[str] = set()
        self._owners: dict[str, str] = {}
        """By further token of an account, its first one."""

    def is_rejected(self, token: str) -> bool:
        """Whether this token is refused. Others of its account may be accepted."""
        return token in self._rejected

    def owner(self, token: str) -> str:
        """The token by which the account of `token` is known: usually itself."""
        return self._owners.get(token, token)

    def get(self, token: str) -> Account:
        """The account of `token`, created on first use."""
        token = self.owner(token)
        account = self._by_token.get(token)
        if account is None:
            username = f"simulated-{fingerprint(token)}"
            account = self._by_token[token] = Account(self._options, username=username)
            if len(self._by_token) > _REMEMBERED_ACCOUNTS:
                self._by_token.popitem(last=False)
        else:
            self._by_token.move_to_end(token)
        return account

    def configure(self, /, token: str, **changes: object) -> None:
        """Change the named settings of an account.

        Args:
            token: The account's token.
            changes: `reject` (bool) for this token alone, `same_as` (another token, which has the same account
                from now on), `credit` ("ok", "low" or "empty"), `username` (a text; two accounts may have the same),
                `creations_per_minute`, `others_per_minute` and `burst` (whole numbers of at least 1; `burst` may be
                None).

        Raises:
            ValueError: If a change is unknown or invalid. Then nothing is changed.
        """
        for name, value in changes.items():
            _check_change(name, value)
        if (reject := changes.pop("reject", None)) is not None:
            (self._rejected.add if reject else self._rejected.discard)(token)
        if (other := changes.pop("same_as", None)) is not None:
            self._owners[token] = self.owner(str(other))
        account = self.get(token)
        for name, value in changes.items():
            setattr(account, name, value)


def fingerprint(secret: str) -> str:
    """A short text that stands for a token or a key where that must not be shown."""
    return hashlib.sha256(secret.encode()).hexdigest()[:8]


def _check_change(name: str, value: object) -> None:
    match name:
        case "reject":
            if not isinstance(value, bool):
                raise ValueError(f"reject must be true or false, got {value!r}")
        case "credit":
            if value not in ("ok", "low", "empty"):
                raise ValueError(f'credit must be "ok", "low" or "empty", got {value!r}')
        case "username" | "same_as":
            if not isinstance(value, str) or not value:
                raise ValueError(f"{name} must be a text, got {value!r}")
        case "creations_per_minute" | "others_per_minute" | "burst":
            if name == "burst" and value is None:
                return
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        case _:
            raise ValueError(f"an account has no setting called {name!r}")
