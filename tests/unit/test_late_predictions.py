"""A creation that Replicate serves after it counted as never arrived or as unknown: its prediction is
cancelled, and its cost is recorded."""

import asyncio

import httpx
import pytest
from structlog.testing import capture_logs

from ledger.records import GenerationRecord
from providers.replicate.absence import SearchTiming
from simulator import Options
from simulator.webhooks import signed
from tests.support.connections import FakeConnections
from tests.support.virtual_replicate import replicate
from tests.support.virtual_time import run
from tests.support.wiring import ADMIN, a_picture, submission

PRICE = 0.025
"""USD for one picture of flux-dev."""


class Stuck(FakeConnections):
    """Connections that lose the first creations and deliver them this many seconds later. With `lists_fail`,
    lists fail until then."""

    def __init__(
        self,
        connections: FakeConnections,
        seconds: float,
        *,
        lists_fail: bool = False,
        lost: int = 1,
    ) -> None:
        self._connections = connections
        self._seconds = seconds
        self._lists_fail = lists_fail
        self._lost = lost
        self._arrivals: list[asyncio.Task[None]] = []

    async def respond(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST" and len(self._arrivals) < self._lost:
            self._arrivals.append(asyncio.create_task(self._arrive(request)))
            raise httpx.ReadError("the connection was reset")
        if self._lists_fail and request.url.path.endswith("/predictions") and not self._arrivals[0].done():
            raise httpx.ReadError("the connection was reset")
        return await self._connections.respond(request)

    async def _arrive(self, request: httpx.Request) -> None:
        await asyncio.sleep(self._seconds)
        await self._connections.respond(request)


async def after_all(prompt, *, arrives: float, wait: float, act=None, lists_fail=False, lost=1, **fields):
    """Run one generation. Returns its record, the ages and states of the predictions, the cost in the budget,
    and the log."""
    with capture_logs() as logs:
        async with replicate(
            Options(prediction_seconds=3, jitter=0, seed=1),
            line=lambda loopback: Stuck(loopback, arrives, lists_fail=lists_fail, lost=lost),
            search=SearchTiming(),
            timeout=600,
        ) as (service, world):
            work = await service.core.generations.submit(
                submission(a_picture(prompt, **fields), ADMIN, wait_seconds=0)
            )
            await asyncio.sleep(arrives + 1)
            if act is not None:
                await act(service)
            await asyncio.sleep(wait)
            record = service.ledger.generation(work.id)
            states = [(each.id, each.status) for each in world.predictions]
            spent = sum(service.core.budget.server.spent.values())
    return record, states, round(spent, 6), [each["event"] for each in logs]


def test_a_late_prediction_that_has_ended_is_recorded_with_its_cost():
    record, states, spent, events = run(after_all("a fox", arrives=120, wait=600))

    first, second = record.attempts
    assert ("succeeded", 2 * PRICE, 2 * PRICE) == (record.state, record.cost_usd, spent)
    assert [(second.prediction_id, "succeeded"), (first.prediction_id, "succeeded")] == states
    assert (PRICE, PRICE) == (first.cost_usd, second.cost_usd)
    assert {"late_prediction_found", "late_prediction_ended"} <= set(events)


def test_a_generation_in_memory_has_the_cost_of_a_late_prediction_as_well():
    """A batch that still runs shows its items from memory."""

    async def scenario():
        async with replicate(
            Options(prediction_seconds=3, jitter=0, seed=1),
            line=lambda loopback: Stuck(loopback, 120),
            search=SearchTiming(),
            timeout=600,
        ) as (service, _):
            work = await service.core.generations.submit(
                submission(a_picture("a fox"), ADMIN, wait_seconds=0)
            )
            await asyncio.sleep(720)
            return work.cost_usd, work.record().cost_usd, service.ledger.generation(work.id).cost_usd

    assert (2 * PRICE, 2 * PRICE, 2 * PRICE) == run(scenario())


def test_a_late_prediction_that_still_runs_is_cancelled_and_its_cost_recorded():
    record, states, spent, _ = run(after_all("[[slow=900]] a fox", arrives=150, wait=1200, timeout=800))

    assert ["canceled", "canceled"] == [state for _, state in states]
    assert "failed" == record.state
    assert (2 * PRICE, 2 * PRICE) == (record.cost_usd, spent)


def test_a_late_prediction_found_during_the_next_attempt_is_cancelled_at_once():
    record, states, spent, _ = run(after_all("[[slow=400]] a fox", arrives=150, wait=60))

    first, second = record.attempts
    assert ("running", [(second.prediction_id, "processing"), (first.prediction_id, "canceled")]) == (
        record.state,
        states,
    )
    assert (PRICE, 0.0) == (first.cost_usd, spent)  # the budget counts ended work


def test_a_prediction_of_unknown_outcome_is_cancelled_when_the_list_shows_it():
    record, states, spent, events = run(
        after_all("[[slow=300]] a fox", arrives=620, wait=300, lists_fail=True)
    )

    assert ("failed", "outcome_unknown") == (record.state, record.error.code)
    assert [(record.prediction_id, "canceled")] == states
    assert (PRICE, PRICE) == (record.cost_usd, spent)
    assert "late_prediction_found" in events


async def pushed_late(service, *named: tuple[str, str]):
    """Webhooks that arrive at once for attempts of one generation, as pairs of attempt and prediction id."""
    (work,) = service.ledger.all(GenerationRecord)
    inbox = service.core.push
    expected = await inbox.expect(work.id)
    results = []
    for _, prediction_id in named:
        body = PUSHED % prediction_id.encode()
        headers = signed(body, message="msg_1", secret=expected.secret)
        results.append(service.core.provider.read_push(headers, body, expected.secret, expected.caller))
    await asyncio.gather(
        *(
            inbox.receive(expected, attempt, result)
            for (attempt, _), result in zip(named, results, strict=True)
        )
    )


PUSHED = b"""{"id": "%s", "status": "succeeded", "model": "black-forest-labs/flux-dev",
    "input": {"prompt": "a fox", "output_format": "jpg"}, "output": ["https://a"]}"""


@pytest.mark.parametrize(("attempt", "found"), [("1", "late"), ("2", None)])
def test_a_webhook_that_names_a_late_prediction_is_enough(attempt, found):
    """The prediction ends between two readings that are minutes apart. The webhook counts once, and only for
    its attempt."""

    async def push(service):
        await pushed_late(service, (attempt, "late"), (attempt, "late"))

    record, _, spent, _ = run(after_all("a fox", arrives=110, wait=1, act=push))

    cost = 2 * PRICE if found else PRICE
    assert (found, cost, cost) == (record.attempts[0].prediction_id, record.cost_usd, spent)


def test_two_late_predictions_that_end_at_once_are_both_recorded():
    async def push(service):
        await pushed_late(service, ("1", "late"), ("2", "later"))

    record, _, spent, _ = run(after_all("a fox", arrives=250, wait=1, act=push, lost=2))

    first, second, third = record.attempts
    assert ("late", "later", "succeeded") == (first.prediction_id, second.prediction_id, record.state)
    assert third.prediction_id not in {None, "late", "later"}
    assert (0.075, 0.075) == (record.cost_usd, spent)


def test_the_cost_of_a_late_prediction_is_recorded_when_the_disk_has_room_again():
    async def fill(service):
        service.ledger.trouble = "The disk is full."
        asyncio.get_running_loop().call_later(300, setattr, service.ledger, "trouble", None)

    record, _, spent, _ = run(after_all("a fox", arrives=120, wait=600, act=fill))

    assert (2 * PRICE, 2 * PRICE) == (record.cost_usd, spent)


def test_two_possible_late_predictions_are_left_alone():
    """One of them may belong to another caller who waits for it."""

    async def scenario():
        async with replicate(
            Options(prediction_seconds=500, jitter=0, seed=1),
            line=lambda loopback: Stuck(loopback, 150),
            search=SearchTiming(),
            timeout=600,
        ) as (service, world):
            await service.core.generations.submit(submission(a_picture("a fox"), ADMIN, wait_seconds=0))
            await asyncio.sleep(151)
            world.create(next(iter(world.predictions)).creation)
            await asyncio.sleep(300)
            return [each.status for each in world.predictions]

    assert ["processing"] * 3 == run(scenario())


@pytest.mark.parametrize("arrives", [20, 60])
def test_a_creation_that_arrives_during_its_search_is_adopted_and_billed_once(arrives):
    record, states, spent, _ = run(after_all("a fox", arrives=arrives, wait=200))

    assert ("succeeded", 1, PRICE) == (record.state, len(states), spent)
