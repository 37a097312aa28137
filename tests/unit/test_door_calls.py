"""The deadline of a call of the Replicate door, its output in the model's shape, and the webhooks that it gets."""

import asyncio
import time

import pytest

from catalog.outputs import Url
from contract.door_facts import KEPT, REPLICATE, DoorFacts
from generations.attempts import Attempt
from generations.door_calls import keep_shape, webhook_at_end
from providers import Prediction
from providers.memory import MemoryProvider
from tests.support.virtual_time import in_virtual_time
from tests.support.wiring import a_picture, core, submission


async def accepted(inside, **facts):
    found = DoorFacts("a/b", **facts).as_json()
    made = submission(a_picture(), door=REPLICATE, door_facts=found, wait_seconds=0)
    return await inside.generations.submit(made)


def made_facts(work):
    return DoorFacts.from_json(work.record().door_facts)


@in_virtual_time
async def test_a_running_generation_is_cancelled_at_its_deadline():
    provider = MemoryProvider(None)
    inside = core(provider)
    work = await accepted(inside, deadline=time.time() + 30)

    await asyncio.sleep(29.9)
    assert "running" == work.state
    await asyncio.sleep(5)

    assert "canceled" == work.state
    await inside.supervisor.drain(0)


@in_virtual_time
async def test_a_generation_that_still_waits_at_its_deadline_is_never_sent():
    provider = MemoryProvider(None)
    inside = core(provider)
    inside.gate.configure(concurrent_limit=1)
    first = await accepted(inside)
    waiting = await accepted(inside, deadline=time.time() + 30)

    await asyncio.sleep(31)

    assert ("running", "canceled") == (first.state, waiting.state)
    assert waiting.prediction_id is None
    await inside.supervisor.drain(0)


@in_virtual_time
async def test_a_deadline_changes_nothing_after_the_end():
    inside = core(MemoryProvider())
    work = await accepted(inside, deadline=time.time() + 3600)

    await asyncio.sleep(7200)

    assert "succeeded" == work.state


@in_virtual_time
async def test_an_output_is_remembered_as_the_model_returned_it():
    one = Url("https://memory.invalid/1.png")
    inside = core(MemoryProvider(Prediction("", "succeeded", one, started=True)))
    work = await accepted(inside)
    await asyncio.sleep(60)

    assert "succeeded" == work.state
    assert {KEPT: None} == made_facts(work).output  # since no file is kept here


@in_virtual_time
async def test_a_file_that_does_not_exist_moves_none_of_the_others():
    work = await accepted(core(MemoryProvider()))
    urls = [Url(f"https://memory.invalid/{number}.png") for number in range(3)]
    attempt = Attempt(work.model, {})
    attempt.prediction = Prediction("p", "succeeded", urls, form=work.model.output)
    attempt.missing, work.outputs = {0}, tuple(urls[1:])

    keep_shape(work, attempt, urls, [None, "1.png", "2.png"])

    assert [{KEPT: None}, {KEPT: 1}, {KEPT: 2}] == made_facts(work).output


@pytest.mark.parametrize(
    ("events", "expected"), [(("output",), None), (("output", "completed"), "https://a.com")]
)
@in_virtual_time
async def test_only_a_webhook_for_completed_predictions_gets_a_failure(events, expected):
    inside = core(MemoryProvider(Prediction("", "failed", error="no")))
    facts = DoorFacts("a/b", webhook="https://a.com", webhook_events=events).as_json()
    request = a_picture(webhook="https://a.com")
    work = await inside.generations.submit(
        submission(request, door=REPLICATE, door_facts=facts, wait_seconds=0)
    )
    await inside.supervisor.wait(work)

    assert "failed" == work.state
    assert expected == webhook_at_end(work)
    await inside.outbox.aclose()
