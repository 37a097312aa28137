"""Results that Replicate pushes: which generation they are for, and whether they are believed."""

from dataclasses import dataclass

from auth import Authenticator, Caller
from generations.archive import Archive
from generations.batch import Batch
from generations.generation import Generation
from generations.supervisor import Supervisor
from providers import PushedResult, PushReceiver


@dataclass(frozen=True, slots=True)
class Expected:
    """The secret that signs pushed results for this generation, if any are expected."""

    generation_id: str
    generation: Generation | None
    """None if it does not run here (any more): a signed message is no news then."""
    secret: str
    caller: Caller
    """Whose prediction it is about."""


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
        self._doors = authenticator

    async def expect(self, generation_id: str) -> Expected | None:
        """The keys to verify a message with. None if there is no such generation, or its account's secret is not
        available: the message is not read then, since anyone may send one. Raises LedgerDown and ServiceError."""
        work = self._supervisor.find(generation_id) or await self._archive.load(generation_id)
        if work is None or isinstance(work, Batch):
            return None
        caller: Caller | None = work.caller if isinstance(work, Generation) else self._doors.admin()
        if caller is None or caller.id != work.caller_id:
            return None  # it is suspended
        secret = await self._provider.webhook_secret(caller)
        return Expected(generation_id, work if isinstance(work, Generation) else None, secret, caller)

    async def receive(self, expected: Expected, attempt: str, pushed: PushedResult) -> None:
        """Take in a message that could be read. One about another attempt or prediction is ignored."""
        generation = expected.generation
        if self._provider.receive_late(f"{expected.generation_id}.{attempt}", pushed):
            return
        if generation is None or attempt != str(len(generation.attempts)):
            return
        if generation.prediction_id in {None, pushed.prediction.id}:
            self._provider.receive_push(f"{generation.id}.{attempt}", pushed)
