"""Which facts about earlier processes a new process reads from the ledger."""

import asyncio
import time

from generations.past import seconds_since
from generations.recovery import Recovery, load_startup_state
from ledger.memory import MemoryLedger
from ledger.records import AttemptRecord, GenerationRecord
from parsing.attachments import Attachments
from providers import Limits
from providers.memory import MemoryProvider
from tests.support import virtual_time
from tests.support.declarations import CONTEXT
from tests.support.disconnect import a_service, cancel, start
from tests.support.records import generation
from tests.support.wiring import USER, TransitionLedger

NOW = time.time()
LIMITS = Limits(answer_timeout=30, clock_skew=60)
MODEL = "black-forest-labs/flux-dev"


def _record(name, *, submitted_at, ended_at=None, prediction_id=None):
    attempt = AttemptRecord(
        generation_id=name,
        number=1,
        model=MODEL,
        prediction_id=prediction_id,
        open=prediction_id is None,
        submitted_at=submitted_at,
        answered_at=submitted_at if prediction_id else None,
        fingerprint="the same",
    )
    state = "submitting" if prediction_id is None else "succeeded"
    return generation(
        name, caller_id=USER.id, state=state, model=MODEL, ended_at=ended_at, attempts=(attempt,)
    )


def test_predictions_of_others_stay_known_while_an_older_creation_is_in_doubt():
    """A search considers every prediction since its creation was sent, however long ago that was. Without
    this, eight generations in 200 kills failed as unknown, since other generations' predictions could have
    been theirs."""
    in_doubt = _record("gen_a", submitted_at=NOW - 1000)
    made = [
        _record(f"gen_{ago}", submitted_at=NOW - ago, ended_at=NOW - ago, prediction_id=f"p{ago}")
        for ago in (1000 + 2 * LIMITS.clock_skew - 1, 999, 500, 1)
    ]

    recovery = Recovery(attachments=Attachments(None), context=CONTEXT)
    ledger = MemoryLedger()
    ledger.rows[GenerationRecord] = {(each.id,): each for each in (in_doubt, *made)}
    state = load_startup_state(ledger, recovery, {}.get, limits=LIMITS, simulated=True, now=NOW)

    assert {"p1119", "p999", "p500", "p1"} == set(state.prediction_ids)


def test_pending_creations_of_a_crashed_process_count_for_ten_minutes():
    """Its three creations arrive 400 seconds after they were sent."""
    arrivals = []

    class Late(MemoryProvider):
        async def create(self, caller, model, sent, *, lease, **how):  # noqa: ARG002
            lease.sent()
            loop = asyncio.get_running_loop()
            loop.call_later(400, lambda: arrivals.append(loop.time()))
            await asyncio.sleep(30)

    class Prompt(MemoryProvider):
        async def create(self, *arguments, **how):
            arrivals.append(asyncio.get_running_loop().time())
            return await super().create(*arguments, **how)

    async def scenario():
        _, dead = a_service(Late(), ledger=(ledger := TransitionLedger()), concurrent_limit=3)
        dying = [start(dead) for _ in range(3)]
        await asyncio.sleep(1)
        gate, alive = a_service(Prompt(), concurrent_limit=3)
        gate.configure(requests_per_minute=3)
        gate.count(seconds_since(ledger.recent_attempts(0), now=time.time()))
        await asyncio.wait([start(alive) for _ in range(3)])
        await cancel(*dying)
        return sorted(arrivals)

    *late, first, _, _ = virtual_time.run(scenario())
    assert 3 * [400] == late
    assert 660 < first <= 662


def _attempt(**fields) -> AttemptRecord:
    return AttemptRecord(generation_id="gen_a", number=1, model=MODEL, **fields)


def test_a_place_counts_from_the_answer_or_the_end_of_the_search_and_not_from_the_request():
    found = _attempt(submitted_at=NOW - 500, answered_at=NOW - 20, prediction_id="p1")
    unknown = _attempt(submitted_at=NOW - 500, answered_at=NOW - 30)
    old = _attempt(submitted_at=NOW - 500, answered_at=NOW - 61)

    assert [20, 30] == [round(each) for each in seconds_since([found, unknown, old], now=NOW)]


def test_setting_the_clock_back_does_not_extend_the_time_that_a_place_counts():
    answered = _attempt(submitted_at=NOW + 3000, answered_at=NOW + 3600, prediction_id="p1")
    in_doubt = _attempt(submitted_at=NOW + 3600, open=True)

    assert [0, -600] == seconds_since([answered, in_doubt], now=NOW)


def test_a_creation_of_unfinished_work_has_a_place_of_its_own():
    in_doubt = _attempt(submitted_at=NOW - 1, open=True)

    assert [-599] == [round(each) for each in seconds_since([in_doubt], now=NOW)]
    assert [] == seconds_since([in_doubt], now=NOW, unfinished={"gen_a"})
