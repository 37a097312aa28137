"""Idempotency keys of several processes on one ledger: one work for each key, whichever process gets the request."""

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from errors import IdempotencyConflict, LedgerDown
from generations.archive import Archive
from generations.idempotency import KEPT_FOR, LONGEST_CLAIM, IdempotencyKeys
from generations.submission import BodyFingerprint
from ledger.memory import MemoryLedger
from ledger.records import GenerationRecord, KeyRecord
from tests.support import virtual_time
from tests.support.ledgers import LossyLedger
from tests.support.records import generation
from tests.support.virtual_time import in_virtual_time
from tests.support.wiring import AtOnce


@dataclass
class Process:
    """One of the processes, with a commit that takes a millisecond."""

    name: str
    rows: dict = field(default_factory=lambda: MemoryLedger().rows)

    def __post_init__(self) -> None:
        self.ledger = LossyLedger(self.rows, commit_seconds=0.001, process=self.name)
        self.keys = IdempotencyKeys(
            ledger=self.ledger,
            archive=Archive(ledger=self.ledger, queries=self.ledger, threads=AtOnce()),
            clock=lambda: asyncio.get_running_loop().time(),
        )

    async def claim(self, target, *, fingerprint="f", key="k") -> str | None:
        return await self.keys.claim("anna", key, BodyFingerprint(fingerprint, fingerprint), target)

    async def ask(self, target, *, fingerprint="f", key="k", accepts_after=0.002) -> str:
        """The id of the work that a request gets: `target` if it is the first."""
        known = await self.claim(target, fingerprint=fingerprint, key=key)
        if known is not None:
            return known
        await asyncio.sleep(accepts_after)
        await self.accept(target, key=key)
        return target

    async def accept(self, target, *, key="k", state="queued", ended_at=None) -> None:
        self.keys.settle("anna", key)
        self.ledger.upsert(generation(target, state=state, ended_at=ended_at))
        await self.ledger.flush()

    def kept(self) -> list[str]:
        """The work of each key in the ledger."""
        return [each.work_id for each in self.ledger.all(KeyRecord)]


def two() -> tuple[Process, Process]:
    one = Process("a")
    return one, Process("b", one.rows)


@pytest.mark.parametrize("lead", [-0.0015, -0.001, -0.0005, 0.0, 0.0005, 0.001, 0.0015, 0.01])
@in_virtual_time
async def test_two_processes_that_get_a_key_at_the_same_moment_make_one_work(lead):
    one, other = two()

    async def later(process, target, seconds):
        await asyncio.sleep(seconds)
        return await process.ask(target)

    shown = await asyncio.gather(later(one, "gen_1", 0.02), later(other, "gen_2", 0.02 + lead))

    assert 1 == len({*shown})
    assert [shown[0]] == one.kept()
    assert [shown[0]] == [each.id for each in one.ledger.all(GenerationRecord)]


@in_virtual_time
async def test_the_same_key_with_another_body_is_a_conflict_in_another_process_too():
    one, other = two()
    await one.ask("gen_1")

    with pytest.raises(IdempotencyConflict):
        await other.ask("gen_2", fingerprint="other")
    assert "gen_1" == await other.ask("gen_2")


@in_virtual_time
async def test_a_process_waits_until_the_work_of_another_one_is_on_record():
    one, other = two()
    assert await one.claim("gen_1") is None
    waiting = asyncio.create_task(other.ask("gen_2"))
    await asyncio.sleep(5)
    assert not waiting.done()

    await one.accept("gen_1")

    assert "gen_1" == await waiting


@in_virtual_time
async def test_a_process_claims_the_key_of_work_that_another_one_refused():
    one, other = two()
    assert await one.claim("gen_1") is None
    waiting = asyncio.create_task(other.ask("gen_2", fingerprint="other"))
    await asyncio.sleep(5)

    one.keys.abandon("anna", "k", "gen_1")

    assert "gen_2" == await waiting
    assert ["gen_2"] == other.kept()


@in_virtual_time
async def test_a_late_deletion_leaves_the_key_of_another_process():
    one, other = two()
    await one.claim("gen_1")
    one.keys.abandon("anna", "k", "gen_1")
    await one.ledger.flush()
    await other.ask("gen_2")

    one.keys.abandon("anna", "k", "gen_1")
    await one.ledger.flush()

    assert ["gen_2"] == other.kept()


@in_virtual_time
async def test_a_claim_whose_answer_was_lost_leaves_the_key_free():
    one, other = two()
    one.ledger.lost = 1

    with pytest.raises(LedgerDown):
        await one.ask("gen_1")

    assert "gen_2" == await one.ask("gen_2")
    assert "gen_2" == await other.ask("gen_3")


@in_virtual_time
async def test_a_caller_that_leaves_during_its_claim_leaves_the_key_free():
    one, other = two()
    leaving = asyncio.create_task(one.ask("gen_1"))
    await asyncio.sleep(0.0005)

    leaving.cancel()

    assert "gen_2" == await other.ask("gen_2")
    assert ["gen_2"] == other.kept()


@in_virtual_time
async def test_a_key_whose_process_never_accepts_its_work_is_an_error_in_the_end():
    one, other = two()
    await one.claim("gen_1")
    began = asyncio.get_running_loop().time()

    assert "gen_1" == await other.claim("gen_2"), "which is not in the ledger, as the caller learns then"
    assert LONGEST_CLAIM <= asyncio.get_running_loop().time() - began < LONGEST_CLAIM + 1


@pytest.mark.parametrize("order", ["deletes first", "renews first", "at once"])
@in_virtual_time
async def test_an_expired_key_is_renewed_once_and_not_deleted_any_more(order):
    one, other = two()
    assert await one.claim("gen_1") is None
    await one.accept("gen_1", state="succeeded", ended_at=1.0)
    one.keys.release("gen_1")
    await asyncio.sleep(KEPT_FOR)

    if order == "deletes first":
        await one.keys.delete_expired()
        assert "gen_2" == await other.ask("gen_2")
    elif order == "renews first":
        expired = one.ledger.expired_keys(asyncio.get_running_loop().time() - KEPT_FOR + 1)
        assert "gen_2" == await other.ask("gen_2")
        for each in expired:  # read before the renewal, and deleted after it
            one.ledger.delete(KeyRecord, each.caller_id, each.key, each.work_id)
    else:
        shown = await asyncio.gather(
            one.ask("gen_3"), other.ask("gen_2"), one.keys.delete_expired(), other.keys.delete_expired()
        )
        assert shown[0] == shown[1]
    await one.ledger.flush()

    assert 1 == len(one.kept())
    assert one.kept()[0] in {"gen_2", "gen_3"}


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "refused", "cancelled", "lost", "end"]),
        st.integers(0, 2),  # the process
        st.integers(0, 1),  # the body
        st.sampled_from([0.0, 0.0005, 0.001, 0.003, 0.06]),  # seconds until the next request
    ),
    max_size=15,
)


@settings(max_examples=100)
@given(STEPS)
def test_no_history_of_three_processes_accepts_two_works_for_a_key(steps):
    virtual_time.run(_history(steps))


async def _history(steps):
    first = Process("p0")
    processes = [first, *(Process(f"p{number}", first.rows) for number in (1, 2))]
    tasks = []
    for number, (what, who, body, pause) in enumerate(steps):
        process = processes[who]
        if what == "end":
            for target in [*process.keys.key_of]:
                process.keys.release(target)
        else:
            process.ledger.lost += what == "lost"
            task = asyncio.create_task(_request(process, what, f"gen_{number}", f"f{body}"))
            tasks.append(task)
            if what == "cancelled":
                asyncio.get_running_loop().call_later(0.0015, task.cancel)
        await asyncio.sleep(pause)
    await asyncio.gather(*tasks, return_exceptions=True)
    for process in processes:
        await process.ledger.flush()

    accepted = [each.id for each in first.ledger.all(GenerationRecord)]
    assert len(accepted) <= 1
    assert accepted == first.kept(), "a key without work is deleted"


async def _request(process, what, target, fingerprint):
    if await process.claim(target, fingerprint=fingerprint) is not None:
        return
    if what == "refused":
        process.keys.abandon("anna", "k", target)
        return
    await process.accept(target)
