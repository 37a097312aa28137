"""Creations of an earlier process: adopted if they arrived, sent again if they did not, unknown if
undecidable."""

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise

import httpx
import pytest

from catalog.outputs import Url
from concurrency import Gate
from errors import OutcomeUnknown, ServerTokenRejected, TokenRejected
from providers import Prediction, TryAgain
from providers.fingerprints import fingerprint
from providers.origins import Origin
from providers.pushes import PushedResult
from providers.replicate.access import Access
from providers.replicate.provider import Replicate
from simulator import Options
from tests.support.callers import SERVER_TOKEN
from tests.support.connections import FakeConnections
from tests.support.virtual_replicate import replicate
from tests.support.virtual_time import run
from tests.support.wiring import ADMIN, OTHER_USER, USER

MODEL = "black-forest-labs/flux-dev"
SENT = {"prompt": "a fox"}


class Account(FakeConnections):
    """Connections to a Replicate whose list shows these predictions and whose clock is `skew` seconds ahead.
    `trouble(at)` returns a status or an exception in place of the list."""

    def __init__(self, skew: float = 0.0) -> None:
        self.skew = skew
        self._began = datetime.now(UTC)
        self.items: list[dict] = []
        self.readings: list[float] = []
        self.trouble = lambda at: None

    def holds(self, prediction_id: str, *, age: float, sent: dict = SENT) -> None:
        made = (self.now() - timedelta(seconds=age)).isoformat()
        self.items.insert(0, {"id": prediction_id, "model": MODEL, "input": sent, "created_at": made})

    def now(self) -> datetime:
        """Unix time by a clock that advances with the loop's."""
        running = asyncio._get_running_loop()  # noqa: SLF001 - None without a loop
        return self._began + timedelta(seconds=self.skew + (running.time() if running else 0.0))

    async def respond(self, request: httpx.Request) -> httpx.Response:
        assert (request.method, f"Bearer {SERVER_TOKEN}") == (
            request.method,
            request.headers["authorization"],
        )
        self.readings.append(asyncio.get_running_loop().time())
        trouble = self.trouble(self.readings[-1])
        if isinstance(trouble, Exception):
            raise trouble
        if trouble is not None:
            return httpx.Response(trouble, content=b"{}")
        since = datetime.fromisoformat(request.url.params["created_after"])
        items = [each for each in self.items if datetime.fromisoformat(each["created_at"]) >= since]
        return httpx.Response(
            200,
            headers={"Date": format_datetime(self.now(), usegmt=True)},
            content=json.dumps({"results": items, "next": None}).encode(),
        )


def provider(account: Account) -> Replicate:
    others = Gate(concurrent_limit=50, requests_per_minute=3000)
    return Replicate(Access(base_url="http://replicate.test", others=others, connections=account))


def recovering(
    service: Replicate, *, ago: float = 100.0, sent: dict = SENT, reference: str = "gen_a.1", **how
):
    return service.recover(
        ADMIN, MODEL, content=fingerprint(sent), since=time.time() - ago, reference=reference, **how
    )


async def ends(recovery) -> str:
    """The id of the adopted prediction, or the name of the exception."""
    try:
        return (await recovery).prediction.id
    except (TryAgain, OutcomeUnknown) as error:
        return type(error).__name__


def test_a_creation_that_arrived_is_adopted_with_its_age():
    async def scenario():
        account = Account()
        account.holds("p1", age=99)
        return (await recovering(provider(account))).prediction

    found = run(scenario())

    assert ("p1", "starting") == (found.id, found.status)
    assert 100.5 == pytest.approx(found.age, abs=0.3)


@pytest.mark.parametrize(
    ("age", "sent"), [(1000.0, SENT), (99.0, {"prompt": "a fox", "seed": 1}), (99.0, {"prompt": "a vixen"})]
)
def test_an_older_prediction_or_one_of_another_input_is_not_adopted(age, sent):
    account = Account()
    account.holds("other", age=age, sent=sent)

    assert "TryAgain" == run(ends(recovering(provider(account))))


def test_a_creation_just_sent_may_still_arrive_within_the_answer_timeout():
    async def scenario():
        recovery = asyncio.create_task(ends(recovering(provider(account), ago=2.0)))
        await asyncio.sleep(10)
        account.holds("p1", age=11)
        return await recovery

    account = Account()

    assert "p1" == run(scenario())
    assert [0.5, 2.0, 5.0, 10.0] == account.readings[:4]


@pytest.mark.parametrize(
    ("after", "then"), [(1, "OutcomeUnknown"), (25, "OutcomeUnknown"), (200, "TryAgain")]
)
def test_a_prediction_of_the_same_time_with_a_deleted_input_leaves_the_outcome_unknown(after, then):
    """Replicate deletes inputs after an hour, and users may return after a day."""
    account, ago = Account(), 2 * 3600
    account.holds("p1", age=ago - after, sent={})
    account.items[0] |= {"data_removed": True, "output": None, "status": "succeeded"}

    assert then == run(ends(recovering(provider(account), ago=ago)))


def test_a_known_prediction_with_a_deleted_input_does_not_count():
    account, ago = Account(), 2 * 3600
    account.holds("p1", age=ago - 1, sent={})
    account.items[0] |= {"data_removed": True}
    service = provider(account)
    service.register_known(["p1"])

    assert "TryAgain" == run(ends(recovering(service, ago=ago)))


@pytest.mark.parametrize("ago", [2.0, 100.0, 7200.0])
def test_a_recovered_creation_that_never_arrived_is_repeated_after_ninety_seconds(ago):
    account = Account()

    assert "TryAgain" == run(ends(recovering(provider(account), ago=ago)))
    assert ([0.5, 2.0, 5.0, 10.0], 95.0) == (account.readings[:4], account.readings[-1])


@pytest.mark.parametrize("skew", [-300.0, -45.0, 45.0, 300.0, 5000.0])
def test_recovery_uses_the_clock_that_replicate_had_when_the_creation_was_sent(skew):
    """This machine's clock has been corrected since."""
    account = Account(skew)
    account.holds("p1", age=99)
    account.skew = 0.0

    assert "p1" == run(ends(recovering(provider(account), skew=skew)))


@pytest.mark.parametrize("skew", [-300.0, 300.0])
def test_recovery_uses_the_present_clock_of_replicate_if_no_other_is_known(skew):
    account = Account(skew)
    account.holds("p1", age=99)

    assert "p1" == run(ends(recovering(provider(account))))


def test_identical_creations_recovered_at_once_adopt_one_prediction_each():
    async def scenario():
        service = provider(account)
        return await asyncio.gather(
            *(ends(recovering(service, reference=f"gen_{n}.1", ago=100 + n)) for n in range(3))
        )

    account = Account()
    account.holds("p1", age=90)
    account.holds("p2", age=91)

    assert ["TryAgain", "p1", "p2"] == sorted(run(scenario()))


def test_identical_creations_of_different_age_adopt_the_right_predictions_in_any_order():
    """The earlier creation must take the earlier prediction: otherwise the later one would find none and be
    paid again."""

    async def scenario(order):
        service = provider(account)
        recoveries = {
            ago: ends(recovering(service, ago=ago, reference=f"gen_{ago}.1")) for ago in (1000, 100)
        }
        return await asyncio.gather(*(recoveries[ago] for ago in order))

    account = Account()
    account.holds("early", age=990)
    account.holds("late", age=90)

    assert ["early", "late"] == run(scenario([1000, 100]))
    assert ["late", "early"] == run(scenario([100, 1000]))


def test_more_matches_than_recovered_creations_leave_the_outcome_unknown():
    account = Account()
    account.holds("ours", age=90)
    account.holds("a stranger's", age=80)

    assert "OutcomeUnknown" == run(ends(recovering(provider(account))))


def test_an_id_on_record_is_never_adopted():
    async def scenario():
        service = provider(account)
        service.register_known(["on record", "another"])
        return await ends(recovering(service))

    account = Account()
    account.holds("on record", age=90)

    assert "TryAgain" == run(scenario())


DOWN = [500, 502, 503, 504, 429, httpx.ReadError("reset")]


@pytest.mark.parametrize("trouble", DOWN)
def test_an_upstream_that_is_down_for_minutes_is_waited_for(trouble):
    account = Account()
    account.holds("p1", age=99)
    account.trouble = lambda at: trouble if at < 300 else None

    assert "p1" == run(ends(recovering(provider(account))))
    pauses = [later - at for at, later in pairwise(account.readings)]
    assert [1.5, 3.0, 5.0] == pauses[:3]
    assert {5.0, 15.0} == set(pauses[3:])


def test_failed_readings_do_not_prove_that_nothing_arrived():
    """Readings fail for ten minutes, except for one that shows nothing."""
    account = Account()
    account.trouble = lambda at: None if at == 100 else 500

    assert "OutcomeUnknown" == run(ends(recovering(provider(account))))
    assert 100 in account.readings


def test_absence_is_proven_after_the_full_wait_even_if_two_in_three_readings_fail():
    account = Account()
    account.trouble = lambda at: 500 if len(account.readings) % 3 else None

    assert "TryAgain" == run(ends(recovering(provider(account))))
    assert 95.0 <= account.readings[-1] <= 120.0


def test_an_upstream_that_stays_down_for_the_whole_search_leaves_the_outcome_unknown():
    async def scenario():
        ended = await ends(recovering(provider(account)))
        return ended, asyncio.get_running_loop().time()

    account = Account()
    account.trouble = lambda at: 500

    ended, at = run(scenario())
    assert "OutcomeUnknown" == ended
    assert 600.0 == at


def test_a_search_waits_as_long_as_a_refusal_states():
    class Throttled(Account):
        async def respond(self, request):
            answer = await super().respond(request)
            return httpx.Response(429, headers={"Retry-After": "77"}) if len(self.readings) == 1 else answer

    account = Throttled()
    account.holds("p1", age=99)

    assert "p1" == run(ends(recovering(provider(account))))
    assert [0.5, 77.5] == account.readings


@pytest.mark.parametrize(("caller", "error"), [(ADMIN, ServerTokenRejected), (USER, TokenRejected)])
@pytest.mark.parametrize("status", [401, 403])
def test_a_rejected_token_ends_a_recovery_at_once_with_its_error(caller, error, status):
    class Rejecting(FakeConnections):
        async def respond(self, request):  # noqa: ARG002
            return httpx.Response(status, json={"title": "Unauthenticated", "status": status})

    async def scenario():
        with pytest.raises(error):
            await provider(Rejecting()).recover(
                caller, MODEL, content="c", since=time.time() - 100, reference="gen_a.1"
            )
        return asyncio.get_running_loop().time()

    assert 0.5 == run(scenario())


def test_a_list_too_long_to_search_is_not_searched_for_ten_minutes():
    class Endless(Account):
        async def respond(self, request):
            await super().respond(request)
            item = {"id": f"x{len(self.readings)}", "created_at": "2999-01-01T00:00:00Z"}
            return httpx.Response(
                200, json={"results": [item], "next": "?created_after=2026-01-01T00:00:00Z"}
            )

    account = Endless()

    assert "OutcomeUnknown" == run(ends(recovering(provider(account))))
    assert 0.5 == account.readings[-1]


def test_a_webhook_that_names_the_prediction_ends_the_search_while_replicate_is_down():
    async def scenario():
        service = provider(account)
        recovery = asyncio.create_task(recovering(service))
        await asyncio.sleep(40)
        service.receive_push(
            "gen_a.1",
            PushedResult(Prediction("p1", "succeeded", (Url("https://a"),)), Origin(MODEL, input=SENT)),
        )
        found = (await recovery).prediction
        return found.id, found.is_made, asyncio.get_running_loop().time()

    account = Account()
    account.trouble = lambda at: 500

    assert ("p1", True, 40.0) == run(scenario())


def test_a_recovery_that_is_cancelled_leaves_nothing_under_way():
    async def scenario():
        service = provider(Account())
        recovery = asyncio.create_task(recovering(service))
        await asyncio.sleep(1)
        recovery.cancel()
        await asyncio.gather(recovery, return_exceptions=True)
        return recovery.cancelled(), service.creations.under_way

    assert (True, set()) == run(scenario())


@pytest.mark.parametrize("caller", [ADMIN, OTHER_USER])
def test_a_prediction_of_a_killed_process_is_found_with_its_outputs(caller):
    """With the real client and the simulator: the prediction is found and watched to its end."""

    async def scenario():
        async with replicate(Options(prediction_seconds=8, jitter=0)) as (service, world):
            since = time.time()
            with await service.gate.acquire(caller.id) as lease:
                lost = await service.provider.create(
                    caller,
                    MODEL,
                    SENT,
                    content=fingerprint(SENT),
                    lease=lease,
                    cancel_after=60,
                    reference="gen_a.1",
                )
            next_process = Replicate(
                Access(base_url=service.base_url, others=service.others, connections=service.connections)
            )
            created = await next_process.recover(
                caller, MODEL, content=fingerprint(SENT), since=since, reference="gen_a.1"
            )
            ended = await next_process.wait(caller, created.prediction, model=MODEL)
            return lost.prediction.id, ended.id, ended.is_made, world.counters.snapshot().creations_accepted

    lost, found, made, paid = run(scenario())
    assert (lost, True, 1) == (found, made, paid)
