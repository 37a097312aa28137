"""A model of the upstream of processes that share a gate, in virtual time."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.support.places import WORLD
from tests.support.shared_database import Row
from tests.support.virtual_time import now


class Lost(Exception):
    """There is no answer, and the request may have arrived."""


class Refused(Exception):
    """The upstream has refused the creation."""


@dataclass
class Prediction:
    reference: str
    caller: str
    began: float
    granted_at: float
    version: str | None = None
    state: str = "starting"

    @property
    def is_over(self) -> bool:
        return self.state == "over"


@dataclass
class Upstream:
    """Makes predictions. To connect takes `connecting` seconds, and each way `there` seconds. A prediction of a version
    waits `booting` seconds until it runs.

    While it `is_stalled`, requests are kept, and take effect in their order at the end. `faults` are those of the next
    creations: `lost` on the way there, `unanswered`, `slow` to answer, or `refused`."""

    connecting: float = 0.1
    there: float = 0.05
    booting: float = 3.0
    is_stalled: bool = False
    faults: deque[str] = field(default_factory=deque)
    predictions: dict[str, list[Prediction]] = field(default_factory=dict)
    arrivals: list[Prediction] = field(default_factory=list)
    on_arrival: Callable[[Prediction], object] = lambda _: None
    _kept: deque[Callable[[], object]] = field(default_factory=deque)

    def boots(self, version: str | None) -> list[Prediction]:
        """The predictions of a version that have not started."""
        return [each for each in self.running if (each.version, each.state) == (version, "starting")]

    @property
    def running(self) -> list[Prediction]:
        return [each for found in self.predictions.values() for each in found if not each.is_over]

    def create(self, row: Row, seconds: float) -> asyncio.Future[Any]:
        """Send the creation of a lease, for a prediction that runs so long. The result is the reference."""
        fault = self.faults.popleft() if self.faults else ""
        loop = asyncio.get_running_loop()
        version = row.record.boots
        made = Prediction(row.reference or "", row.record.caller, 0.0, row.granted_at, version)
        boot = 0.0 if version is None else self.booting

        def effect() -> str:
            made.began = now()
            self.arrivals.append(made)
            if fault == "refused":
                self.on_arrival(made)
                raise Refused
            self.predictions.setdefault(made.reference, []).append(made)
            self.on_arrival(made)
            for after, state in ((boot, "processing"), (boot + seconds, "over")):
                loop.call_later(after, vars(made).update, {"state": state}, context=WORLD)
            return made.reference

        if fault == "lost":
            return self._send(self._lose, is_answered=True)
        back = 5 * self.there if fault == "slow" else self.there
        return self._send(effect, is_answered=fault != "unanswered", back=back)

    def find(self, reference: str) -> asyncio.Future[Any]:
        """Search for a prediction. The result is whether it is there."""
        return self._send(lambda: reference in self.predictions)

    def state(self, reference: str) -> asyncio.Future[Any]:
        return self._send(lambda: self.predictions[reference][0].state)

    def begin_stall(self) -> None:
        self.is_stalled = True

    def end_stall(self) -> None:
        self.is_stalled = False
        while self._kept:
            self._kept.popleft()()

    def _send(
        self, effect: Callable[[], Any], *, is_answered: bool = True, back: float | None = None
    ) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def answer(result: Any, error: Exception | None) -> None:
            if not future.done():
                future.set_result(result) if error is None else future.set_exception(error)
                future.exception()  # it may not be awaited

        def arrive() -> None:
            if self.is_stalled:
                self._kept.append(arrive)
                return
            result: Any = None
            error: Exception | None = None
            try:
                result = effect()
            except (Refused, Lost) as raised:
                error = raised
            if not is_answered:
                error = Lost()
            loop.call_later(self.there if back is None else back, answer, result, error, context=WORLD)

        loop.call_later(self.there, arrive, context=WORLD)
        return future

    @staticmethod
    def _lose() -> None:
        raise Lost
