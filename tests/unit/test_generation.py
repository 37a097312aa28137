"""How a generation runs: the code of each end, retries, throttling, batches and the timing."""

import asyncio
import time
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from admission.flows import UNPROVEN
from catalog.outputs import Url
from concurrency import Gate
from errors import QueueFull, TokenRejected, UpstreamError, UpstreamRateLimited
from generations.retries import MAX_ATTEMPTS, MAX_THROTTLED
from providers import TryAgain
from providers.memory import MemoryProvider
from tests.support import virtual_time
from tests.support.wiring import (
    ADDRESS,
    ADMIN,
    OTHER_USER,
    USER,
    TransitionLedger,
    a_picture,
    core,
    failed,
    meanwhile,
    on_a_loop,
    parts,
    pictures,
    result,
    run,
    run_batch,
    run_with_faults,
    submission,
    until,
)

TRANSIENT = "Prediction interrupted; please retry (code: PA)"

# The ends of predictions, as the simulator counts them.


@pytest.mark.parametrize("model", ["flux-dev", "flux-kontext-max", "qwen-image"])
@on_a_loop
async def test_a_success_has_its_outputs_whether_they_came_as_text_or_as_a_list(simulator, model):
    async with parts(simulator) as service:
        ended = await service.run(model_name=model)

    (made,) = simulator.predictions()
    expected = [made.output] if isinstance(made.output, str) else made.output
    body = result(ended)
    assert (True, "succeeded", expected, len(expected), made.id) == (
        body["success"],
        body["status"],
        body["output"],
        body["count"],
        body["prediction_id"],
    )


CODES = {
    "[[early]]": None,
    "[[sparse]]": None,
    "[[empty]]": "generation_failed",
    "[[fail]]": "generation_failed",
    "[[fail=Director: unexpected error (E1001)]]": "generation_failed",
    "[[nsfw]]": "content_refused",
    "[[fail=All generated images contained NSFW content.]]": "content_refused",
    "[[fail=The input or output was flagged as sensitive. (E005)]]": "content_refused",
    "[[canceled]]": "generation_failed",
    "[[aborted]]": "generation_timeout",
}


@on_a_loop
async def test_each_end_has_its_code_and_is_billed_once(simulator):
    async with parts(simulator) as service:
        batch = await service.run_batch(list(CODES))

    items = [batch.item(index, ADDRESS) for index in range(len(CODES))]
    assert CODES == {each["prompt"]: each.get("error", {}).get("code") for each in items}
    assert [each["success"] for each in items] == ["output" in each for each in items]
    assert [1] * len(CODES) == [each["attempts"] for each in items]
    assert len(CODES) == simulator.counts().creations_accepted


@on_a_loop
async def test_fewer_outputs_than_requested_are_a_success_and_only_they_are_billed(simulator):
    async with parts(simulator) as service:
        ended = await service.run("[[fewer]]", num_outputs=4)

    body = result(ended)
    assert (3, 0.075) == (body["count"], body["cost_usd"])


@pytest.mark.parametrize(
    "error",
    [
        TRANSIENT,
        "Director: unexpected error handling prediction (E6716)",
        "Director: unexpected error handling prediction (E9828)",
    ],
)
def test_a_passing_failure_is_retried_up_to_the_limit_and_each_attempt_is_admitted(error):
    async def scenario():
        gate, fake = Gate(concurrent_limit=1, requests_per_minute=600), MemoryProvider(*[failed(error)] * 9)
        inside = core(fake, gate=gate, GENERATION_TIMEOUT=60, MAX_QUEUED=10)
        ended = await run(inside, a_picture())
        return ended, len(fake.sent), gate.statistics()

    ended, sent, gate = virtual_time.run(scenario())

    assert ("generation_failed", MAX_ATTEMPTS, MAX_ATTEMPTS) == (ended.error.code, len(ended.attempts), sent)
    assert (0, MAX_ATTEMPTS) == (gate.current_concurrent, gate.current_rate_per_minute)


@on_a_loop
async def test_a_passing_failure_succeeds_with_the_second_prediction(simulator):
    async with parts(simulator) as service:
        ended = await service.run("[[transient]]")

    (_, second) = simulator.predictions()
    assert (True, 2, second.id) == (ended.succeeded, len(ended.attempts), ended.prediction.id)
    assert ["submitting", "running", "queued", "submitting", "running", "succeeded"] == [
        state for _, state in service.ledger.moves
    ]


def test_a_creation_that_waits_for_the_disk_is_dated_when_it_is_sent():
    """The next process uses that date to count it in the window and to search for its prediction."""

    async def scenario():
        gate, ledger = Gate(concurrent_limit=1, requests_per_minute=600), TransitionLedger()
        inside = core(MemoryProvider(None), gate=gate, ledger=ledger, GENERATION_TIMEOUT=60, MAX_QUEUED=10)
        generation = inside.supervisor.accept(submission(a_picture(), ADMIN))
        await inside.supervisor.persist(generation)
        ledger.trouble = "The disk is full."
        await asyncio.sleep(100)
        back_at, ledger.trouble = time.time(), None
        await asyncio.sleep(5)
        return generation.last.submitted_at >= back_at

    assert virtual_time.run(scenario())


def test_only_the_first_line_of_a_models_error_is_reported():
    async def scenario():
        fake = MemoryProvider(
            failed("\n  CUDA out of memory.  \nTraceback (most recent call last):\n  File …")
        )
        inside = core(fake, gate=Gate(concurrent_limit=1, requests_per_minute=60))
        return await run(inside, a_picture())

    assert "CUDA out of memory." == virtual_time.run(scenario()).error.detail


@on_a_loop
async def test_a_prediction_that_finished_unpolled_is_a_success_at_its_deadline(simulator):
    """The prediction is paid for, and the answer to its cancel shows its end."""
    for on in ("get", "list"):
        simulator.inject(on=on, times=100, status=429, headers={"Retry-After": "300"})
    async with parts(simulator) as service:
        ended = await service.run(timeout=2)

    (made,) = simulator.predictions()
    assert (True, tuple(map(Url, made.output))) == (ended.succeeded, ended.prediction.outputs)


@on_a_loop
async def test_a_prediction_that_never_ends_is_cancelled_and_reported_as_a_timeout(simulator):
    async with parts(simulator, timeout=1) as service:
        endings = await asyncio.gather(service.run("[[hang]]"), service.run("[[cold]]"))
        gate = service.gate.statistics()

    assert ["generation_timeout"] * 2 == [ended.error.code for ended in endings]
    assert {"canceled": 2} == simulator.counts().finished
    assert 0 == gate.current_concurrent


# Creations that are refused.


def a_service(fake: MemoryProvider, *, concurrent_limit: int = 10, requests_per_minute: int = 600):
    gate = Gate(concurrent_limit=concurrent_limit, requests_per_minute=requests_per_minute)
    return gate, core(fake, gate=gate, GENERATION_TIMEOUT=60, MAX_QUEUED=1000)


@pytest.mark.parametrize("wait", [0.0, 2.0, 10.0, 300.0])
def test_a_throttled_creation_waits_as_long_as_replicate_states(wait):
    async def scenario():
        fake = MemoryProvider(TryAgain(UpstreamRateLimited(), wait=wait, throttled=True))
        _, inside = a_service(fake)
        await run(inside, a_picture())
        return fake.sent

    assert [(0.0, "admin"), (0.25 + wait, "admin")] == virtual_time.run(scenario())


def test_a_throttled_account_pauses_alone_and_then_goes_one_at_a_time():
    async def scenario():
        throttled = TryAgain(UpstreamRateLimited(), wait=10, throttled=True)
        fake = MemoryProvider(throttled, throttled)
        _, inside = a_service(fake)
        first = [run(inside, a_picture(), caller=USER) for _ in range(2)]
        paused = asyncio.gather(*first)
        await asyncio.sleep(1)
        later = [run(inside, a_picture(), caller=caller) for caller in (USER, OTHER_USER)]
        await asyncio.gather(paused, *later)
        return fake.sent

    sent = virtual_time.run(scenario())

    assert [0.0, 0.0, 10.25, 10.5, 10.5] == [time for time, caller in sent if caller == USER.id]
    assert [1.0] == [time for time, caller in sent if caller == OTHER_USER.id]


@pytest.mark.parametrize("throttled", [True, False], ids=["throttled", "unreachable"])
def test_throttling_of_an_unproven_caller_delays_no_other_unproven_caller(throttled):
    """Unproven callers share one turn."""

    async def scenario():
        refused = TryAgain(UpstreamRateLimited(), wait=10, throttled=throttled, unreachable=not throttled)
        fake = MemoryProvider(refused)
        _, inside = a_service(fake)
        first = asyncio.create_task(run(inside, a_picture(), caller=replace(USER, turn=UNPROVEN)))
        await asyncio.sleep(1)
        await run(inside, a_picture(), caller=replace(OTHER_USER, turn=UNPROVEN))
        await first
        return fake.sent

    assert [(0.0, USER.id), (1.0, OTHER_USER.id), (10.25, USER.id)] == virtual_time.run(scenario())


def test_a_throttled_account_gets_one_request_per_pause_and_not_one_per_generation():
    async def scenario():
        fake = MemoryProvider(*[TryAgain(UpstreamRateLimited(), wait=10, throttled=True)] * 4)
        _, inside = a_service(fake, concurrent_limit=1)
        await asyncio.gather(*(run(inside, a_picture(), caller=USER) for _ in range(3)))
        return [time for time, _ in fake.sent]

    assert [0.0, 10.25, 20.5, 30.75] == virtual_time.run(scenario())[:4]


@on_a_loop
async def test_an_account_out_of_creations_sends_none_until_the_reset(simulator):
    simulator.account(USER.credentials["replicate"], creations_per_minute=2)
    simulator.inject(
        on="create", token=USER.credentials["replicate"], status=429, headers={"Retry-After": "0"}
    )
    async with parts(simulator, concurrent_limit=4) as service:
        first = asyncio.create_task(service.run(caller=USER))
        await until(lambda: [state for _, state in service.ledger.moves] == ["submitting", "queued"])
        rest = [asyncio.create_task(service.run(caller=USER)) for _ in range(3)]
        await first
        waiting = service.gate.statistics()
        for task in rest:
            task.cancel()
        await asyncio.wait(rest)

    assert {429: 1} == simulator.counts().refusals
    assert (2, 1) == (simulator.counts().requests["create"], simulator.counts().creations_accepted)
    assert 3 == waiting.waiting
    assert waiting.paused_seconds > 0


THROTTLED = [
    {"headers": {"Retry-After": "0.2"}, "body": {"detail": "throttled"}},
    {"headers": {}, "body": {"detail": "throttled", "retry_after": 0.2}},
    {"headers": {}, "body": {"detail": "Request was throttled. Your rate limit resets in ~0.2s."}},
    {"headers": {}, "body": ["throttled"]},
]


@on_a_loop
async def test_a_429_in_any_form_is_waited_out_and_the_prediction_is_billed_once(simulator):
    refusals = [{"status": 429, **said} for said in THROTTLED]

    endings = await run_with_faults(simulator, refusals, on="create", times=2)

    assert [(True, 3, 1)] * 4 == [
        (ended.succeeded, len(ended.attempts), len(made)) for _, ended, made in endings
    ]
    assert (12, 4) == (simulator.counts().requests["create"], simulator.counts().creations_accepted)


@on_a_loop
async def test_a_long_429_pauses_its_account_and_no_other(simulator):
    simulator.inject(
        on="create", token=USER.credentials["replicate"], status=429, headers={"Retry-After": "100000"}
    )
    async with parts(simulator) as service:
        paused = asyncio.create_task(service.run(caller=USER))
        await until(lambda: service.gate.statistics().paused_seconds > 0)
        other = await service.run(caller=OTHER_USER)
        gate = service.gate.statistics()
        paused.cancel()
        await asyncio.wait([paused])

    assert (True, 1, 0) == (other.succeeded, gate.waiting, gate.current_concurrent)
    assert [OTHER_USER.credentials["replicate"]] == [made.token for made in simulator.predictions()]


def test_a_generation_fails_if_its_account_stays_throttled():
    async def scenario():
        fake = MemoryProvider(*[TryAgain(UpstreamRateLimited(), wait=10, throttled=True)] * 100)
        _, inside = a_service(fake)
        return await run(inside, a_picture()), len(fake.sent)

    ended, sent = virtual_time.run(scenario())

    assert ("upstream_rate_limited", MAX_THROTTLED) == (ended.error.code, sent)


def test_throttled_attempts_do_not_use_up_the_retries():
    async def scenario():
        throttled = [TryAgain(UpstreamRateLimited(), wait=10, throttled=True)] * (MAX_THROTTLED - 1)
        fake = MemoryProvider(*throttled, *[TryAgain(UpstreamError())] * (MAX_ATTEMPTS - 1))
        _, inside = a_service(fake)
        return await run(inside, a_picture())

    ended = virtual_time.run(scenario())

    assert (True, MAX_THROTTLED + MAX_ATTEMPTS - 1) == (ended.succeeded, len(ended.attempts))


def test_creations_that_are_held_back_hold_no_slot_and_do_not_use_up_the_retries():
    async def scenario():
        clock = asyncio.get_running_loop().time
        fake = MemoryProvider(
            *[TryAgain(UpstreamError())] * (MAX_ATTEMPTS - 1), may_send=lambda: clock() >= 2 * MAX_ATTEMPTS
        )
        gate, inside = a_service(fake, concurrent_limit=1)
        ended = asyncio.create_task(run(inside, a_picture()))
        await asyncio.sleep(0.5)
        held, waiting = gate.slots_held, len(fake.sent)
        return (await ended).succeeded, held, waiting, len(fake.sent)

    assert (True, 0, 0, MAX_ATTEMPTS) == virtual_time.run(scenario())


def test_a_backoff_holds_no_slot():
    async def scenario():
        fake = MemoryProvider(TryAgain(UpstreamError(), wait=30))
        _, inside = a_service(fake, concurrent_limit=1)
        await asyncio.gather(*(run(inside, a_picture()) for _ in range(2)))
        return [time for time, _ in fake.sent]

    assert [0.0, 0.25, 30.25] == virtual_time.run(scenario())


@on_a_loop
async def test_a_503_is_retried(simulator):
    simulator.inject(on="create", times=MAX_ATTEMPTS - 1, status=503)
    async with parts(simulator) as service:
        ended = await service.run()

    assert (True, MAX_ATTEMPTS) == (ended.succeeded, len(ended.attempts))
    assert 1 == simulator.counts().creations_accepted


@on_a_loop
async def test_an_unreachable_replicate_is_retried_and_then_reported(simulator):
    simulator.stop()
    async with parts(simulator) as service:
        ended = await service.run()

    assert ("upstream_error", MAX_ATTEMPTS) == (ended.error.code, len(ended.attempts))


@on_a_loop
async def test_a_refused_input_is_not_retried(simulator):
    simulator.inject(on="create", status=422)
    async with parts(simulator) as service:
        ended = await service.run()

    assert ("invalid_request", 1) == (ended.error.code, len(ended.attempts))


# Batches.


@pytest.mark.parametrize("trouble", [{"reject": True}, {"credit": "empty"}], ids=str)
@on_a_loop
async def test_a_refused_account_sends_no_more_items_of_its_batch(simulator, trouble):
    simulator.account(USER.credentials["replicate"], **trouble)
    async with parts(simulator, concurrent_limit=3) as service:
        batch = await service.run_batch(["a fox"] * 50, caller=USER)

    codes = {generation.error.code for generation in batch.items}
    assert 1 == len(codes)
    assert 3 == simulator.counts().requests["create"]
    assert [1] * 3 + [0] * 47 == [len(generation.attempts) for generation in batch.items]


def test_a_refused_account_stops_its_own_batch_and_no_other():
    async def scenario():
        fake = MemoryProvider(TokenRejected())
        _, inside = a_service(fake, concurrent_limit=1)
        return await asyncio.gather(
            run_batch(inside, pictures(["a", "b"]), caller=USER),
            run_batch(inside, pictures(["a", "b"]), caller=OTHER_USER),
        )

    refused, other = virtual_time.run(scenario())

    assert (2, 2) == (refused.summary()["failed"], other.summary()["succeeded"])


@on_a_loop
async def test_one_slot_allows_one_prediction_in_flight(simulator):
    simulator.inject(on="create", times=2, after=3, reset="after")
    simulator.inject(on="create", times=2, after=5, status=503)
    async with parts(simulator, concurrent_limit=6) as service:
        prompts = [f"[[hang]] number {number}" for number in range(30)]
        running = asyncio.create_task(service.run_batch(prompts))
        await until(lambda: simulator.counts().in_flight == 6)
        batch = await meanwhile(simulator.finish, running)

    assert 30 == batch.summary()["succeeded"]
    assert (6, 30) == (simulator.counts().in_flight_peak, simulator.counts().creations_accepted)


@on_a_loop
async def test_max_concurrent_of_a_batch_holds_within_the_slots(simulator):
    async with parts(simulator, concurrent_limit=6) as service:
        running = asyncio.create_task(service.run_batch(["[[hang]]"] * 8, max_concurrent=2))
        await until(lambda: simulator.counts().in_flight == 2)
        await meanwhile(simulator.finish, running)

    assert 2 == simulator.counts().in_flight_peak


@on_a_loop
async def test_each_item_is_reported_once_when_it_ends(simulator):
    ended = []

    def on_end(batch, index):
        ended.append((index, batch.items[index].state))

    async with parts(simulator) as service:
        batch = pictures(["one", "[[nsfw]]", "[[hang]]"])
        running = asyncio.create_task(run_batch(service.core, batch, on_end=on_end))
        await until(lambda: len(ended) == 2)
        await meanwhile(simulator.finish, running)

    assert [(0, "succeeded"), (1, "failed"), (2, "succeeded")] == sorted(ended)
    assert (2, "succeeded") == ended[-1]


def test_a_batch_larger_than_the_queue_is_refused_as_a_whole():
    async def scenario():
        fake = MemoryProvider(ends_after=100)
        gate = Gate(concurrent_limit=1, requests_per_minute=60)
        inside = core(fake, gate=gate, GENERATION_TIMEOUT=600, MAX_QUEUED=3)
        running = asyncio.gather(*(run(inside, a_picture()) for _ in range(2)))
        await asyncio.sleep(1)
        with pytest.raises(QueueFull) as refused:
            await run_batch(inside, pictures(["a"] * 3))
        waiting = gate.statistics().waiting
        await running
        return waiting, len(fake.sent), refused.value.retry_after

    waiting, sent, retry_after = virtual_time.run(scenario())

    assert (1, 2, 1) == (waiting, sent, retry_after)


ENDS = {
    "": ("succeeded", 1),
    "[[early]]": ("succeeded", 1),
    "[[sparse]]": ("succeeded", 1),
    "[[fewer]]": ("succeeded", 1),
    "[[transient]]": ("succeeded", 2),
    "[[nsfw]]": ("failed", 1),
    "[[fail]]": ("failed", 1),
    "[[empty]]": ("failed", 1),
    "[[aborted]]": ("failed", 1),
    "[[canceled]]": ("failed", 1),
}
"""By directive: the end of a generation and its number of attempts."""


@pytest.mark.slow
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    directives=st.lists(st.sampled_from(sorted(ENDS)), min_size=1, max_size=12),
    concurrent_limit=st.integers(1, 5),
    lost=st.integers(0, 2),
)
def test_every_batch_has_results_in_input_order_and_every_prediction_is_an_attempt(
    simulator, directives, concurrent_limit, lost
):
    @on_a_loop
    async def scenario():
        if lost:
            simulator.inject(on="create", times=lost, reset="after")
        prompts = [f"{directive} [[slow=0.01]] number {n}" for n, directive in enumerate(directives)]
        async with parts(simulator, concurrent_limit=concurrent_limit) as service:
            batch = await service.run_batch(prompts)

        items = [batch.item(index, ADDRESS) for index in range(len(prompts))]
        assert prompts == [item["prompt"] for item in items]
        assert list(range(len(prompts))) == [item["index"] for item in items]
        assert [ENDS[directive] for directive in directives] == [
            (item["status"], item["attempts"]) for item in items
        ]
        made = {each.id: each.input["prompt"] for each in simulator.predictions()}
        assert prompts == [made[item["prediction_id"]] for item in items]
        assert len(made) == sum(item["attempts"] for item in items)
        assert simulator.counts().in_flight_peak <= concurrent_limit

    simulator.reset()
    scenario()


def test_an_unexpected_exception_is_reported_as_internal_and_frees_everything():
    async def scenario():
        fake = MemoryProvider(ZeroDivisionError())
        gate, inside = a_service(fake)
        ended = await run(inside, a_picture())
        return ended.error.code, gate.statistics().current_concurrent

    assert ("internal", 0) == virtual_time.run(scenario())


def test_queued_and_predicting_seconds_are_summed_separately_over_all_attempts():
    async def scenario():
        gate = Gate(concurrent_limit=1, requests_per_minute=600)
        provider = MemoryProvider(TryAgain(UpstreamError(), wait=100), answer_after=0.25, ends_after=1.0)
        inside = core(provider, gate=gate, GENERATION_TIMEOUT=10, MAX_QUEUED=9)
        first, second = await asyncio.gather(*(run(inside, a_picture("a")) for _ in range(2)))
        return [result(each)["timing"] for each in (first, second)]

    assert [
        {"queued": 0.0, "predicting": 1.5, "total": 101.5},
        {"queued": 0.25, "predicting": 1.25, "total": 1.5},
    ] == virtual_time.run(scenario())


def test_an_attempt_without_a_prediction_does_not_show_an_earlier_one():
    async def scenario():
        gate = Gate(concurrent_limit=1, requests_per_minute=600)
        provider = MemoryProvider(failed("Prediction interrupted; please retry (code: PA)"), TokenRejected())
        inside = core(provider, gate=gate, GENERATION_TIMEOUT=10, MAX_QUEUED=9)
        return await run(inside, a_picture("a"))

    ended = virtual_time.run(scenario())

    assert ("replicate_token_rejected", None) == (ended.error.code, ended.prediction)


def test_the_queue_limit_holds_for_submissions_in_the_same_tick():
    async def scenario():
        gate = Gate(concurrent_limit=1, requests_per_minute=600)
        inside = core(MemoryProvider(), gate=gate, GENERATION_TIMEOUT=10, MAX_QUEUED=3)
        answers = await asyncio.gather(
            *(run(inside, a_picture("a")) for _ in range(5)),
            return_exceptions=True,
        )
        return [type(answer).__name__ for answer in answers]

    assert ["Generation"] * 3 + ["QueueFull"] * 2 == virtual_time.run(scenario())


def test_a_batch_waits_out_an_outage_without_wasting_attempts_or_the_window():
    class Unreachable(MemoryProvider):
        async def create(self, caller, model, sent, *, lease, **named):
            if asyncio.get_running_loop().time() < 2:
                lease.sent()
                lease.not_sent()
                raise TryAgain(UpstreamError(), unreachable=True)
            return await super().create(caller, model, sent, lease=lease, **named)

    async def scenario():
        gate = Gate(concurrent_limit=10, requests_per_minute=600)
        inside = core(Unreachable(), gate=gate, GENERATION_TIMEOUT=10)
        batch = await run_batch(inside, pictures(["a"] * 200))
        return batch.summary()["failed"], gate.statistics().current_rate_per_minute

    assert (0, 200) == virtual_time.run(scenario())
