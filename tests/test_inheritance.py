"""What a process knows of those before it, when it begins: enough that nothing is taken for what it is not."""

import asyncio
import json
import time

import virtual_time
from leaving import a_service, cancel, start
from parts import USER, Notes

from intake.attachments import Attachments
from intake.parsing import Terms
from providers.memory import MemoryProvider
from recovery import KNOWN_FOR, Recovery, inherit, seconds_since

NOW = time.time()
MODEL = "black-forest-labs/flux-dev"


def _row(name, *, submitted_at, ended_at=None, prediction_id=None):
    told = {"model_name": MODEL, "prediction_id": prediction_id, "error": None, "changes": []}
    attempt = {
        "told": told,
        "open": prediction_id is None,
        "submitted_at": submitted_at,
        "answered_at": submitted_at if prediction_id else None,
        "content": "the same",
    }
    return {
        "id": name, "caller": USER.id, "batch": None, "simulated": True, "cancelled": False, "cost_usd": 0.0,
        "ended_at": ended_at, "state": "submitting" if prediction_id is None else "succeeded",
        "tries": json.dumps([attempt]),
    }  # fmt: skip


class Left:
    """A ledger with these rows."""

    def __init__(self, *rows):
        self._rows = rows

    def unfinished(self):
        return [row for row in self._rows if row["state"] == "submitting"]

    def unfinished_batches(self):
        return []

    def pending_deliveries(self):
        return []

    def recent_tries(self, since):
        return [row["tries"] for row in self._rows if row["ended_at"] is None or row["ended_at"] >= since]


def test_predictions_of_others_stay_known_as_long_as_one_that_may_be_theirs_is_in_doubt():
    """Whoever is taken for its own must have been made since it was sent, however long ago that was. In 200 kills,
    eight generations were given up since others' predictions could have been theirs."""
    in_doubt = _row("gen_a", submitted_at=NOW - 1000)
    made = [
        _row(f"gen_{ago}", submitted_at=NOW - ago, ended_at=NOW - ago, prediction_id=f"p{ago}")
        for ago in (1000 + KNOWN_FOR - 1, 999, 500, 1)
    ]

    recovery = Recovery(attachments=Attachments(None), terms=Terms())
    inherited = inherit(Left(in_doubt, *made), recovery, None, simulated=True, now=NOW)

    assert {"p1119.0", "p999", "p500", "p1"} == set(inherited.prediction_ids)


def test_what_a_dead_process_had_on_its_way_counts_for_as_long_as_it_may_arrive():
    """Its three creations arrive 25 seconds after they were sent, 24 after it died."""
    arrivals = []

    class Late(MemoryProvider):
        async def create(self, caller, model, sent, *, lease, **how):  # noqa: ARG002
            lease.sent()
            loop = asyncio.get_running_loop()
            loop.call_later(25, lambda: arrivals.append(loop.time()))
            await asyncio.sleep(30)

    class Prompt(MemoryProvider):
        async def create(self, *arguments, **how):
            arrivals.append(asyncio.get_running_loop().time())
            return await super().create(*arguments, **how)

    async def story():
        _, dead = a_service(Late(), ledger=(ledger := Notes()), concurrent_limit=3)
        dying = [start(dead) for _ in range(3)]
        await asyncio.sleep(1)
        gate, alive = a_service(Prompt(), concurrent_limit=3)
        gate.configure(requests_per_minute=3)
        gate.count(seconds_since([row["tries"] for row in ledger.of("generations")], now=time.time()))
        await asyncio.wait([start(alive) for _ in range(3)])
        await cancel(*dying)
        return sorted(arrivals)

    *late, first, _, _ = virtual_time.run(story())
    assert 3 * [25] == late
    assert 85 < first <= 91
