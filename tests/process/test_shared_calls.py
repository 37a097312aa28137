"""Calls to text models at one process on SQLite, and at three that share a ledger in PostgreSQL: their limits, their
budgets and their idempotency keys hold for all processes together, as the simulator counts and bills.
"""

import json
import random
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice

import pytest
import requests

from harness.fleet import ADMIN
from simulator import Options, running
from simulator.gemini.options import GeminiOptions
from tests.support.fleets import fleet_on

pytestmark = pytest.mark.slow

SLOTS, RPM, TPM = 4, 40, 6000
LIMITS = {"*": {"rpm": RPM, "tpm": TPM, "rpd": None}, "account": {"usd_per_10_minutes": 10}}
LOWER = 6
"""The requests a minute of a model that the account turns out to have."""

BUDGET = 0.05
"""USD. A short chat reserves 0.02, and costs a hundredth of it."""


@pytest.fixture(scope="module")
def simulator():
    gemini = GeminiOptions(first_seconds=0.1, seconds=0.2, chunks=4, rpm=10**6, tpm=10**8)
    with running(Options(gemini=gemini, seed=1)) as found:
        yield found


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def urls(request, simulator, tmp_path_factory):
    """The addresses of the processes, each as often as the others."""
    data = tmp_path_factory.mktemp("data")
    settings = {
        "REPLICATE_BASE_URL": simulator.url,
        "GEMINI_BASE_URL": simulator.url,
        "GEMINI_API_KEY": "AQ.server",
        "GEMINI_CONCURRENCY_LIMIT": SLOTS,
        "GEMINI_LIMITS": json.dumps(LIMITS),
        "DATA_DIR": data,
    }
    with fleet_on(request.param, data, **settings) as fleet:
        yield cycle(fleet.urls())


@pytest.fixture(autouse=True)
def fresh(simulator):
    simulator.gemini.reset()


def chat(url, prompt, headers=ADMIN, **fields):
    return requests.post(f"{url}/chat", json={"prompt": prompt, **fields}, headers=headers, timeout=150)


def at_once(urls, count, call):
    """The results of `call` with the address of a process and a number, so many times in parallel."""
    with ThreadPoolExecutor(count) as callers:
        return list(callers.map(call, islice(urls, count), range(count)))


def streams(simulator):
    return simulator.gemini.counts().requests.get("stream", 0)


def test_a_key_that_is_sent_to_all_processes_at_once_is_one_call(urls, simulator):
    headers = {**ADMIN, "Idempotency-Key": f"once {random.random()}".replace(" ", "-")}
    answers = at_once(urls, 12, lambda url, _: chat(url, "Once", headers))

    assert [200] * 12 == [each.status_code for each in answers]
    assert 1 == len({each.json()["id"] for each in answers}) == streams(simulator)


def budgeted(urls):
    """The header of a new key with `BUDGET`."""
    made = requests.post(
        f"{next(urls)}/keys",
        json={"name": f"shop-{random.randrange(10**9)}", "budget_usd": BUDGET, "budget_period": "day"},
        headers=ADMIN,
        timeout=30,
    ).json()
    return {"X-API-Key": made["key"]}


def test_a_budget_holds_over_all_processes(urls, simulator):
    by = budgeted(urls)
    answers = at_once(urls, 12, lambda url, number: chat(url, f"Budget {number}", by))

    statuses = sorted(each.status_code for each in answers)
    assert {200, 402} == {*statuses}
    assert statuses.count(200) == streams(simulator)
    spent = sum(each.json()["cost_usd"] for each in answers if each.status_code == 200)
    assert round(spent * 1e6) == simulator.gemini.counts().billed_micro_usd
    assert spent <= BUDGET


def test_a_budget_has_the_cost_of_answers_and_what_was_reserved_for_lost_ones(urls, simulator):
    by, calls = budgeted(urls), iter(range(100))
    for url in islice(urls, 6):  # reserved together they would be above the budget
        assert 200 == chat(url, f"Answered {next(calls)}", by).status_code
    for url in islice(urls, 2):
        lost = chat(url, f"Lost {next(calls)} [[lost]]", by)
        assert "outcome_unknown" == lost.json()["code"], lost.text

    refused = [chat(url, f"Refused {next(calls)}", by) for url in islice(urls, 3)]
    assert [402] * 3 == [each.status_code for each in refused]
    assert 8 == streams(simulator)
    assert simulator.gemini.counts().billed_micro_usd <= BUDGET * 1e6


@pytest.mark.long
def test_a_lower_limit_of_the_upstream_holds_for_all_processes_and_each_shows_it(urls, simulator):
    model = "gemini-3.6-flash"
    simulator.gemini.project("AQ.server", rpm=LOWER)
    answers = at_once(urls, LOWER + 4, lambda url, number: chat(url, f"Lower {number}", model=model))

    assert [200] * (LOWER + 4) == [each.status_code for each in answers]
    counts = simulator.gemini.counts()
    refused = sum(counts.limits_hit.values())
    assert 1 <= refused <= SLOTS  # those that were sent before the first refusal came
    assert counts.requests_peak_per_minute <= LOWER + refused
    for url in islice(urls, 3):
        gemini = requests.get(f"{url}/status", headers=ADMIN, timeout=30).json()["gemini"]
        lane = gemini["models"][model]
        assert (["rpm"], LOWER) == (lane["lowered"], lane["requests_per_minute"]["limit"])


def test_the_limits_of_the_account_hold_over_all_processes(urls, simulator):
    prompts = [f"{number} " + "word " * (100 if number % 5 == 0 else 5) for number in range(30)]
    answers = at_once(urls, 30, lambda url, number: chat(url, prompts[number]))

    assert [200] * 30 == [each.status_code for each in answers]
    counts = simulator.gemini.counts()
    assert counts.in_flight_peak <= SLOTS
    assert counts.requests_peak_per_minute <= RPM
    assert counts.tokens_peak_per_minute <= TPM
    assert not counts.limits_hit
