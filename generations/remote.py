"""Requests about work that another process on the ledger runs: its body, its cancellation, and messages of Replicate.

The process that the client reached checks whether the client may do that. If the other one does not answer, it is
stopped or dead; then the rows in the ledger are the answer, and the process that takes over continues from them.
"""

import asyncio
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from cluster.letters import Letters
from errors import LedgerDown
from generations.archive import Stored
from generations.batch import Work
from generations.elsewhere import records_of
from generations.supervisor import Supervisor
from ledger import Ledger
from ledger.claims import ClaimCancelled

_DESCRIBED_WITHIN: Final = 2.0
"""Seconds until a body is made from the rows instead."""

_EXTRA: Final = 2.0
"""Seconds to wait for an answer, beyond those that the other process waits."""

Body = dict[str, Any]
Push = Callable[[str, str, Mapping[str, str], bytes], Awaitable[None]]


class Remote:
    """Sends requests about work to the process that runs it, and after `serve` answers those of other processes."""

    def __init__(self, letters: Letters, supervisor: Supervisor, ledger: Ledger) -> None:
        self._letters = letters
        self._supervisor = supervisor
        self._ledger = ledger

    def process_of(self, work: Work | Stored) -> str | None:
        """The other process that runs this work, as far as its record says. A batch is that of its unfinished items."""
        found = next((each.process for each in records_of(work) if not each.has_ended), None)
        return None if found == self._ledger.process else found

    async def describe(self, work: Work | Stored, address: str) -> Body | None:
        """The body of work that another process runs, which continues there without a waiting caller from now on. None
        if that process does not run it or does not answer."""
        process = self.process_of(work)
        if process is None:
            return None
        request = {"id": work.id, "address": address}
        try:
            body: Body | None = await self._letters.ask(
                process, "describe", request, timeout=_DESCRIBED_WITHIN
            )
        except LedgerDown:
            return None
        return body

    async def detach(self, work: Work | Stored) -> None:
        """Let work continue without a waiting caller, if its process can be reached."""
        if (process := self.process_of(work)) is not None:
            with suppress(LedgerDown):
                await self._letters.tell(process, "detach", {"id": work.id})

    async def cancel(self, work: Work | Stored, *, timeout: float) -> None:  # noqa: ASYNC109
        """Cancel work that another process runs. Returns when it has ended, or when the process has not answered for
        about `timeout` seconds; then the process that takes over cancels it. Raises LedgerDown."""
        if not await self._ledger.claim(ClaimCancelled(work.id)):
            return  # it has ended
        if (process := self.process_of(work)) is not None:
            request = {"id": work.id, "timeout": timeout}
            with suppress(LedgerDown):
                await self._letters.ask(process, "cancel", request, timeout=timeout + _EXTRA)

    async def push(
        self, work: Work | Stored, attempt: str, headers: Mapping[str, str], content: bytes
    ) -> None:
        """Pass a message of Replicate on to the process that runs the work, which verifies it. Raises LedgerDown."""
        if (process := self.process_of(work)) is not None:
            message = {
                "id": work.id,
                "attempt": attempt,
                "headers": dict(headers),
                "content": b64encode(content).decode(),
            }
            await self._letters.tell(process, "push", message)

    def serve(self, *, describe: Callable[[Work, str], Awaitable[Body]], push: Push) -> None:
        """Answer the requests of other processes. `describe` makes the body of work at an address, and `push` takes a
        message for a generation and attempt, with headers and content."""

        async def describe_here(request: Body) -> Body | None:
            work = self._found(request)
            return None if work is None else await describe(work, request["address"])

        async def detach_here(request: Body) -> None:
            self._found(request)

        async def push_here(message: Body) -> None:
            content = b64decode(message["content"])
            await push(message["id"], message["attempt"], message["headers"], content)

        self._letters.on("describe", describe_here)
        self._letters.on("detach", detach_here)
        self._letters.on("cancel", self._cancel_here)
        self._letters.on("push", push_here)

    async def _cancel_here(self, request: Body) -> None:
        work = self._found(request)
        if work is None:
            return
        self._supervisor.cancel(work)
        if (task := self._supervisor.task(work)) is not None:
            await asyncio.wait([task], timeout=request["timeout"])
        await self._ledger.flush()

    def _found(self, request: Body) -> Work | None:
        """Work of this process, which then continues without a waiting caller."""
        work = self._supervisor.find(request["id"])
        if work is not None:
            work.detached = True
        return work
