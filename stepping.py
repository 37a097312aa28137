"""The steps of a gate on the event loop: one for all events of one tick, and one at each moment at which time alone may
admit more. All of it runs on the loop, so it needs no lock.
"""

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar


class Granted(Protocol):
    """A lease that is waited for. `granted` is done once it is admitted."""

    granted: asyncio.Future[None]

    def release(self) -> None: ...


L = TypeVar("L", bound=Granted)


class Stepper(ABC):
    """A gate that admits in time. Another gate may use the same semaphores."""

    _other: "Stepper | None" = None
    _is_stepping = False
    _timer: asyncio.TimerHandle | None = None

    @abstractmethod
    def admit(self) -> float:
        """Admit what may go now. Returns the next moment at which time alone may admit more (infinity: never)."""

    @abstractmethod
    def finds_permits(self) -> bool:
        """Whether a semaphore has a permit now for work that waited for one."""

    def share_semaphores_with(self, other: "Stepper") -> None:
        """Both use the same semaphores."""
        self._other, other._other = other, self  # noqa: SLF001 - of the same class

    def admit_soon(self) -> None:
        """Admit in the next tick. A batch is submitted in one tick, so the policy sees it whole."""
        if not self._is_stepping:
            self._is_stepping = True
            asyncio.get_running_loop().call_soon(self.step)

    def step(self) -> None:
        """Admit now. A permit that this gate has freed is for the other gate first, so they take turns."""
        self._is_stepping = False
        if self._other is not None and self._other.finds_permits():
            self._other.step_alone()
        self.step_alone()

    def step_alone(self) -> None:
        """Admit now, without a step of the other gate."""
        self._arm(self.admit())

    def _arm(self, wake: float) -> None:
        """Set the timer for the next moment at which time alone may admit more."""
        if self._timer is not None:
            if self._timer.when() == wake:
                return
            self._timer.cancel()
            self._timer = None
        if wake < math.inf:
            self._timer = asyncio.get_running_loop().call_at(wake, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self.step()


async def until_granted(lease: L) -> L:
    """Wait until this lease is granted, and return it. If the wait is cancelled, the lease is released."""
    try:
        await lease.granted
    except asyncio.CancelledError:
        lease.release()
        raise
    return lease


def grant(leases: Iterable[Granted]) -> None:
    """End the waits of admitted leases. A lease whose task was cancelled in this tick is released there."""
    for lease in leases:
        if not lease.granted.done():
            lease.granted.set_result(None)


def reject(leases: Iterable[Granted], reason: Callable[[], Exception]) -> None:
    """Let each of these waits raise `reason()`."""
    for lease in leases:
        if not lease.granted.done():
            lease.granted.set_exception(reason())
