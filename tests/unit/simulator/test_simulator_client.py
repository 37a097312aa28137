"""The official client cannot tell this Replicate from the real one."""

import io

import pytest
from replicate.exceptions import ModelError, ReplicateError

FLUX_DEV = "black-forest-labs/flux-dev"


def test_the_client_creates_and_reloads(official):
    made = official.models.predictions.create(FLUX_DEV, {"prompt": "a fox"})
    assert made.status == "starting"
    held = official.models.predictions.create(FLUX_DEV, {"prompt": "a fox"}, wait=5)
    assert held.status == "succeeded"
    made.reload()
    assert made.status == "succeeded"
    assert made.progress.percentage == 1.0


def test_the_client_cancels(official):
    made = official.models.predictions.create(FLUX_DEV, {"prompt": "[[hang]]"})
    made.cancel()
    made.reload()
    assert made.status == "canceled"


def test_the_client_runs_a_model(sim, official):
    output = official.run("black-forest-labs/flux-1.1-pro", input={"prompt": "a fox"})
    assert output.startswith(f"{sim.url}/delivery/")


def test_the_client_runs_a_version(official):
    outputs = official.run(f"someone/lora:{'ab' * 32}", input={"prompt": "a fox"}, wait=5)
    assert len(outputs) == 1


def test_the_client_raises_what_a_prediction_failed_of(official):
    with pytest.raises(ModelError, match="the fox ran away"):
        official.run(FLUX_DEV, input={"prompt": "[[fail=the fox ran away]]"})


def test_the_client_raises_a_refusal_with_its_detail(official):
    with pytest.raises(ReplicateError, match=r"input\.num_outputs") as caught:
        official.models.predictions.create(FLUX_DEV, {"prompt": "x", "num_outputs": 9})
    assert caught.value.status == 422


def test_the_client_pages_through_the_list(official):
    for _ in range(101):
        official.models.predictions.create(FLUX_DEV, {"prompt": "a fox"})
    first = official.predictions.list()
    second = official.predictions.list(first.next)
    assert (len(first.results), len(second.results)) == (100, 1)


def test_the_client_uploads_a_file(official):
    made = official.files.create(io.BytesIO(b"12345"), filename="cat.png")
    assert official.files.get(made.id).size == 5


def test_the_client_reads_a_model_and_its_account(official):
    model = official.models.get("qwen/qwen-image")
    schemas = model.latest_version.openapi_schema["components"]["schemas"]
    assert "prompt" in schemas["Input"]["properties"]
    assert official.accounts.current().type == "organization"
    assert official.webhooks.default.secret().key.startswith("whsec_")


def test_the_clients_hidden_retries_are_seen_on_this_side(sim, official):
    sim.order(on="account", times=2, status=503, headers={"Retry-After": "0"})
    official.accounts.current()
    assert sim.counts().requests == {"account": 3}
