"""The door for Replicate's clients in real processes: one on SQLite, and three on PostgreSQL."""

import io
import time
from functools import partial

import pytest
import replicate
import requests

from harness.fleet import ADMIN
from harness.service_process import until
from media.formats import black_png
from simulator import Options, running
from tests.support.fleets import fleet_on

pytestmark = pytest.mark.slow

FLUX_DEV = "black-forest-labs/flux-dev"
FOX = {"prompt": "[[slow=0]] a fox"}
HANGING = {"prompt": "[[hang]] a fox"}

KEYS_READ = 2.0
"""Seconds after which every process knows a new key."""


@pytest.fixture
def simulator():
    with running(Options(prediction_seconds=0.05, jitter=0.0)) as started:
        yield started


@pytest.fixture(params=["sqlite", "postgresql"])
def fleet(request, simulator, tmp_path):
    settings = {
        "REPLICATE_BASE_URL": simulator.url,
        "DATA_DIR": tmp_path / "data",
        "FILES_TTL": 3600,
        "FILES_DIR": tmp_path / "files",
        "FILES_SHARED": 1,
    }
    if request.param == "postgresql":
        settings["PUBLIC_URL"] = "http://127.0.0.1:5000"
    with fleet_on(request.param, tmp_path, **settings) as started:
        yield started


@pytest.fixture
def connect(fleet):
    """Makes an official client of one named key for a process."""
    url = f"{fleet.members[0].running.url}/keys"
    made = requests.post(url, json={"name": "shop", "role": "caller"}, headers=ADMIN, timeout=60)
    time.sleep(KEYS_READ)
    clients = []

    def client(member):
        address = f"{member.running.url}/replicate"
        clients.append(replicate.Client(api_token=made.json()["key"], base_url=address))
        return clients[-1]

    yield client
    for each in clients:
        each._client.close()  # noqa: SLF001 - the official client has no close


@pytest.fixture
def clients(fleet, connect):
    """Three clients, each of another process if there are so many."""
    return [connect(fleet.members[number % len(fleet.members)]) for number in range(3)]


def status(client, prediction_id):
    return client.predictions.get(prediction_id).status


def test_a_prediction_is_created_by_one_process_and_shown_listed_and_cancelled_by_others(simulator, clients):
    first, second, third = clients
    ended = first.models.predictions.create(FLUX_DEV, FOX)
    until(lambda: status(second, ended.id) == "succeeded")
    [output] = third.predictions.get(ended.id).output
    assert output.startswith("data:image/webp;base64,")

    hanging = first.models.predictions.create(FLUX_DEV, HANGING)
    until(lambda: status(third, hanging.id) == "processing")
    assert [hanging.id, ended.id] == [each.id for each in second.predictions.list()]
    assert "canceled" == second.predictions.cancel(hanging.id).status

    assert ["canceled"] * 3 == [status(each, hanging.id) for each in clients]
    assert HANGING == third.predictions.get(hanging.id).input
    until(lambda: "canceled" in [each.status for each in simulator.predictions()])
    assert 2 == len(simulator.predictions())


def test_a_file_of_one_process_is_an_input_at_another(simulator, clients):
    first, second, third = clients
    picture = black_png(64, 64) + b"\0" * 300_000
    file = first.files.create(io.BytesIO(picture), filename="cat.png")

    assert [file.id] == [each.id for each in second.files.list()]
    output = third.run(FLUX_DEV, input={**FOX, "image": file.urls["get"]})

    assert output[0].read()
    assert [len(picture)] == [each.size for each in simulator.uploads()]
    assert second.files.delete(file.id)
    assert [] == first.files.list()


def test_predictions_go_on_when_their_process_is_killed(fleet, simulator, clients, connect):
    made = [clients[0].models.predictions.create(FLUX_DEV, HANGING | {"seed": number}) for number in range(3)]
    until(lambda: len(simulator.predictions()) == 3)

    fleet.members[0].kill()
    if len(fleet.members) == 1:
        fleet.start()
    found = connect(fleet.members[-1])
    simulator.finish()

    for each in made:
        until(partial(lambda target: status(found, target) == "succeeded", each.id), timeout=120)
    assert [each.input for each in made] == [found.predictions.get(each.id).input for each in made]
    assert 3 == len(simulator.predictions())
