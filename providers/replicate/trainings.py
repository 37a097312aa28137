"""Replicate as a provider of trainings: runs them (`runs.py`), and keeps their files and the models that they make.

- Each upload is a new file, and a training is recognized by the address of its file. So that of a lost creation
  is found for certain, unless Replicate has deleted its input.
- The list of trainings takes no dates, and no page of it is read for polls.
- Replicate cancels no training at a deadline: it has no `Cancel-After`.

Facts: Replicate's OpenAPI document (`trainings.create`, `.get`, `.list` and `.cancel`, `models.create`,
`files.create` and `.delete`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Any, Final

import structlog

from admission.durations import Durations
from auth import Caller
from catalog.references import Upload
from concurrency import Lease
from errors import PayloadTooLarge, ServiceError, UpstreamError
from loop_thread import finish
from network.backoff import backoff
from providers import NO_SECRETS, Created, OnLate
from providers.connections import Lost, NotSent
from providers.replicate.access import Access
from providers.replicate.answers import Page
from providers.replicate.durations import OF_TRAININGS
from providers.replicate.errors import (
    destination_error,
    is_about_token,
    passing_error,
    seconds_to_wait,
    training_error,
)
from providers.replicate.model_lookups import ModelLookups
from providers.replicate.polling import NoPages
from providers.replicate.polls import Polls
from providers.replicate.reconciliation import Creations
from providers.replicate.runs import Runs
from providers.replicate.sharing import Unshared
from providers.replicate.training_answers import training_content
from providers.replicate.transport import Refusal
from providers.replicate.uploads import Uploads
from providers.replicate.watcher import Watcher
from providers.trainings import TrainingProvider

_TRIES: Final = 4
"""Of a request for a new model, and of one to delete a file."""

_ANSWERS_WITHIN: Final = 5.0
"""Seconds for which the answer to an upload is awaited that was cancelled."""

_CANCEL_PATIENCE: Final = 300.0
_CANCEL_PAUSE: Final = 10.0
"""Seconds for which cancelling a training is tried, and between two later tries. It has no deadline, so it would run to
its end and be billed."""

log = structlog.get_logger("replicate")


class ReplicateTrainings(Runs, TrainingProvider):
    """Create and close it on the loop that uses it, and before its `access` is closed."""

    uploads_early = False

    def __init__(self, access: Access) -> None:
        client, timing = access.client, access.timing
        sharing = Unshared()  # any program of the account may train
        polls = _Polls(client.trainings, others=access.others, refusals=access.refusals, sharing=sharing)
        creations = Creations(
            polls.search,
            answer_timeout=timing.timeouts.create,
            clock=client.clock,
            timing=timing.search,
            payer_of=access.tokens.payer_of,
        )
        watcher = Watcher(
            places=access.others,
            get=polls.get,
            get_page=polls.get_page,
            durations=Durations(),
            pace=OF_TRAININGS,
        )
        super().__init__(
            access,
            resource=client.trainings,
            watcher=watcher,
            creations=creations,
            refused=training_error,
            sharing=sharing,
            cancel_patience=_CANCEL_PATIENCE,
            cancel_pause=_CANCEL_PAUSE,
        )
        self._client = client
        self._models = ModelLookups(client, access.refusals)
        self._uploads = Uploads(self._send_file, first_pause=timing.upload_pause)

    async def upload(self, caller: Caller, upload: Upload) -> str:
        sending = asyncio.create_task(self._uploads.send(caller, upload))
        try:
            return await asyncio.shield(sending)
        except asyncio.CancelledError:
            await finish(self._discard(caller, sending))
            raise

    async def delete_upload(self, caller: Caller, address: str) -> None:
        if not address.startswith(self._client.files):
            return
        file_id = address.removeprefix(self._client.files)
        try:
            await self._tried(caller, partial(self._client.delete_file, caller, file_id), done=404)
        except (Refusal, ServiceError) as error:
            log.warning("upload_not_deleted", reason=str(error), caller=caller.id)

    async def _discard(self, caller: Caller, sending: asyncio.Task[str]) -> None:
        """Delete the file of an upload that was cancelled. Its answer is awaited for some seconds, since the file may
        have arrived, and is then kept for a day."""
        await asyncio.wait([sending], timeout=_ANSWERS_WITHIN)
        sending.cancel()  # no effect on one that is done
        await asyncio.wait([sending])
        if not sending.cancelled() and sending.exception() is None:
            await self.delete_upload(caller, sending.result())

    def content_of(self, sent: Mapping[str, Any]) -> str:
        return training_content(self._client.files, sent)

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
        self._client.secrets.add(caller, secrets.values(), longest=cancel_after)
        request = self._client.create_training(
            caller,
            model,
            {**sent, **secrets},
            destination=destination,
            lease=lease,
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

    async def has_destination(self, caller: Caller, name: str) -> bool:
        return await self._models.has_model(caller, name)

    async def create_destination(self, caller: Caller, name: str, *, visibility: str, hardware: str) -> None:
        create = partial(self._client.create_model, caller, name, visibility=visibility, hardware=hardware)
        try:
            await self._tried(caller, create, done=409)
        except Refusal as refusal:
            if refusal.status == 402 or (
                is_about_token(refusal) and await self._access.refusals.is_final(refusal, caller)
            ):
                raise self._access.refusals.final_error(refusal, caller) from None
            raise destination_error(refusal, self._client.redaction(caller)) from None

    async def _tried(self, caller: Caller, send: Callable[[], Awaitable[None]], *, done: int) -> None:
        """Send a request until it succeeds, a few times at most. A refusal with the status `done` shows that it is done
        already. Raises a Refusal that is final, and else ServiceError."""
        error: ServiceError = UpstreamError()
        for number in range(1, _TRIES + 1):
            try:
                await send()
                return
            except Refusal as refusal:
                if refusal.is_replicates and refusal.status == done:
                    return
                if refusal.status == 403 or await self._access.refusals.is_final(refusal, caller):
                    raise
                error, wait = passing_error(refusal), seconds_to_wait(refusal)
            except (NotSent, Lost):
                error, wait = UpstreamError(), None
            if number < _TRIES:
                first = self._access.timing.upload_pause
                await asyncio.sleep(backoff(number, first=first) if wait is None else wait)
        raise error

    async def _send_file(self, caller: Caller, upload: Upload) -> str:
        send = self._client.create_file(caller, upload, name="images.zip", media="application/zip")
        try:
            return await self._access.refusals.checked(caller, send)
        except Refusal as refusal:
            if refusal.is_replicates and refusal.status == 413:
                raise PayloadTooLarge("The zip of images is larger than Replicate takes.") from None
            raise


class _Polls(Polls):
    """Their list takes no dates. A search reads it from the latest on, as far back as it must. A page for polls would
    begin there too, so there is none: trainings are few."""

    async def search(self, caller: Caller, query: str) -> Page:
        return await super().search(caller, "" if query.startswith("created_after=") else query)

    async def get_page(self, caller: Caller, before: datetime, lease: Lease) -> Page:  # noqa: ARG002
        raise NoPages
