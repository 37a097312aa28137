"""Lost calls of the OpenAI door, in virtual time: what goes on, what a retry joins, and what ends."""

import asyncio
from dataclasses import replace
from types import SimpleNamespace

import pytest

from errors import StillRunning
from generations.archive import Archive
from generations.lost_calls import Answered, LostCalls, call_of
from ledger.access_records import LostCallRecord
from ledger.records import GenerationRecord
from providers.memory import MemoryProvider
from tests.support.disconnect import a_service, next_service
from tests.support.virtual_time import in_virtual_time
from tests.support.wiring import ADMIN, KEYS, AtOnce, TransitionLedger, a_picture, pictures, submission

BODY = "a hash of the body"


def calls_of(inside, ledger):
    clock = asyncio.get_running_loop().time
    archive = Archive(ledger=ledger, queries=ledger, threads=AtOnce())
    return LostCalls(service=inside.generations, ledger=ledger, archive=archive, clock=clock)


def a_door(**more):
    """A service with predictions of ten seconds, and its lost calls."""
    fake, ledger = MemoryProvider(ends_after=10), TransitionLedger()
    gate, inside = a_service(fake, ledger=ledger, concurrent_limit=50, **more)
    return SimpleNamespace(fake=fake, ledger=ledger, gate=gate, inside=inside, calls=calls_of(inside, ledger))


def call(door, *, number=0, body=BODY, caller=ADMIN, request=None, **more):
    submitted = submission(
        request or a_picture(), caller, door="openai", body_fingerprint=body, wait_seconds=None, **more
    )
    return asyncio.create_task(door.calls.call(submitted, number=number)), submitted


async def lose(door, after=1.0, **how):
    """The id of a call that disconnects `after` some seconds."""
    task, submitted = call(door, **how)
    await asyncio.sleep(after)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return submitted.id


def rows(door):
    return door.ledger.all(LostCallRecord)


@in_virtual_time
async def test_a_retry_joins_the_call_that_its_client_has_lost_and_nothing_more_is_sent():
    door = a_door()
    lost = await lose(door)
    retry, _ = call(door, number=1)
    work = await retry

    assert lost == work.id
    assert "succeeded" == work.state
    assert 1 == len(door.fake.sent)
    assert [] == rows(door)


@in_virtual_time
async def test_a_retry_joins_a_lost_batch():
    door = a_door()
    lost = await lose(door, request=pictures(["a", "b"]))
    retry, _ = call(door, number=1)

    assert lost == (await retry).id
    assert 2 == len(door.fake.sent)


@in_virtual_time
async def test_a_retry_never_joins_a_call_whose_caller_still_waits():
    door = a_door()
    waiting, submitted = call(door)
    await asyncio.sleep(1)
    retry, _ = call(door, number=1)

    assert (await waiting).id == submitted.id != (await retry).id
    assert 2 == len(door.fake.sent)


@in_virtual_time
async def test_the_oldest_lost_call_is_joined_first_and_each_by_one_retry_only():
    door = a_door()
    lost = [await lose(door) for _ in range(2)]
    retries = [call(door, number=1)[0] for _ in range(3)]
    joined = [(await each).id for each in retries]

    assert set(lost) < set(joined)
    assert 3 == len(set(joined))
    assert 3 == len(door.fake.sent)


@in_virtual_time
async def test_the_first_of_two_lost_calls_goes_to_the_first_retry():
    door = a_door()
    lost = [await lose(door) for _ in range(2)]

    assert lost[0] == (await call(door, number=1)[0]).id


@pytest.mark.parametrize("other", [{"body": "another"}, {"caller": KEYS[0]}])
def test_a_call_of_another_body_or_key_is_not_joined(other):
    @in_virtual_time
    async def story():
        door = a_door()
        lost = await lose(door)

        assert lost != (await call(door, number=1, **other)[0]).id

    story()


@in_virtual_time
async def test_a_first_try_joins_nothing():
    door = a_door()
    lost = await lose(door)

    assert lost != (await call(door, number=0)[0]).id


@in_virtual_time
async def test_a_lost_call_goes_on_for_a_minute_and_is_cancelled_then():
    door = a_door()
    door.fake.outcomes = [None, None]  # they never end
    lost = await lose(door)
    await asyncio.sleep(58)
    running = door.inside.supervisor.find(lost)
    assert not running.is_cancelled
    assert 1 == len(rows(door))
    await asyncio.sleep(15)

    assert ["canceled"] == [each.state for each in door.ledger.all(GenerationRecord)]
    assert [] == rows(door)
    assert (0, 0) == (door.gate.statistics().current_concurrent, door.gate.statistics().waiting)


@in_virtual_time
async def test_a_lost_call_with_a_webhook_is_not_cancelled():
    door = a_door()
    door.fake.outcomes = [None]
    request = replace(a_picture(), webhook="https://example.com/hook")
    lost = await lose(door, request=request)
    await asyncio.sleep(100)

    assert not door.inside.supervisor.find(lost).is_cancelled
    assert [] == rows(door)
    await door.inside.supervisor.drain(0)


@in_virtual_time
async def test_a_call_that_is_lost_again_counts_from_then():
    door = a_door()
    door.fake.outcomes = [None]
    lost = await lose(door)
    await asyncio.sleep(50)
    assert not door.inside.supervisor.find(lost).is_cancelled
    retry, _ = call(door, number=1)
    await asyncio.sleep(1)
    retry.cancel()
    await asyncio.wait([retry])
    await asyncio.sleep(40)

    assert not door.inside.supervisor.find(lost).is_cancelled
    assert [lost] == [each.work_id for each in rows(door)]
    await door.inside.supervisor.drain(0)


@in_virtual_time
async def test_a_client_that_would_stop_waiting_is_answered_before_and_its_retry_joins():
    door = a_door()
    submitted = submission(a_picture(), door="openai", body_fingerprint=BODY, wait_seconds=5)
    with pytest.raises(StillRunning) as answered:
        await door.calls.call(submitted, number=0)
    assert "true" == answered.value.headers["x-should-retry"]

    assert submitted.id == (await call(door, number=1)[0]).id
    assert 1 == len(door.fake.sent)


@in_virtual_time
async def test_the_looks_for_a_lost_call_are_part_of_the_wait():
    door = a_door()
    submitted = submission(a_picture(), door="openai", body_fingerprint=BODY, wait_seconds=5)
    began = asyncio.get_running_loop().time()
    with pytest.raises(StillRunning):
        await door.calls.call(submitted, number=1)

    assert 5 == pytest.approx(asyncio.get_running_loop().time() - began, abs=0.1)


@in_virtual_time
async def test_a_stop_lets_the_client_retry_and_join_in_the_next_process():
    door = a_door()
    waiting, submitted = call(door)
    await asyncio.sleep(1)
    await door.inside.supervisor.drain(0)
    with pytest.raises(StillRunning) as answered:
        await waiting
    assert {"x-should-retry": "true", "Retry-After": "5"} == answered.value.headers

    assert submitted.id == await joined_in_the_next_process(door)


@in_virtual_time
async def test_the_waiting_calls_of_a_killed_process_are_lost():
    door = a_door()
    task, submitted = call(door)
    await asyncio.sleep(1)
    await door.ledger.flush()
    assert [] == rows(door)
    next_ledger = TransitionLedger()
    next_ledger.rows = {kind: dict(found) for kind, found in door.ledger.rows.items()}  # as at the kill
    door.ledger = next_ledger

    assert submitted.id == await joined_in_the_next_process(door)
    task.cancel()
    await asyncio.wait([task])


async def joined_in_the_next_process(door):
    """The id of the work that a retry joins in the next process on this ledger."""
    _, inside, works = next_service(door.fake, door.ledger, concurrent_limit=50)
    door.calls = calls_of(inside, door.ledger)
    door.calls.take_over(works)
    await asyncio.sleep(1)
    retry, _ = call(door, number=1)
    await asyncio.sleep(2)
    [joined] = [each.id for each in works]
    assert [] == rows(door)
    retry.cancel()
    await asyncio.wait([retry])
    await inside.supervisor.drain(0)
    return joined


# ── Answers that were written


async def answered(door, *, number=0, kept=5, caller=ADMIN, body=BODY):
    """A call with a written answer and a connection that then ends at once, of a caller that has `kept` others."""
    for _ in range(kept):
        await door.calls.answered(caller.id)
    await asyncio.sleep(1)
    task, submitted = call(door, caller=caller, body=body)
    work = await task
    await door.calls.answered(caller.id)
    return submitted.id, asyncio.create_task(door.calls.ended(Answered(call_of(work, submitted), number)))


@in_virtual_time
async def test_an_answer_whose_connection_ends_at_once_is_lost_for_the_retry_of_its_client():
    door = a_door()
    lost, ending = await answered(door, kept=0)
    for _ in range(5):
        await door.calls.answered("admin")
    await asyncio.sleep(0.4)

    assert lost == (await call(door, number=1)[0]).id
    await ending


@pytest.mark.parametrize(
    ("number", "pause", "joins"),
    [(1, 0.4, True), (1, 9.0, False), (2, 0.8, False), (3, 1.6, False)],
)
def test_only_a_retry_of_the_next_number_that_comes_in_time_joins_it(number, pause, joins):
    @in_virtual_time
    async def story():
        door = a_door()
        lost, ending = await answered(door)
        for _ in range(5):
            await door.calls.answered("admin")
        await asyncio.sleep(pause)
        retry, _ = call(door, number=number)
        work = await retry
        await ending

        assert joins == (lost == work.id)

    story()


@in_virtual_time
async def test_a_caller_that_closes_each_connection_shares_no_picture():
    door = a_door()
    for _ in range(4):
        await answered(door, kept=0)
    lost, ending = await answered(door, kept=0)
    await ending
    await asyncio.sleep(0.2)

    assert lost != (await call(door, number=1)[0]).id
    assert 6 == len(door.fake.sent)


@in_virtual_time
async def test_the_only_call_of_an_unknown_caller_is_joined_and_no_other():
    door = a_door()
    lost, ending = await answered(door, kept=0)
    await ending
    [row] = rows(door)
    assert row.unsure
    other, _ = call(door, body="another")
    await asyncio.sleep(0.2)
    first, _ = call(door, number=1)
    assert lost != (await first).id
    await other

    door = a_door()
    lost, ending = await answered(door, kept=0)
    await ending
    await asyncio.sleep(0.2)
    assert lost == (await call(door, number=1)[0]).id


@in_virtual_time
async def test_a_retry_in_doubt_waits_until_other_answers_show_that_its_caller_keeps_connections():
    door = a_door()
    lost, ending = await answered(door, kept=0)
    other, _ = call(door, body="another")
    await asyncio.sleep(0.4)
    retry, _ = call(door, number=1)
    await asyncio.sleep(2)
    for _ in range(3):
        await door.calls.answered("admin")

    assert lost == (await retry).id
    await asyncio.wait([other, ending])


@in_virtual_time
async def test_a_refused_try_makes_no_retry_join_the_only_call_of_an_unknown_caller():
    door = a_door()
    lost, ending = await answered(door, kept=0)
    await ending
    await door.calls.refused("admin")
    await asyncio.sleep(0.2)

    assert lost != (await call(door, number=1)[0]).id
