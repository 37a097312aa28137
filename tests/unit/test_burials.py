"""Work that a dead process has left is resumed once it is taken over, also if the ledger fails meanwhile."""

import asyncio

import pytest

from cluster import burials
from errors import LedgerDown
from tests.support.virtual_time import in_virtual_time

PAUSE = 1.0


@pytest.mark.parametrize(
    ("burials_made", "resumptions", "resumed_at"),
    [
        ([False, False, False], [], []),
        ([False, True, False], [None], [2]),
        ([True, False, True], [None, None], [1, 3]),
        ([LedgerDown(""), False, False], [None], [2]),
        ([True, False, False], [LedgerDown(""), None], [1, 2]),
        ([True, False, False], [LookupError(), None], [1, 2]),
        ([ValueError(), False, False], [None], [2]),
    ],
)
@in_virtual_time
async def test_work_is_resumed_after_each_burial_until_that_has_succeeded(
    burials_made, resumptions, resumed_at
):
    loop = asyncio.get_running_loop()
    outcomes, resumed = iter(burials_made), iter(resumptions)
    at = []

    async def bury():
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def resume():
        at.append(loop.time())
        if error := next(resumed):
            raise error

    running = asyncio.create_task(burials.run(bury, resume, pause=PAUSE))
    await asyncio.sleep(len(burials_made) * PAUSE + 0.5)
    running.cancel()

    assert resumed_at == at


@in_virtual_time
async def test_work_that_is_due_at_the_start_is_resumed_after_a_pause():
    at = []

    async def bury():
        return False

    async def resume():
        at.append(asyncio.get_running_loop().time())

    running = asyncio.create_task(burials.run(bury, resume, pause=PAUSE, is_due=True))
    await asyncio.sleep(3.5 * PAUSE)
    running.cancel()

    assert [PAUSE] == at
