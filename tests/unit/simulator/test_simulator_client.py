"""The official client works with the simulator as with Replicate, and so it does through the service's own door."""

import io
from contextlib import contextmanager

import pytest
import replicate
from replicate.exceptions import ModelError, ReplicateError

from tests.support.callers import ADMIN_KEY
from tests.support.served_in_process import online
from tests.unit.simulator.creations import IMAGES, OSTRIS

FLUX_DEV = "black-forest-labs/flux-dev"
SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"


@contextmanager
def official_client(url, token):
    made = replicate.Client(api_token=token, base_url=url)
    yield made
    made._client.close()  # noqa: SLF001 - the official client has no close


@pytest.fixture
def direct(sim):
    """The official client of the simulator."""
    with official_client(sim.url, "r8_official") as made:
        yield made


@pytest.fixture(params=["directly", "through the door"])
def client(request, sim):
    """The official client of the simulator, or of the service before it."""
    if request.param == "directly":
        yield request.getfixturevalue("direct")
        return
    app = request.getfixturevalue("make_app")(REPLICATE_BASE_URL=sim.url, WEBHOOK_SECRET=SECRET)
    with online(app) as url, official_client(f"{url}/replicate", ADMIN_KEY) as made:
        made.poll_interval = 0.01
        yield made


def test_the_client_creates_and_reloads(client):
    made = client.models.predictions.create(FLUX_DEV, {"prompt": "a fox"})
    assert made.status == "starting"
    held = client.models.predictions.create(FLUX_DEV, {"prompt": "a fox"}, wait=5)
    assert held.status == "succeeded"
    made.wait()
    made.reload()
    assert made.status == "succeeded"
    assert len(made.output) == 1


def test_the_client_reads_the_progress(direct):
    made = direct.models.predictions.create(FLUX_DEV, {"prompt": "a fox"}, wait=5)
    assert made.progress.percentage == 1.0


def test_the_client_cancels(client):
    made = client.models.predictions.create(FLUX_DEV, {"prompt": "[[hang]]"})
    made.cancel()
    made.reload()
    assert made.status == "canceled"


def test_the_client_runs_a_model(sim, direct):
    output = direct.run("black-forest-labs/flux-1.1-pro", input={"prompt": "a fox"})
    assert output.startswith(f"{sim.url}/delivery/")


def test_the_client_runs_a_version(sim, client):
    version = sim.latest_version("acme/watercolor")
    outputs = client.run(f"acme/watercolor:{version}", input={"prompt": "a fox"}, wait=5)
    assert len(outputs) == 1


def test_the_client_raises_the_error_of_a_failed_prediction(client):
    with pytest.raises(ModelError, match="the fox ran away"):
        client.run(FLUX_DEV, input={"prompt": "[[fail=the fox ran away]]"})


def test_the_client_raises_a_refusal_with_its_detail(client):
    with pytest.raises(ReplicateError, match=r"input\.num_outputs") as caught:
        client.models.predictions.create(FLUX_DEV, {"prompt": "x", "num_outputs": 9})
    assert caught.value.status == 422


def test_the_client_pages_through_the_list(client):
    for _ in range(101):
        client.models.predictions.create(FLUX_DEV, {"prompt": "a fox"})
    first = client.predictions.list()
    second = client.predictions.list(first.next)
    assert (len(first.results), len(second.results)) == (100, 1)


def test_the_client_uploads_a_file(client):
    made = client.files.create(io.BytesIO(b"12345"), filename="cat.png")
    assert client.files.get(made.id).size == 5


def test_the_client_reads_a_model_and_its_account(client):
    model = client.models.get("qwen/qwen-image")
    schemas = model.latest_version.openapi_schema["components"]["schemas"]
    assert "prompt" in schemas["Input"]["properties"]
    assert client.accounts.current().type == "organization"
    assert client.webhooks.default.secret().key.startswith("whsec_")


def test_the_clients_hidden_retries_are_counted(sim, direct):
    sim.inject(on="account", times=2, status=503, headers={"Retry-After": "0"})
    direct.accounts.current()
    assert sim.counts().requests == {"account": 3}


def test_the_client_trains_lists_and_deletes(sim, direct):
    owner = direct.accounts.current().username
    model = direct.models.create(owner, "fox", visibility="private", hardware="gpu-t4")
    images = direct.files.create(io.BytesIO(IMAGES), filename="images.zip")
    made = direct.trainings.create(
        model=OSTRIS,
        version=sim.latest_version(OSTRIS),
        input={"input_images": images.urls["get"], "trigger_word": "[[slow=0.1]]"},
        destination=f"{owner}/fox",
    )
    sim.finish()
    made.reload()
    version = direct.models.get(f"{owner}/fox").latest_version.id

    assert (None, "succeeded") == (model.latest_version, made.status)
    assert f"{owner}/fox:{version}" == made.output["version"]
    assert [made.id] == [each.id for each in direct.trainings.list().results]
    assert 1 == len(direct.run(made.output["version"], input={"prompt": "a fox"}))
    assert direct.files.delete(images.id)


def test_the_client_cancels_a_training(sim, direct):
    owner = direct.accounts.current().username
    direct.models.create(owner, "fox", visibility="private", hardware="gpu-t4")
    made = direct.trainings.create(
        model=OSTRIS,
        version=sim.latest_version(OSTRIS),
        input={"trigger_word": "[[hang]]", "input_images": "https://example.com/images.zip"},
        destination=f"{owner}/fox",
    )
    made.cancel()

    assert "canceled" == direct.trainings.get(made.id).status
