"""Cancelled work in every history of failures: it is not made, nothing is made twice, and its cost is reported and
counted in the budget of its key.

Besides killing processes, Hypothesis disconnects callers, cancels as the owner and as the admin (also during a stop),
refuses and loses requests to Replicate, lets models fail and time out with a fallback, makes the disk fail for a while,
and expires suspended work. Every prompt is different.
"""

import asyncio
from collections import defaultdict
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from auth import Principal
from errors import NotFound
from ledger.access_records import SpendingRecord
from ledger.records import GenerationRecord
from tests.support.crash_machine import OWNERS, CrashMachine, patiently
from tests.support.wiring import ADMIN, KEYS, a_picture, pictures, submission

pytestmark = pytest.mark.slow

CALLERS = st.sampled_from([*OWNERS.values()])
KINDS = st.sampled_from(
    [
        "[[slow=1]]",
        "[[slow=0]]",
        "[[slow=3]]",
        "[[transient]] [[slow=0.5]]",
        "[[only=flux-dev]] [[nsfw]] [[slow=0]]",
        "[[only=flux-dev]] [[hang]]",
    ]
)
SEVERAL = st.lists(KINDS, min_size=1, max_size=4)
FIELDS = st.sampled_from(
    [
        {},
        {"timeout": 2},
        {"fallback": ["qwen-image"], "timeout": 2},
        {"model_name": "flux-schnell", "num_outputs": 3, "timeout": 2},
    ]
)
WHOSE = st.sampled_from(["owner", "admin"])
TROUBLE = [
    {"reset": "before"},
    {"reset": "after"},
    {"hang": 2},
    {"hang": 60},
    {"delay": 3},
    {"status": 403},
    {"status": 429},
    {"status": 502},
    {"status": 503},
]

ARRIVED = 31.0
"""Seconds after which every earlier request has arrived."""


class Unwanted(CrashMachine):
    def __init__(self) -> None:
        self.works: list[tuple[str, Any, list[str]]] = []
        """Work whose id a caller has received: the id, the caller, and the prompts."""
        self.given_up: dict[str, float] = {}
        """Cancelled prompts, with the time of the cancellation."""
        super().__init__()

    def wanted(self, kinds, fields, *, single=False):
        """A request with one prompt for each of these kinds, and its prompts."""
        self.asked += 1
        prompts = [f"{self.asked}.{number} {kind}" for number, kind in enumerate(kinds)]
        return (
            (a_picture(prompts[0], **fields), prompts[:1])
            if single
            else (pictures(prompts, **fields), prompts)
        )

    @rule(kinds=SEVERAL, fields=FIELDS, single=st.booleans(), caller=CALLERS)
    def ask(self, kinds, fields, single, caller):
        wanted, prompts = self.wanted(kinds, fields, single=single)

        async def scenario():
            work = await self.process.generations.submit(submission(wanted, caller, wait_seconds=0))
            self.works.append((work.id, caller, prompts))

        self.do(patiently(scenario(), 1.0))

    @rule(
        kinds=SEVERAL,
        fields=FIELDS,
        single=st.booleans(),
        caller=CALLERS,
        seconds=st.sampled_from([0, 0.0002, 0.0004, 0.1, 0.3, 1.0, 2.05, 2.3, 4.0]),
        stops=st.booleans(),
    )
    def ask_and_hang_up(self, kinds, fields, single, caller, seconds, stops):
        wanted, prompts = self.wanted(kinds, fields, single=single)

        async def scenario():
            waiting = asyncio.create_task(self.process.generations.submit(submission(wanted, caller)))
            await asyncio.sleep(seconds)
            draining = asyncio.create_task(self.process.core.supervisor.drain(30)) if stops else None
            waiting.cancel()
            await asyncio.wait([waiting])
            if waiting.cancelled():
                self.record_cancelled(prompts)
            if draining is not None:
                await draining
                await self.end_in_order()

        self.do(scenario())

    @rule(data=st.data(), whose=WHOSE, seconds=st.sampled_from([0, 0.0002, 0.01, 10.0]))
    def cancel(self, data, whose, seconds):
        self.do(patiently(self.cancel_one(data, whose, seconds), 60.0))

    @rule(
        data=st.data(),
        whose=WHOSE,
        moment=st.sampled_from([0.0, 0.1, 1.0]),
        patience=st.sampled_from([0.5, 5.0, 30.0]),
    )
    def cancel_while_it_stops(self, data, whose, moment, patience):
        async def scenario():
            draining = asyncio.create_task(self.process.core.supervisor.drain(patience))
            await asyncio.sleep(moment)
            await patiently(self.cancel_one(data, whose, 0.01), 60.0)
            await draining
            await self.end_in_order()

        self.do(scenario())

    async def cancel_one(self, data, whose, seconds) -> None:
        """Cancel work whose id a caller has received, or a single item of it."""
        if not self.works:
            return
        target, caller, prompts = data.draw(st.sampled_from(self.works))
        items = self.disk.batch_items(target)
        if items and data.draw(st.booleans()):
            record = data.draw(st.sampled_from(items))
            target, prompts = record.id, [prompts[record.position]]
        is_admin = whose == "admin" or caller is ADMIN
        principal = Principal("admin", "admin", ADMIN) if is_admin else Principal(caller.id, "user", caller)
        try:
            await self.process.generations.cancel(target, principal, timeout=seconds)
        except NotFound:
            return
        await self.process.ledger.flush()  # the response is sent only after this
        self.record_cancelled(prompts)

    def record_cancelled(self, prompts) -> None:
        """If the cancellation could be recorded, these prompts must not run again."""
        if self.process.ledger.trouble is None:
            for prompt in prompts:
                self.given_up.setdefault(prompt, asyncio.get_running_loop().time())

    @rule(fault=st.sampled_from(TROUBLE), on=st.sampled_from(["create", "get", "list"]))
    def fail_requests(self, fault, on):
        self.world.faults.inject(on=on, **fault)

    @rule(fault=st.sampled_from([{"status": 403}, {"delay": 3}, {"hang": 3}]))
    def fail_cancels(self, fault):
        self.world.faults.inject(on="cancel", times=3, **fault)

    @rule(seconds=st.sampled_from([0.3, 2.0, 10.0]), waits=st.booleans())
    def fail_the_disk_for_a_while(self, seconds, waits):
        ledger = self.process.ledger

        async def scenario():
            ledger.trouble = "The disk is full."
            asyncio.get_running_loop().call_later(seconds, setattr, ledger, "trouble", None)
            self.given_up.clear()  # a state shown while a creation is lost may be wrong
            await asyncio.sleep(seconds if waits else 0)

        self.do(scenario())

    @rule()
    def expire_suspended_work(self):
        self.do(patiently(self.process.core.suspension.expire(before=1e12), 5.0))

    async def come_to_the_end(self) -> None:
        await super().come_to_the_end()
        await asyncio.sleep(
            2000
        )  # predictions that could not be cancelled end at Replicate by their deadline

    async def check(self) -> None:
        made, billed, counted = defaultdict(list), defaultdict(float), defaultdict(float)
        for each in self.world.predictions:
            prompt = each.creation.input["prompt"]
            made[prompt].append(each)
            billed[prompt] += each.billed_usd
        for record in self.disk.all(GenerationRecord):
            prompt = record.prompt
            assert [each.status for each in made[prompt]].count("succeeded") <= 1, record
            assert record.cost_usd >= billed[prompt] - 1e-9, record
            counted[record.caller_id] += record.cost_usd
        for prompt, since in self.given_up.items():
            late = [
                each
                for each in made[prompt]
                if self.world.predictions.loop_time(each.created_at) > since + ARRIVED
            ]
            assert [] == late, (prompt, since)
        assert 0 == pytest.approx(self.process.budget.server.reserved, abs=1e-6)
        of_key = self.disk.all(SpendingRecord)
        assert counted[KEYS[0].id] == pytest.approx(sum(each.spent for each in of_key), abs=1e-6)
        assert 0 == pytest.approx(sum(each.reserved for each in of_key), abs=1e-6)


Unwanted.TestCase.settings = settings(
    max_examples=150, stateful_step_count=14, deadline=None, suppress_health_check=list(HealthCheck)
)
test_cancelled_work_is_not_made_and_nothing_is_made_twice = Unwanted.TestCase
