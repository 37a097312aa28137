"""Keys with budgets over every door, with fallbacks, cancellations, lost answers, kills and 200 parallel requests.

Replicate never bills more for a key than its budget, all that it bills is in the usage, and no key sees the work of
another.
"""

import json
import random
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import pytest
import requests

from harness.fleet import ADMIN, running_fleet
from harness.ledger_file import LedgerFile
from harness.service_process import until
from simulator import Options, running

pytestmark = pytest.mark.slow

A_MINUTE = 6000
ROUNDING = 1e-6
"""USD."""

PATIENCE = 15
"""Seconds until a caller disconnects."""

IN_DOUBT = 5
"""Seconds after which a creation without an answer is lost."""

BUDGETS = [0.02, 0.1, 0.25, 0.5, 1.0]
"""USD a month of each key."""

REQUESTS = 400
AT_ONCE = 200
KILLS = {40: 2, 110: 3}
"""The seed of each kill, by the number of creations before it. A kill amid the first creations would leave all slots to
creations that are lost, and it takes up to 90 seconds to prove that one never arrived."""

FAULTS = [("create", {"reset": "after"}), ("create", {"status": 500}), ("get", {"reset": "before"})]
OPTIONS = Options(
    prediction_seconds=0.3,
    jitter=0.8,
    answer_delay=(0.0, 0.1),
    creations_per_minute=A_MINUTE,
    others_per_minute=60_000,
    seed=1,
)
SETTINGS = {
    "REPLICATE_CONCURRENT_LIMIT": 40,
    "REPLICATE_REQUESTS_PER_MINUTE": A_MINUTE,
    "REPLICATE_OTHER_REQUESTS_PER_MINUTE": 60_000,
    "PROCESS_TTL": 2,
    "FILES_TTL": 600,
}
LISTS = ("/generations?limit=100", "/batches", "/usage?group_by=key", "/replicate/v1/predictions")
ENDINGS = [
    "",
    "",
    "",
    "[[fail]]",
    "[[transient]]",
    "[[nsfw]]",
    "[[slow=2]]",
    "[[only=black-forest-labs/flux-dev]] [[fail]]",
]


class Key:
    """A named key, with the statuses of its responses, and the ids of its work."""

    def __init__(self, name, made):
        self.name = name
        self.id = made["id"]
        self.budget = made["budget_usd"]
        self.headers = {"Authorization": f"Bearer {made['key']}"}
        self.statuses = defaultdict(int)
        self.ids = set()

    def prompt(self, chance):
        return f"{chance.choice(ENDINGS)} a picture of {self.name}, number {chance.randrange(10**9)}"


def make_keys(url):
    keys = []
    for number, budget in enumerate(BUDGETS):
        name = f"team-{number}-"
        body = {"name": name, "role": "caller", "budget_usd": budget, "budget_period": "month"}
        answer = requests.post(f"{url}/keys", json=body, headers=ADMIN, timeout=60)
        assert 201 == answer.status_code, answer.text
        keys.append(Key(name, answer.json()))
    return keys


def generate(key, url, chance):
    body = {"model_name": chance.choice(["flux-schnell", "flux-dev"]), "prompt": key.prompt(chance)}
    if chance.random() < 0.4:
        body["fallback"] = chance.choice([True, ["flux-dev", "qwen-image"]])
    headers = dict(key.headers)
    if chance.random() < 0.5:
        headers["Prefer"] = chance.choice(["respond-async", "wait=1"])
    if chance.random() < 0.5:
        headers["Idempotency-Key"] = str(chance.randrange(10**9))
        with suppress(requests.RequestException):  # a caller who repeats its request at once
            requests.post(f"{url}/generate", json=body, headers=headers, timeout=PATIENCE)
    return requests.post(f"{url}/generate", json=body, headers=headers, timeout=PATIENCE)


def generate_batch(key, url, chance):
    prompts = [key.prompt(chance) for _ in range(chance.randint(2, 5))]
    body = {"model_name": "flux-schnell", "prompts": prompts}
    headers = key.headers | {"Prefer": "respond-async"}
    return requests.post(f"{url}/generate-batch", json=body, headers=headers, timeout=PATIENCE)


def through_openai(key, url, chance):
    body = {
        "model": "flux-schnell",
        "prompt": key.prompt(chance),
        "n": chance.randint(1, 3),
        "size": "1024x1024",
    }
    return requests.post(f"{url}/v1/images/generations", json=body, headers=key.headers, timeout=PATIENCE)


def through_replicate(key, url, chance):
    path = "/replicate/v1/models/black-forest-labs/flux-dev/predictions"
    body = {"input": {"prompt": key.prompt(chance)}}
    headers = key.headers | ({"Prefer": "wait=2"} if chance.random() < 0.5 else {})
    return requests.post(f"{url}{path}", json=body, headers=headers, timeout=PATIENCE)


WAYS = [generate, generate_batch, through_openai, through_replicate]


def one_request(key, fleet, number):
    """Send one request by a random door, and cancel some of its work. A caller who loses its connection tries again."""
    chance = random.Random(number)
    for _ in range(100):
        try:
            url = chance.choice(fleet.urls())
            answer = chance.choice(WAYS)(key, url, chance)
        except requests.ReadTimeout:
            key.statuses["disconnected"] += 1
            return
        except (requests.RequestException, IndexError):
            key.statuses["lost"] += 1
            time.sleep(0.3)
            continue
        key.statuses[answer.status_code] += 1
        if answer.ok and (work := answer.json().get("id")):
            key.ids.add(work)
            if chance.random() < 0.15:
                cancel(key, url, work)
        return


def cancel(key, url, work):
    with suppress(requests.RequestException):
        status(url, path_of(work), key.headers, "DELETE")


def billed(predictions, keys):
    """USD by the name of the key."""
    found = dict.fromkeys([each.name for each in keys], 0.0)
    for each in predictions:
        [owner] = [name for name in found if name in str(each.input.get("prompt"))]
        found[owner] += each.billed_usd
    return found


def shown(url, path, by):
    answer = requests.get(f"{url}{path}", headers=by, timeout=60)
    assert 200 == answer.status_code, answer.text
    return answer.json()


def status(url, path, by, method="GET"):
    return requests.request(method, f"{url}{path}", headers=by, timeout=60).status_code


def path_of(work):
    return f"/{'batches' if work.startswith('batch_') else 'generations'}/{work}"


def check_views(url, keys):
    """Each key sees its own work and none of another."""
    for key in keys:
        others = [each for each in keys if each is not key]
        for path in LISTS:
            text = json.dumps(shown(url, path, key.headers))
            assert not [each.name for each in others if each.name in text], path
        for work in [work for other in others for work in list(other.ids)[:3]]:
            assert 404 == status(url, path_of(work), key.headers)
            assert 404 == status(url, path_of(work), key.headers, "DELETE")
            assert 404 == status(url, f"/replicate/v1/predictions/{work}", key.headers)
        for path in ("/keys", "/audit", "/metrics", f"/keys/{others[0].id}"):
            assert 403 == status(url, path, key.headers), path


def has_created(simulator, number):
    return simulator.counts().creations_accepted >= number


def is_settled(simulator, ledger):
    """Whether each prediction is on record, and each generation has ended unless its creation was lost before it
    arrived. To prove that may take 90 seconds."""
    time.sleep(0.2)  # each look opens a connection
    made = {each.id for each in simulator.predictions()}
    known = ledger.execute("SELECT prediction_id FROM attempts WHERE prediction_id IS NOT NULL")
    unfinished = ledger.execute(
        "SELECT id FROM generations WHERE ended_at IS NULL AND NOT EXISTS (SELECT 1 FROM attempts WHERE "
        f"generation_id = id AND open AND prediction_id IS NULL AND submitted_at < {time.time() - IN_DOUBT})"
    )
    return not unfinished and made <= {each for (each,) in known}


def check_bill(simulator, ledger, keys, url):
    """No key is billed above its budget, and all that was billed for work that has ended is in the usage. The order of
    the readings matters, since work may end meanwhile."""
    made = simulator.predictions()
    unfinished = {
        prompt for (prompt,) in ledger.execute("SELECT prompt FROM generations WHERE ended_at IS NULL")
    }
    ended = [each for each in made if each.input["prompt"] not in unfinished]
    costs = dict(
        ledger.execute("SELECT prediction_id, cost_usd FROM attempts WHERE prediction_id IS NOT NULL")
    )
    usage = shown(url, "/usage?group_by=key", ADMIN)["usage"]
    counted = {each["key"]["name"]: each["usd"] for each in usage}
    assert not [each for each in ended if each.billed_usd > costs.get(each.id, 0.0) + ROUNDING]
    bill, least = billed(made, keys), billed(ended, keys)
    for key in keys:
        assert bill[key.name] <= key.budget + ROUNDING
        assert least[key.name] - ROUNDING <= counted.get(key.name, 0.0) <= key.budget + ROUNDING
    assert sum(least.values()) > 0


def run(ledger, size, kill, data):
    settings = {"DATA_DIR": data, "FILES_DIR": data / "files"}
    with (
        running(OPTIONS) as simulator,
        running_fleet(size, ledger, REPLICATE_BASE_URL=simulator.url, **SETTINGS, **settings) as fleet,
    ):
        keys = make_keys(fleet.urls()[0])
        for on, fault in FAULTS:
            simulator.inject(on=on, times=5, after=60, **fault)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            sent = [pool.submit(one_request, keys[each % len(keys)], fleet, each) for each in range(REQUESTS)]
            for creations, seed in KILLS.items():
                until(partial(has_created, simulator, creations), timeout=180)
                kill(fleet, seed)
            fleet.start()
            for each in sent:
                each.result()
        until(lambda: is_settled(simulator, ledger), timeout=180)
        assert all(each.statuses[401] == 0 for each in keys)
        assert sum(each.statuses[402] for each in keys) > 0
        url = fleet.urls()[0]
        check_bill(simulator, ledger, keys, url)
        check_views(url, keys)


def kill_one(fleet, _seed):
    fleet.members[0].kill()
    fleet.start()


def kill_some(fleet, seed):
    fleet.kill_at_random(1, interval=(0.0, 0.2), seed=seed)


@pytest.mark.long
def test_no_key_is_billed_above_its_budget_on_one_process(tmp_path):
    run(LedgerFile(tmp_path), 1, kill_one, tmp_path)


@pytest.mark.long
def test_no_key_is_billed_above_its_budget_on_three_processes(own_server, tmp_path):
    run(own_server, 3, kill_some, tmp_path)
