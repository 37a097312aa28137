"""A provider of trainings. A training is created, watched, searched for and cancelled as a prediction is, and makes a
version of the model `destination`.

- Its content is the address of its file of images, which is new for each upload. So a lost creation is found for
  certain.
- Its provider cancels none at a deadline: `cancel_after` is not sent.
- It has logs (`Prediction.logs`), and its progress is that of its steps.
- A failure of it is never temporary: one that has begun is not begun again.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from auth import Caller
from catalog.references import Upload
from concurrency import Lease
from providers import NO_SECRETS, Created, CreationRegistry, OnLate, ProgressSource, Provider
from providers.pushes import PushReceiver


class TrainingProvider(Provider, PushReceiver, CreationRegistry, ProgressSource, Protocol):
    """Runs trainings, and keeps their files and destinations. Every method is called on the loop."""

    async def upload(self, caller: Caller, upload: Upload) -> str:
        """Send a zip of images. Returns its address, which is new each time. Raises ServiceError."""

    async def delete_upload(self, caller: Caller, address: str) -> None:
        """Delete an uploaded file, whether it exists or not. Does not raise: a file is deleted after a day anyway."""

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
        destination: str = "",
    ) -> Created:
        """As `Provider.create`, of the trainer `model` (`owner/name:version`). `destination` is `owner/name`, and must
        exist. If it does not, or the version does not, raises InvalidRequest. The values of `secrets` are removed from
        texts for as long as the training may run, and an hour more."""

    async def account_of(self, caller: Caller) -> str | None:
        """As `AccountSource.account_of`."""

    async def has_destination(self, caller: Caller, name: str) -> bool:
        """Whether the account can see the model `owner/name`. Raises ServiceError."""

    async def create_destination(self, caller: Caller, name: str, *, visibility: str, hardware: str) -> None:
        """Create the model `owner/name`, unless it exists. `visibility` is `private` or `public`, `hardware` the name
        of a machine (`cpu`). Raises ServiceError, and InvalidRequest with the reason if it is refused."""
