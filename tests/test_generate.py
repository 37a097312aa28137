"""`POST /generate`, end to end."""

from conftest import ADMIN, PICTURE, SERVER_TOKEN, USER, USER_TOKEN


def test_a_generation_is_answered_with_what_replicate_made(client, simulator):
    answer = client.post("/generate", json=PICTURE, headers=ADMIN)

    assert answer.status_code == 200
    (prediction,) = simulator.predictions()
    assert answer.json["success"] is True
    assert answer.json["output"] == list(prediction.output)
    assert answer.json["prediction_id"] == prediction.id
    assert answer.json["model_name"] == "black-forest-labs/flux-dev"
    assert answer.json["requested_model"] == "flux-dev"


def test_each_door_pays_with_its_own_token(client, simulator):
    client.post("/generate", json=PICTURE, headers=ADMIN)
    client.post("/generate", json=PICTURE, headers=USER)

    assert [SERVER_TOKEN, USER_TOKEN] == [made.token for made in simulator.predictions()]
