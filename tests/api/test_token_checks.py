"""Which tokens are checked, when, and at what cost, and which turn their callers take. In virtual time."""

import asyncio
import threading
from dataclasses import replace

import pytest

from admission.fair_queue import FairQueue
from admission.flows import UNPROVEN, UNPROVEN_TURN
from auth import Caller, credentials
from errors import TokenRejected
from harness.service_process import until
from providers.token_checks import AT_ONCE, CHECKS, PER_MINUTE, PROVEN_FOR, REFUSED_FOR, SECONDS, TokenChecks
from simulator import Options
from tests.support import virtual_time
from tests.support.api_client import ASYNC, CHECKED, PICTURE
from tests.support.callers import ADMIN, SERVER_TOKEN, USER, USER_TOKEN
from tests.support.problem_documents import problem
from tests.support.virtual_replicate import replicate
from tests.support.wiring import ADMIN as ADMIN_CALLER


def user(name: str) -> Caller:
    return Caller("user", name, credentials(replicate=f"r8_{name}"), turn=UNPROVEN)


class Accounts:
    """Returns the account of every token after 0.1 s; for some tokens it refuses, gives no answer, or
    hangs."""

    def __init__(self, account_of=lambda name: f"{name}'s", seconds: float = 0.1) -> None:
        self._account_of = account_of
        self._seconds = seconds
        self.asked: list[Caller] = []
        self.under_way = self.most = 0

    async def account_of(self, caller: Caller) -> str | None:
        self.asked.append(caller)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await asyncio.sleep(self._seconds)
        finally:
            self.under_way -= 1
        account = self._account_of(caller.id)
        if isinstance(account, Exception):
            raise account
        return account


def checked(scenario, **options):
    """Run a scenario of `(checks, clock)` with these accounts in virtual time."""

    def run(accounts: Accounts):
        async def begin():
            clock = asyncio.get_running_loop().time
            return await scenario(TokenChecks(accounts, clock=clock, **options), clock)

        return virtual_time.run(begin())

    return run


async def turns(checks: TokenChecks, *callers: Caller) -> list[str]:
    """The turn of each caller, or "refused", if all are checked at the same instant."""
    found = await asyncio.gather(*map(checks.check, callers), return_exceptions=True)
    return ["refused" if isinstance(each, TokenRejected) else each.turn for each in found]


def test_concurrent_requests_with_one_token_share_one_check_in_the_turn_of_checks():
    accounts = Accounts()

    found = checked(lambda checks, _: turns(checks, *(50 * [user("a")])))(accounts)

    assert ["account a's"] * 50 == found
    assert [replace(user("a"), turn=CHECKS)] == accounts.asked


def test_a_proven_token_keeps_its_turn_while_replicate_does_not_answer():
    outcomes = ["one", None, TimeoutError(), "one"]
    accounts = Accounts(lambda _: outcomes.pop(0))

    async def scenario(checks, _):
        found = await turns(checks, user("a"))
        for pause in (PROVEN_FOR, REFUSED_FOR, REFUSED_FOR):
            await asyncio.sleep(pause)
            found += await turns(checks, user("a"))
        return found

    assert ["account one"] * 4 == checked(scenario)(accounts)
    assert [] == outcomes


@pytest.mark.parametrize(
    ("outcome", "turn", "good_for"),
    [
        ("one", "account one", PROVEN_FOR),
        ("", "a", PROVEN_FOR),
        (TokenRejected(), "refused", REFUSED_FOR),
        (None, UNPROVEN, 0.0),
        (RuntimeError("a fault"), UNPROVEN, 0.0),
    ],
)
def test_a_proof_is_kept_for_an_hour_a_refusal_for_a_minute_and_a_missing_answer_not_at_all(
    outcome, turn, good_for
):
    accounts = Accounts(lambda _: outcome)

    async def scenario(checks, clock):
        assert [turn] == await turns(checks, user("a"))
        since = clock()
        for moment, times in ((good_for - 0.001, 1), (good_for, 2)):
            await asyncio.sleep(max(0.0, since + moment - clock()))
            if moment >= 0:
                assert [turn] == await turns(checks, user("a"))
                assert times == len(accounts.asked)

    checked(scenario)(accounts)


class Table:
    """The outcomes that all processes share, on a ledger that may be away."""

    def __init__(self, seconds: float = 0.01) -> None:
        self.rows: dict[str, tuple[str, float]] = {}
        self.seconds = seconds

    async def find(self, caller_id: str) -> tuple[str, float] | None:
        await asyncio.sleep(self.seconds)
        turn, until = self.rows.get(caller_id, ("", 0.0))
        left = until - asyncio.get_running_loop().time()
        return (turn, left) if left > 0 else None

    async def keep(self, caller_id: str, turn: str, seconds: float) -> None:
        self.rows[caller_id] = turn, asyncio.get_running_loop().time() + seconds

    async def drop(self, caller_id: str) -> None:
        self.rows.pop(caller_id, None)


def two_processes(scenario, accounts: Accounts, table: Table):
    async def begin():
        clock = asyncio.get_running_loop().time
        both = [TokenChecks(accounts, clock=clock) for _ in range(2)]
        for each in both:
            each.shared = table
        found = await scenario(*both)
        for each in both:
            await each.aclose()
        return found

    return virtual_time.run(begin())


def test_a_token_that_one_process_has_proven_is_proven_for_all_and_no_longer():
    outcomes = ["one", None]
    accounts = Accounts(lambda _: outcomes.pop(0))

    async def scenario(first, second):
        found = await turns(first, user("a"))
        await asyncio.sleep(PROVEN_FOR - 10)
        found += await turns(second, user("a"))
        await asyncio.sleep(10)
        return found + [each.turn for each in (second.known(user("a")), await first.check(user("a"))) if each]

    assert ["account one", "account one", "account one"] == two_processes(scenario, accounts, Table())
    assert [] == outcomes


def test_a_refusal_ends_the_proof_for_processes_that_have_not_seen_it():
    outcomes = ["one", TokenRejected(), TokenRejected()]
    accounts = Accounts(lambda _: outcomes.pop(0))
    table = Table()

    async def scenario(first, second):
        found = await turns(first, user("a"))
        table.rows.clear()
        found += await turns(second, user("a"))
        await asyncio.sleep(1)
        return found + list(table.rows)

    assert ["account one", "refused"] == two_processes(scenario, accounts, table)


@pytest.mark.parametrize("away", ["slow", "broken"])
def test_a_token_is_checked_although_the_shared_outcomes_are_away(away):
    table = Table(seconds=60 if away == "slow" else 0.01)
    if away == "broken":
        table.rows = None

    async def scenario(first, _):
        began = asyncio.get_running_loop().time()
        return await turns(first, user("a")), asyncio.get_running_loop().time() - began < 1

    assert (["account a's"], True) == two_processes(scenario, Accounts(), table)


def test_the_admin_is_never_checked():
    accounts = Accounts(lambda _: TokenRejected())

    assert ["admin"] == checked(lambda checks, _: turns(checks, ADMIN_CALLER))(accounts)
    assert [] == accounts.asked


def test_tokens_of_one_account_share_its_turn():
    accounts = Accounts(lambda name: name[0])

    found = checked(lambda checks, _: turns(checks, user("a1"), user("a2"), user("b1")))(accounts)

    assert ["account a", "account a", "account b"] == found


def test_at_most_ten_checks_run_at_once_and_300_in_a_minute_and_other_callers_stay_unproven():
    accounts = Accounts()

    async def scenario(checks, clock):
        found = await turns(checks, *(user(f"{number}") for number in range(PER_MINUTE + 50)))
        assert 50 == found.count(UNPROVEN)
        assert [UNPROVEN] == await turns(checks, user("one more"))
        assert ["account 0's"] == await turns(checks, user("0"))  # a proven token needs no place
        await asyncio.sleep(60 - clock())
        assert ["account one more's"] == await turns(checks, user("one more"))

    checked(scenario)(accounts)
    assert AT_ONCE == accounts.most
    assert PER_MINUTE + 1 == len(accounts.asked)


def test_a_check_takes_at_most_five_seconds_including_the_wait_for_its_place():
    accounts = Accounts(seconds=3600)

    async def scenario(checks, clock):
        found = await turns(checks, *(user(f"{number}") for number in range(3 * AT_ONCE)))
        assert [UNPROVEN] * 3 * AT_ONCE == found
        return clock()

    assert SECONDS == checked(scenario)(accounts)
    assert AT_ONCE == len(accounts.asked)


def test_a_disconnect_does_not_end_the_check_for_other_callers():
    async def scenario(checks, _):
        first, second = (asyncio.create_task(checks.check(user("a"))) for _ in range(2))
        await asyncio.sleep(0.05)
        first.cancel()
        return (await second).turn

    assert "account a's" == checked(scenario)(Accounts())


def test_outcomes_are_bounded_and_a_flood_of_invalid_tokens_evicts_no_proof():
    accounts = Accounts(lambda name: TokenRejected() if name.startswith("junk") else name)

    async def scenario(checks, _):
        proven = [user(f"{number}") for number in range(5)]
        await turns(checks, *proven)
        await turns(checks, *(user(f"junk{number}") for number in range(100)))
        before = len(accounts.asked)
        await turns(checks, *(user(f"junk{number}") for number in range(100)))
        assert 95 <= len(accounts.asked) - before  # five at most were remembered
        assert [each.id for each in proven] == [
            checks.known(each).turn.removeprefix("account ") for each in proven
        ]
        await turns(checks, user("5"))
        assert None not in [checks.known(user(f"{number}")) for number in range(1, 6)]
        assert checks.known(user("0")) is None

    checked(scenario, kept=5)(accounts)


@pytest.mark.parametrize("proven", [1, 2, 5, 6])
def test_each_proven_caller_gets_95_percent_of_an_equal_turn_beside_any_number_of_unproven_ones(proven):
    queue = FairQueue()
    for name in range(proven):
        queue.add([(name, number) for number in range(3000)], f"account {name}")
    queue.add([(UNPROVEN, number) for number in range(3000)], UNPROVEN)

    taken = [queue.take(0.0)[0][0][0] for _ in range(2100)]

    assert all(taken.count(name) >= 0.95 * 2100 / proven for name in range(proven))
    assert (
        taken.count(UNPROVEN) >= 2100 // (UNPROVEN_TURN * proven + 1) - 1
    )  # unproven callers are not starved


def test_a_token_is_checked_through_the_client_within_the_second_window():
    async def scenario():
        async with replicate(Options()) as (service, world):
            world.accounts.configure("r8_b", reject=True)
            world.accounts.configure("r8_a", username="ann")
            checks = service.core.checks
            return await turns(
                checks, user("a"), user("b")
            ), service.others.statistics().current_rate_per_minute

    assert (["account ann", "refused"], 2) == virtual_time.run(scenario())


# ── Through the HTTP API

JUNK = {"X-Replicate-API-Key": "r8_junk"}


@pytest.mark.parametrize("path", ["/generate", "/generate-batch"])
def test_an_invalid_token_is_refused_before_the_body_is_read_and_leaves_nothing(client, simulator, path):
    simulator.account("r8_junk", reject=True)

    for body in (b"{", b"x" * 1000, b""):
        answer = client.post(path, data=body, headers=JUNK | ASYNC, content_type="application/json")
        problem(answer, 401, "replicate_token_rejected")

    assert CHECKED == dict(simulator.counts().requests)
    assert [] == client.get("/generations", headers=JUNK).json["generations"]
    assert 0 == client.get("/status").json["concurrency"]["current_rate_per_minute"]


def test_a_proven_token_costs_one_check_for_any_number_of_requests(client, simulator):
    for _ in range(3):
        assert 200 == client.post("/generate", json=PICTURE, headers=USER).status_code
        client.get("/generations", headers=USER)

    assert 1 == simulator.counts().requests["account"]


@pytest.mark.parametrize(
    "fault",
    [{"status": 500}, {"status": 403}, {"status": 429}, {"garbage": True}, {"reset": "after"}],
    ids=str,
)
def test_a_token_that_cannot_be_checked_is_accepted(client, simulator, fault):
    simulator.inject(on="account", times=100, **fault)

    assert 200 == client.post("/generate", json=PICTURE, headers=USER).status_code


def test_work_belongs_to_the_token_and_not_to_the_account(client, simulator):
    other = {"X-Replicate-API-Key": "r8_other"}
    for token in (USER_TOKEN, "r8_other"):
        simulator.account(token, username="one")
    key = {"Idempotency-Key": "k"}

    mine, theirs = (
        client.post("/generate", json=PICTURE, headers=by | key).json["id"] for by in (USER, other)
    )

    assert mine != theirs
    assert [[mine], [theirs]] == [
        [each["id"] for each in client.get("/generations", headers=by).json["generations"]]
        for by in (USER, other)
    ]
    assert 404 == client.get(f"/generations/{mine}", headers=other).status_code


def test_resumed_work_takes_the_turn_of_its_account(make_app, simulator):
    app = make_app(REPLICATE_CONCURRENT_LIMIT=1)
    client = app.test_client()
    client.post("/generate", json=PICTURE | {"prompt": "[[hang]]"}, headers=ADMIN | ASYNC)
    until(lambda: 1 == simulator.counts().in_flight)
    waiting = client.post("/generate", json=PICTURE, headers=USER | ASYNC).json["id"]
    app.extensions["service"].close()
    simulator.account(USER_TOKEN, username="ann")
    app = make_app(REPLICATE_CONCURRENT_LIMIT=1)

    assert 200 == app.test_client().get(f"/generations/{waiting}", headers=USER).status_code

    service = app.extensions["service"]
    assert "account ann" == service.loop.call(lambda: service.core.supervisor.find(waiting).caller.turn)


def test_concurrent_callers_share_a_check_over_all_threads(app, simulator):
    simulator.inject(on="account", delay=0.3)
    codes = []

    def ask():
        codes.append(app.test_client().post("/generate", json=PICTURE, headers=USER).status_code)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    assert [200] * 8 == codes
    assert 1 == simulator.counts().requests["account"]


def test_the_server_token_is_not_checked(client, simulator):
    simulator.account(SERVER_TOKEN, username="server")

    assert 200 == client.post("/generate", json=PICTURE, headers=ADMIN).status_code
    assert "account" not in simulator.counts().requests
