"""The course of an admitted call: the times of its chunks, its end, and its bill.

A course is billed exactly once, at its end, also if its caller disconnects: then its generator is closed, or the task
that waits in it is cancelled.
"""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from simulator.gemini import marks as prompt_marks
from simulator.gemini import models, refusals
from simulator.gemini.answers import Answer
from simulator.gemini.books import Bill, Books, Outcome
from simulator.gemini.dates import Time
from simulator.gemini.marks import FOREVER, Marks
from simulator.gemini.models import Usage
from simulator.gemini.options import GeminiOptions
from simulator.gemini.projects import Project
from simulator.gemini.refusals import Refused

SHORTEST_DEADLINE = 10.0


class Cut(Exception):
    """The connection is reset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """An admitted call. `model` is the name in the request, `deadline` in seconds."""

    project: Project
    kind: str
    model: str
    marks: Marks
    deadline: float | None
    arrived: datetime


@dataclass(slots=True, kw_only=True)
class Course:
    """The course of one call. Use `stream` or `unary`, once."""

    call: Call
    answer: Answer
    options: GeminiOptions
    books: Books
    time: Time
    version: str
    response_id: str
    _sent: Usage | None = None
    """The usage in the last chunk that was sent."""
    _billed: bool = False

    async def stream(self) -> AsyncGenerator[Any, None]:
        """The bodies of the chunks at their times; with a head, from when it is sent. A text is sent as it is.

        Raises:
            Cut: If the connection is to be reset.
            Refused: If the first chunk is too late for the caller's deadline, and no head is sent before.
        """
        marks, chunks = self.call.marks, self.answer.chunks
        try:
            head = self.head_seconds()
            late = await self._work(max(0.0, self._first() - (head or 0.0)))
            if late is not None and head is None:
                raise late
            if late is not None:
                yield self._counted(late)
                return
            await self._end_without_a_byte()
            if "error" in marks:
                self._bill("failed", Usage())
                yield self._error("error")
                return
            gap = self._slow() / max(1, len(chunks) - 1)
            half = max(1, len(chunks) // 2)
            for number, chunk in enumerate(chunks):
                if number:
                    await asyncio.sleep(gap)
                self._sent = chunk.usage
                yield chunk.body
                if number + 1 == half:
                    async for body in self._middle():
                        yield body
                    if self._billed:
                        return
            self._bill("finished", self.answer.usage)
        finally:
            self.leave()

    async def unary(self) -> dict[str, Any]:
        """The whole answer as one body, at its time.

        Raises:
            Cut: If the connection is to be reset.
            Refused: If the marks name an error, or it is too late for the caller's deadline.
        """
        marks = self.call.marks
        try:
            late = await self._work(self._first() + self._slow())
            if late is not None:
                raise late
            await self._end_without_a_byte()
            for name in ("error", "late-error"):
                if name in marks:
                    self._bill("failed", Usage())
                    raise self._refused(name)
            if "cut-stream" in marks or "stall" in marks:
                await self._silence("stall")
                self._bill_cut("cut")
                raise Cut
            self._bill("finished", self.answer.usage)
            return self.answer.whole()
        finally:
            self.leave()

    def head_seconds(self) -> float | None:
        """When the head of a stream is sent, if that is before its first chunk."""
        return float(self.call.marks["head"] or 0) if "head" in self.call.marks else None

    def _first(self) -> float:
        return prompt_marks.number(self.call.marks, "first", self.options.first_seconds)

    def _slow(self) -> float:
        return prompt_marks.number(self.call.marks, "slow", self.options.seconds)

    async def _work(self, seconds: float) -> Refused | None:
        """Wait for the work of so many seconds. Returns the error of a caller's deadline that is sooner."""
        deadline = self.call.deadline
        if deadline is None or deadline >= seconds:
            await asyncio.sleep(seconds)
            return None
        await asyncio.sleep(deadline)
        self._bill("failed", Usage())
        return refusals.of(500 if deadline < SHORTEST_DEADLINE else 504)

    async def _end_without_a_byte(self) -> None:
        """End a call marked `lost` or `silence`: its work is billed, and no byte is sent."""
        marks = self.call.marks
        if "lost" in marks or "silence" in marks:
            self._bill("lost", self.answer.usage)
            await self._silence("silence")
            raise Cut

    async def _middle(self) -> AsyncGenerator[Any, None]:
        """The events after half of the text."""
        marks = self.call.marks
        if "garbage" in marks:
            yield "<html>Bad Gateway</html>"
        if "late-error" in marks:
            self._bill("failed", self._sent or Usage())
            yield self._error("late-error")
        if "stall" in marks or "cut-stream" in marks:
            await self._silence("stall")
            self._bill_cut("cut")
            raise Cut

    async def _silence(self, name: str) -> None:
        if name in self.call.marks:
            await asyncio.sleep(prompt_marks.number(self.call.marks, name, FOREVER))

    def _refused(self, name: str) -> Refused:
        midnight = self.time.to_midnight()
        return prompt_marks.in_stream(self.call.marks[name], model=self.call.model, to_midnight=midnight)

    def _error(self, name: str) -> Any:
        return self._counted(self._refused(name))

    def _counted(self, refused: Refused) -> Any:
        """The body of an error inside a stream."""
        self.books.refusals[refused.code] += 1
        return refused.body

    def leave(self) -> None:
        """Bill the call as disconnected if it has no bill yet."""
        if not self._billed:
            self._bill_cut("disconnected")

    def _bill_cut(self, outcome: Outcome) -> None:
        whole = self.answer.usage
        prompt = Usage(prompt=whole.prompt, cached=whole.cached)
        self._bill(outcome, whole if self.options.disconnect == "whole" else self._sent or prompt)

    def _bill(self, outcome: Outcome, usage: Usage) -> None:
        self._billed = True
        now, call = self.time.now(), self.call
        micro_usd = models.cost(self.version, usage, now)
        call.project.spent.add(self.time.clock(), micro_usd)
        self.books.end(
            Bill(
                response_id=self.response_id,
                project=call.project.name,
                kind=call.kind,
                asked=call.model,
                answered=self.version,
                outcome=outcome,
                finish_reason=self.answer.finish_reason if outcome in ("finished", "lost") else None,
                usage=usage,
                micro_usd=micro_usd,
                arrived=call.arrived.timestamp(),
                ended=now.timestamp(),
            )
        )
