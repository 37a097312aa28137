"""Letters between processes: sent once, answered or refused within a bounded time."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from cluster.letters import TIMEOUT, Letters
from errors import Internal, InvalidRequest, LedgerDown, NotFound, Problem, SemaphoreFull
from harness.postgres import server
from ledger.letters import SqlPost
from ledger.post import GATE, Letter
from tests.support.couriers import process_on
from tests.support.post import PostOffice
from tests.support.virtual_time import in_virtual_time, now
from tests.support.wiring import on_a_loop


@asynccontextmanager
async def letters_of(*posts):
    """The letters of these processes, which read while the block runs."""
    found = [Letters(post) for post in posts]
    tasks = [asyncio.create_task(each.run()) for each in found]
    try:
        await asyncio.sleep(0)
        yield found
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def pair(office=None):
    """The letters of the processes `a` and `b`."""
    office = office or PostOffice()
    async with letters_of(office.post("a"), office.post("b")) as (a, b):
        yield office, a, b


async def doubled(body):
    return [body, body]


def failing(error):
    async def fail(_):
        raise error

    return fail


@in_virtual_time
async def test_a_request_gets_the_answer_of_its_handler_at_once():
    async with pair() as (_, a, b):
        b.on("double", doubled)

        assert [{"x": 1}, {"x": 1}] == await a.ask("b", "double", {"x": 1})
        assert 0.0 == now()


@in_virtual_time
async def test_without_notices_a_request_takes_as_long_as_two_looks():
    async with pair(PostOffice(notices_work=False)) as (_, a, b):
        b.on("double", doubled)
        await asyncio.sleep(0.1)

        assert ["x", "x"] == await a.ask("b", "double", "x")
        assert 0.3 > now() - 0.1


@in_virtual_time
async def test_a_process_answers_itself_without_a_letter():
    async with pair() as (office, a, _):
        office.is_down = True
        a.on("double", doubled)
        a.hold(GATE)

        assert ["x", "x"] == await a.ask("a", "double", "x")
        assert ["x", "x"] == await a.ask(GATE, "double", "x")


@in_virtual_time
async def test_letters_are_read_again_after_an_unexpected_error():
    office = PostOffice()
    post = office.post("b")
    take = post.take

    async def fail_once(_):
        post.take = take
        raise ValueError

    post.take = fail_once
    with capture_logs() as logs:
        async with letters_of(office.post("a"), post) as (a, b):
            b.on("double", doubled)

            assert ["x", "x"] == await a.ask("b", "double", "x")
    assert ["letters_failed"] == [each["event"] for each in logs]


@in_virtual_time
async def test_letters_to_the_gate_are_read_by_the_process_that_holds_it_and_by_the_next_one():
    async with pair() as (office, a, b):
        b.on("who", failing(NotFound("b")))
        third = Letters(office.post("c"))
        third.on("who", doubled)
        b.hold(GATE)
        with pytest.raises(NotFound):
            await a.ask(GATE, "who", None)
        b.release(GATE)
        request = asyncio.create_task(a.ask(GATE, "who", "x"))
        await asyncio.sleep(3)  # no process holds it
        third.hold(GATE)
        reading = asyncio.create_task(third.run())

        assert ["x", "x"] == await request
        assert 3.0 == now()
        reading.cancel()


@in_virtual_time
@pytest.mark.parametrize(
    "error",
    [
        NotFound("none"),
        InvalidRequest([Problem("ttl", "is too short", 1)]),
        SemaphoreFull("full", retry_after=17),
        LedgerDown("away"),
    ],
    ids=lambda each: type(each).__name__,
)
async def test_an_error_is_raised_again_in_the_process_that_asked(error):
    error.may_be_paid = isinstance(error, LedgerDown)
    async with pair() as (_, a, b):
        b.on("fail", failing(error))
        with pytest.raises(type(error)) as raised:
            await a.ask("b", "fail", None)

    assert error.as_problem("req") == raised.value.as_problem("req")
    assert error.headers == raised.value.headers


@in_virtual_time
async def test_a_bug_in_a_handler_is_logged_and_answered_as_an_internal_error():
    async with pair() as (_, a, b):
        b.on("fail", failing(KeyError("bug")))
        with capture_logs() as logs, pytest.raises(Internal):
            await a.ask("b", "fail", None)
        with pytest.raises(Internal, match="does not handle letters of the kind new"):
            await a.ask("b", "new", None)

    assert [("letter_failed", "fail")] == [(each["event"], each["kind"]) for each in logs]


@in_virtual_time
async def test_a_request_fails_when_its_time_is_over_and_a_late_answer_is_ignored():
    async def slow(body):
        await asyncio.sleep(20)
        return body

    async with pair() as (_, a, b):
        b.on("slow", slow)
        b.on("double", doubled)
        with pytest.raises(LedgerDown, match="not answered for 10 seconds"):
            await a.ask("b", "slow", None)
        assert TIMEOUT == now()
        await asyncio.sleep(20)
        assert [1, 1] == await a.ask("b", "double", 1)


@in_virtual_time
async def test_a_request_to_a_process_that_is_dead_or_dies_fails_within_a_second():
    async with pair() as (office, a, _):
        with pytest.raises(LedgerDown, match="has ended"):
            await a.ask("c", "double", None)
        assert 0.0 == now()
        office.alive.add("frozen")
        request = asyncio.create_task(a.ask("frozen", "double", None))
        await asyncio.sleep(3.5)
        office.alive.discard("frozen")
        with pytest.raises(LedgerDown, match="has ended"):
            await request
        assert 4.0 == now()


@in_virtual_time
async def test_a_letter_that_the_database_has_again_is_handled_once():
    handled = []

    async def note(body):
        handled.append(body)

    async with pair() as (office, a, b):
        b.on("note", note)
        await a.tell("b", "note", 1)
        [letter] = office.letters
        await asyncio.sleep(1)
        office.letters.append(letter)  # a crash undid its deletion
        await asyncio.sleep(5)

    assert [1] == handled


@in_virtual_time
async def test_a_lost_answer_costs_only_the_time_of_its_request():
    async with pair(PostOffice(lost=lambda letter: letter.kind == "answer")) as (office, a, b):
        b.on("double", doubled)
        with pytest.raises(LedgerDown):
            await a.ask("b", "double", 1)
        office.lost = lambda _: False
        assert [1, 1] == await a.ask("b", "double", 1)


@in_virtual_time
async def test_letters_are_read_again_when_the_ledger_is_back():
    async with pair() as (office, a, b):
        b.on("double", doubled)
        office.is_down = True
        with pytest.raises(LedgerDown):
            await a.ask("b", "double", 1)
        await asyncio.sleep(5)
        office.is_down = False

        assert [1, 1] == await a.ask("b", "double", 1)


@in_virtual_time
async def test_all_processes_are_asked_and_those_that_fail_are_left_out():
    office = PostOffice()
    async with letters_of(*(office.post(name) for name in "abc")) as (a, b, c):
        office.alive.add("frozen")
        for each in (a, b):
            each.on("name", lambda _, each=each: asyncio.sleep(0, each.process))
        c.on("name", failing(NotFound()))

        assert ["a", "b"] == await a.ask_all("name", None, timeout=2)
        assert 2.0 == now()


@in_virtual_time
async def test_an_idle_process_looks_once_a_second_while_notices_work():
    async with pair() as (_, a, _b):
        await asyncio.sleep(60.5)

        assert a.process == "a"
    office = PostOffice()
    post = office.post("a")
    async with letters_of(post):
        await asyncio.sleep(60.5)
    assert 61 == post.looks


# ── PostgreSQL


@asynccontextmanager
async def sql_post(url):
    async with process_on(url) as (ledger, courier):
        yield SqlPost(courier, ledger.process)


def letter(name, recipient=GATE):
    return Letter(id=name, sender="a", recipient=recipient, kind="k", body="1")


def hold(schema, process):
    """Give the role of the gate to a process."""
    server().execute(
        f"INSERT INTO {schema}.roles (name, holder, term, until) VALUES ('gate', '{process}', 1, now())"
        f" ON CONFLICT (name) DO UPDATE SET holder = '{process}'"
    )


@on_a_loop
async def test_processes_ask_each_other_through_the_database():
    with server().schema() as schema:
        url = server().url(schema=schema)
        async with sql_post(url) as one, sql_post(url) as other, letters_of(one, other) as (a, b):
            b.on("double", doubled)
            hold(schema, b.process)
            b.hold(GATE)

            assert [b.process] == await one.others()
            assert [["é\0", 1], ["é\0", 1]] == await a.ask(b.process, "double", ["é\0", 1])
            assert ["x", "x"] == await a.ask(GATE, "double", "x")
            assert [(0,)] == server().execute(f"SELECT count(*) FROM {schema}.letters")


@on_a_loop
async def test_only_the_process_that_has_the_role_reads_letters_to_the_gate():
    with server().schema() as schema:
        url = server().url(schema=schema)
        async with sql_post(url) as one, sql_post(url) as other:
            hold(schema, one.process)
            await one.send(letter("1"))

            assert [] == await other.take([GATE, other.process])
            hold(schema, other.process)
            assert [] == await one.take([GATE, one.process])  # which does not know that yet
            assert ["1"] == [each.id for each in await other.take([GATE, other.process])]


@on_a_loop
async def test_a_letter_to_a_dead_process_is_refused_and_an_old_one_is_not_read():
    with server().schema() as schema:
        async with sql_post(server().url(schema=schema)) as post:
            hold(schema, post.process)
            server().execute(
                f"INSERT INTO {schema}.processes SELECT 'dead', until, beat_at, steady_since, since, now(), now(),"
                f" schema, epoch, courier, version, upstream, simulated, token, figures FROM {schema}.processes"
            )
            assert not await post.send(letter("1", "dead"))
            assert await post.send(letter("2"))
            assert await post.send(letter("3", "another"))
            server().execute(f"UPDATE {schema}.letters SET created_at = now() - interval '2 minutes'")
            assert await post.send(letter("4"))
            assert await post.send(letter("5"))

            assert ["4", "5"] == [each.id for each in await post.take(["gate", post.process])]
            assert [] == await post.take(["gate"])
            assert [("3",)] == server().execute(f"SELECT id FROM {schema}.letters")
            server().execute(f"UPDATE {schema}.letters SET created_at = now() - interval '11 minutes'")
            assert [] == await post.take(["gate"])
            assert [] == server().execute(f"SELECT id FROM {schema}.letters")
