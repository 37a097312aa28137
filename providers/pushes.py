"""Results that a provider pushes to the service."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from auth import Caller
from providers import Prediction
from providers.origins import Origin


@dataclass(frozen=True, slots=True)
class PushedResult:
    """A provider's message about a prediction, and how that was made. `webhook` is the address that the message was
    sent to, if the message names it."""

    prediction: Prediction
    origin: Origin = field(default_factory=Origin)
    webhook: str | None = None


class Untrusted(Exception):
    """A pushed message is not from the provider, or contains no prediction. Log the text, but do not send it
    back."""


class PushReceiver(Protocol):
    """A provider that pushes results."""

    async def webhook_secret(self, caller: Caller) -> str:
        """The secret that signs the pushed results of this caller. Raises ServiceError."""

    def read_push(
        self, headers: Mapping[str, str], body: bytes, secret: str, caller: Caller | None = None
    ) -> PushedResult:
        """Read a message, and remove the secret and the credentials of its `caller` from its texts. Call it
        in any thread. Raises Untrusted unless the message is signed with the secret."""

    def receive_push(self, reference: str, pushed: PushedResult) -> None:
        """Use a message about the attempt of this reference. Call it only if the attempt has no other
        prediction on record."""

    def receive_late(self, reference: str, pushed: PushedResult) -> bool:
        """Use a message about an attempt that was settled without its prediction. Returns whether the message
        names the missing prediction."""
