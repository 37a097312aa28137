"""Webhooks of Replicate: finds the generation and the secret for a message, verifies it, and hands on its result.

A message about work that another process on the ledger runs is passed on to that process unread."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from auth import Authenticator, Caller
from errors import PayloadTooLarge
from generations.archive import Archive
from generations.batch import Batch
from generations.generation import Generation
from generations.remote import Remote
from generations.supervisor import Supervisor
from ledger.records import GenerationRecord
from providers.pushes import PushedResult, Untrusted
from providers.several import RunProviders

MOST_BYTES: Final = 1_000_000
"""The largest message that is passed on to another process."""

_SIGNED_BY: Final = "webhook-"
"""The beginning of the names of the headers that sign a message. Another header may have a credential of a proxy, which
must not be written to the ledger."""

log = structlog.get_logger("http")


@dataclass(frozen=True, slots=True)
class Expected:
    """The secret that signs messages about predictions of this caller's generation. `generation` is None if it does not
    run in this process."""

    generation_id: str
    generation: Generation | None
    secret: str
    caller: Caller


class PushInbox:
    def __init__(
        self,
        *,
        supervisor: Supervisor,
        archive: Archive,
        providers: RunProviders,
        authenticator: Authenticator,
        remote: Remote | None = None,
    ) -> None:
        self._supervisor = supervisor
        self._archive = archive
        self._providers = providers
        self._authenticator = authenticator
        self._remote = remote

    async def elsewhere(self, generation_id: str) -> GenerationRecord | None:
        """The record of an unfinished generation that another process runs. Raises LedgerDown."""
        if self._remote is None or self._supervisor.find(generation_id) is not None:
            return None
        work = await self._archive.load(generation_id)
        if not isinstance(work, GenerationRecord) or self._remote.process_of(work) is None:
            return None
        return work

    async def pass_on(
        self, work: GenerationRecord, attempt: str, headers: Mapping[str, str], content: bytes
    ) -> None:
        """Let the process that runs this generation receive a message. Raises LedgerDown, and PayloadTooLarge."""
        assert self._remote is not None  # noqa: S101 - `elsewhere` found it
        if len(content) > MOST_BYTES:
            raise PayloadTooLarge(f"A message of Replicate may have up to {MOST_BYTES} bytes.")
        signature = {
            name.lower(): value for name, value in headers.items() if name.lower().startswith(_SIGNED_BY)
        }
        await self._remote.push(work, attempt, signature, content)

    async def take(
        self, generation_id: str, attempt: str, headers: Mapping[str, str], content: bytes
    ) -> None:
        """Verify and use a message that another process has passed on. Raises ServiceError."""
        expected = await self.expect(generation_id)
        if expected is None:
            return
        try:
            pushed = self.read(expected, headers, content)
        except Untrusted as reason:
            log.warning("webhook_refused", generation=generation_id, reason=str(reason))
        else:
            await self.receive(expected, attempt, pushed)

    async def expect(self, generation_id: str) -> Expected | None:
        """The secret to verify a message about this generation. None if the generation does not exist or is
        suspended: then the message cannot be verified and must be ignored. Raises LedgerDown and
        ServiceError."""
        work = self._supervisor.find(generation_id) or await self._archive.load(generation_id)
        if work is None or isinstance(work, Batch):
            return None
        here = work if isinstance(work, Generation) else None
        caller = here.caller if here else self._authenticator.caller_of(work.caller_id)
        if caller is None:  # suspended: its caller's token is not known
            return None
        secret = await self._providers.of(generation_id).webhook_secret(caller)
        return Expected(generation_id, here, secret, caller)

    def read(self, expected: Expected, headers: Mapping[str, str], content: bytes) -> PushedResult:
        """Verify a message, in any thread. Raises Untrusted."""
        provider = self._providers.of(expected.generation_id)
        return provider.read_push(headers, content, expected.secret, expected.caller)

    async def receive(self, expected: Expected, attempt: str, pushed: PushedResult) -> None:
        """Use a verified message. Ignores one about another attempt or prediction."""
        generation, provider = expected.generation, self._providers.of(expected.generation_id)
        if provider.receive_late(f"{expected.generation_id}.{attempt}", pushed):
            return
        if generation is None or attempt != str(len(generation.attempts)):
            return
        if generation.prediction_id in {None, pushed.prediction.id}:
            provider.receive_push(f"{generation.id}.{attempt}", pushed)
