"""In every history of crashes, each generation reaches its end and has at most one prediction.

Hypothesis submits requests, loses answers, lets time pass, kills or stops the process at any moment, and starts the
next one. At the end, the simulator's records must match the disk.
"""

from collections import Counter
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from ledger.records import BatchRecord, GenerationRecord, KeyRecord
from tests.support.crash_machine import CALLERS, CrashMachine, patiently
from tests.support.wiring import ADMIN, USER, a_picture, pictures, submission

PROMPTS = st.sampled_from(["a fox [[slow=1]]", "a hare [[slow=3]]", "an owl [[slow=0]]"])


class Durability(CrashMachine):
    def __init__(self) -> None:
        self.received: list[tuple[str, Any]] = []
        """The ids that callers have received, and the callers."""
        self.keys: list[tuple[str, Any, Any]] = []
        super().__init__()

    async def order(self, wanted, caller, key) -> None:
        """Submit as a caller that wants an id, and remember the id that it received."""
        work = await self.process.generations.submit(submission(wanted, caller, key=key, wait_seconds=0))
        self.received.append((work.id, caller))

    @rule(prompt=PROMPTS, caller=CALLERS, keyed=st.booleans(), patience=st.sampled_from([0.0001, 1.0]))
    def ask_for_one(self, prompt, caller, keyed, patience):
        self.ask(a_picture(prompt), caller, keyed, patience)

    @rule(
        prompts=st.lists(PROMPTS, min_size=1, max_size=5),
        caller=CALLERS,
        keyed=st.booleans(),
        patience=st.sampled_from([0.0001, 1.0]),
    )
    def ask_for_a_batch(self, prompts, caller, keyed, patience):
        self.ask(pictures(prompts), caller, keyed, patience)

    def ask(self, wanted, caller, keyed, patience):
        """With little patience the answer is lost: whether it was accepted is not known, and without a key, by which
        to ask again, it would be cancelled."""
        self.asked += 1
        key = f"key {self.asked}" if keyed else None
        if keyed:
            self.keys.append((key, wanted, caller))
        self.do(patiently(self.order(wanted, caller, key), patience if keyed else 1.0))

    @rule(data=st.data())
    def ask_again_with_a_key(self, data):
        if self.keys:
            key, wanted, caller = data.draw(st.sampled_from(self.keys))
            self.do(patiently(self.order(wanted, caller, key), 1.0))

    @rule(
        fault=st.sampled_from(
            [
                {"reset": "before"},
                {"reset": "after"},
                {"garbage": True},
                {"truncate": True},
                {"hang": 2},
                {"hang": 60},
                {"status": 503},
                {"status": 502},
            ]
        )
    )
    def lose_an_answer(self, fault):
        self.world.faults.inject(on="create", **fault)

    async def check(self) -> None:
        records = self.disk.all(GenerationRecord)
        assert [] == [(each.prompt, each.error) for each in records if each.state != "succeeded"]
        wanted = Counter((each.caller_id, each.prompt) for each in records)
        made = Counter(
            (
                ADMIN.id if each.creation.token == ADMIN.credentials["replicate"] else USER.id,
                each.creation.input["prompt"],
            )
            for each in self.world.predictions
        )
        assert wanted == made
        on_disk = {each.id for each in (*records, *self.disk.all(BatchRecord))}
        assert {target for target, _ in self.received} <= on_disk
        for key in self.disk.all(KeyRecord):
            assert key.work_id in on_disk, key


Durability.TestCase.settings = settings(
    max_examples=60, stateful_step_count=14, deadline=None, suppress_health_check=list(HealthCheck)
)
test_whatever_dies_every_generation_is_made_once_and_reaches_its_end = Durability.TestCase
