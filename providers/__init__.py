"""What talks to an upstream, one file each; what they have in common is here.

A provider creates a prediction, knows when it is over, and cancels it. It raises a `ServiceError` when the
matter is settled and `TryAgain` when another attempt may help.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from auth import Caller
from catalog.references import Upload
from concurrency import Lease
from errors import ServiceError

_ENDED = frozenset({"succeeded", "failed", "canceled", "aborted"})


@dataclass(frozen=True, slots=True)
class Prediction:
    """A prediction as its upstream tells it. `outputs` are URLs, however the upstream wraps them."""

    id: str
    status: str
    outputs: tuple[str, ...] = ()
    error: str | None = None
    created_at: datetime | None = None
    seconds: float | None = None
    """Both by the upstream's clock, when it says; `seconds` from creation to completion."""
    started: bool = False
    """Whether it ever ran, as far as the upstream said: what never did is not billed."""
    age: float = 0.0
    """How old it was when we came to know of it, in seconds by our own clock, if that was late."""
    is_lost: bool = False
    """Whether it could neither be watched to its end nor cancelled: it may be billed."""
    is_removed: bool = False
    """Whether its upstream has thrown away what it was asked and what it made."""
    progress: float | None = None
    """Per cent of it that the model last said were done, if it said so: a claim, and no promise."""

    @property
    def is_over(self) -> bool:
        """Replicate may leave a finished prediction at `processing`; output tells (and null does not)."""
        return self.status in _ENDED or (self.status == "processing" and bool(self.outputs))

    @property
    def is_made(self) -> bool:
        """Whether there is what was asked for."""
        return self.status in {"succeeded", "processing"} and bool(self.outputs)


@dataclass(frozen=True, slots=True)
class Created:
    """A prediction just started. `exhausted_for` is how long, in seconds, the account may start no other."""

    prediction: Prediction
    exhausted_for: float = 0.0


@dataclass(frozen=True, slots=True)
class Told:
    """What an upstream told of a prediction by itself. `content` is the fingerprint of its input, and `webhook` the
    address it was told to, if the message names them."""

    prediction: Prediction
    model: str | None = None
    content: str | None = None
    webhook: str | None = None


class TryAgain(Exception):
    """This attempt made nothing: nothing was started, or the model failed for what it calls a passing reason.

    `wait` is how long the upstream asked for, in seconds. Everything of this caller had better wait when the
    account is `throttled`, or the upstream `unreachable`. `error` is told to the caller when patience ends.
    """

    def __init__(
        self,
        error: ServiceError,
        *,
        wait: float | None = None,
        throttled: bool = False,
        unreachable: bool = False,
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.wait = wait
        self.throttled = throttled
        self.unreachable = unreachable


class Provider(Protocol):
    """The seam between the life of a generation and whoever runs its model."""

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
    ) -> Created:
        """Start a prediction of this model with this input, once. Raises TryAgain or ServiceError.

        `cancel_after` in seconds. `reference` is this attempt's own id; `callback` the address to be told at when
        the prediction is over.
        """

    async def recover(
        self, caller: Caller, model: str, *, content: str, since: float, reference: str
    ) -> Created:
        """What became of a creation that an earlier process was about to send at `since` (Unix time, seconds).

        `content` is the fingerprint of its input. Raises TryAgain when it never arrived, ServiceError when that
        cannot be told. Those recovered together are begun together: alike ones are told apart by their number.
        """

    def lose(self, reference: str, caller_id: str, model: str, *, content: str, since: float) -> None:
        """Count on a creation as `recover` has it, whose caller has not come back yet: what it made looks like what
        others of them made."""

    def know(self, ids: Iterable[str]) -> None:
        """These predictions are on record, so that no creation in doubt takes one of them for its own."""

    async def finished(
        self, caller: Caller, prediction: Prediction, *, model: str, announced: bool = False
    ) -> Prediction:
        """Wait until it is over; `announced` says that its upstream was asked to tell. Raises ServiceError."""

    def tell(self, reference: str, told: Told) -> None:
        """The upstream told of the attempt of this reference. Whoever tells has checked that it was the upstream, and
        that the attempt has no other prediction on record."""

    async def webhook_secret(self, caller: Caller) -> str:
        """What the upstream signs with when it tells of this caller's predictions. Raises ServiceError."""

    def follow(self, prediction_id: str, listener: Callable[[Prediction], object]) -> Callable[[], None]:
        """Tell how a prediction goes that is being waited for, about once a second, until it is over or what this
        returns is called. Nothing happens if nobody waits for it."""

    async def cancel(self, caller: Caller, prediction: Prediction) -> Prediction | None:
        """Stop what still runs and bills; best effort, does not raise. How it stands then, if that was told."""

    async def aclose(self) -> None:
        """Let go of every connection."""
