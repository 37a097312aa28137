"""The budgets of named keys: by calendar period, over all processes on a ledger, and together with the server's."""

import asyncio
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from auth import Caller, NoKeys, credentials
from errors import BudgetExceeded, LedgerDown
from generations.archive import Archive
from generations.budget import Budget
from generations.budgets import Budgets
from generations.key_budgets import KeyBudgets, SharedKeyBudgets
from generations.periods import CalendarPeriod
from harness.postgres import server
from ledger import DAY
from ledger.access_records import SpendingRecord
from ledger.memory import MemoryLedger
from ledger.postgres import PostgresBackend
from ledger.queries import SqlQueries
from ledger.sqlite import SqliteBackend
from ledger.writer import SqlLedger
from providers.memory import MemoryProvider
from tests.support.ledgers import running
from tests.support.records import api_key, generation
from tests.support.virtual_time import in_virtual_time
from tests.support.wiring import AtOnce, a_picture, core, pictures, submission

PRICE = 0.025
"""USD, of a picture."""

NOON = datetime(2026, 11, 27, 12, tzinfo=UTC).timestamp()
"""A Friday."""


def caller(**budget):
    usual = {"budget_usd": 1.0, "budget_period": "day", "name": "shop"}
    key = api_key(7, **usual | budget)
    return Caller("key", key.id, credentials(replicate="r8_server"), key=key)


SHOP = caller()


class Clock:
    now = NOON

    def __call__(self) -> float:
        return self.now


class NoneKnown:
    keys = NoKeys()


class World:
    """Processes on one ledger: several, or a single one that cannot share it."""

    def __init__(self, *, is_shared) -> None:
        self.rows = MemoryLedger().rows
        self.clock = Clock()
        self._is_shared = is_shared

    def process(self, name="a", *, most=None) -> Budgets:
        ledger = MemoryLedger(self.rows, commit_seconds=0.001, process=name if self._is_shared else None)
        archive = Archive(ledger=ledger, queries=ledger, threads=AtOnce())
        kind = SharedKeyBudgets if self._is_shared else KeyBudgets
        keys = kind(ledger=ledger, archive=archive, keys=NoneKnown(), clock=self.clock)
        budgets = Budgets(Budget(most, clock=self.clock), keys, simulated=False)
        budgets.begin(budgets.load(ledger))
        return budgets


@pytest.fixture(params=[False, True], ids=["alone", "shared"])
def world(request):
    return World(is_shared=request.param)


async def accepted(budgets, usd, *, by=SHOP, at=NOON) -> bool:
    try:
        async with budgets.admitted(by, usd, at):
            budgets.reserve(by, usd, at)
    except BudgetExceeded:
        return False
    return True


def periods(moment):
    at = datetime.fromisoformat(f"{moment}+00:00").timestamp()
    found = [CalendarPeriod.of(name, at) for name in ("day", "week", "month")]
    return [
        tuple(f"{datetime.fromtimestamp(each, UTC):%m-%d}" for each in (one.begins_at, one.ends_at))
        for one in found
    ]


def test_periods_are_those_of_the_calendar_in_utc_and_weeks_begin_on_monday():
    assert [("11-27", "11-28"), ("11-23", "11-30"), ("11-01", "12-01")] == periods("2026-11-27T23:59:59")
    assert [("11-30", "12-01"), ("11-30", "12-07"), ("11-01", "12-01")] == periods("2026-11-30T00:00:00")
    assert [("12-31", "01-01"), ("12-28", "01-04"), ("12-01", "01-01")] == periods("2026-12-31T12:00:00")
    assert [("02-29", "03-01"), ("02-28", "03-06"), ("02-01", "03-01")] == periods("2028-02-29T08:00:00")


@in_virtual_time
async def test_waiting_work_counts_and_work_that_ends_releases_what_it_did_not_cost(world):
    budgets = world.process()
    assert await accepted(budgets, 0.6)
    assert not await accepted(budgets, 0.6)

    budgets.settle(SHOP.id, reserved=0.6, cost=0.25, at=NOON)

    assert await accepted(budgets, 0.75)
    assert not await accepted(budgets, 0.01)


@in_virtual_time
async def test_each_key_has_a_budget_of_its_own_and_others_have_none(world):
    budgets = world.process()
    other = replace(SHOP, id="key_8", key=replace(SHOP.key, id="key_8"))
    without = caller(budget_usd=None, budget_period=None)
    user = Caller("user", "user_1", credentials(replicate="r8_a"))

    assert [True, True, True, True] == [
        await accepted(budgets, 1.0, by=each)
        for each in (SHOP, other, user, Caller("admin", "admin", credentials(replicate="r8_b")))
    ]
    assert await accepted(budgets, 5.0, by=without)


@in_virtual_time
async def test_the_refusal_names_the_budget_its_period_and_when_it_begins_anew(world):
    budgets = world.process()
    month = caller(budget_usd=2.0, budget_period="month")
    await accepted(budgets, 1.5, by=month)

    with pytest.raises(BudgetExceeded, match=r"up to 0\.6 USD, and 0\.5 of the 2 USD are left") as refused:
        async with budgets.admitted(month, 0.6, NOON):
            budgets.reserve(month, 0.6, NOON)

    problem = refused.value.as_problem("req")
    assert ("shop", "month", "2026-12-01T00:00:00.000Z") == tuple(
        problem[name] for name in ("budget", "period", "begins_anew")
    )


@in_virtual_time
async def test_work_counts_in_the_period_in_which_it_was_accepted_also_if_it_ends_in_the_next(world):
    budgets = world.process()
    await accepted(budgets, 1.0)
    tomorrow = NOON + DAY
    world.clock.now = tomorrow

    assert await accepted(budgets, 1.0, at=tomorrow)
    budgets.settle(SHOP.id, reserved=1.0, cost=1.0, at=NOON)
    budgets.settle(SHOP.id, reserved=1.0, cost=0.25, at=tomorrow)

    assert not await accepted(budgets, 0.8, at=tomorrow)
    assert await accepted(budgets, 0.75, at=tomorrow)


@in_virtual_time
async def test_all_days_of_a_longer_period_count_also_after_a_change_of_the_period(world):
    budgets = world.process()
    for days in (0, 1, 2):
        world.clock.now = NOON + days * DAY
        assert await accepted(budgets, 1.0, at=world.clock.now)
        budgets.settle(SHOP.id, reserved=1.0, cost=1.0, at=world.clock.now)

    sunday = world.clock.now
    week = caller(budget_usd=3.5, budget_period="week")
    assert not await accepted(budgets, 0.6, by=week, at=sunday)
    assert await accepted(budgets, 0.5, by=week, at=sunday)
    monday = world.clock.now = sunday + DAY
    assert await accepted(budgets, 3.5, by=week, at=monday)


@in_virtual_time
async def test_a_changed_budget_holds_from_the_next_acceptance(world):
    budgets = world.process()
    await accepted(budgets, 0.9)

    assert not await accepted(budgets, 0.1, by=caller(budget_usd=0.5))
    assert await accepted(budgets, 0.6, by=caller(budget_usd=1.5))


@in_virtual_time
async def test_what_the_server_refuses_is_not_reserved_for_the_key_and_the_other_way_round(world):
    budgets = world.process(most=0.5)
    assert not await accepted(budgets, 0.6)
    assert await accepted(budgets, 0.5, by=caller(budget_usd=0.5))
    budgets.settle(SHOP.id, reserved=0.5, cost=0.0, at=NOON)

    assert not await accepted(budgets, 0.5, by=caller(budget_usd=0.4))
    assert await accepted(budgets, 0.5)


@in_virtual_time
async def test_a_key_that_is_gone_reserves_nothing_more(world):
    budgets = world.process()
    gone = replace(SHOP, key=None)

    with pytest.raises(BudgetExceeded, match="was deleted or has expired"):
        async with budgets.admitted(gone, 0.1, NOON):
            pass
    assert await accepted(budgets, 0.0, by=gone)


@in_virtual_time
async def test_a_low_budget_is_logged_once_in_each_period_over_all_processes_and_restarts(world):
    with capture_logs() as logs:
        budgets = world.process("a")
        await accepted(budgets, 0.79)
        await asyncio.sleep(1)
        assert [] == [each for each in logs if each["event"] == "key_budget_low"]
        await accepted(budgets, 0.01)
        await asyncio.sleep(1)
        for name in "bc":
            budgets = world.process(name)
            if not isinstance(budgets.keys, SharedKeyBudgets):
                budgets.hold(SHOP.id, 0.8, NOON)  # of the work that goes on
            await accepted(budgets, 0.05)
            await asyncio.sleep(1)
        world.clock.now += DAY
        await accepted(budgets, 0.9, at=world.clock.now)
        await asyncio.sleep(1)

    low = [each for each in logs if each["event"] == "key_budget_low"]
    assert [("key_7", "shop", 1.0, "day")] * 2 == [
        (each["key"], each["name"], each["budget_usd"], each["period"]) for each in low
    ]


@in_virtual_time
async def test_a_key_sees_what_it_has_used_and_reserved_and_what_is_left(world):
    budgets = world.process()
    await accepted(budgets, 0.5)
    await accepted(budgets, 0.25)
    budgets.settle(SHOP.id, reserved=0.5, cost=0.125, at=NOON)
    await asyncio.sleep(1)

    seen = await budgets.keys.spending(SHOP.key)
    assert (0.125, 0.25, 0.625) == (seen.used, seen.reserved, seen.left)
    assert ("day", NOON - DAY / 2) == (seen.period.name, seen.period.begins_at)

    seen = await budgets.keys.spending(replace(SHOP.key, budget_usd=None, budget_period=None))
    assert ("month", 0.125, None) == (seen.period.name, seen.used, seen.left)


@in_virtual_time
async def test_the_next_process_counts_what_was_spent_and_reserves_only_for_work_that_goes_on():
    world = World(is_shared=False)
    budgets = world.process()
    await accepted(budgets, 0.5)
    await accepted(budgets, 0.25)
    budgets.settle(SHOP.id, reserved=0.5, cost=0.5, at=NOON)
    await asyncio.sleep(1)

    budgets = world.process()
    budgets.hold(SHOP.id, 0.25, NOON)
    assert not await accepted(budgets, 0.3)
    assert await accepted(budgets, 0.25)

    await asyncio.sleep(1)
    budgets = world.process()
    assert await accepted(budgets, 0.5)


@in_virtual_time
async def test_rows_of_long_ago_are_deleted(world):
    budgets = world.process()
    await accepted(budgets, 0.5)
    budgets.settle(SHOP.id, reserved=0.5, cost=0.5, at=NOON)
    await asyncio.sleep(1)

    world.clock.now = NOON + 63 * DAY
    budgets.settle(SHOP.id, reserved=0.0, cost=0.5, at=world.clock.now)
    await asyncio.sleep(1)

    kept = MemoryLedger(world.rows).all(SpendingRecord)
    assert ["2027-01-29"] == [each.period for each in kept if each.spent]


@in_virtual_time
async def test_rows_that_dead_processes_left_long_ago_are_deleted_at_a_start():
    world = World(is_shared=True)
    budgets = world.process("a")
    for days in (0, 40):
        budgets.settle(SHOP.id, reserved=0.0, cost=0.5, at=NOON + days * DAY)
    await asyncio.sleep(1)

    world.clock.now = NOON + 63 * DAY
    world.process("b")
    await asyncio.sleep(1)

    assert ["2027-01-06"] == [each.period for each in MemoryLedger(world.rows).all(SpendingRecord)]


@in_virtual_time
async def test_a_claim_that_the_ledger_cannot_make_reserves_nothing():
    world = World(is_shared=True)
    budgets = world.process()
    budgets.keys._ledger.trouble = "The server is away."  # noqa: SLF001
    with pytest.raises(LedgerDown):
        await accepted(budgets, 0.6)
    budgets.keys._ledger.trouble = None  # noqa: SLF001

    assert await accepted(budgets, 1.0)


@in_virtual_time
async def test_the_whole_service_refuses_what_all_processes_have_reserved_for_a_key():
    rows = MemoryLedger().rows
    processes = [
        core(MemoryProvider(), ledger=MemoryLedger(rows, commit_seconds=0.001, process=name)) for name in "ab"
    ]
    by = caller(budget_usd=4 * PRICE)

    async def status(inside, request) -> str:
        try:
            return (await inside.generations.submit(submission(request, by, simulated=False))).state
        except BudgetExceeded as error:
            return error.code

    shown = await asyncio.gather(*(status(inside, a_picture()) for inside in processes * 4))
    assert ["budget_exceeded"] * 4 + ["succeeded"] * 4 == sorted(shown)
    with pytest.raises(BudgetExceeded):
        await processes[1].generations.submit(submission(pictures(["a", "b"]), by, simulated=False))
    assert 4 * PRICE == pytest.approx((await processes[0].budget.keys.spending(by.key)).used)


# On both engines


@contextmanager
def processes(count):
    """The budgets of so many processes on PostgreSQL, or of one on SQLite."""
    with ExitStack() as stack:
        if count == 1:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            backends = [SqliteBackend(f"sqlite:///{directory / 'ledger.db'}")]
        else:
            schema = stack.enter_context(server().schema())
            backends = [PostgresBackend(server().url(schema=schema), alone=False) for _ in range(count)]
        yield [stack.enter_context(running(SqlLedger(each))) for each in backends]


def budgets_on(ledger) -> Budgets:
    queries = SqlQueries(ledger.engine)
    archive = Archive(ledger=ledger, queries=queries, threads=AtOnce())
    kind = KeyBudgets if ledger.process is None else SharedKeyBudgets
    budgets = Budgets(
        Budget(),
        kind(ledger=ledger, archive=archive, keys=NoneKnown(), simulated=True, clock=Clock()),
        simulated=True,
    )
    budgets.begin(budgets.load(queries))
    return budgets


@pytest.mark.parametrize("count", [1, 3], ids=["sqlite", "postgres"])
def test_requests_at_once_never_reserve_more_than_the_budget_together(count):
    async def story(ledgers):
        each = [budgets_on(ledger) for ledger in ledgers]
        made = await asyncio.gather(*(accepted(each[n % count], 0.1) for n in range(30)))
        await asyncio.gather(*(ledger.flush() for ledger in ledgers))
        return sum(made), await each[0].keys.spending(SHOP.key), await accepted(each[-1], 0.05)

    with processes(count) as ledgers:
        made, seen, more = asyncio.run(story(ledgers))

    assert (10, 1.0, 0.0, False) == (made, seen.reserved, seen.left, more)


@pytest.mark.parametrize("count", [1, 3], ids=["sqlite", "postgres"])
def test_a_period_counts_work_of_its_days_on_every_engine(count):
    week = caller(budget_usd=1.0, budget_period="week")

    async def story(ledgers):
        budgets = budgets_on(ledgers[0])
        for days in (-7, -1):
            assert await accepted(budgets, 0.5, by=week, at=NOON + days * DAY)
            budgets.settle(week.id, reserved=0.5, cost=0.5, at=NOON + days * DAY)
        await ledgers[0].flush()
        last = budgets_on(ledgers[-1])
        return [await accepted(last, usd, by=week) for usd in (0.6, 0.5)]

    with processes(count) as ledgers:
        assert [False, True] == asyncio.run(story(ledgers))


def test_the_reservations_of_a_dead_process_move_with_its_work_exactly_once():
    work = generation(
        "gen_a", caller_id=SHOP.id, accepted_at=NOON, reserved_usd=0.6, process=None, simulated=True
    )

    async def dying(ledger):
        budgets = budgets_on(ledger)
        async with budgets.admitted(SHOP, 0.6, NOON):
            budgets.reserve(SHOP, 0.6, NOON)
            ledger.upsert(work)
        await ledger.flush()

    async def heir(ledger, one):
        budgets, seen = budgets_on(ledger), []
        seen.append((await budgets.keys.spending(SHOP.key)).reserved)
        with ledger.engine.begin() as connection:
            connection.exec_driver_sql(
                "UPDATE processes SET dead_at = clock_timestamp(), taken_at = clock_timestamp() WHERE id = %s",
                (one.process,),
            )
            connection.exec_driver_sql("UPDATE generations SET process = %s, taken_at = 1", (ledger.process,))
        seen.append((await budgets.keys.spending(SHOP.key)).reserved)
        refused = await accepted(budgets, 0.5)
        budgets.hold(SHOP.id, 0.6, NOON)
        ledger.upsert(work)
        await ledger.flush()
        seen.append((await budgets.keys.spending(SHOP.key)).reserved)
        budgets.settle(SHOP.id, reserved=0.6, cost=0.3, at=NOON)
        ledger.upsert(replace(work, state="succeeded", ended_at=NOON + 1, cost_usd=0.3, reserved_usd=0.0))
        await ledger.flush()
        last = await budgets.keys.spending(SHOP.key)
        return seen, refused, (last.used, last.reserved)

    with processes(2) as (one, other):
        asyncio.run(dying(one))
        assert ([0.6, 0.6, 0.6], False, (0.3, 0.0)) == asyncio.run(heir(other, one))
