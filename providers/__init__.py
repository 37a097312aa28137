"""The protocols of providers, which run the models, and the neutral types that they use.

Every provider is a `Provider`. Four abilities only some have, each a protocol of its own: pushed results
(`PushReceiver`), knowing other attempts' creations (`CreationRegistry`), progress (`ProgressSource`), and the accounts
of tokens (`AccountSource`).

A method raises ServiceError when the failure is final, and TryAgain when another attempt may help.
"""

import hashlib
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol

from auth import Caller
from catalog.references import Upload
from concurrency import Lease
from errors import ServiceError

_ENDED = frozenset({"succeeded", "failed", "canceled", "aborted"})


@dataclass(frozen=True, slots=True)
class Url:
    """An output to be fetched from an address, or a `data:` URI."""

    value: str


@dataclass(frozen=True, slots=True)
class Text:
    """An output that is the text itself."""

    value: str


Output = Url | Text

OnLate = Callable[["Prediction"], Awaitable[None]]

Cause = Literal["model", "content", "passing"]
"""Why a prediction failed: the model did, it refused the content, or for a reason that passes."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a provider that recovery uses, in seconds."""

    answer_timeout: float
    """For the answer to a creation. A request sent longer ago has arrived, or never arrives."""
    clock_skew: float
    """The most by which the provider's clock may differ from ours."""


@dataclass(frozen=True, slots=True)
class UpstreamState:
    """How a provider answers; Unix times. `failing_since` is the first failure that no success has followed, and
    `throttled_until` the end of the latest wait that a refusal for the rate asked for, unless it is over."""

    last_answer_at: float | None = None
    failing_since: float | None = None
    throttled_until: float | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """A prediction as its provider shows it."""

    id: str
    status: str
    outputs: tuple[Output, ...] = ()
    error: str | None = None
    """Why it failed, or the text that it made in place of a picture or film."""
    cause: Cause = "model"
    """Why it failed, if it did."""
    created_at: datetime | None = None
    seconds: float | None = None
    """From creation to completion. This and `created_at` are by the provider's clock, if it shows them."""
    started: bool = False
    """Whether it ever ran, as far as the provider shows. A prediction that never ran is not billed."""
    age: float = 0.0
    """Its age when it was found, in seconds by our own clock; 0 if its creation was answered."""
    is_announced: bool = False
    """Whether its provider was asked to push its result."""
    is_lost: bool = False
    """Whether it could neither be watched to its end nor cancelled: it may be billed."""
    is_removed: bool = False
    """Whether the provider has deleted its input and outputs."""
    progress: float | None = None
    """Per cent done, as the model last printed. It may be wrong."""

    @property
    def is_over(self) -> bool:
        """A prediction with outputs is over even at `processing`: a provider may leave it there."""
        return self.status in _ENDED or (self.status == "processing" and bool(self.outputs))

    @property
    def is_made(self) -> bool:
        """Whether it has made a picture or film."""
        return self.has_succeeded and bool(self.media)

    @property
    def has_succeeded(self) -> bool:
        """Whether it has finished with outputs of any type."""
        return self.status in {"succeeded", "processing"} and bool(self.outputs)

    @property
    def media(self) -> tuple[Url, ...]:
        """Its pictures or films. All models make these, so an output of another type does not count."""
        return tuple(each for each in self.outputs if isinstance(each, Url))

    @property
    def may_be_billed(self) -> bool:
        """Billed are finished predictions and those cancelled after their start, but no failure."""
        was_cut_short = self.status == "canceled" and self.started
        was_removed = self.status == "succeeded" and self.is_removed
        return self.has_succeeded or was_cut_short or was_removed or self.is_lost


@dataclass(frozen=True, slots=True)
class Created:
    """A prediction just started. `exhausted_for`: seconds in which the account may start no other."""

    prediction: Prediction
    exhausted_for: float = 0.0


@dataclass(frozen=True, slots=True)
class PushedResult:
    """A provider's message about a prediction. `content` is the fingerprint of its input, and `webhook` the address it
    was sent to, if the message names them."""

    prediction: Prediction
    model: str | None = None
    content: str | None = None
    webhook: str | None = None


@dataclass(frozen=True, slots=True)
class UncertainCreation:
    """A creation that an earlier process may have sent at `since` (Unix time, seconds). It is not recovered until its
    caller comes back. `caller` is the caller's id, `content` the fingerprint of the input."""

    reference: str
    caller: str
    model: str
    content: str
    since: float


class TryAgain(Exception):
    """This attempt made nothing: nothing was started, or the model failed for a passing reason.

    `wait` is how long the provider says to wait, in seconds. All predictions of this caller should wait when the
    account is `throttled`, or the provider `unreachable`, and go one at a time when something before the provider may
    refuse them all: `cautious`. The provider `refused` this one for a reason that should not last: one more attempt
    shows whether it does. The caller gets `error` when no attempt is left.
    """

    def __init__(
        self,
        error: ServiceError,
        *,
        wait: float | None = None,
        throttled: bool = False,
        unreachable: bool = False,
        refused: bool = False,
        cautious: bool = False,
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.wait = wait
        self.throttled = throttled
        self.unreachable = unreachable
        self.refused = refused
        self.cautious = cautious


class Untrusted(Exception):
    """A pushed message is not from the provider, or has no prediction. The text is for a log and not for the sender."""


class Provider(Protocol):
    """Runs predictions. Every method is called on the loop."""

    limits: Limits

    @property
    def clock_skew(self) -> float | None:
        """Seconds by which the provider's clock is ahead of this machine's, as measured. None if that is not known."""

    @property
    def upstream(self) -> UpstreamState:
        """The state of the provider, over all accounts."""

    async def upload(self, caller: Caller, upload: Upload) -> str:
        """The address under which a prediction of this caller can read the image. Raises ServiceError."""

    async def create(
        self,
        caller: Caller,
        model: str,
        sent: Mapping[str, Any],
        *,
        lease: Lease,
        cancel_after: float,
        reference: str,
        callback: str | None = None,
        on_late: OnLate | None = None,
    ) -> Created:
        """Start a prediction of this model with this input, once. Raises TryAgain or ServiceError.

        The lease is marked as sent when the creation leaves, and as answered when its answer is here. If it is not
        known whether the creation arrived, the lease is marked as lost, and as answered when that is known.
        `cancel_after` in seconds. `reference` is the id of this attempt. `callback` is where to push the result. When
        it is cancelled, it still waits for the answer. It raises CancelledError only if whether the creation arrived is
        not known by then. `on_late` gets the prediction if there is one after all, after TryAgain or OutcomeUnknown.
        """

    async def wait(self, caller: Caller, prediction: Prediction, *, model: str) -> Prediction:
        """The prediction as it is when it is over. Raises ServiceError."""

    async def cancel(self, caller: Caller, prediction: Prediction) -> Prediction | None:
        """Stop a prediction that still runs and bills. The prediction as it is then, or None if that is unknown. Does
        not raise."""

    async def recover(
        self,
        caller: Caller,
        model: str,
        *,
        content: str,
        since: float,
        reference: str,
        skew: float | None = None,
        on_late: OnLate | None = None,
    ) -> Created:
        """The prediction of a creation that an earlier process was about to send at `since` (Unix time, seconds), when
        the provider's clock was `skew` seconds ahead. `on_late` as for `create`.

        `content` is the fingerprint of its input. Raises TryAgain when it never arrived, ServiceError when that is
        unknown. Start all recoveries before awaiting one: identical creations can only be counted together.
        """

    async def aclose(self) -> None:
        """Close every connection."""


class PushReceiver(Protocol):
    """A provider that pushes results."""

    async def webhook_secret(self, caller: Caller) -> str:
        """The secret that signs the pushed results of this caller. Raises ServiceError."""

    def read_push(
        self, headers: Mapping[str, str], body: bytes, secret: str, caller: Caller | None = None
    ) -> PushedResult:
        """Read a message, and take the secret and the credentials of the `caller` it is for out of its texts. Any
        thread. Raises Untrusted unless it is signed with the secret."""

    def receive_push(self, reference: str, pushed: PushedResult) -> None:
        """Use a message about the attempt of this reference, once it is known that the attempt has no other prediction
        on record."""

    def receive_late(self, reference: str, pushed: PushedResult) -> bool:
        """Use a message about an attempt that was settled without its prediction. Returns whether it names that."""


class CreationRegistry(Protocol):
    """A provider that searches for lost creations, and so must know which predictions belong to other attempts."""

    def register_uncertain(self, creation: UncertainCreation) -> None:
        """Until this creation is recovered, a prediction like it may be its own."""

    def register_known(self, ids: Iterable[str]) -> None:
        """These predictions are on record: none of them belongs to a lost creation."""


class AccountSource(Protocol):
    """A provider that names the account of a token, and notices if something else spends the server's account."""

    @property
    def account_shared(self) -> bool:
        """Whether the server's account was spent by something else lately, as far as is known. On the loop."""

    async def account_of(self, caller: Caller) -> str | None:
        """The name of the account that the caller's token belongs to, empty if it has none. None if the provider does
        not say in time. Raises TokenRejected, and no other ServiceError."""


class ProgressSource(Protocol):
    """A provider that shows how far a prediction is."""

    def follow(self, prediction_id: str, listener: Callable[[Prediction], object]) -> Callable[[], None]:
        """Call the listener with an unfinished prediction that is waited for, about once a second, until it is over or
        the returned function is called."""


def fingerprint(sent: Mapping[str, Any]) -> str:
    """A digest that identifies an input in any process: the same for any order of its keys, and whether a whole
    number is written 3 or 3.0. Raises RecursionError for an input nested too deep."""
    # Parsed again so that every float is seen, however deep: a provider may return 3 for 3.0.
    alike = json.loads(json.dumps(dict(sent)), parse_float=number)
    return hashlib.sha256(json.dumps(alike, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def number(text: str) -> int | float:
    """A number of a JSON text, whole or not by its value: 3.0 and 3e0 are 3."""
    value = float(text)
    return int(value) if value.is_integer() else value
