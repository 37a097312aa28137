"""The calls of a service that judges prompts, in virtual time: their number, their order, and failures."""

import asyncio
import threading

import pytest
from structlog.testing import capture_logs

from safety.judging import AT_ONCE, KEPT_FOR, CheckFailed, Content, Judge, Service, Turns, Verdict
from tests.support.virtual_time import in_virtual_time, now

YES = Verdict(True)


class Slow(Service):
    """Takes `seconds` for each content, and refuses those with `bad` in the prompt. It may raise an `error`."""

    def __init__(self, seconds=0.1, error=None):
        self.seconds, self.error = seconds, error
        self.judged, self.at_once, self.most = [], 0, 0

    async def judge(self, content):
        self.judged.append(content.prompt)
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.at_once -= 1
        if self.error:
            raise self.error
        return Verdict("bad" not in content.prompt, ("x",) if "bad" in content.prompt else ())

    async def aclose(self):
        pass


def judge_of(service, **more):
    return Judge(service, **{"timeout": 5, "allows_failed": False, **more})


@in_virtual_time
async def test_a_thousand_prompts_take_a_call_each_of_which_32_are_under_way():
    service = Slow()
    judge = judge_of(service)

    verdicts = await asyncio.gather(*(judge.verdict(Content(str(n)), turn="a") for n in range(1000)))

    assert [YES] * 1000 == verdicts
    assert (AT_ONCE, 1000) == (service.most, len({*service.judged}))
    assert pytest.approx(0.1 * -(-1000 // AT_ONCE)) == now()
    assert {"allowed": 1000} == judge.outcomes


@in_virtual_time
async def test_the_same_content_is_judged_once_and_its_verdict_kept_for_some_minutes():
    service = Slow()
    judge = judge_of(service)
    same = Content("bad", "blurry", "flux-dev", "admin")

    verdicts = await asyncio.gather(*(judge.verdict(same, turn=str(n)) for n in range(50)))
    await asyncio.sleep(KEPT_FOR - 1)
    verdicts.append(await judge.verdict(same, turn="a"))

    assert [Verdict(False, ("x",))] * 51 == verdicts
    assert ["bad"] == service.judged
    await asyncio.sleep(2)
    await judge.verdict(same, turn="a")
    assert 2 == len(service.judged)


@in_virtual_time
@pytest.mark.parametrize(
    "other", [Content("a", "n"), Content("a", model="m"), Content("a", key="k"), Content("a", images=("i",))]
)
async def test_a_content_that_differs_in_anything_that_is_sent_is_another_one(other):
    service = Slow()
    judge = judge_of(service)

    await asyncio.gather(judge.verdict(Content("a"), turn="a"), judge.verdict(other, turn="a"))

    assert 2 == len(service.judged)


@pytest.mark.parametrize("large", [{"prompt": "x" * 600_000}, {"prompt": "", "images": ("x" * 600_000,)}])
def test_a_long_text_is_as_large_as_an_image_and_is_read_on_another_thread(large, monkeypatch):
    threads = []

    class Seen(Content):
        def as_json(self):
            threads.append(threading.current_thread())
            return super().as_json()

    asyncio.run(judge_of(Slow(0.0)).verdict(Seen(**large), turn="a"))

    assert threads
    assert threading.main_thread() not in threads


@in_virtual_time
async def test_a_single_prompt_does_not_wait_for_a_batch_of_others():
    service = Slow(1.0)
    judge = judge_of(service)
    batch = [asyncio.create_task(judge.verdict(Content(str(n)), turn="a batch")) for n in range(1000)]
    await asyncio.sleep(0.5)

    await judge.verdict(Content("single"), turn="b ")

    assert 2.0 == now()
    for each in batch:
        each.cancel()


@pytest.mark.parametrize("allows", [False, True])
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"seconds": 60.0}, "it did not answer within 5 s"),
        ({"error": CheckFailed("it answered 500")}, "it answered 500"),
        ({"error": KeyError("x")}, "it failed"),
    ],
)
@in_virtual_time
async def test_a_failure_is_decided_by_the_setting_and_not_kept(allows, fault, reason):
    service = Slow(**fault)
    judge = judge_of(service, allows_failed=allows)

    with capture_logs() as logs:
        verdicts = [await judge.verdict(Content("secret"), turn="a") for _ in range(2)]
        service.seconds, service.error = 0.0, None
        good = await judge.verdict(Content("secret"), turn="a")

    assert [Verdict(allows, (), f"The check of prompts failed: {reason}.", failed=True)] * 2 == verdicts
    assert YES == good
    events = [each["event"] for each in logs if each["event"] != "safety_check_crashed"]
    assert ["safety_service_failing", "safety_service_recovered"] == events
    assert "secret" not in str(logs)
    assert {f"{'allowed' if allows else 'refused'}_unchecked": 2, "allowed": 1} == judge.outcomes


@in_virtual_time
async def test_a_call_without_waiters_is_cancelled_and_leaves_no_trace():
    service = Slow(1.0)
    judge = judge_of(service, at_once=1)
    first = asyncio.create_task(judge.verdict(Content("a"), turn="a"))
    second = asyncio.create_task(judge.verdict(Content("a"), turn="a"))
    waiting = asyncio.create_task(judge.verdict(Content("b"), turn="a"))
    last = asyncio.create_task(judge.verdict(Content("c"), turn="a"))
    await asyncio.sleep(0.5)

    first.cancel()
    await asyncio.sleep(0)
    assert 1 == service.at_once  # the second still waits for it
    second.cancel()
    waiting.cancel()
    assert YES == await last

    assert 1.5 == now()
    assert ["a", "c"] == service.judged
    assert YES == await judge.verdict(Content("a"), turn="a")


@in_virtual_time
async def test_turns_alternate_and_a_cancelled_waiter_costs_none():
    turns, order = Turns(1), []
    await turns.acquire("x")

    async def wait(turn):
        await turns.acquire(turn)
        order.append(turn)
        turns.release()

    tasks = [asyncio.create_task(wait(turn)) for turn in ("a", "a", "a", "b", "c", "b")]
    await asyncio.sleep(0)
    tasks[0].cancel()
    turns.release()
    await asyncio.gather(*tasks, return_exceptions=True)

    assert ["a", "b", "c", "a", "b"] == order or ["b", "c", "a", "b", "a"] == order
    await turns.acquire("d")  # the place is free again


@in_virtual_time
async def test_closing_ends_all_calls():
    service = Slow(60.0)
    judge = judge_of(service)
    task = asyncio.create_task(judge.verdict(Content("a"), turn="a"))
    await asyncio.sleep(0.1)

    await judge.aclose()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert 0 == service.at_once
