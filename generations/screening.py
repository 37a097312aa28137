"""The check of a generation by a service, before anything of it is sent.

The texts of a training are also the captions in its zip. Its images are not sent to the service.

It happens while the generation is queued, before it waits for a slot. Its verdict is kept with the generation, so one
that was allowed is not checked again after a restart. One that has begun to be sent is not checked again, either.
"""

import asyncio
import base64
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Final

from auth import Caller
from catalog.references import Upload
from contract.providers import TRAININGS
from contract.trainings import TrainingFacts
from datasets.captions import captions
from errors.content import ContentRefused
from generations.batch import Batch
from generations.generation import Generation
from generations.room import Room
from ledger import Ledger
from parsing.content import pictures_of, prose_of
from safety.judging import Content, Judge, Verdict

MOST_PICTURE_BYTES: Final = 20_000_000
"""The most bytes of the uploaded images of a request that a service gets."""


class Screening:
    """Checks generations by `judge`, if there is one. `room` is the memory for uploaded images."""

    def __init__(self, ledger: Ledger, judge: Judge | None = None, room: Room | None = None) -> None:
        self._ledger = ledger
        self.judge = judge
        self._room = room or Room()

    async def check(self, generation: Generation, batch: Batch | None) -> None:
        """Returns once the generation may be sent. Raises ContentRefused if it may not."""
        if self.judge is None or generation.attempts or not is_checked(generation.caller):
            return
        if generation.verdict is None:
            clock = asyncio.get_running_loop().time
            began = clock()
            try:
                verdict = await self._verdict(self.judge, generation, batch)
            finally:
                generation.queued_seconds += clock() - began
            generation.verdict = verdict.as_text()
            self._ledger.mark_dirty(generation)
        else:
            verdict = Verdict.read(generation.verdict)
        if not verdict.allow:
            refused = ContentRefused(
                verdict.reason or "The check of prompts refused it.", category=verdict.category
            )
            refused.retryable = verdict.failed
            raise refused

    async def aclose(self) -> None:
        """Close every connection."""
        if self.judge is not None:
            await self.judge.aclose()

    async def _verdict(self, judge: Judge, generation: Generation, batch: Batch | None) -> Verdict:
        request, caller = generation.request, generation.caller
        turn = f"{caller.turn} {batch.id if batch else ''}"
        prompt, negative = prose_of(request)
        if request.model.provider == TRAININGS:
            prompt = "\n\n".join(
                [each for each in (prompt, *await asyncio.to_thread(_words_of, generation)) if each]
            )
        content = Content(prompt, negative, request.model.name, caller.id)
        pictures = [*pictures_of(request)] if judge.takes_images else []
        size = sum(each.size for each in pictures if isinstance(each, Upload))
        if size > MOST_PICTURE_BYTES:
            return judge.failed(f"its images have more than {MOST_PICTURE_BYTES // 1_000_000} MB")
        # Items of a batch may share an upload, and each has a copy of it while it waits for its verdict.
        async with self._room.hold(caller.turn, _inline_size(size)) if size else nullcontext():
            content = replace(content, images=await _sent(pictures))
            return await judge.verdict(content, turn=turn)


def is_checked(caller: Caller) -> bool:
    """Whether the texts of this caller are checked."""
    return caller.key is None or caller.key.safety != "off"


def _words_of(training: Generation) -> Sequence[str]:
    """The texts of a training beside its inputs: a trigger word that its trainer does not know, and its captions."""
    inputs, word = training.request.first.input, TrainingFacts.read(training.door_facts).trigger_word
    zips = [each for each in inputs.values() if isinstance(each, Upload)]
    found = [] if word is None or word in inputs.values() else [word]
    return [*found, *(text for each in zips for _, text in captions(each.reader()))]


def _inline_size(size: int) -> int:
    """The bytes of so many bytes in base64."""
    return size * 4 // 3


async def _sent(pictures: Sequence[str | Upload]) -> tuple[str, ...]:
    """The addresses of reference images, and uploads as `data:` URIs."""
    return tuple(
        [await asyncio.to_thread(_inline, each) if isinstance(each, Upload) else each for each in pictures]
    )


def _inline(upload: Upload) -> str:
    content = base64.b64encode(upload.content()).decode()
    return f"data:{upload.media.name};base64,{content}"
