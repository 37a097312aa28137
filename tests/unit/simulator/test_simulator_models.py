"""Any model is looked up and run as at Replicate: official ones by name, others by version or in a deployment."""

import json
import re
import time
from pathlib import Path

import pytest
import requests

from simulator import Options, loading, official, running
from simulator.schemas import Schema
from tests.support.schema_bombs import BOMBS
from tests.unit.simulator.creations import FLUX_DEV, WATERCOLOR

UPSCALER = "acme/upscaler"
FACE = "https://example.com/face.jpg"


@pytest.fixture
def versions(sim):
    """The ids of the latest versions by model."""
    return {model.name: model.version for model, _ in loading.shipped()}


@pytest.fixture
def run(caller):
    """Creates a prediction by version and returns the response."""

    def create(version, *, wait=True, also=None, **inputs):
        body = {"version": version, "input": inputs} | (also or {})
        return caller.post("/v1/predictions", json=body, headers={"Prefer": "wait=10"} if wait else {})

    return create


def document(name="acme/new", *, inputs=None, output=None, official=False, **simulator):
    """A document of a model, whose only required input is `prompt`."""
    owner, _, short = name.partition("/")
    inputs = {"prompt": {"type": "string"}} | (inputs or {})
    schemas = {
        "Input": {"type": "object", "required": ["prompt"], "properties": inputs},
        "Output": output or {"type": "string", "format": "uri"},
    }
    return {
        "owner": owner,
        "name": short,
        "is_official": official,
        "latest_version": {"openapi_schema": {"openapi": "3.0.2", "components": {"schemas": schemas}}},
        "simulator": simulator,
    }


def test_a_model_is_shown_with_its_latest_version_and_example(caller, versions):
    body = caller.get(f"/v1/models/{WATERCOLOR}").json()

    assert (False, "public", versions[WATERCOLOR]) == (
        body["is_official"],
        body["visibility"],
        body["latest_version"]["id"],
    )
    assert {"prompt", "model", "guidance_scale", "lora_scale", "extra_lora"} <= set(
        body["latest_version"]["openapi_schema"]["components"]["schemas"]["Input"]["properties"]
    )
    assert "WTRCLR" in body["default_example"]["input"]["prompt"]
    assert body["run_count"] > 0
    assert "simulator" not in body


def test_each_version_of_a_model_is_shown_by_its_id_but_no_list_of_an_official_model(caller, versions):
    listed = caller.get(f"/v1/models/{WATERCOLOR}/versions").json()["results"]
    newest, oldest = (each["id"] for each in listed)
    path = f"/v1/models/{WATERCOLOR}/versions"

    assert newest == versions[WATERCOLOR] != oldest
    assert listed[1] == caller.get(f"{path}/{oldest}").json()
    assert [404, 404, 404] == [
        caller.get(each).status_code
        for each in (f"{path}/{newest[:8]}", f"{path}/hidden", f"/v1/models/{FLUX_DEV}/versions")
    ]


def test_a_destination_has_no_version_yet(caller):
    assert caller.get("/v1/models/acme/destination").json()["latest_version"] is None


def test_a_search_finds_public_models_by_their_words(caller):
    def names(query, **more):
        body = caller.get("/v1/search", params={"query": query, **more}).json()
        return [f"{each['model']['owner']}/{each['model']['name']}" for each in body["models"]]

    assert [WATERCOLOR] == names("flux watercolors")
    expected = [
        "ostris/flux-dev-lora-trainer",
        "black-forest-labs/flux-dev-lora",
        "replicate/fast-flux-trainer",
        WATERCOLOR,
        "acme/sleepy-portrait",
    ]
    assert expected == names("flux lora")
    assert expected[:1] == names("flux lora", limit=1)
    assert [] == names("confidential")
    assert 400 == caller.get("/v1/search").status_code


@pytest.mark.parametrize("named", [True, False])
def test_a_community_model_runs_by_its_version_with_or_without_its_name(run, versions, named):
    version = versions[WATERCOLOR]
    made = run(f"{WATERCOLOR}:{version}" if named else version, prompt="a fox", num_outputs=2).json()

    assert (WATERCOLOR, version, "succeeded") == (made["model"], made["version"], made["status"])
    assert 2 == len(made["output"])


def test_an_official_model_runs_by_its_name_on_either_route_and_not_by_its_version(caller, run):
    version = caller.get(f"/v1/models/{FLUX_DEV}").json()["latest_version"]["id"]
    made = run(FLUX_DEV, prompt="a fox").json()

    assert (FLUX_DEV, "hidden", "succeeded") == (made["model"], made["version"], made["status"])
    for refused in (version, f"{FLUX_DEV}:{version}"):
        assert "Invalid version or not permitted" == run(refused, prompt="a fox").json()["title"]


def test_a_community_model_does_not_run_by_its_name(caller, run):
    refused = run(WATERCOLOR, prompt="a fox")

    assert (422, "Invalid version or not permitted") == (refused.status_code, refused.json()["title"])
    assert 404 == caller.create(model=WATERCOLOR).status_code


def test_a_version_of_another_model_or_a_short_one_does_not_run(run, versions):
    for refused in (f"{UPSCALER}:{versions[WATERCOLOR]}", f"{WATERCOLOR}:{versions[WATERCOLOR][:8]}"):
        answer = run(refused, prompt="a fox")
        assert (422, "Invalid version or not permitted") == (answer.status_code, answer.json()["title"])


def test_a_disabled_version_does_not_run(run, versions):
    answer = run(versions["acme/broken"], prompt="a fox")

    assert 422 == answer.status_code
    assert "disabled due to failing setup runs" in answer.json()["detail"]


def test_a_body_with_a_field_that_replicate_does_not_know_is_refused(caller):
    answer = caller.post("/v1/predictions", json={"model": FLUX_DEV, "input": {"prompt": "a fox"}})

    assert 422 == answer.status_code
    assert "- version is required\n- Additional property model is not allowed\n" == answer.json()["detail"]
    assert 422 == caller.create(body={"version": "ab" * 32}).status_code


def test_a_deployment_runs_its_version_and_is_named_in_its_predictions(caller, sim, versions):
    shown = caller.get("/v1/deployments/acme/fast-upscaler").json()["current_release"]
    made = caller.post("/v1/deployments/acme/fast-upscaler/predictions", json={"input": {"img": FACE}}).json()

    assert (UPSCALER, versions[UPSCALER], "gpu-l40s") == (
        shown["model"],
        shown["version"],
        shown["configuration"]["hardware"],
    )
    assert ("acme/fast-upscaler", UPSCALER) == (made["deployment"], made["model"])
    assert "acme/fast-upscaler" == sim.predictions()[-1].deployment
    assert 404 == caller.get("/v1/deployments/acme/none").status_code
    assert 404 == caller.post("/v1/deployments/acme/none/predictions", json={"input": {}}).status_code


def test_a_private_model_exists_only_for_its_tokens(caller, caller_with, versions):
    name, body = "acme/confidential", {"version": versions["acme/confidential"], "input": {"prompt": "a fox"}}
    team = caller_with("r8_acme")

    assert [200, 404] == [each.get(f"/v1/models/{name}").status_code for each in (team, caller)]
    assert [201, 422] == [each.post("/v1/predictions", json=body).status_code for each in (team, caller)]
    assert "private" == team.get(f"/v1/models/{name}").json()["visibility"]


def test_unknown_inputs_of_any_model_are_ignored_and_others_checked(run, versions):
    version = versions[WATERCOLOR]
    problems = run(version, guidance_scale=11, lora_scale=-2, model="pro").json()["invalid_fields"]

    assert 201 == run(version, prompt="a fox", guidance=99, trigger_word="WTRCLR").status_code
    assert {
        ("required", "input"),
        ("number_lte", "input.guidance_scale"),
        ("number_gte", "input.lora_scale"),
        ("enum", "input.model"),
    } == {(each["type"], each["field"]) for each in problems}


def test_texts_of_numbers_and_truth_values_are_taken_for_them_and_null_for_nothing(run, versions):
    made = run(
        versions[WATERCOLOR], prompt="a fox", num_outputs="2", guidance_scale="2.5", go_fast="true", seed=None
    ).json()

    assert 2 == len(made["output"])
    assert "2" == made["input"]["num_outputs"], "it is shown as it was sent"
    sizes = [
        run(versions["acme/variations"], images=[FACE], size=size).status_code for size in ("512", "500")
    ]
    assert [201, 422] == sizes


def test_a_secret_is_sent_to_the_model_and_never_shown(sim, caller, run, versions):
    made = run(versions["acme/hub-painter"], prompt="a fox", hf_token="hf_hush").json()
    pages = [
        json.dumps(made),
        caller.get("/v1/predictions").text,
        caller.get(f"/v1/predictions/{made['id']}").text,
        caller.get("/simulator/predictions").text,
    ]

    assert [False] * 4 == ["hf_hush" in page for page in pages]
    assert "hf_hush" == sim.predictions()[-1].input["hf_token"]


def test_look_ups_are_counted_by_their_endpoint(sim, caller, versions):
    for path in (
        f"/v1/models/{WATERCOLOR}",
        f"/v1/models/{WATERCOLOR}/versions",
        f"/v1/models/{WATERCOLOR}/versions/{versions[WATERCOLOR]}",
        "/v1/deployments/acme/fast-upscaler",
        "/v1/search?query=fox",
        "/v1/models/nobody/nothing",
    ):
        caller.get(path)
    counts = sim.counts()

    assert {"model": 2, "versions": 1, "version": 1, "deployment": 1, "search": 1} == counts.requests
    assert 6 == counts.lookups == caller.get("/simulator/counts").json()["lookups"]


@pytest.mark.parametrize("kind", ["model", "version", "versions", "deployment", "search"])
def test_a_look_up_can_fail_on_request(sim, caller, versions, kind):
    paths = {
        "model": f"/v1/models/{WATERCOLOR}",
        "version": f"/v1/models/{WATERCOLOR}/versions/{versions[WATERCOLOR]}",
        "versions": f"/v1/models/{WATERCOLOR}/versions",
        "deployment": "/v1/deployments/acme/fast-upscaler",
        "search": "/v1/search?query=fox",
    }
    sim.inject(on=kind, status=503)

    assert [503, 200] == [caller.get(paths[kind]).status_code for _ in range(2)]


ROUTES = ["version", "deployment"]


def created(caller, versions, route, img):
    """The response to a creation by version or in a deployment."""
    if route == "deployment":
        return caller.post("/v1/deployments/acme/fast-upscaler/predictions", json={"input": {"img": img}})
    return caller.post("/v1/predictions", json={"version": versions[UPSCALER], "input": {"img": img}})


@pytest.mark.parametrize("route", ROUTES)
def test_faults_of_creations_apply_on_every_route(sim, caller, versions, route):
    sim.inject(on="create", times=1, status=503)
    sim.inject(on="create", times=1, reset="after")

    assert 503 == created(caller, versions, route, FACE).status_code
    with pytest.raises(requests.ConnectionError):
        created(caller, versions, route, FACE)
    assert (1, 1, 2) == (
        sim.counts().creations_accepted,
        sim.counts().answers_lost,
        sim.counts().requests["create"],
    )


@pytest.mark.parametrize("route", ROUTES)
def test_a_hanging_prediction_of_any_model_can_be_finished_or_cancelled(sim, caller, versions, route):
    hanging = [created(caller, versions, route, f"{FACE}?[[hang]]").json() for _ in range(2)]
    caller.post(f"/v1/predictions/{hanging[0]['id']}/cancel")
    sim.finish()

    assert ["canceled", "succeeded"] == [caller.status(each) for each in hanging]


def test_finishing_ends_a_boot_and_a_stream(sim, caller, versions):
    boots, streams = (
        caller.post("/v1/predictions", json={"version": versions[name], "input": {"prompt": prompt}}).json()
        for name, prompt in (("acme/sleepy-portrait", "a fox"), ("acme/storyteller", "[[slow=60]] a fox"))
    )
    assert ("starting", None) == (boots["status"], boots["started_at"])
    sim.finish()

    assert ["succeeded"] * 2 == [caller.status(each) for each in (boots, streams)]
    assert 8 == len(caller.get(f"/v1/predictions/{streams['id']}").json()["output"])


def test_a_new_version_can_be_published_and_the_earlier_one_still_runs(sim, caller, run, versions):
    sim.publish(document(WATERCOLOR, inputs={"mood": {"type": "string"}}))
    latest = caller.get(f"/v1/models/{WATERCOLOR}").json()["latest_version"]

    assert sim.latest_version(WATERCOLOR) == latest["id"] != versions[WATERCOLOR]
    assert 3 == len(caller.get(f"/v1/models/{WATERCOLOR}/versions").json()["results"])
    assert [201, 201] == [
        run(each, prompt="a fox").status_code for each in (latest["id"], versions[WATERCOLOR])
    ]
    sim.reset()
    assert versions[WATERCOLOR] == sim.latest_version(WATERCOLOR)


def test_the_facts_of_a_model_can_be_changed(sim, caller, caller_with, run, versions):
    owner_and_name = {"owner": "acme", "name": "watercolor"}
    sim.publish({**owner_and_name, "simulator": {"disabled": [versions[WATERCOLOR]]}})
    assert 422 == run(versions[WATERCOLOR], prompt="a fox").status_code

    answer = caller.post(
        "/simulator/models", json={**owner_and_name, "simulator": {"disabled": [], "tokens": ["r8_other"]}}
    )
    assert {"name": WATERCOLOR, "version": versions[WATERCOLOR]} == answer.json()
    assert [404, 200] == [
        each.get(f"/v1/models/{WATERCOLOR}").status_code for each in (caller, caller_with("r8_other"))
    ]
    assert WATERCOLOR in caller.get("/simulator/models").json()


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        {"owner": "acme"},
        document(kind="smell"),
        document(seconds=-1),
        document(price={"usd": 1, "per": "hour"}),
        document(deployments={"nameless": {}}),
        document(colour="red"),
    ],
)
def test_an_invalid_model_is_refused(sim, caller, wrong):
    assert 400 == caller.post("/simulator/models", json=wrong).status_code


FILES = {
    "google--banana-9.json": {"components": {"schemas": {}}},
    "any-google-veo-9-1-fast.json": {"openapi": "3.0.2", "components": {"schemas": {}}},
    "acme--fox.json": {"id": "ab" * 32, "openapi_schema": {"components": {"schemas": {}}}},
    "whatever.json": document("acme/whole", official=True),
}


def test_models_are_loaded_from_a_directory(tmp_path, make_caller):
    for name, content in FILES.items():
        (tmp_path / name).write_text(json.dumps(content))
    with running(Options(models=(tmp_path,), prediction_seconds=0)) as sim:
        caller = make_caller(sim.url)
        names = ["google/banana-9", "google/veo-9.1-fast", "acme/fox", "acme/whole"]
        found = [caller.get(f"/v1/models/{name}").json()["is_official"] for name in names]
        body = {"version": f"acme/fox:{'ab' * 32}", "input": {"anything": 1}}

        assert [True, True, False, True] == found
        assert 201 == caller.post("/v1/predictions", json=body).status_code


def test_a_file_replaces_the_schema_of_a_known_model_and_keeps_its_price(tmp_path):
    replaced = document(FLUX_DEV, official=True)
    (tmp_path / "x.json").write_text(json.dumps(replaced))
    with running(Options(models=(tmp_path,))) as sim:
        model = sim.server.state.models.find(FLUX_DEV, token="r8_x")

    assert {"prompt"} == set(model.inputs)
    assert 0.025 == model.price.usd


@pytest.mark.parametrize("bomb", BOMBS)
def test_no_published_document_takes_long_to_load(bomb):
    """Without bounds, some take minutes. The figure is CPU time of this thread, and the margin is twentyfold."""
    began = time.thread_time()
    schema = Schema(BOMBS[bomb])
    schema.errors({"a": "x"})

    assert time.thread_time() - began < 2


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("fox.json", '{"components": {}}'),
        ("a--b.json", "[]"),
        ("a--b.json", "{}"),
        ("a--b.json", "{"),
        ("a--b.json", "[" * 5_000),
    ],
)
def test_a_file_that_is_no_model_is_refused_by_its_name(tmp_path, name, content):
    (tmp_path / name).write_text(content)

    with pytest.raises(ValueError, match=name):
        loading.read(tmp_path / name)


def test_an_official_model_is_made_of_the_inputs_saved_for_the_service(tmp_path):
    (tmp_path / "google").mkdir()
    resolution = {"type": "string", "enum": ["1K", "4K"], "default": "1K"}
    inputs = {"required": ["prompt"], "properties": {"prompt": {"type": "string"}, "resolution": resolution}}
    saved = {"Input": inputs, "Output": {"type": "string", "format": "uri"}}
    (tmp_path / "google" / "nano-banana-pro.json").write_text(json.dumps(saved))
    (model,) = official.models(tmp_path)

    assert ("google/nano-banana-pro", True, "image") == (model.name, model.is_official, model.kind)
    assert resolution.items() <= model.inputs["resolution"].items()
    assert [0.15, 0.3, 0.3] == [
        model.price.of(model.schema, given) for given in ({}, {"resolution": "4K"}, {"resolution": "9K"})
    ]


def test_the_document_lists_every_shipped_model_and_every_fact_of_a_file():
    text = (Path(__file__).parents[3] / "docs" / "simulator.md").read_text()
    facts = text.partition("| field | default | meaning |")[2].partition("\n\n")[0]
    names = {model.name for model, _ in loading.shipped()}

    shown = set(re.findall(r"`([\w-]+/[\w-]+)`", text))

    assert names <= shown
    assert {each for each in shown if each.startswith("acme/")} - {"acme/fast-upscaler"} <= names
    assert loading.FACTS == set(re.findall(r"^\| `(\w+)` \|", facts, re.MULTILINE))
