"""Judges Google's 429s. Only their details and message show which limit was hit, and each needs another reaction.

The order matters: the error of an account without money also names quotas, and that of a used-up day also names
minutes. The words "check your plan and billing details" stand in every message about a quota, so they are ignored.
Source: bodies in public issues and code, 2025-10 to 2026-11.
"""

import re
from dataclasses import dataclass
from typing import Any, Final

from auth import Caller
from contract.states import iso8601
from errors import InsufficientCredit, ServiceError, UpstreamRateLimited
from errors.calls import ModelUnavailable, QuotaExhausted
from providers.calls import LimitHit
from providers.gemini.days import day_end
from providers.gemini.redaction import quoted
from providers.gemini.refusals import Refusal

LONGEST_WAIT: Final = 300
"""Seconds. A limit that holds for longer counts as exhausted, as in Google's own command line client."""

WINDOW: Final = 60.0
"""Seconds after which a limit of a minute is free again, if the error names no wait."""

_POLITE: Final = re.compile(r"check (?:your |the )?(?:plan|quota)[^.]{0,40}\bbilling details?", re.IGNORECASE)
_MONEY: Final = re.compile(
    r"\bprepa(?:y|id)|\bcredits?\b[^.]{0,40}\b(?:depleted|exhausted|used up|insufficient)"
    r"|\bspend(?:ing)?[ -](?:cap|limit)|\bmonthly\b[^.]{0,40}\b(?:cap|spend|budget|limit)|\bbilling\b",
    re.IGNORECASE,
)
_LIMIT: Final = re.compile(r"\blimit: (\d{1,15})\b(?!\.\d)")
_NUMBER: Final = re.compile(r"\d{1,15}")


@dataclass(frozen=True, slots=True)
class Violation:
    """A quota that was exceeded. `value` is its limit, None if the error does not have it."""

    quota: str
    value: int | None

    @property
    def is_of_the_day(self) -> bool:
        return "PerDay" in self.quota

    @property
    def is_of_the_minute(self) -> bool:
        return "PerMinute" in self.quota

    @property
    def limit(self) -> str | None:
        """The name of the limit: `rpm`, `tpm`, `rpd` or `tpd`. None for another one."""
        span = "d" if self.is_of_the_day else "m" if self.is_of_the_minute else None
        counted = "t" if "Token" in self.quota else "r" if "Request" in self.quota else None
        return f"{counted}p{span}" if span and counted else None


def limit_hit(refusal: Refusal, caller: Caller, model: str, now: float) -> LimitHit:
    """The limit that a 429 is about. `now` is Unix time."""
    violations = _violations(refusal)
    if is_about_money(refusal.message):
        return LimitHit(_out_of_money(refusal, caller), scope="account", kind="money")
    if _is_without_quota(refusal, violations):
        unavailable = ModelUnavailable(f"The tier of the account does not include {model}.")
        return LimitHit(unavailable, scope="model", kind="tier")
    of_the_day = [each for each in violations if each.is_of_the_day and each.value != 0]
    if of_the_day:  # the wait of most such errors is that of a minute's window
        return _exhausted(f"The day's quota of {model}", of_the_day, day_end(now))
    of_the_minute = [each for each in violations if each.is_of_the_minute]
    if refusal.wait is not None and refusal.wait > LONGEST_WAIT:
        return _exhausted(f"The quota of {model}", of_the_minute, now + refusal.wait)
    error = UpstreamRateLimited(f"Google's rate limit of {model} was exceeded repeatedly.")
    if of_the_minute:
        known = WINDOW if refusal.wait is None else float(refusal.wait)
        return LimitHit(error, scope="model", kind="minute", wait=known, **_named(of_the_minute))
    return LimitHit(error, scope="model", kind="capacity", wait=refusal.wait)


def is_about_money(message: str) -> bool:
    """Whether by the message the account has no money left, or may not spend more."""
    return _MONEY.search(_POLITE.sub("", message)) is not None


def _violations(refusal: Refusal) -> list[Violation]:
    found = []
    for each in refusal.violations("QuotaFailure", "violations"):
        value = str(each.get("quotaValue"))
        number = int(value) if _NUMBER.fullmatch(value) else None
        found.append(Violation(str(each.get("quotaId")), number))
    return found


def _is_without_quota(refusal: Refusal, violations: list[Violation]) -> bool:
    """Whether the limits are zero: the tier of the account does not have this model. Some errors have that in
    the message alone."""
    values = [each.value for each in violations if each.value is not None]
    values = values or [int(each) for each in _LIMIT.findall(refusal.message)]
    return bool(values) and not any(values)


def _exhausted(quota: str, violations: list[Violation], end: float) -> LimitHit:
    resets_at = iso8601(end)
    error = QuotaExhausted(f"{quota} is used up until {resets_at}.", resets_at=resets_at)
    return LimitHit(error, scope="model", kind="day", until=end, **_named(violations))


def _named(violations: list[Violation]) -> dict[str, Any]:
    """The first limit with a value, as arguments of LimitHit."""
    for each in violations:
        if each.limit is not None and each.value:
            return {"limit": each.limit, "lowered_to": each.value}
    return {"limit": next((each.limit for each in violations if each.limit), None)}


def _out_of_money(refusal: Refusal, caller: Caller) -> ServiceError:
    if caller.kind == "user":
        said = quoted(refusal.message, caller, most=1_000)
        return InsufficientCredit(said or "Your Google account is out of credit.")
    return QuotaExhausted("The service's Google account is out of credit, or has reached its spending cap.")
