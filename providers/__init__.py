"""The protocols of providers, which run the models, and the neutral types that they use.

Every provider is a `Provider`. Some providers have further abilities, each a protocol of its own: pushed
results (`pushes.PushReceiver`), searches for lost creations (`CreationRegistry`), progress (`ProgressSource`), and
the accounts of tokens (`AccountSource`), and published facts about models (`ModelSource`).

`model` is everywhere a target (`catalog/targets.py`): the text that says what runs.

A method raises ServiceError when the failure is final, and TryAgain when another attempt may help.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, Final, Literal, Protocol

from auth import Caller
from catalog.outputs import FILES, OutputForm, Produced, is_empty
from catalog.references import Upload
from concurrency import Lease
from errors import LedgerDown, ServiceError
from providers.server_tokens import ServerTokens

_HELD_BACK_WAIT: Final = 1.0
"""Seconds before a creation that was held back is tried again. Its state is first written to the ledger, so a
ledger that is down delays it as well."""

NO_SECRETS: Final[Mapping[str, str]] = {}

ENDED = frozenset({"succeeded", "failed", "canceled", "aborted"})
"""The statuses of a prediction that is over."""

OnLate = Callable[["Prediction"], Awaitable[None]]

OnLook = Callable[[float | None], object]
"""Called with the seconds that a prediction has run, or with None if it has not started."""

Cause = Literal["model", "content", "passing"]
"""Why a prediction failed: the model failed, the content was refused, or the failure is temporary."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a provider that recovery uses, in seconds."""

    answer_timeout: float
    """The timeout of the answer to a creation. A request sent longer ago has arrived, or never will."""
    clock_skew: float
    """The most by which the provider's clock may differ from ours."""


@dataclass(frozen=True, slots=True)
class UpstreamState:
    """How a provider responds, in Unix times. `failing_since` is the first failure since the last success.
    `throttled_until` is the end of the latest wait that a rate limit asked for, None once it is over."""

    last_answer_at: float | None = None
    failing_since: float | None = None
    throttled_until: float | None = None


@dataclass(frozen=True, slots=True)
class LogTail:
    """The end of the logs of a prediction. `text` has its last characters, without credentials, and `end` is the
    count of all characters so far."""

    text: str
    end: int


@dataclass(frozen=True)
class Prediction:
    """A prediction as its provider shows it, and the form in which its model puts out."""

    id: str
    status: str
    output: Any = None
    """The JSON that it has put out so far, without credentials. A text that is an address of a file is a `Url`."""
    error: str | None = None
    """The error message, or the text that the model made in place of a file."""
    cause: Cause = "model"
    """The kind of failure, if it failed."""
    created_at: datetime | None = None
    seconds: float | None = None
    """Seconds from creation to completion. This, `created_at` and `started_at` are by the provider's clock, if it
    shows them."""
    started_at: datetime | None = None
    """When the model began to run it."""
    metrics: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """What the provider measured or counted, by its own names: finite numbers, booleans and short texts. At Replicate
    `predict_time` and `total_time` in seconds, and billed amounts, such as `image_output_count`."""
    started: bool = False
    """Whether it ever ran, if the provider shows that. A prediction that never ran is not billed."""
    age: float = 0.0
    """Seconds since its creation when a search found it, by our own clock; 0 if its creation was answered."""
    is_announced: bool = False
    """Whether its provider was asked to push its result."""
    is_lost: bool = False
    """Whether it could neither be watched to its end nor cancelled: it may be billed."""
    is_removed: bool = False
    """Whether the provider has deleted its input and outputs."""
    seed: int | None = None
    """The seed that the model has printed. Many models print none, and not every answer has all that was printed."""
    progress: float | None = None
    """The percentage done that the model last printed. It may be wrong."""
    logs: LogTail | None = None
    """The logs of a training. Other predictions have none here."""
    form: OutputForm = FILES
    """The form of its output, from who created it. A provider does not know it."""

    @cached_property
    def produced(self) -> Produced:
        """What its output has, by its form."""
        return self.form.read(self.output)

    @property
    def outputs(self) -> tuple[Any, ...]:
        """All that it has put out, also text in place of a file."""
        refusal = self.produced.refusal
        return (*self.produced.values, refusal) if refusal else self.produced.values

    @property
    def has_output(self) -> bool:
        """Whether it has put out anything, of any kind."""
        return not is_empty(self.output)

    @property
    def is_over(self) -> bool:
        """A prediction with output is over even at `processing`, since a provider may leave it there, unless its output
        grows until its end."""
        return self.status in ENDED or self._has_finished

    @property
    def waited(self) -> float | None:
        """Seconds from its creation to its start by the provider's clock, None if that does not show both."""
        if self.created_at is None or self.started_at is None:
            return None
        return max(0.0, (self.started_at - self.created_at).total_seconds())

    @property
    def is_made(self) -> bool:
        """Whether it has made what its model makes."""
        return self.has_succeeded and bool(self.produced.items)

    @property
    def has_succeeded(self) -> bool:
        """Whether it has finished with output of any kind."""
        return self._has_finished or (self.status == "succeeded" and self.has_output)

    @property
    def _has_finished(self) -> bool:
        return self.status == "processing" and self.has_output and not self.form.streams

    @property
    def may_be_billed(self) -> bool:
        """Finished predictions are billed, and predictions cancelled after their start. Failed ones are
        not."""
        is_stopped = self.status == "canceled" or (self.status == "processing" and self.has_output)
        was_cut_short = is_stopped and self.started
        was_removed = self.status == "succeeded" and self.is_removed
        return self.has_succeeded or was_cut_short or was_removed or self.is_lost


@dataclass(frozen=True, slots=True)
class Created:
    """A prediction just started. For `exhausted_for` seconds, the account may start no other."""

    prediction: Prediction
    exhausted_for: float = 0.0


@dataclass(frozen=True, slots=True)
class UncertainCreation:
    """A creation that an earlier process may have sent at `since` (Unix time, seconds). It is not recovered until its
    caller comes back. `caller` is the caller's id, `model` the target, `content` the `content_of` the input."""

    reference: str
    caller: str
    model: str
    content: str
    since: float


class TryAgain(Exception):
    """The attempt made nothing, and another one may succeed: nothing was started, or the failure is
    temporary.

    `wait` is how long the provider says to wait, in seconds. `throttled` (the account) and `unreachable` (the
    provider) mean that all predictions of this caller should wait. `cautious` means that a proxy or firewall
    may refuse all of them, so they should be created one at a time. `refused` means that the provider refused
    this one for a reason that should not last: one more attempt shows whether it does. `held_back` means that this
    process was not allowed to send, so the attempt does not count. `gate_closed` means that the gate admits no call to
    its model until the limit that refused this attempt is free again. The caller gets `error` when no attempt is
    left.
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
        held_back: bool = False,
        gate_closed: bool = False,
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.wait = wait
        self.throttled = throttled
        self.unreachable = unreachable
        self.refused = refused
        self.cautious = cautious
        self.held_back = held_back
        self.gate_closed = gate_closed

    @classmethod
    def as_held_back(cls) -> "TryAgain":
        """For a creation that this process was not allowed to send."""
        down = LedgerDown("This process has not reached the ledger in time, so nothing was sent.")
        return cls(down, wait=_HELD_BACK_WAIT, held_back=True)


@dataclass(frozen=True, slots=True)
class Measures:
    """What a process has measured of its provider. `clock_skew` is in seconds by which the provider's clock is ahead of
    the machine's, None if unknown. `list_lags` are the most seconds in the last hour by which the list of an account
    was behind, by account (`auth.Caller.account`)."""

    clock_skew: float | None = None
    list_lags: Mapping[str, float] = field(default_factory=dict)


class Provider(Protocol):
    """Runs predictions. Every method is called on the loop."""

    limits: Limits
    uploads_early: bool
    """Whether files are uploaded before the wait for admission, and not only after it."""

    @property
    def clock_skew(self) -> float | None:
        """Measured seconds by which the provider's clock is ahead of this machine's. None if unknown."""

    @property
    def upstream(self) -> UpstreamState:
        """The state of the provider, over all accounts."""

    async def upload(self, caller: Caller, upload: Upload) -> str:
        """The address under which a prediction of this caller can read the image. Raises ServiceError."""

    def content_of(self, sent: Mapping[str, Any]) -> str:
        """The mark by which a lost creation with this input is recognized. Equal inputs have equal marks in any
        process."""

    async def create(
        self,
        caller: Caller,
        model: str,
        sent: Mapping[str, Any],
        *,
        content: str,
        lease: Lease,
        cancel_after: float,
        reference: str,
        callback: str | None = None,
        on_late: OnLate | None = None,
        secrets: Mapping[str, str] = NO_SECRETS,
    ) -> Created:
        """Start a prediction of this model with this input, once. Raises TryAgain or ServiceError.

        The lease is marked as sent when the request is sent, and as answered when its answer arrives. If it
        is unknown whether the creation arrived, the lease is marked as lost, and as answered once it is
        known. The provider cancels the prediction after `cancel_after` seconds. `content` is the `content_of`
        `sent`, and `reference` the id of this attempt. The provider pushes the result to the URL `callback`.
        When this call is cancelled, it still waits for the answer, and raises CancelledError only if it is then
        unknown whether the creation arrived. If a prediction appears after TryAgain or OutcomeUnknown was raised,
        `on_late` is called with it.

        `secrets` are further inputs. They are sent and neither logged nor kept, and are not part of `sent` and
        `content`. Their values are removed from the texts of refusals, and of the caller's predictions for an hour.
        With secrets the `callback` is not used: a pushed result may repeat them, and other processes may write it down.
        """

    async def wait(
        self,
        caller: Caller,
        prediction: Prediction,
        *,
        model: str,
        on_look: OnLook | None = None,
        start_by: float | None = None,
    ) -> Prediction:
        """Wait until the prediction is over, and return its last state, which keeps its form. Raises ServiceError.

        `on_look` is called whenever it is seen unfinished. If it may have to wait for a boot, `start_by` is the age in
        seconds at which it must have started: then its start is looked for, and whether it has started by that age."""

    async def cancel(self, caller: Caller, prediction: Prediction) -> Prediction | None:
        """Stop a prediction that still runs and is billed. Returns its state afterwards, which keeps its form, or None
        if that is unknown. Does not raise."""

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
        hidden: Collection[str] = (),
    ) -> Created:
        """Search for the prediction of a creation that an earlier process was about to send at `since` (Unix
        time, seconds), when the provider's clock was `skew` seconds ahead. `on_late` is as for `create`.

        `content` is the `content_of` its input without the inputs named in `hidden`, which were secret. Raises
        TryAgain when it never arrived, ServiceError when that is unknown. Start all recoveries before awaiting one:
        identical creations can only be counted together.
        """

    async def aclose(self) -> None:
        """Close every connection."""


class CreationRegistry(Protocol):
    """A provider that searches for lost creations. It must know which predictions belong to other
    attempts."""

    @property
    def measured(self) -> Measures:
        """What this process has measured by its own requests. Call it on the loop."""

    def learn(self, measured: Measures) -> None:
        """Use what another process has measured, with the skew to the clock of this machine. Call it on the loop."""

    def register_uncertain(self, creation: UncertainCreation) -> None:
        """Register a creation that is not recovered yet: a prediction with the same model and input may be
        its own."""

    def register_known(self, ids: Iterable[str]) -> None:
        """Register the ids of predictions that are on record: none of them belongs to a lost creation."""


class AccountSource(Protocol):
    """A provider that names the account of a token, and notices if another program uses the server's
    account."""

    tokens: ServerTokens
    """The service's own tokens, and their accounts. Use it on the loop."""

    @property
    def account_shared(self) -> bool:
        """Whether another program seems to have used the server's account lately. Call it on the loop."""

    async def account_of(self, caller: Caller) -> str | None:
        """The name of the account that the caller's token belongs to, empty if it has none. None if the provider does
        not say in time. Raises TokenRejected, and no other ServiceError."""


class ProgressSource(Protocol):
    """A provider that shows the progress of a prediction."""

    def follow(
        self, prediction_id: str, listener: Callable[[Prediction], object], *, eager: bool = True
    ) -> Callable[[], None]:
        """Call the listener with the state of a prediction that is being waited for, until the prediction is over or
        the returned function is called: about once a second if it is `eager`, and else whenever it is seen."""
