"""Results that Replicate pushes: verifies messages, and tracks whether an account's messages arrive.

Anyone on the internet can send to the webhook address. So a message is read only after its signature is
verified, and its timestamp shows that it is no replay. Then it is read as leniently as any answer. An
account's signing secret is fetched once an hour and kept in memory. Callers that need it at the same time
share one request, and a failure is not kept.

Polls find the results that are not pushed:

- A result that arrives before its wait begins is kept: a prediction may be over before the answer to its creation has
  been read.
- If a poll finds a prediction over and no message follows within a few seconds, the account's webhooks do not arrive.
  They are then not expected for ten minutes.
"""

import asyncio
import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog
from standardwebhooks.webhooks import EmptyWebhookSecretError, Webhook, WebhookVerificationError

from auth import Caller, Secret
from errors import UpstreamError
from providers import Prediction
from providers.connections import Lost, NotSent
from providers.origins import Origin
from providers.pushes import PushedResult, Untrusted
from providers.redaction import Redaction
from providers.replicate.answers import read_origin, read_prediction
from providers.replicate.errors import is_final, passing_error, service_error
from providers.replicate.transport import Refusal
from providers.single_flight import SharedAnswers, account

SECRETS_KEPT = 1_000

GOOD_FOR = 3600.0
"""Seconds after which a secret is fetched again, since its owner may have changed it."""

GRACE = 5.0
"""Seconds that a webhook may lag behind a poll that found the same."""

SILENCE = 600.0
"""Seconds for which an account's webhooks are not expected after one was missing."""

KEPT = 1_000
"""The most results that are kept until their wait begins."""

log = structlog.get_logger("announcements")


def read_push(
    headers: Mapping[str, str],
    body: bytes,
    secret: str,
    redact: Redaction | None = None,
    *,
    read: Callable[[Any, Redaction], Prediction] = read_prediction,
    origin_of: Callable[[Mapping[str, Any]], Origin] = read_origin,
) -> PushedResult:
    """The prediction in a webhook, as `read` and `origin_of` read it. Raises only Untrusted, for any input.
    `redact` removes credentials from its texts; the default removes the secret."""
    try:  # Facts: replicate.com/docs/topics/webhooks/verify-webhook. A timestamp may be 5 minutes off.
        Webhook(str(secret)).verify(body, dict(headers), json_parse=False)
    except (ValueError, EmptyWebhookSecretError, WebhookVerificationError):
        raise Untrusted("The webhook is not signed by Replicate, or not lately.") from None
    try:
        document = json.loads(body)
        prediction = read(document, redact or Redaction(secret))
    except (ValueError, RecursionError, Lost):
        raise Untrusted("The webhook has no prediction.") from None
    webhook = document.get("webhook")
    return PushedResult(prediction, origin_of(document), webhook if isinstance(webhook, str) else None)


def signing_secrets(
    fetch: Callable[[Caller], Awaitable[Secret]], payer_of: Callable[[Caller], str] = account
) -> SharedAnswers[Secret]:
    """The signing secrets of accounts. `fetch(caller)` fetches one; `get` raises ServiceError. `payer_of` identifies
    the account of a caller."""

    async def secret(caller: Caller) -> Secret:
        try:
            return await fetch(caller)
        except Refusal as refusal:
            final = is_final(refusal)
            raise service_error(refusal, caller) if final else passing_error(refusal) from None
        except (NotSent, Lost):
            raise UpstreamError from None

    return SharedAnswers(secret, good_for=GOOD_FOR, most=SECRETS_KEPT, payer_of=payer_of)


class PushTracker:
    """Keeps results that arrive before their wait begins, and calls `on_silence(caller)` if an account's
    webhooks do not arrive."""

    def __init__(self, *, on_silence: Callable[[Caller], None]) -> None:
        self._on_silence = on_silence
        self._early: OrderedDict[str, Prediction] = OrderedDict()
        self._expected: dict[str, asyncio.TimerHandle] = {}
        self._silent_until: dict[str, float] = {}

    def keep(self, prediction: Prediction) -> None:
        """Keep the result of a prediction whose wait has not begun."""
        self._early[prediction.id] = prediction
        if len(self._early) > KEPT:
            self._early.popitem(last=False)

    def early(self, prediction_id: str) -> Prediction | None:
        """The pushed result of this prediction, if it arrived before the wait began."""
        return self._early.get(prediction_id)

    def arrived(self, prediction_id: str) -> None:
        """Record that the webhook of this prediction arrived. A poll may have been first."""
        if timer := self._expected.pop(prediction_id, None):
            timer.cancel()

    def expect(self, caller: Caller, prediction_id: str) -> None:
        """Record that a poll found the prediction over, so its webhook must arrive soon."""
        if prediction_id not in self._expected and self.are_expected(caller):
            loop = asyncio.get_running_loop()
            self._expected[prediction_id] = loop.call_later(GRACE, self._missed, caller, prediction_id)

    def are_expected(self, caller: Caller) -> bool:
        """Whether this account's webhooks are expected to arrive."""
        return asyncio.get_running_loop().time() >= self._silent_until.get(caller.account, 0.0)

    def close(self) -> None:
        """Expect no more webhooks."""
        for timer in self._expected.values():
            timer.cancel()
        self._expected.clear()

    def _missed(self, caller: Caller, prediction_id: str) -> None:
        del self._expected[prediction_id]
        if not self.are_expected(caller):  # one is enough
            return
        now = asyncio.get_running_loop().time()
        self._silent_until = {each: until for each, until in self._silent_until.items() if until > now}
        self._silent_until[caller.account] = now + SILENCE
        log.warning("replicate_webhooks_missing", caller=caller.id, prediction=prediction_id)
        self._on_silence(caller)
