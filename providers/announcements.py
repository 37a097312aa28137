"""What an upstream tells by itself, and whether it does: webhooks come first, looks are the safety net.

- What is told before anybody waits is kept for whoever will: a prediction may be over before the answer to its
  creation has been read.
- An account whose webhooks do not come is found out by a look: it found a prediction over, and nothing was told of it
  for a few seconds more. Then nobody relies on that account's webhooks for ten minutes.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable

import structlog

from auth import Caller
from providers import Prediction

GRACE = 5.0
"""Seconds that a webhook may come later than a look that found the same."""

SILENCE = 600.0
"""Seconds without reliance on an account's webhooks after one did not come."""

KEPT = 1_000
"""Predictions told of before anybody waited for them."""

log = structlog.get_logger("announcements")


class Announcements:
    """`on_silence(caller)` hears of an account whose webhooks turn out not to come."""

    def __init__(self, *, on_silence: Callable[[Caller], None]) -> None:
        self._on_silence = on_silence
        self._early: OrderedDict[str, Prediction] = OrderedDict()
        self._expected: dict[str, asyncio.TimerHandle] = {}
        self._silent_until: dict[str, float] = {}

    def keep(self, prediction: Prediction) -> None:
        """Nobody waits for it yet."""
        self._early[prediction.id] = prediction
        if len(self._early) > KEPT:
            self._early.popitem(last=False)

    def early(self, prediction_id: str) -> Prediction | None:
        """How it ended, if that was told before anybody waited."""
        return self._early.get(prediction_id)

    def came(self, prediction_id: str) -> None:
        """Its webhook, for which a look may have been quicker."""
        if timer := self._expected.pop(prediction_id, None):
            timer.cancel()

    def expect(self, caller: Caller, prediction_id: str) -> None:
        """A look found it over: its webhook must come now."""
        if prediction_id not in self._expected and self.are_relied_on(caller):
            loop = asyncio.get_running_loop()
            self._expected[prediction_id] = loop.call_later(GRACE, self._missed, caller, prediction_id)

    def are_relied_on(self, caller: Caller) -> bool:
        """Whether this account's webhooks come, as far as is known."""
        return asyncio.get_running_loop().time() >= self._silent_until.get(caller.id, 0.0)

    def close(self) -> None:
        """Expect nothing any more."""
        for timer in self._expected.values():
            timer.cancel()
        self._expected.clear()

    def _missed(self, caller: Caller, prediction_id: str) -> None:
        del self._expected[prediction_id]
        if not self.are_relied_on(caller):  # one is enough
            return
        now = asyncio.get_running_loop().time()
        self._silent_until = {each: until for each, until in self._silent_until.items() if until > now}
        self._silent_until[caller.id] = now + SILENCE
        log.warning("webhooks_silent", caller=caller.id, prediction=prediction_id)
        self._on_silence(caller)
