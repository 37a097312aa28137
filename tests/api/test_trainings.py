"""Trainings over HTTP: from the images to the new model, its weights and its cost."""

import json
from itertools import accumulate

import pytest

from harness.service_process import until
from tests.support.callers import ADMIN, SERVER_TOKEN, USER
from tests.support.training_calls import OSTRIS, train, trained, training, zip_of
from tests.support.zips import image

pytestmark = pytest.mark.every_database

H100 = 0.001525
SIMULATED = {"REPLICATE_SIMULATE": "1"}


@pytest.fixture
def client(make_app):
    return make_app(**SIMULATED).test_client()


def test_a_training_is_accepted_at_once_and_makes_a_model(client, simulator):
    answer = train(client, **{"input.steps": "20"})
    assert 202 == answer.status_code
    assert f"/trainings/{answer.json['id']}" == answer.headers["Location"]

    body = trained(client, answer.json["id"])
    [made] = simulator.trainings()
    assert ("succeeded", True, OSTRIS, "TOK") == tuple(
        body[name] for name in ("status", "success", "trainer", "trigger_word")
    )
    assert body["model"] == made.output["version"]
    assert body["training_id"] == made.id
    assert body["destination"] == made.destination
    assert {"steps": 20} == body["input"]
    assert (6, 6) == (body["images"], body["captions"])
    assert made.input == {"steps": 20, "trigger_word": "TOK", "input_images": made.url}


def test_the_word_of_a_trainer_that_gets_none_is_known(client):
    body = trained(client, train(client, trigger_word=None).json["id"])
    assert ("TOK", {}) == (body["trigger_word"], body["input"])
    other = train(client, trainer="qwen/qwen-image-lora-trainer", trigger_word=None, dry_run=True)
    assert other.json["trigger_word"] is None


def test_images_as_parts_of_a_form_are_zipped_here(client, simulator):
    files = [("a.jpg", image()), ("b.png", image("PNG")), ("a.txt", b"a dog")]
    body = trained(client, train(client, *files).json["id"])
    assert ("succeeded", 2, 1) == (body["status"], body["images"], body["captions"])
    assert any("2" in each for each in body["warnings"])  # fewer than a trainer recommends
    assert 1 == simulator.counts().requests["train"]


def test_the_new_model_runs_at_once_and_its_word_is_known(client):
    body = trained(client, train(client).json["id"])
    name, _, version = body["model"].partition(":")
    for model in (name, body["model"]):
        answer = client.post(
            "/generate", json={"model_name": model, "input": {"prompt": "a dog"}}, headers=ADMIN
        )
        assert (200, version) == (answer.status_code, answer.json["version"])
        assert any("TOK" in each for each in answer.json["warnings"])
    silent = client.post(
        "/generate", json={"model_name": name, "input": {"prompt": "a TOK dog"}}, headers=ADMIN
    )
    assert "warnings" not in silent.json


def test_a_model_that_was_missing_or_older_is_known_at_once(client):
    first = trained(client, train(client).json["id"])
    name = first["destination"]
    generate = {"model_name": name, "input": {"prompt": "a TOK"}}
    assert first["model"].endswith(client.post("/generate", json=generate, headers=ADMIN).json["version"])
    second = trained(client, train(client).json["id"])
    assert second["model"] != first["model"]
    assert second["model"].endswith(client.post("/generate", json=generate, headers=ADMIN).json["version"])


def test_weights_are_kept_until_they_are_deleted(client):
    target = train(client).json["id"]
    body = trained(client, target)
    path = body["weights"].removeprefix("http://localhost")
    with client.get(path, headers=ADMIN) as kept:
        assert 200 == kept.status_code
        assert b"safetensors" in kept.data
    assert 404 == client.get(path, headers=USER).status_code
    assert 204 == client.delete(f"/trainings/{target}/weights", headers=ADMIN).status_code
    assert training(client, target)["weights"] is None
    assert 404 == client.get(path, headers=ADMIN).status_code


def test_the_zip_is_deleted_there_and_here(client, simulator, tmp_path):
    trained(client, train(client).json["id"])
    assert [] == simulator.uploads()
    until(lambda: not [each for each in (tmp_path / "uploads").rglob("*") if each.is_file()])


def test_a_training_costs_what_it_ran_and_counts_by_itself(client, simulator):
    body = trained(client, train(client).json["id"])
    [made] = simulator.trainings()
    assert body["cost_usd"] == pytest.approx(made.billed_usd, abs=1e-5)
    total = client.get("/usage", headers=ADMIN).json["total"]
    assert (1, body["cost_usd"]) == (total["trainings"], total["training_usd"])


def test_a_failed_training_is_paid_and_not_begun_again(client, simulator):
    body = trained(client, train(client, trigger_word="[[fail]]").json["id"])
    assert ("failed", "generation_failed") == (body["status"], body["error"]["code"])
    assert 1 == len(simulator.trainings())
    assert body["cost_usd"] == pytest.approx(simulator.trainings()[0].billed_usd, abs=1e-5)


def test_a_failure_that_passes_is_not_begun_again_either(client, simulator):
    body = trained(client, train(client, trigger_word="[[transient]]").json["id"])
    assert "failed" == body["status"]
    assert 1 == len(simulator.trainings())


def test_a_cancelled_training_ends_at_replicate(client, simulator):
    target = train(client, trigger_word="[[hang]]").json["id"]
    until(lambda: training(client, target)["status"] == "running")
    answer = client.delete(f"/trainings/{target}", headers=ADMIN)
    assert 200 == answer.status_code
    assert "canceled" == trained(client, target)["status"]
    assert ["canceled"] == [each.status for each in simulator.trainings()]
    assert [] == simulator.uploads()


def test_the_timeout_bounds_the_cost(client):
    target = train(client, trigger_word="[[hang]]", timeout=60).json["id"]
    until(lambda: training(client, target)["status"] == "running")
    body = training(client, target)
    assert body["cost_bound_usd"] == pytest.approx(60 * H100)


def test_trainings_are_listed_by_themselves(client):
    target = train(client).json["id"]
    picture = client.post("/generate", json={"model_name": "flux-dev", "prompt": "a"}, headers=ADMIN).json[
        "id"
    ]
    listed = client.get("/trainings", headers=ADMIN).json["trainings"]
    assert [target] == [each["id"] for each in listed]
    assert [picture] == [each["id"] for each in client.get("/generations", headers=ADMIN).json["generations"]]
    assert 404 == client.get(f"/generations/{target}", headers=ADMIN).status_code
    assert 404 == client.get(f"/trainings/{picture}", headers=ADMIN).status_code


def test_the_same_key_is_the_same_training(client, simulator):
    key = {"Idempotency-Key": "k1"}
    first, second = train(client, headers=key), train(client, headers=key)
    assert (202, 202) == (first.status_code, second.status_code)
    assert first.json["id"] == second.json["id"]
    trained(client, first.json["id"])
    third = train(client, headers=key)
    assert (202, first.json["id"]) == (third.status_code, third.json["id"])
    assert 1 == len(simulator.trainings())
    assert 409 == train(client, headers=key, trigger_word="OTHER").status_code
    assert 409 == train(client, ("a.zip", zip_of(images=7)), headers=key).status_code


def test_only_so_many_run_at_once_and_pictures_pass_them(make_app, simulator):
    client = make_app(**SIMULATED, TRAININGS_AT_ONCE=2, REPLICATE_CONCURRENT_LIMIT=1).test_client()
    targets = [train(client, trigger_word=f"[[hang]] {number}").json["id"] for number in range(3)]
    until(lambda: len(simulator.trainings()) == 2)
    picture = client.post("/generate", json={"model_name": "flux-dev", "prompt": "a"}, headers=ADMIN)
    assert 200 == picture.status_code
    figures = client.get("/status", headers=ADMIN).json["trainings"]
    assert {"at_once": 2, "running": 2, "waiting": 1} == figures
    assert 2 == len(simulator.trainings())
    simulator.finish()
    until(lambda: len(simulator.trainings()) == 3)
    simulator.finish()
    assert all(trained(client, each)["status"] == "succeeded" for each in targets)


def test_trainings_take_no_place_of_creations(client, simulator):
    trained(client, train(client).json["id"])
    assert 0 == client.get("/status", headers=ADMIN).json["concurrency"]["current_rate_per_minute"]
    assert 0 == simulator.counts().creations_accepted


def test_a_dry_run_makes_no_requests_that_cost(client, simulator):
    answer = train(client, dry_run=True, **{"input.steps": "2000"})
    body = answer.json
    assert (200, True, False) == (answer.status_code, body["dry_run"], body["destination_exists"])
    assert body["cost_bound_usd"] == pytest.approx(7200 * H100)
    assert 0 < body["estimated_cost_usd"] < body["cost_bound_usd"]
    assert {"model_create", "file", "train"}.isdisjoint(simulator.counts().requests)


def test_secrets_go_to_replicate_and_nowhere_else(client, simulator, kept):
    secret = "hf_a_secret_of_the_caller"
    target = train(client, **{"input.hf_token": secret, "input.hf_repo_id": "me/dog"}).json["id"]
    body = trained(client, target)
    assert secret == simulator.trainings()[0].input["hf_token"]
    assert secret not in json.dumps(body) + kept()
    assert {"hf_repo_id": "me/dog"} == body["input"]


def test_a_user_trains_with_its_own_token(client, simulator):
    body = trained(client, train(client, by=USER).json["id"], by=USER)
    assert "succeeded" == body["status"]
    assert SERVER_TOKEN not in {each.token for each in simulator.uploads()}
    assert (
        404 == client.get(f"/trainings/{body['id']}", headers={"X-Replicate-API-Key": "r8_other"}).status_code
    )


def test_events_have_the_logs_in_pieces_and_a_progress_that_does_not_fall(make_app, simulator):
    client = make_app(**SIMULATED).test_client()
    target = train(client, trigger_word="[[slow=3]]").json["id"]
    with client.get(f"/trainings/{target}/events", headers=ADMIN) as stream:
        text = stream.get_data(as_text=True)
    events = [
        (name.removeprefix("event: "), json.loads(data.removeprefix("data: ")))
        for name, data in (each.split("\n")[:2] for each in text.split("\n\n") if each.startswith("event"))
    ]
    names = [name for name, _ in events]
    assert ("queued", "done") == (names[0], names[-1])
    shown = [data["progress"] for name, data in events if name == "progress"]
    assert shown == sorted(shown)
    assert all(each < 100 for each in shown)
    pieces = "".join(data["text"] for name, data in events if name == "logs")
    assert pieces.startswith("Extracted 12 files") or "Extracted" in pieces
    assert pieces.count("Extracted") == 1
    lengths = [len(data["text"]) for name, data in events if name == "logs"]
    assert [*accumulate(lengths)] == [data["end"] for name, data in events if name == "logs"]
