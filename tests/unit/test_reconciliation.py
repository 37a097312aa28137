"""The search for a creation whose answer was lost: it ends with exactly one paid prediction, or as
unknown."""

import asyncio
import json
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from auth import credentials
from catalog.outputs import Url
from errors import OutcomeUnknown
from providers import Prediction, TryAgain
from providers.connections import Lost, NotSent
from providers.fingerprints import fingerprint
from providers.replicate.absence import SearchTiming
from providers.replicate.answers import is_placeholder, read_page
from providers.replicate.reconciliation import Creations
from providers.replicate.transport import Refusal
from tests.support import virtual_time
from tests.support.wiring import ADMIN, USER, on_a_loop, parts, run_with_faults, until

MODEL = "black-forest-labs/flux-dev"
SENT = {"prompt": "a fox"}


class Account:
    """The account's predictions, as pages of a list. `answers` are returned or raised in place of pages, in
    order."""

    def __init__(self, *answers) -> None:
        self._answers = list(answers)
        self.items: list[dict] = []
        self.asked: list[tuple[float, str]] = []
        self.creations = Creations(self.page)

    def holds(self, prediction_id: str, *, age: float = 0, **fields) -> None:
        made = (datetime.now(UTC) - timedelta(seconds=age)).isoformat()
        self.items.append({"id": prediction_id, "model": MODEL, "input": SENT, "created_at": made} | fields)

    async def page(self, caller, address):  # noqa: ARG002
        self.asked.append((asyncio.get_running_loop().time(), address))
        answer = self._answers.pop(0) if self._answers else None
        if isinstance(answer, Exception):
            raise answer
        return read_page(answer or {"results": list(self.items), "next": None})

    def begin(self, caller=ADMIN, sent=SENT):
        return self.creations.begin(caller, MODEL, fingerprint(sent), reference="gen_a.1", since=time.time())

    async def find(self, caller=ADMIN, sent=SENT) -> str:
        """The outcome of a creation whose answer was lost at once: the prediction's id, or the name of the
        error."""
        with self.begin(caller, sent) as creation:
            try:
                return (await creation.find()).id
            except (TryAgain, OutcomeUnknown) as error:
                return type(error).__name__


async def after(seconds: float, act) -> None:
    await asyncio.sleep(seconds)
    act()


def found(account: Account) -> str:
    return virtual_time.run(account.find())


def ended(account: Account) -> tuple[str, float]:
    """The outcome of the creation, and the seconds until it was known."""

    async def scenario():
        return await account.find(), asyncio.get_running_loop().time()

    return virtual_time.run(scenario())


def test_one_match_is_adopted():
    account = Account()
    account.holds("p1")

    assert "p1" == found(account)


def test_a_creation_that_never_arrived_is_repeated_after_ninety_seconds_if_the_lag_is_unknown():
    account = Account()

    assert "TryAgain" == found(account)
    readings = [time for time, _ in account.asked]
    assert ([0.5, 2.0, 5.0, 10.0, 15.0], 95.0) == (readings[:5], readings[-1])
    assert {5.0} == {after - before for before, after in pairwise(readings[2:])}


def test_a_list_that_lags_is_waited_for():
    async def scenario():
        late = asyncio.create_task(after(4, lambda: account.holds("p1")))
        return await account.find(), await late

    account = Account()

    assert "p1" == virtual_time.run(scenario())[0]


def test_surplus_matches_are_unknown_once_the_list_would_show_a_further_creation():
    account = Account()
    account.holds("p1")
    account.holds("somebody else's")

    assert ("OutcomeUnknown", 95.0) == ended(account)


@pytest.mark.parametrize(
    "failure", [Refusal(500, {}, b""), Refusal(401, {}, b""), NotSent(), Lost(), {"results": None}, ["x"]]
)
def test_a_list_that_cannot_be_read_for_ten_minutes_leaves_it_unknown(failure):
    account = Account(*[failure] * 200)

    assert ("OutcomeUnknown", 600.0) == ended(account)
    readings = [time for time, _ in account.asked]
    assert {5.0} == {after - before for before, after in pairwise(readings) if 5 <= before < 120}
    assert {15.0} == {after - before for before, after in pairwise(readings) if 120 <= before < 585}


@pytest.mark.parametrize("failure", [Refusal(500, {}, b""), NotSent(), Lost()])
def test_a_list_that_fails_at_first_is_used_once_it_can_be_read(failure):
    account = Account(*[failure] * 40)
    account.holds("p1")

    assert "p1" == found(account)
    account = Account(*[failure] * 40)
    assert "TryAgain" == found(account)


def test_one_successful_reading_is_enough_to_adopt():
    account = Account(Lost(), Refusal(429, {}, b""))
    account.holds("p1")

    assert "p1" == found(account)


@pytest.mark.parametrize(
    "unlike",
    [
        {"model": "black-forest-labs/flux-schnell"},
        {"input": {"prompt": "a fox", "seed": 1}},
        {"age": 3600},
    ],
)
def test_a_prediction_of_another_model_input_or_time_is_not_adopted(unlike):
    account = Account()
    account.holds(**{"prediction_id": "other"} | unlike)

    assert "TryAgain" == found(account)


@pytest.mark.parametrize("unreadable", [{"input": None}, {"input": "a fox"}])
def test_a_prediction_whose_input_cannot_be_compared_leaves_the_outcome_unknown(unreadable):
    account = Account()
    account.holds(**{"prediction_id": "other"} | unreadable)

    assert "OutcomeUnknown" == found(account)


@pytest.mark.parametrize("unusable", [7, None, "", "../x"])
def test_a_match_with_an_unusable_id_is_found_under_a_placeholder(unusable):
    account = Account()
    account.holds("", id=unusable)

    assert is_placeholder(found(account))


DEEP = json.loads('{"a":' * 400 + "1" + "}" * 400)


@pytest.mark.parametrize(
    "listed",
    [
        {"prompt": "a fox", "seed": 3, "strength": 1.0},
        {"strength": 1, "seed": 3.0, "prompt": "a fox"},
    ],
)
def test_a_fingerprint_ignores_the_order_of_keys_and_the_notation_of_numbers(listed):
    account = Account()
    account.holds("p1", input=listed)

    sent = {"seed": 3, "prompt": "a fox", "strength": 1.0}
    assert "p1" == virtual_time.run(account.find(sent=sent))


@pytest.mark.parametrize(
    "other", [True, "1", 1.5, None, [1], {"a": 1}, 10**400, float("inf"), float("nan"), "\ud800", DEEP]
)
def test_a_different_input_has_another_fingerprint(other):
    """Any JSON value has a fingerprint."""
    assert fingerprint({"a": 1}) != fingerprint({"a": other})
    assert fingerprint({"a": [1, {"b": other}]}) == fingerprint({"a": [1.0, {"b": other}]})


def test_a_fingerprint_is_the_same_in_another_process():
    sent = {
        "prompt": "ein Fuchs im Grünen",
        "seed": 7,
        "guidance": 3.5,
        "images": ["data:,x"],
        "go_fast": True,
    }
    ask = f"from providers.fingerprints import fingerprint; print(fingerprint({sent!r}))"
    told = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)

    assert fingerprint(sent) == told.stdout.strip()


def test_an_input_nested_too_deep_to_be_read_does_not_match():
    deep: dict = {}
    for _ in range(5_000):
        deep = {"a": deep}
    account = Account()
    account.holds("p1", input=deep)

    assert "TryAgain" == found(account)


def test_the_creation_sent_first_adopts_the_oldest_match():
    async def scenario():
        first = asyncio.create_task(account.find())
        await asyncio.sleep(0.1)
        second = await account.find()
        return [await first, second]

    account = Account()
    account.holds("later", age=5)
    account.holds("earlier", age=20)

    assert ["earlier", "later"] == virtual_time.run(scenario())


def test_an_id_known_from_an_answer_is_never_adopted():
    account = Account()
    account.holds("told")
    account.creations.register_known("told")

    assert "TryAgain" == found(account)


def test_a_prediction_listed_on_two_pages_is_one():
    account = Account()
    account.holds("p1")
    again = {"results": account.items, "next": "https://elsewhere/v1/predictions?cursor=2"}
    account = Account(again, again)
    account.holds("p1")

    assert "p1" == found(account)


def test_a_next_page_is_requested_by_its_query_alone():
    account = Account(
        {"results": [{"id": "x"}], "next": "https://elsewhere/v9/else?cursor=2&created_after=t"}
    )
    account.holds("p1")

    assert "p1" == found(account)
    assert "cursor=2&created_after=t" == account.asked[1][1]


def test_a_list_too_long_to_search_leaves_it_unknown():
    pages = [
        {"results": [{"id": f"x{n}", "created_at": "2999-01-01T00:00:00Z"}], "next": "?cursor=2"}
        for n in range(101)
    ]

    assert ("OutcomeUnknown", 0.5) == ended(Account(*pages))


def test_a_list_that_repeats_itself_for_ever_proves_nothing():
    page = {"results": [{"id": "x", "created_at": "2999-01-01T00:00:00Z"}], "next": "?cursor=2"}

    assert ("OutcomeUnknown", 600.0) == ended(Account(*[page] * 1000))


def test_a_list_is_not_read_further_back_than_the_creation():
    old = {"results": [{"id": "x", "created_at": "1999-01-01T00:00:00Z"}], "next": "?cursor=2"}

    account = Account(*[old] * 100)

    assert "TryAgain" == found(account)
    assert len(set(account.asked)) == len(account.asked)


def test_identical_uncertain_creations_adopt_one_prediction_each():
    async def scenario():
        return await asyncio.gather(*(account.find() for _ in range(3)))

    account = Account()
    account.holds("p1")
    account.holds("p2")

    assert ["TryAgain", "p1", "p2"] == sorted(virtual_time.run(scenario()))


def test_a_match_is_not_adopted_while_an_identical_creation_awaits_its_answer():
    async def scenario():
        with account.begin() as other:
            search = asyncio.create_task(account.find())
            await asyncio.sleep(7)
            other.answered(Prediction("p1", "starting"))
        return await search

    account = Account()
    account.holds("p1")

    assert "TryAgain" == virtual_time.run(scenario())


def test_a_lost_creation_is_found_among_a_stream_of_identical_ones():
    async def one(number):
        with account.begin() as creation:
            await asyncio.sleep(0.1)
            account.holds(f"p{number}")
            await asyncio.sleep(0.3)
            creation.answered(Prediction(f"p{number}", "starting"))

    async def stream():
        async with asyncio.TaskGroup() as group:
            for number in range(200):
                group.create_task(one(number))
                await asyncio.sleep(0.1)

    async def scenario():
        others = asyncio.create_task(stream())
        await asyncio.sleep(1)
        lost = asyncio.create_task(account.find())
        never_arrived = asyncio.create_task(account.find())
        account.holds("lost")
        return {await lost, await never_arrived}, await others

    account = Account()

    assert {"lost", "TryAgain"} == virtual_time.run(scenario())[0]


def test_two_callers_with_one_token_share_one_account():
    twin = type(USER)("user", "user_9", credentials(replicate=ADMIN.credentials["replicate"]))

    async def scenario():
        with account.begin(twin) as other:
            search = asyncio.create_task(account.find())
            await asyncio.sleep(1)
            other.answered(Prediction("p1", "starting"))
        return await search

    account = Account()
    account.holds("p1")

    assert "TryAgain" == virtual_time.run(scenario())


# End to end: paid predictions, counted at Replicate.

ARRIVED = [
    {"reset": "after"},
    {"truncate": True},
    {"garbage": True},
    {"hang": 3600},
    {"set": {"id": None}},
]
NOT_ARRIVED = [{"status": 500}, {"status": 502}, {"status": 504}, {"status": 599}, {"reset": "before"}]


@on_a_loop
async def test_a_prediction_whose_answer_was_lost_is_adopted_and_paid_once(simulator):
    for fault, ended, made in await run_with_faults(simulator, ARRIVED, on="create", create_timeout=2):
        assert (fault, True, [ended.prediction.id], 1) == (
            fault,
            ended.succeeded,
            [each.id for each in made],
            len(ended.attempts),
        )
        assert [ended.prediction.outputs] == [tuple(Url(url) for url in each.output) for each in made]


@on_a_loop
async def test_a_creation_that_never_arrived_is_sent_again_and_paid_once(simulator):
    for fault, ended, made in await run_with_faults(simulator, NOT_ARRIVED, on="create"):
        assert (fault, True, [ended.prediction.id], 2) == (
            fault,
            ended.succeeded,
            [each.id for each in made],
            len(ended.attempts),
        )


@on_a_loop
async def test_each_of_twenty_identical_requests_gets_its_own_prediction_after_three_lost_answers(simulator):
    simulator.inject(on="create", times=3, after=5, reset="after")
    async with parts(simulator) as service:
        batch = await service.run_batch(["[[slow=0.3]] a fox"] * 20)

    results = [generation.prediction.id for generation in batch.items]
    assert 20 == batch.summary()["succeeded"]
    assert {made.id for made in simulator.predictions()} == set(results)
    assert (20, 20, 20) == (len(results), len(set(results)), simulator.counts().creations_accepted)


@on_a_loop
async def test_identical_requests_lost_before_or_after_arrival_are_never_paid_twice(simulator):
    simulator.inject(on="create", times=2, after=1, reset="after")
    simulator.inject(on="create", times=2, after=3, reset="before")
    async with parts(simulator) as service:
        batch = await service.run_batch(["[[slow=0.3]] a fox"] * 10)

    results = {generation.prediction.id for generation in batch.items}
    assert (10, 10) == (batch.summary()["succeeded"], simulator.counts().creations_accepted)
    assert {made.id for made in simulator.predictions()} == results


@on_a_loop
async def test_an_identical_prediction_of_another_program_leaves_the_outcome_unknown_and_paid_once(
    simulator,
):
    async with parts(simulator) as elsewhere, parts(simulator) as service:
        await elsewhere.run("a fox")
        simulator.inject(on="create", reset="after")
        ended = await service.run("a fox")

    assert ("outcome_unknown", 1, False) == (ended.error.code, len(ended.attempts), ended.error.retryable)
    assert 2 == simulator.counts().creations_accepted


@pytest.mark.slow
@on_a_loop
async def test_if_the_list_fails_too_the_outcome_is_unknown_and_no_model_is_tried_again(
    simulator,
):
    simulator.inject(on="create", reset="after")
    simulator.inject(on="list", times=100, status=500)
    async with parts(simulator) as service:
        ended = await service.run(fallback=True)

    assert ("outcome_unknown", 1) == (ended.error.code, len(ended.attempts))
    assert 1 == simulator.counts().requests["create"]


@on_a_loop
async def test_another_accounts_identical_prediction_is_never_adopted(simulator):
    async with parts(simulator) as service:
        await service.run("a fox", caller=USER)
        simulator.inject(on="create", reset="before")
        ended = await service.run("a fox", caller=ADMIN)

    (_, ours) = simulator.predictions()
    assert (ours.id, ADMIN.credentials["replicate"]) == (ended.prediction.id, ours.token)


@on_a_loop
async def test_a_lost_creation_beyond_the_first_page_is_found(simulator):
    async with parts(simulator, concurrent_limit=200, search=SearchTiming(quick=(1.0, 1.0, 1.0))) as service:
        simulator.inject(on="create", reset="after")
        lost = asyncio.create_task(service.run("the one"))
        await until(lambda: simulator.counts().creations_accepted == 1)
        await service.run_batch([f"number {number}" for number in range(130)], caller=ADMIN)
        ended = await lost

    assert simulator.predictions()[0].id == ended.prediction.id
    assert 131 == simulator.counts().creations_accepted
