"""Overlapping batches with keys of items, at all processes of a ledger, of which some are killed: each item once."""

import random
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from harness.fleet import ADMIN, running_fleet
from harness.ledger_file import LedgerFile
from simulator import Options, running

pytestmark = pytest.mark.slow

KEYS = [f"item/{number}" for number in range(60)]
CLIENTS, ROUNDS, KILLS = 4, 2, 2
OPTIONS = Options(
    prediction_seconds=0.3, jitter=0.8, answer_delay=(0.0, 0.05), creations_per_minute=60_000, seed=1
)
SETTINGS = {
    "REPLICATE_CONCURRENT_LIMIT": 30,
    "REPLICATE_REQUESTS_PER_MINUTE": 10_000,
    "PROCESS_TTL": 2,
}


class Client:
    """Sends batches of some of the items in any order, each until it has its results."""

    def __init__(self, fleet, number) -> None:
        self._fleet = fleet
        self._chance = random.Random(number)
        self.shown: list[tuple[str, str, str]] = []
        """The key, id and status of each item in each answer."""
        self.errors: list[str] = []

    def run(self) -> None:
        for _ in range(ROUNDS):
            names = self._chance.sample(KEYS, 25)
            items = [
                {"model_name": "flux-dev", "prompt": f"Picture of {name}", "idempotency_key": name}
                for name in names
            ]
            if self._chance.random() < 0.4:
                self._cancel(items)
            self._collect(names, items)

    def _collect(self, names, items) -> None:
        while True:
            answer = self._send("POST", "/generate-batch", items)
            if answer is None or answer.status_code >= 500:
                time.sleep(0.2)
                continue
            if answer.status_code != 200:
                self.errors.append(answer.text)
                return
            body = answer.json()
            for name, each in zip(names, body["results"], strict=True):
                self.shown.append((name, each["id"], each["status"]))
            return

    def _cancel(self, items) -> None:
        """Send the items beside one without a key, without waiting, and cancel that batch. Those with keys that are
        its own would be cancelled, so it has only some that are there."""
        known = {name for name, _, _ in self.shown}
        some = [each for each in items if each["idempotency_key"] in known]
        own = {"model_name": "flux-dev", "prompt": "[[slow=9]] To be cancelled"}
        answer = self._send("POST", "/generate-batch", [*some, own], Prefer="respond-async")
        if answer is not None and answer.status_code == 202:
            self._send("DELETE", f"/batches/{answer.json()['id']}", None)

    def _send(self, method, path, items, **headers):
        try:
            return requests.request(
                method,
                self._chance.choice(self._fleet.urls() or ["http://127.0.0.1:9"]) + path,
                json=None if items is None else {"requests": items},
                headers=ADMIN | headers,
                timeout=60,
            )
        except requests.RequestException:
            return None


def run(ledger, size, kill, **settings):
    with (
        running(OPTIONS) as simulator,
        running_fleet(size, ledger, REPLICATE_BASE_URL=simulator.url, **SETTINGS, **settings) as fleet,
    ):
        clients = [Client(fleet, number) for number in range(CLIENTS)]
        with ThreadPoolExecutor(CLIENTS) as pool:
            sent = [pool.submit(each.run) for each in clients]
            kill(fleet)
            for each in sent:
                each.result()
        made = Counter(
            prediction.input["prompt"]
            for prediction in simulator.predictions()
            if "slow" not in str(prediction.input)
        )
        rows = ledger.execute("SELECT prompt, id FROM generations WHERE prompt LIKE 'Picture of%'")

    shown = defaultdict(set)
    for each in clients:
        assert [] == each.errors
        for name, work_id, status in each.shown:
            shown[name].add((work_id, status))
    assert {1} == {len(each) for each in shown.values()}, "each key has one generation in all answers"
    assert {"succeeded"} == {status for each in shown.values() for _, status in each}
    assert {} == {prompt: number for prompt, number in made.items() if number > 1}
    generations = Counter(prompt for prompt, _ in rows)
    assert {} == {prompt: number for prompt, number in generations.items() if number > 1}
    assert {f"Picture of {name}" for name in shown} == {*generations}


def kill_one(fleet):
    chance, [member] = random.Random(1), fleet.members
    time.sleep(chance.uniform(0.3, 0.8))
    member.kill()
    fleet.start()


def kill_some(fleet):
    fleet.kill_at_random(KILLS, interval=(0.3, 0.8))


def test_overlapping_batches_of_one_process_that_is_killed_make_each_item_once(tmp_path):
    run(LedgerFile(tmp_path), 1, kill_one, DATA_DIR=tmp_path)


def test_overlapping_batches_of_three_processes_of_which_some_are_killed_make_each_item_once(own_server):
    run(own_server, 3, kill_some)
