"""One refusal ends no batch: a token counts as refused only if its account is refused too, and credit as used
up only after two refusals. Runs in virtual time against the simulator, and tests the policy by itself.
"""

import asyncio
from collections import Counter

import pytest

from admission.durations import Durations
from admission.policy import UNDER_WAY, Policy
from simulator import Options
from tests.support.virtual_replicate import replicate
from tests.support.virtual_time import run
from tests.support.wiring import ADMIN, OTHER_USER, USER

OPTIONS = Options(prediction_seconds=2, jitter=0, answer_delay=(0.05, 0.05))
PAGE = "<html><title>Attention Required!</title></html>"
TOKEN = ADMIN.credentials["replicate"]


def ends(batch) -> Counter:
    return Counter("succeeded" if each.succeeded else each.error.code for each in batch.items)


def batch_with(*faults, prompts=200, caller=ADMIN, limits=None, account=None):
    """Runs a batch with faults after ten creations. Returns its end, the requests by kind, the predictions
    and the items."""

    async def scenario():
        limited = {"concurrent_limit": 50, "requests_per_minute": 600} | (limits or {})
        async with replicate(OPTIONS, **limited) as (service, world):
            for fault in faults:
                world.faults.inject(**{"on": "create", "after": 10} | fault)
            if account:
                world.accounts.configure(caller.credentials["replicate"], **account)
            batch = await service.run_batch([f"fox {number}" for number in range(prompts)], caller=caller)
            counts = world.counters.snapshot()
            assert 0 == service.gate.statistics().current_concurrent
            return ends(batch), counts.requests, counts.creations_accepted, batch

    return run(scenario())


@pytest.mark.slow
@pytest.mark.parametrize("body", [None, PAGE])
@pytest.mark.parametrize("status", [401, 403])
def test_one_401_or_403_costs_one_more_attempt_and_nothing_else(status, body):
    ended, requests, made, _ = batch_with({"status": status, "body": body})

    assert ({"succeeded": 200}, 201, 200) == (ended, requests["create"], made)


def test_one_402_fails_its_own_generation_alone():
    ended, requests, made, _ = batch_with({"status": 402})

    assert ({"succeeded": 199, "server_out_of_credit": 1}, 200, 199) == (ended, requests["create"], made)


def test_an_html_page_with_status_402_is_retried():
    ended, _, made, _ = batch_with({"status": 402, "body": PAGE})

    assert ({"succeeded": 200}, 200) == (ended, made)


@pytest.mark.slow
@pytest.mark.parametrize("status", [401, 403, 402, 451, 307])
def test_a_firewall_that_blocks_everything_for_a_while_costs_no_generation(status):
    ended, _, made, _ = batch_with({"status": status, "body": PAGE, "times": 100})

    assert ({"succeeded": 200}, 200) == (ended, made)


def test_a_firewall_that_never_stops_blocking_is_an_upstream_error():
    ended, requests, made, _ = batch_with({"status": 403, "body": PAGE, "times": 10_000}, prompts=20)

    assert ({"succeeded": 10, "upstream_error": 10}, 10) == (ended, made)
    assert 10 + 4 * 10 == requests["create"]


@pytest.mark.slow
@pytest.mark.parametrize("status", [401, 403])
def test_a_second_refusal_of_one_creation_fails_it_alone_while_the_account_is_accepted(status):
    ended, requests, made, batch = batch_with({"status": status, "times": 2}, limits={"concurrent_limit": 1})

    # One slot: the attempt after the refused one is of another generation, unless the queue is empty.
    assert ({"succeeded": 200}, 202, 200) == (ended, requests["create"], made)
    ended, requests, made, batch = batch_with({"status": status, "times": 2, "after": 2}, prompts=3)
    refused = [each for each in batch.items if not each.succeeded]
    assert ({"succeeded": 2, "upstream_error": 1}, 4, 2) == (ended, requests["create"], made)
    assert [2] == [len(each.attempts) for each in refused]
    assert f"status {status}" in refused[0].error.detail


@pytest.mark.parametrize(
    ("caller", "code"), [(ADMIN, "server_token_rejected"), (USER, "replicate_token_rejected")]
)
@pytest.mark.parametrize("status", [401, 403])
def test_the_rest_of_a_batch_is_dismissed_if_the_account_is_refused_too(status, caller, code):
    faults = {"status": status, "times": 1000}
    ended, requests, made, _ = batch_with(faults, faults | {"on": "account", "after": 0}, caller=caller)

    assert ({"succeeded": 10, code: 190}, 10) == (ended, made)
    assert 50 >= requests["create"]
    assert 1 == requests["account"], "those that are refused together ask once"


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault", [{"status": 500}, {"hang": 60}, {"garbage": True}, {"status": 401, "body": PAGE}]
)
def test_nothing_is_dismissed_if_the_state_of_the_account_is_unknown(fault):
    ended, _, made, _ = batch_with({"status": 401}, fault | {"on": "account", "after": 0})

    assert ({"succeeded": 200}, 200) == (ended, made)


def test_many_refusals_share_one_request_for_the_account_until_it_expires():
    ended, requests, _, _ = batch_with(
        {"status": 401, "times": 20}, {"status": 401, "times": 1, "after": 150}
    )

    assert {"succeeded": 200} == ended
    assert 2 == requests["account"]


def test_an_account_without_credit_ends_a_batch_at_its_second_refusal():
    ended, requests, made, _ = batch_with(account={"credit": "empty"})

    assert ({"server_out_of_credit": 200}, 50, 0) == (ended, requests["create"], made)


def test_after_a_402_creations_go_one_at_a_time_until_one_is_accepted():
    async def scenario():
        async with replicate(OPTIONS, concurrent_limit=50) as (service, world):
            world.accounts.configure(TOKEN, credit="empty")
            refused = await service.run("first")
            others = [asyncio.create_task(service.run(f"fox {number}")) for number in range(20)]
            await asyncio.sleep(3)
            sent = world.counters.snapshot().requests["create"]
            world.accounts.configure(TOKEN, credit="ok")
            after = asyncio.get_running_loop().time()
            await asyncio.gather(*others)
            took = asyncio.get_running_loop().time() - after
            return refused.error.code, sent, took

    code, sent, took = run(scenario())

    assert "server_out_of_credit" == code
    # After the first refusal, and after each later one, a second passes.
    assert 3 == sent
    assert took < 6


def test_two_batches_of_one_account_each_see_two_402s_and_another_account_none():
    async def scenario():
        async with replicate(OPTIONS, concurrent_limit=4) as (service, world):
            world.accounts.configure(USER.credentials["replicate"], credit="empty")
            batches = await asyncio.gather(
                *(service.run_batch(["a fox"] * 20, caller=each) for each in (USER, USER, OTHER_USER))
            )
            return [ends(each) for each in batches], world.counters.snapshot().requests["create"]

    ended, sent = run(scenario())

    assert [{"insufficient_credit": 20}, {"insufficient_credit": 20}, {"succeeded": 20}] == ended
    assert 20 + 6 >= sent


def test_a_402_long_after_another_counts_as_the_first():
    ended, _, made, _ = batch_with({"status": 402}, {"status": 402, "after": 120})

    assert ({"succeeded": 198, "server_out_of_credit": 2}, 198) == (ended, made)


# The policy.


def a_policy() -> Policy:
    return Policy(concurrent_limit=10, requests_per_minute=600, durations=Durations())


def test_a_slowed_caller_has_one_ticket_in_flight_until_one_is_accepted():
    policy = a_policy()
    policy.queue.slow_down("ann")
    policy.enqueue("abcd", "ann")
    policy.enqueue("xyz", "bob")

    assert {"a", "x", "y", "z"} == set(policy.step(0.0).admitted)
    policy.release("a", 1.0)
    assert ["b"] == policy.step(1.0).admitted
    policy.proceed("ann", 2.0)
    assert ["c", "d"] == policy.step(2.0).admitted


def test_an_acceptance_from_before_the_slowdown_does_not_end_it():
    policy = a_policy()
    policy.enqueue("a", "ann")
    policy.step(0.0)
    policy.queue.slow_down("ann")
    policy.proceed("ann", 1.0)
    policy.enqueue("bc", "ann")

    assert ["b"] == policy.step(1.0).admitted


def test_only_a_second_refusal_in_a_batch_is_final_and_an_acceptance_resets_the_count():
    policy = a_policy()
    policy.enqueue("ab", "ann", batch="one")

    assert [False, False, True] == [policy.refuse("ann", each, 0.0) for each in ("one", "two", "one")]
    step = policy.step(0.0)
    assert ([], UNDER_WAY) == (step.admitted, step.next_chance)
    assert ["a"] == policy.step(UNDER_WAY).admitted
    policy.proceed("ann", 2.0)
    assert not policy.refuse("ann", "one", 3.0)
