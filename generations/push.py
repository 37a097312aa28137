"""Webhooks of Replicate: finds the generation and the secret for a message, verifies it, and hands on its result."""

from dataclasses import dataclass

from auth import Authenticator, Caller
from generations.archive import Archive
from generations.batch import Batch
from generations.generation import Generation
from generations.supervisor import Supervisor
from providers import PushedResult, PushReceiver


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
        provider: PushReceiver,
        authenticator: Authenticator,
    ) -> None:
        self._supervisor = supervisor
        self._archive = archive
        self._provider = provider
        self._authenticator = authenticator

    async def expect(self, generation_id: str) -> Expected | None:
        """The secret to verify a message about this generation. None if the generation does not exist or is
        suspended: then the message cannot be verified and must be ignored. Raises LedgerDown and
        ServiceError."""
        work = self._supervisor.find(generation_id) or await self._archive.load(generation_id)
        if work is None or isinstance(work, Batch):
            return None
        caller: Caller | None = work.caller if isinstance(work, Generation) else self._authenticator.admin()
        if caller is None or caller.id != work.caller_id:  # suspended: its caller's token is not known
            return None
        secret = await self._provider.webhook_secret(caller)
        return Expected(generation_id, work if isinstance(work, Generation) else None, secret, caller)

    async def receive(self, expected: Expected, attempt: str, pushed: PushedResult) -> None:
        """Use a verified message. Ignores one about another attempt or prediction."""
        generation = expected.generation
        if self._provider.receive_late(f"{expected.generation_id}.{attempt}", pushed):
            return
        if generation is None or attempt != str(len(generation.attempts)):
            return
        if generation.prediction_id in {None, pushed.prediction.id}:
            self._provider.receive_push(f"{generation.id}.{attempt}", pushed)
