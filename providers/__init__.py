"""What talks to an upstream, one file each; what they have in common is here.

A provider creates a prediction, knows when it is over, and cancels it. It raises a `ServiceError` when the
matter is settled and `TryAgain` when another attempt may help.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from auth import Caller
from concurrency import Lease
from errors import ServiceError
from references import Upload

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
        self, caller: Caller, model: str, sent: Mapping[str, Any], *, lease: Lease, cancel_after: float
    ) -> Created:
        """Start a prediction of this model with this input, once. Raises TryAgain or ServiceError."""

    async def finished(self, caller: Caller, prediction: Prediction, *, model: str) -> Prediction:
        """Wait until it is over. Raises ServiceError."""

    async def cancel(self, caller: Caller, prediction: Prediction) -> Prediction | None:
        """Stop what still runs and bills; best effort, does not raise. How it stands then, if that was told."""

    async def aclose(self) -> None:
        """Let go of every connection."""
