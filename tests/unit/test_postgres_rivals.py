"""What a process learns from PostgreSQL about the attempts of others."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

from harness.postgres import server
from ledger.elsewhere import SqlOtherAttempts
from ledger.postgres import PostgresBackend
from ledger.records import AttemptRecord
from ledger.rivals import Rival, Seen
from ledger.writer import SqlLedger
from loop_thread import Pool
from tests.support.ledgers import running
from tests.support.records import generation
from tests.support.wiring import on_a_loop

FOX = ("admin", "f0x")


@asynccontextmanager
async def processes():
    """Two processes on one ledger, and what the second learns of the first."""
    with server().schema() as schema:
        async with AsyncExitStack() as stack:
            ledgers = [SqlLedger(PostgresBackend(server().url(schema=schema), alone=False)) for _ in range(2)]
            for each in ledgers:
                stack.enter_context(running(each))
            pool = Pool(ThreadPoolExecutor(1))
            stack.callback(pool.close)
            yield *ledgers, SqlOtherAttempts(ledgers[1].engine, ledgers[1].process, pool)


def creation(name, *, number=1, **fields):
    """A generation whose attempt is in doubt."""
    attempt = AttemptRecord(
        generation_id=name, number=number, model="flux-dev", fingerprint="f0x", open=True, submitted_at=7.0
    )
    how = {"state": "submitting", "ended_at": None, "attempts": (replace(attempt, **fields),)}
    return replace(generation(name), **how)


async def write(ledger, *records):
    for each in records:
        ledger.upsert(each)
    await ledger.flush()


@on_a_loop
async def test_a_rival_is_in_doubt_for_the_same_account_and_input_at_another_process():
    async with processes() as (first, second, elsewhere):
        await write(
            first,
            creation("gen_a", number=2),
            creation("gen_answered", prediction_id="p1"),
            creation("gen_other_input", fingerprint="cat"),
            creation("gen_other_model", model="flux-pro"),
            creation("gen_settled", open=False),
            creation("gen_waiting", submitted_at=None),
            replace(creation("gen_user"), caller_id="user_1"),
            replace(creation("gen_key"), caller_id="key_1"),
            replace(creation("gen_keyless"), caller_id="keyless"),
            replace(creation("gen_version"), model="flux-dev", version="1" * 64),
            replace(creation("gen_fallback", model="flux-max"), model="flux-dev", version="1" * 64),
            replace(creation("gen_suspended"), suspended_at=9.0),
        )
        await write(second, creation("gen_own"))

        seen = await elsewhere.look(*FOX)
        of_user = await elsewhere.look("user_1", "f0x")

    assert {"gen_user.1"} == of_user.in_doubt.keys()
    others = {
        "gen_other_model.1": Rival(7.0, False, "flux-pro"),
        "gen_version.1": Rival(7.0, False, f"flux-dev:{'1' * 64}"),
        "gen_fallback.1": Rival(7.0, False, "flux-max"),
    }
    alike = {"gen_a.2": Rival(7.0, False, "flux-dev"), "gen_key.1": Rival(7.0, False, "flux-dev")}
    alike |= {"gen_suspended.1": Rival(7.0, True, "flux-dev")}
    assert Seen(others | alike) == seen


@on_a_loop
async def test_the_predictions_of_recent_work_are_known_whoever_made_them():
    ended = {"state": "succeeded"}
    async with processes() as (first, second, elsewhere):
        await write(
            first,
            creation("gen_a", prediction_id="p1"),
            replace(creation("gen_recent", prediction_id="p2", open=False), ended_at=100.0, **ended),
            replace(creation("gen_old", prediction_id="p3", open=False), ended_at=99.0, **ended),
        )
        await write(second, creation("gen_own", prediction_id="p4"))

        seen = await elsewhere.look(*FOX, ids=["p1", "p2", "p3", "p4", "p5"], since=100.0)

    assert {"p1", "p2", "p4"} == set(seen.known)


@on_a_loop
async def test_a_listed_prediction_is_ours_by_its_id_or_by_its_input():
    async with processes() as (first, _, elsewhere):
        await write(first, creation("gen_a", prediction_id="p1", fingerprint="cat"), creation("gen_b"))

        ours = await elsewhere.ours({"p1": "dog", "p2": "f0x", "p3": "dog"}, since=100.0)

    assert {"p1", "p2"} == ours
