"""What a call of the Replicate door needs while its generation runs: its deadline, the event of its start, and its
output in the shape that the model returned.
"""

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from catalog.outputs import Url
from contract.door_facts import KEPT, LARGE, LARGE_TEXT, facts_of
from generations.archive import Body
from generations.attempts import Attempt
from generations.batch import Work
from generations.generation import Generation
from ledger import Ledger
from webhooks.outbox import Outbox
from webhooks.signing import Message


@contextmanager
def during_call(
    generation: Generation, ledger: Ledger, starts: "StartWebhooks | None" = None
) -> Iterator[None]:
    """The run of a generation in the current task, which is cancelled at the deadline of its call, if there is one.
    `starts` posts its start."""
    facts = facts_of(generation)
    if facts is not None and starts is not None:
        generation.listeners.append(starts.changed)
    if facts is None or facts.deadline is None:
        yield
        return
    task = asyncio.current_task()

    def cancel() -> None:
        if not generation.has_ended and not generation.is_cancelled and task is not None:
            generation.is_cancelled = True
            ledger.mark_dirty(generation)
            task.cancel()

    left = max(0.0, facts.deadline - time.time())
    timer = asyncio.get_running_loop().call_later(left, cancel)
    try:
        yield
    finally:
        timer.cancel()


def webhook_at_start(generation: Generation) -> str | None:
    """The webhook that gets the start of its first prediction, if there is one."""
    facts = facts_of(generation)
    if facts is None or "start" not in facts.webhook_events or len(generation.attempts) > 1:
        return None
    return facts.webhook


def webhook_at_end(work: Work) -> str | None:
    """The webhook that gets the end of this work."""
    if isinstance(work, Generation) and (facts := facts_of(work)) is not None:
        gets_end = "completed" in facts.webhook_events
        gets_output = work.succeeded and "output" in facts.webhook_events
        return work.webhook if gets_end or gets_output else None
    return work.webhook


class StartWebhooks:
    """Posts the start of predictions to webhooks that want it, once, as Replicate does. `body` makes the content from a
    record and the address of the service."""

    def __init__(self, outbox: Outbox, body: Body) -> None:
        self._outbox = outbox
        self._body = body

    def changed(self, generation: Generation) -> None:
        """The state of a generation has changed."""
        if generation.state == "running" and (url := webhook_at_start(generation)) is not None:
            content = json.dumps(self._body(generation.record(), generation.address)).encode()
            self._outbox.announce(generation.id, url, Message(generation.caller_id, content))


def keep_shape(
    generation: Generation, attempt: Attempt, urls: Sequence[Url], names: Sequence[str | None]
) -> None:
    """Remember the output as the model returned it, if the door needs that. `urls` are all files in the output, and
    `names` those of the kept ones, in this order; None is one that is not kept."""
    facts = facts_of(generation)
    if facts is None or attempt.prediction is None:
        return
    numbers = {
        url: number if number < len(names) and names[number] else None for number, url in enumerate(urls)
    }
    made = attempt.prediction.output
    if generation.outputs:
        output = _shaped(made, numbers)
    else:  # it was too large for the ledger, and is in the file after those
        is_text = generation.kinds[-1:] == ("text",)
        place = {LARGE_TEXT if is_text else LARGE: len(urls)}
        output = [place] if is_text and isinstance(made, list) else place
    generation.door_facts = replace(facts, output=output).as_json()


def _shaped(value: Any, numbers: dict[Url, int | None]) -> Any:
    if isinstance(value, Url) and value in numbers:
        return {KEPT: numbers[value]}
    if isinstance(value, list | tuple):
        return [_shaped(each, numbers) for each in value]
    if isinstance(value, dict):
        return {name: _shaped(each, numbers) for name, each in value.items()}
    return value
