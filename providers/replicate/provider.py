"""Replicate as a provider: runs predictions (`runs.py`), and uploads images.

A creation has a deadline (`Cancel-After`), so no prediction bills for ever, even if this service ends.

Models, versions and deployments are looked up (`model_lookups.py`), but nothing is kept of them.

Each request goes through `client.py`, with a lease of the creation's admission or of the window for all others.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from admission.durations import Durations
from auth import Caller
from catalog.references import Upload
from concurrency import Lease
from ledger.rivals import OtherAttempts
from providers import (
    NO_SECRETS,
    AccountSource,
    Created,
    CreationRegistry,
    OnLate,
    ProgressSource,
    Provider,
)
from providers.fingerprints import fingerprint
from providers.models import ListedVersion, ModelFacts, ModelSource
from providers.pushes import PushReceiver
from providers.replicate.access import Access
from providers.replicate.errors import target_error
from providers.replicate.model_lookups import ModelLookups
from providers.replicate.polls import Polls
from providers.replicate.reconciliation import Creations
from providers.replicate.runs import Runs
from providers.replicate.sharing import Sharing
from providers.replicate.uploads import Uploads
from providers.replicate.watcher import Watcher

CANCEL_PATIENCE: Final = 30.0
"""Seconds for which cancelling a prediction is tried. After that, the prediction ends by its deadline."""


class Replicate(Runs, Provider, PushReceiver, CreationRegistry, ProgressSource, AccountSource, ModelSource):
    """Create and close it on the loop that uses it. It closes its `access` too. `elsewhere` are the attempts of other
    processes on the same ledger, if there may be any.
    """

    uploads_early = True

    def __init__(
        self,
        access: Access,
        *,
        durations: Durations | None = None,
        elsewhere: OtherAttempts | None = None,
    ) -> None:
        self.access = access
        self.tokens = access.tokens
        client, timing = access.client, access.timing
        sharing = Sharing(is_known=lambda each: self.creations.is_known(each), elsewhere=elsewhere)
        polls = Polls(client.predictions, others=access.others, refusals=access.refusals, sharing=sharing)
        creations = Creations(
            polls.search,
            answer_timeout=timing.timeouts.create,
            clock=client.clock,
            timing=timing.search,
            elsewhere=elsewhere,
            payer_of=self.tokens.payer_of,
        )
        watcher = Watcher(
            places=access.others,
            get=polls.get,
            get_page=polls.get_page,
            durations=durations or Durations(),
        )
        super().__init__(
            access,
            resource=client.predictions,
            watcher=watcher,
            creations=creations,
            refused=target_error,
            sharing=sharing,
            cancel_patience=CANCEL_PATIENCE,
        )
        self.poll = polls.get
        self._models = ModelLookups(client, access.refusals)
        self._uploads = Uploads(self._send_file, first_pause=timing.upload_pause)

    @property
    def account_shared(self) -> bool:
        return self._sharing.is_seen

    async def upload(self, caller: Caller, upload: Upload) -> str:
        return await self._uploads.address(caller, upload)

    def content_of(self, sent: Mapping[str, Any]) -> str:
        return fingerprint(sent)

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
        self.access.client.secrets.add(caller, secrets.values())
        request = self.access.client.create_prediction(
            caller,
            model,
            {**sent, **secrets},
            lease=lease,
            cancel_after=cancel_after,
            webhook=None if secrets else callback,
        )
        return await self.create_by(
            request,
            caller,
            model,
            content=content,
            lease=lease,
            reference=reference,
            on_late=on_late,
            hidden=secrets.keys(),
        )

    async def find_model(self, caller: Caller, name: str) -> ModelFacts | None:
        return await self._models.find_model(caller, name)

    async def find_version(self, caller: Caller, name: str, version: str) -> ModelFacts | None:
        return await self._models.find_version(caller, name, version)

    async def find_deployment(self, caller: Caller, name: str) -> ModelFacts | None:
        return await self._models.find_deployment(caller, name)

    async def find_versions(self, caller: Caller, name: str) -> Sequence[ListedVersion] | None:
        return await self._models.find_versions(caller, name)

    async def search_models(self, caller: Caller, query: str) -> Sequence[ModelFacts]:
        return await self._models.search_models(caller, query)

    async def aclose(self) -> None:
        await super().aclose()
        await self.access.aclose()

    async def _send_file(self, caller: Caller, upload: Upload) -> str:
        send = self.access.client.create_file(caller, upload)
        return await self.access.refusals.checked(caller, send)
