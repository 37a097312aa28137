"""The gate of metered calls: `admission.metered.policy.MeteredPolicy` on one event loop, with no clock but the loop's.

It adds the waiting, as `concurrency.Gate` does for predictions: a future for each call, and the steps in time.
"""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, tzinfo

from admission.durations import Durations
from admission.metered.demand import Demand
from admission.metered.estimates import MeteredEstimates
from admission.metered.limits import MeteredLimits
from admission.metered.policy import MeteredPolicy
from admission.semaphores import Semaphores
from metering.days import Days
from metering.lease import MeteredLease
from stepping import Stepper, grant, reject, until_granted


class MeteredGate(MeteredEstimates, Stepper):
    """The shared gate of all calls that are limited by what they weigh.

    `concurrent_limit` is how many slots each account has, `limits` are those of each account and model, and `zone` is
    that in which the upstream's days end. `semaphores` may be those of another gate: see `share_semaphores_with`.
    `durations` records how long slots are held.
    """

    def __init__(
        self,
        *,
        concurrent_limit: int,
        limits: MeteredLimits,
        zone: tzinfo = UTC,
        semaphores: Semaphores | None = None,
        durations: Durations | None = None,
    ) -> None:
        self._days = Days(zone, _now)
        policy = MeteredPolicy(
            concurrent_limit=concurrent_limit,
            limits=limits,
            day_ends=self._days.end,
            semaphores=Semaphores() if semaphores is None else semaphores,
            durations=durations or Durations(),
        )
        super().__init__(policy, _now)
        self._closed: Callable[[], Exception] | None = None

    async def acquire(self, demand: Demand) -> MeteredLease:
        """Wait for everything that the call needs, in turn with all others.

        A cancelled wait leaves no trace, even in the tick in which it is granted. Raises TooLarge if a window
        has no room for it, also later if a limit is lowered meanwhile, and the exception of `close` or `dismiss`."""
        return await until_granted(self.request(demand))

    def request(self, demand: Demand) -> MeteredLease:
        """As `acquire`, without waiting: the lease is `granted` later, or never if it is released before."""
        if self._closed is not None:
            raise self._closed()
        lease = MeteredLease(self._policy, demand, self.admit_soon)
        self._policy.enqueue(lease, demand)
        self.admit_soon()
        return lease

    def adopt(
        self, demand: Demand, *, sent_ago: float, is_sent: bool = True, is_in_day: bool = False
    ) -> MeteredLease:
        """Everything that a call needs which another process has sent so many seconds ago, even if there is no room. Or
        if it is not sent yet: which another process was allowed to send. `is_in_day`: `count_day` has counted it."""
        lease = MeteredLease(self._policy, demand, self.admit_soon, "sent" if is_sent else "held")
        self._policy.adopt(lease, demand, _now(), sent=_now() - sent_ago, is_in_day=is_in_day)
        lease.granted.set_result(None)
        return lease

    def check(self, demand: Demand) -> None:
        """Raises TooLarge if the call needs more than a whole window, so that it could never be admitted."""
        self._policy.check(demand)

    def is_large(self, demand: Demand) -> bool:
        """Whether the call takes more than two per cent of the window of tokens or of money: then an upper estimate of
        its tokens is too coarse."""
        limits = self._policy.limits
        return demand.is_large(limits.of(demand.model), limits.micro_usd)

    def configure(self, *, concurrent_limit: int | None = None, limits: MeteredLimits | None = None) -> None:
        """Change the limits that are not None, or none if one is invalid (ValueError). Running calls continue."""
        self._policy.configure(concurrent_limit=concurrent_limit, limits=limits)
        self.admit_soon()

    def limit_caller(
        self, caller: str, *, max_concurrent: int | None = None, per_minute: int | None = None
    ) -> None:
        """Change the own limits of a caller, at once for its waiting calls; None: it has none. Raises ValueError."""
        self._policy.limit_caller(caller, max_concurrent=max_concurrent, per_minute=per_minute)
        self.admit_soon()

    def pause(self, caller: str, seconds: float) -> None:
        """Admit nothing of this caller for so many seconds."""
        self._policy.pause(caller, _now() + seconds)
        self.admit_soon()

    def slow_down(self, caller: str) -> None:
        """As `concurrency.Gate` has it. No call needs it: a refusal that may last closes its model or account."""

    def refuse(self, caller: str, batch: str | None) -> bool:  # noqa: ARG002
        """A call was refused for lack of credit. Returns whether that is conclusive, which it is for calls."""
        return True

    def shut(self, account: str, model: str | None, seconds: float, why: str) -> None:
        """The upstream refused a call for a limit of a model, or of the account if `model` is None: admit nothing that
        it would refuse as well for so many seconds, and then one call until its lease reports `proceed`."""
        self._policy.close(account, model, _now() + seconds, why)
        self.admit_soon()

    def lower(self, account: str, model: str | None, limit: str, value: int) -> None:
        """A limit is lower than was configured, until the restart: see `MeteredPolicy.lower`. Raises ValueError."""
        self._policy.lower(account, model, limit, value)
        self.admit_soon()

    def upstream_answered(self, account: str, sent: float, ago: float = 0.0) -> None:
        """A request of an account, sent at this moment of the loop's clock, was answered so many seconds ago. Those
        that were admitted here need no such report."""
        self._policy.upstream_answered(account, sent, _now() - ago)
        self.admit_soon()

    def count(
        self,
        account: str,
        model: str,
        *,
        answered_ago: float,
        tokens: int,
        micro_usd: int,
        ended_ago: float | None = None,
        caller: str | None = None,
    ) -> None:
        """Count a call of an earlier process, answered so many seconds ago (negative if it may be answered still),
        except in the day. Call it before any admission. It ended `ended_ago`, by default when it was answered."""
        now = _now()
        self._policy.count(
            account,
            model,
            answered=now - answered_ago,
            ended=now - (answered_ago if ended_ago is None else ended_ago),
            tokens=tokens,
            micro_usd=micro_usd,
            caller=caller,
        )

    def count_day(self, account: str, model: str, calls: int) -> None:
        """Count so many calls of earlier processes in the present day."""
        self._policy.count_day(account, model, calls, _now())

    def dismiss(self, caller: str, batch: str, reason: Callable[[], Exception]) -> None:
        """End the waits of a batch: each raises `reason()`."""
        reject(self._policy.clear(caller, batch), reason)

    def close(self, reason: Callable[[], Exception]) -> None:
        """Admit nothing any more: every current and every later wait raises `reason()`."""
        self._closed = reason
        reject(self._policy.clear(), reason)

    def day_began(self) -> float:
        """The Unix time at which the present day of the upstream began. In any thread."""
        return self._days.began(time.time())

    @property
    def slots_held(self) -> int:
        """How many slots all callers hold, in all accounts."""
        return self._policy.in_flight

    def in_flight(self, caller: str) -> int:
        """How many slots a caller holds, in all accounts."""
        return self._policy.held_by(caller)

    def admit(self) -> float:
        step = self._policy.step(_now())
        for lease, error in step.refused:
            if not lease.granted.done():
                lease.granted.set_exception(error)
        grant(step.admitted)
        return step.next_chance

    def finds_permits(self) -> bool:
        return self._policy.finds_permits(_now())


def _now() -> float:
    return asyncio.get_running_loop().time()
