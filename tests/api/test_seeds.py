"""The seed in the answer of a generation: what the model has used, where that is known."""

import httpx
import pytest

from tests.support.api_client import picture
from tests.support.callers import ADMIN, SERVER_TOKEN


def generate(client, **fields):
    made = client.post("/generate", json=picture(**fields), headers=ADMIN).json
    assert made == client.get(f"/generations/{made['id']}", headers=ADMIN).json
    return made


def logs_of(simulator, made):
    url = f"{simulator.url}/v1/predictions/{made['prediction_id']}"
    return httpx.get(url, headers={"Authorization": f"Bearer {SERVER_TOKEN}"}).json()["logs"]


def test_the_seed_that_the_model_has_drawn_is_in_the_answer(client, simulator):
    made = generate(client)

    assert f"Using seed: {made['seed']}" in logs_of(simulator, made).splitlines()


@pytest.mark.parametrize("drop", [[], ["logs"]])
@pytest.mark.parametrize("seed", [0, 7])
def test_the_seed_that_was_sent_is_in_the_answer(client, simulator, seed, drop):
    if drop:
        simulator.inject(on="any", times=99, drop=drop)

    assert seed == generate(client, seed=seed)["seed"]


@pytest.mark.parametrize("sent", [{}, {"seed": -1}])
def test_a_seed_that_is_not_known_is_not_in_the_answer(client, simulator, sent):
    simulator.inject(on="any", times=99, drop=["logs"])

    assert "seed" not in generate(client, **sent)
