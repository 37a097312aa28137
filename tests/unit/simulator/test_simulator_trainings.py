"""Trainings are created, followed and listed as at Replicate, and leave a version that runs."""

import re

import pytest
import requests

from tests.unit.simulator.creations import FAST, FLUX_DEV, IMAGES, OSTRIS, QWEN, SDXL, WATERCOLOR, zip_of

FIELDS = {
    *("id", "model", "version", "input", "logs", "output", "error", "status", "created_at", "started_at"),
    *("completed_at", "source", "metrics", "urls"),
}


@pytest.fixture
def images(caller):
    """The URL of an uploaded zip with three images."""
    return caller.upload(IMAGES)


def ended(caller, *, trainer=OSTRIS, destination=None, **inputs):
    """A training at its end."""
    return caller.training(caller.train(trainer, destination or caller.destination(), **inputs).json())


def test_a_creation_has_the_urls_of_a_prediction_and_later_answers_have_those_of_a_training(
    sim, caller, images
):
    answer = caller.train(OSTRIS, caller.destination(), input_images=images, trigger_word="[[hang]]")
    made = answer.json()
    later = caller.training(made, until="processing")

    assert (201, FIELDS) == (answer.status_code, made.keys())
    assert (OSTRIS, sim.latest_version(OSTRIS), "starting") == (
        made["model"],
        made["version"],
        made["status"],
    )
    assert f"{sim.url}/v1/predictions/{made['id']}/cancel" == made["urls"]["cancel"]
    assert f"{sim.url}/v1/trainings/{made['id']}" == later["urls"]["get"]
    assert 404 == caller.get(f"/v1/predictions/{made['id']}").status_code
    assert FIELDS == later.keys()


def test_a_success_names_the_new_version_and_its_weights(caller, images):
    destination = caller.destination()
    training = ended(caller, destination=destination, input_images=images)

    assert ("succeeded", None) == (training["status"], training["error"])
    assert re.fullmatch(rf"{destination}:[0-9a-f]{{64}}", training["output"]["version"])
    assert training["output"]["weights"].endswith("/trained_model.tar")
    assert {"predict_time", "total_time"} == training["metrics"].keys()


@pytest.mark.parametrize(
    ("trainer", "images_input", "known"),
    [
        (OSTRIS, "input_images", "extra_lora"),
        (FAST, "input_images", "extra_lora"),
        (QWEN, "dataset", "replicate_weights"),
        (SDXL, "input_images", "refine"),
    ],
)
def test_the_new_version_of_each_trainer_runs_and_puts_out_an_image(
    caller, images, trainer, images_input, known
):
    destination = caller.destination()
    before = caller.get(f"/v1/models/{destination}").json()
    training = ended(caller, trainer=trainer, destination=destination, **{images_input: images})
    version = training["output"]["version"]
    shown = caller.get(f"/v1/models/{destination}").json()["latest_version"]
    body = {"version": version, "input": {"prompt": "a fox"}}
    made = caller.post("/v1/predictions", json=body, headers={"Prefer": "wait"}).json()

    assert before["latest_version"] is None
    assert version == f"{destination}:{shown['id']}"
    schemas = shown["openapi_schema"]["components"]["schemas"]
    assert known in schemas["Input"]["properties"]
    assert "TrainingInput" not in schemas
    assert ("succeeded", 200) == (made["status"], requests.get(made["output"][0], timeout=20).status_code)


def test_each_training_adds_a_version_in_front_of_the_earlier_ones(caller, images):
    destination = caller.destination()
    versions = [
        ended(caller, destination=destination, input_images=images)["output"]["version"] for _ in range(2)
    ]

    shown = caller.get(f"/v1/models/{destination}/versions").json()["results"]
    assert versions[::-1] == [f"{destination}:{each['id']}" for each in shown]


@pytest.mark.parametrize("destination", ["acme/destination", "{me}/missing", "nonsense", WATERCOLOR, 7])
def test_a_destination_must_exist_in_the_account(sim, caller, destination):
    name = destination.format(me=caller.username) if isinstance(destination, str) else destination
    answer = caller.train(OSTRIS, name)

    expected = {"detail": "The specified training destination does not exist", "status": 404}
    assert (404, expected) == (answer.status_code, answer.json())
    assert [] == sim.trainings()


@pytest.mark.parametrize(
    ("trainer", "inputs", "problem"),
    [
        (OSTRIS, {"steps": 2}, "input.steps: Must be greater than or equal to 3"),
        (OSTRIS, {"steps": "many"}, "input.steps: Invalid type. Expected: integer, given: string"),
        (OSTRIS, {"lora_rank": 129}, "input.lora_rank: Must be less than or equal to 128"),
        (FAST, {}, "input: input_images is required"),
        (QWEN, {"dataset": "https://x.example/a.zip", "steps": 99}, "input.steps: Must be greater"),
        (SDXL, {"input_images": "https://x.example/a.zip", "max_train_steps": 0.5}, "input.max_train_steps"),
    ],
)
def test_an_input_is_checked_against_the_inputs_of_trainings(caller, trainer, inputs, problem):
    answer = caller.train(trainer, caller.destination(), **inputs)

    assert 422 == answer.status_code
    assert problem in answer.json()["detail"]


def test_unknown_inputs_are_ignored_and_secrets_are_not_shown(sim, caller, images):
    training = ended(caller, input_images=images, training_steps=5, hf_token="hf_secret")

    assert "succeeded" == training["status"]
    assert ("[REDACTED]", 5) == (training["input"]["hf_token"], training["input"]["training_steps"])
    assert "hf_secret" == sim.trainings()[0].input["hf_token"]


@pytest.mark.parametrize("also", [{"version": "x"}, {"stream": True}])
def test_an_unknown_field_of_the_body_is_refused(caller, also):
    answer = caller.train(OSTRIS, caller.destination(), body=also)

    assert 422 == answer.status_code
    assert "Additional property" in answer.json()["detail"]


def test_a_body_needs_a_destination_and_an_input(sim, caller):
    path = f"/v1/models/{OSTRIS}/versions/{sim.latest_version(OSTRIS)}/trainings"

    assert "- input is required\n- destination is required\n" == caller.post(path, json={}).json()["detail"]


def test_a_version_without_inputs_of_trainings_cannot_train(sim, caller):
    assert 422 == caller.train(FLUX_DEV, caller.destination()).status_code
    path = f"/v1/models/{OSTRIS}/versions/{sim.latest_version(FAST)}/trainings"
    assert 404 == caller.post(path, json={}).status_code


def test_a_training_is_cancelled_and_stays_so(caller, images):
    made = caller.train(OSTRIS, caller.destination(), input_images=images, trigger_word="[[hang]]").json()
    caller.training(made, until="processing")
    cancelled = caller.post(f"/v1/trainings/{made['id']}/cancel").json()

    assert ("canceled", None) == (cancelled["status"], cancelled["output"])
    assert "canceled" == caller.post(f"/v1/trainings/{made['id']}/cancel").json()["status"]


def test_a_training_of_another_account_does_not_exist(caller, caller_with, images):
    made = caller.train(OSTRIS, caller.destination(), input_images=images).json()
    other = caller_with("r8_other")

    assert 404 == other.get(f"/v1/trainings/{made['id']}").status_code
    assert 404 == other.post(f"/v1/trainings/{made['id']}/cancel").status_code
    assert [] == other.get("/v1/trainings").json()["results"]


def test_the_list_has_a_hundred_a_page_newest_first_with_their_input(caller):
    destination = caller.destination()
    path = f"/v1/models/{OSTRIS}"
    version = caller.get(path).json()["latest_version"]["id"]
    made = [
        caller.post(
            f"{path}/versions/{version}/trainings",
            json={"destination": destination, "input": {"trigger_word": f"T{number}"}},
        ).json()["id"]
        for number in range(101)
    ]
    first = caller.get("/v1/trainings").json()
    second = requests.get(first["next"], headers=caller.session.headers, timeout=20).json()

    assert made[:0:-1] == [each["id"] for each in first["results"]]
    assert made[:1] == [each["id"] for each in second["results"]]
    assert "T100" == first["results"][0]["input"]["trigger_word"]
    assert "destination" not in first["results"][0]


def test_trainings_do_not_count_as_creations(sim, caller, images):
    sim.account("r8_tester", creations_per_minute=1)
    for _ in range(3):
        caller.train(OSTRIS, "me/missing", input_images=images)
    caller.create()

    counts = sim.counts()
    assert (1, 3) == (counts.creations_peak_per_minute, counts.requests["train"])
    assert 429 not in counts.refusals


def test_each_call_is_counted_as_a_kind_of_its_own(sim, caller, images):
    made = caller.train(OSTRIS, caller.destination(), input_images=images).json()
    caller.training(made)
    caller.get("/v1/trainings")
    caller.post(f"/v1/trainings/{made['id']}/cancel")
    caller.request("DELETE", images.removeprefix(sim.url))

    requests_by_kind = sim.counts().requests
    kinds = ("train", "trainings", "train_cancel", "file_delete", "model_create")
    assert [1] * 5 == [requests_by_kind[each] for each in kinds]
    assert requests_by_kind["training"] >= 1


@pytest.mark.parametrize("visibility", ["public", "private"])
def test_a_model_is_created_once_and_a_private_one_is_seen_by_its_account(caller, caller_with, visibility):
    name = caller.destination(visibility=visibility)
    owner, _, short = name.partition("/")
    again = {"owner": owner, "name": short, "visibility": "public", "hardware": "cpu"}

    assert 409 == caller.post("/v1/models", json=again).status_code
    shown = caller_with("r8_other").get(f"/v1/models/{name}").status_code
    assert (200 if visibility == "public" else 404) == shown


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"hardware": None}, 422),
        ({"visibility": "secret"}, 422),
        ({"name": "Not This"}, 422),
        ({"more": 1}, 422),
        ({"owner": "acme"}, 403),
        ({"description": "my fox"}, 201),
        ({"name": "fox[[fail]]"}, 201),
    ],
)
def test_a_new_model_needs_its_fields_and_the_owner_of_the_account(caller, changes, status):
    body = {"owner": caller.username, "name": "fox", "visibility": "public", "hardware": "cpu"} | changes

    assert status == caller.post("/v1/models", json=body).status_code


def test_an_upload_can_be_deleted_once(caller, caller_with, images):
    path = f"/v1/files/{images.rpartition('/')[2]}"

    assert 404 == caller_with("r8_other").request("DELETE", path).status_code
    assert 200 == caller.get(path).status_code
    assert 204 == caller.request("DELETE", path).status_code
    assert [404, 404] == [caller.request(way, path).status_code for way in ("DELETE", "GET")]


@pytest.mark.parametrize("kind", ["missing", "deleted", "foreign", "expired"])
def test_a_training_with_images_that_are_not_there_fails(sim, clock, caller, caller_with, kind):
    url = f"{sim.url}/v1/files/missing"
    if kind != "missing":
        url = (caller_with("r8_other") if kind == "foreign" else caller).upload(IMAGES)
    if kind == "deleted":
        caller.request("DELETE", url.removeprefix(sim.url))
    if kind == "expired":
        clock.advance(seconds=24 * 3600)
    training = ended(caller, input_images=url)

    assert ("failed", None) == (training["status"], training["output"])
    assert f"Failed to download input.input_images: 404 Not Found for {url}" == training["error"]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (None, "input_images must be provided"),
        (b"no zip", "input_images must be a zip file with images"),
        (zip_of("a.txt"), "input_images must be a zip file with images"),
    ],
)
def test_a_training_without_images_fails(caller, content, error):
    inputs = {} if content is None else {"input_images": caller.upload(content)}

    training = ended(caller, **inputs)
    assert ("failed", error) == (training["status"], training["error"])


def test_the_records_have_destination_images_and_token(sim, caller, images):
    destination = caller.destination()
    for _ in range(2):
        ended(caller, destination=destination, input_images=images)

    record = sim.trainings()[0]
    assert (destination, images, "r8_tester", "succeeded") == (
        record.destination,
        record.url,
        record.token,
        record.status,
    )
    assert {images: 2} == sim.trainings_by_url()
    shown = caller.get("/simulator/trainings").json()
    assert ({images: 2}, destination) == (shown["by_url"], shown["trainings"][0]["destination"])
    sim.reset()
    assert ([], 0) == (sim.trainings(), sim.counts().trainings.created)
