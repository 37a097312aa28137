"""What Replicate tells by itself: believed when it is signed with the account's secret, and not before.

Anybody on the internet can reach the address that webhooks come to, so what arrives there is bytes until its
signature holds, and its timestamp says that it is not an old one played again. Then it is read as leniently as any
answer.

An account's secret is asked for once an hour and kept in memory: everybody who asks meanwhile waits for the same
answer. What failed is not kept.

What an upstream tells by itself, and whether it does: webhooks come first, looks are the safety net.

- What is told before anybody waits is kept for whoever will: a prediction may be over before the answer to its
  creation has been read.
- An account whose webhooks do not come is found out by a look: it found a prediction over, and nothing was told of it
  for a few seconds more. Then nobody relies on that account's webhooks for ten minutes.

Facts: replicate.com/docs/topics/webhooks/verify-webhook; the check itself is the client's (`Webhooks.validate`).
"""

import asyncio
import json
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog
from replicate.webhook import Webhooks, WebhookSigningSecret

from auth import Caller
from errors import UpstreamError
from providers import Prediction, Told
from providers.replicate.answers import read_prediction
from providers.replicate.errors import service_error
from providers.replicate.reconciliation import fingerprint
from providers.replicate.transport import Lost, NotSent, Refusal

__all__ = ["Secrets", "Told", "Untrusted", "verified"]

TOLERANCE = 300
"""Seconds between a webhook's timestamp and now. An older one may be one that was overheard."""

SECRETS_KEPT = 1_000

GOOD_FOR = 3600.0
"""Seconds after which a secret is asked for again: its owner may have taken a new one."""

GRACE = 5.0
"""Seconds that a webhook may come later than a look that found the same."""

SILENCE = 600.0
"""Seconds without reliance on an account's webhooks after one did not come."""

KEPT = 1_000
"""Predictions told of before anybody waited for them."""

log = structlog.get_logger("announcements")

Fetch = Callable[[Caller], Awaitable[Any]]


class Untrusted(Exception):
    """This is not from Replicate, or not worth believing. The sentence is for a log, not for whoever sent it."""


class Secret(str):
    """A signing secret; its repr does not show it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Secret(…)"


def verified(headers: Mapping[str, str], body: bytes, secret: str) -> Told:
    """What a webhook tells. Raises Untrusted, and nothing else whatever was sent."""
    try:
        Webhooks.validate(
            headers=dict(headers),
            body=body.decode(),
            secret=WebhookSigningSecret(key=str(secret)),
            tolerance=TOLERANCE,
        )
    except ValueError:  # every way in which it fails; what it says of a malformed secret is the secret
        raise Untrusted("The webhook is not signed by Replicate, or not lately.") from None
    try:
        document = json.loads(body)
        prediction = read_prediction(document)
        sent = document.get("input")
        content = fingerprint(sent) if isinstance(sent, dict) else None
    except (ValueError, RecursionError, Lost):
        raise Untrusted("The webhook tells of no prediction.") from None
    return Told(prediction, _text(document.get("model")), content, _text(document.get("webhook")))


class Secrets:
    """The signing secrets of the latest accounts that were told of. `fetch(caller)` asks for one: its JSON."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._secrets: OrderedDict[str, tuple[Secret, float]] = OrderedDict()
        self._asking: dict[str, asyncio.Task[Secret]] = {}

    async def of(self, caller: Caller) -> str:
        """Raises ServiceError."""
        secret, good_until = self._secrets.get(caller.id, ("", -math.inf))
        if asyncio.get_running_loop().time() < good_until:
            return secret
        asking = self._asking.get(caller.id)
        if asking is None:
            asking = self._asking[caller.id] = asyncio.create_task(self._ask(caller))
            asking.add_done_callback(lambda done: self._asked(caller, done))
        return await asyncio.shield(asking)  # whoever gives up waiting takes it from nobody

    async def aclose(self) -> None:
        """Ask no more."""
        asking = list(self._asking.values())
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    async def _ask(self, caller: Caller) -> Secret:
        try:
            answer = await self._fetch(caller)
        except Refusal as refusal:
            raise service_error(refusal, caller) from None
        except (NotSent, Lost):
            raise UpstreamError from None
        key = answer.get("key") if isinstance(answer, dict) else None
        if not isinstance(key, str) or not key:
            raise UpstreamError("Replicate did not tell what it signs webhooks with.")
        return Secret(key)

    def _asked(self, caller: Caller, done: "asyncio.Task[Secret]") -> None:
        del self._asking[caller.id]
        if done.cancelled() or done.exception() is not None:
            return
        self._secrets[caller.id] = done.result(), asyncio.get_running_loop().time() + GOOD_FOR
        self._secrets.move_to_end(caller.id)
        if len(self._secrets) > SECRETS_KEPT:
            self._secrets.popitem(last=False)


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


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
