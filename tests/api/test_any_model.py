"""Any model of Replicate is found by its name, checked against its published schema, and runs as it was checked."""

import pytest

from harness.service_process import until
from tests.support.api_client import ASYNC, ended
from tests.support.callers import ADMIN, USER
from tests.support.problem_documents import fields, problem
from tests.support.schema_bombs import BOMBS

pytestmark = pytest.mark.every_database

IMAGE = "https://example.com/face.png"
UPSCALER, WATERCOLOR = "acme/upscaler", "acme/watercolor"
EARLIER = "f3b507dfe625a7b19b2ed7b55513e8b8ba42502b6da407ab3103fcacd564d713"
"""A version of WATERCOLOR."""

SILENT = {"openapi_schema": {"components": {"schemas": {}}}}


def latest(client, name) -> str:
    return client.get(f"/models/{name}", headers=ADMIN).json["version"]


def generate(client, name, *, by=ADMIN, more=None, **inputs):
    body = {"model_name": name, "input": inputs, **(more or {})}
    return client.post("/generate", json=body, headers=by)


def messages(answer) -> dict[str, str]:
    return {each["field"]: each["message"] for each in problem(answer, 400, "invalid_request")["errors"]}


# ── Names


def test_a_community_model_runs_the_version_that_was_checked(client, simulator):
    answer = generate(client, UPSCALER, img=IMAGE, scale=2)
    version = latest(client, UPSCALER)

    assert (200, UPSCALER, UPSCALER, version) == (
        answer.status_code,
        answer.json["model_name"],
        answer.json["requested_model"],
        answer.json["version"],
    )
    [prediction] = simulator.predictions()
    assert {
        "version": f"{UPSCALER}:{version}",
        "input": {"img": IMAGE, "scale": 2},
    }.items() <= prediction.body.items()
    assert "model" not in prediction.body
    assert answer.json["prompt"] is None


def test_an_earlier_version_is_checked_by_its_own_schema(client, simulator):
    known = client.get(f"/models/{WATERCOLOR}", headers=ADMIN).json
    assert 3 == known["input_schema"]["properties"]["lora_scale"]["anyOf"][0]["maximum"]

    assert {"input.lora_scale": "must be at most 2"} == messages(
        generate(client, f"{WATERCOLOR}:{EARLIER}", prompt="a", lora_scale=2.5)
    )
    answer = generate(client, f"{WATERCOLOR}:{EARLIER}", prompt="a", lora_scale=1.5)
    assert (200, EARLIER) == (answer.status_code, answer.json["version"])
    assert f"{WATERCOLOR}:{EARLIER}" == simulator.predictions()[0].body["version"]


def test_a_deployment_runs_by_its_own_route(client, simulator):
    answer = generate(client, "deployments/acme/fast-upscaler", img=IMAGE)

    assert (200, "deployments/acme/fast-upscaler") == (answer.status_code, answer.json["model_name"])
    assert answer.json["version"] == latest(client, UPSCALER)
    assert "version" not in simulator.predictions()[0].body


def test_a_bare_version_runs_once_it_is_known_here(client, simulator):
    unknown = "0" * 64
    assert {"model_name": "is a version that is not known here; send owner/name: before it"} == messages(
        generate(client, unknown, img=IMAGE)
    )
    version = latest(client, UPSCALER)
    assert 200 == generate(client, version, img=IMAGE).status_code
    assert f"{UPSCALER}:{version}" == simulator.predictions()[0].body["version"]


@pytest.mark.parametrize("version", ["c6b5d2b7", "latest", "F" * 64])
def test_a_version_that_is_no_id_is_refused_with_the_latest(client, simulator, version):
    found = messages(generate(client, f"{UPSCALER}:{version}", img=IMAGE))["model_name"]

    assert "64 hexadecimal digits" in found
    assert latest(client, UPSCALER) in found
    assert [] == simulator.predictions()


@pytest.mark.parametrize(
    "name",
    ["acme/nothing", "acme/upscaler:" + "1" * 64, "deployments/acme/nothing", "black-forest-labs/flux-devv"],
)
def test_a_model_that_does_not_exist_is_refused_before_anything_is_spent(client, simulator, name):
    found = messages(generate(client, name, img=IMAGE))

    assert ["model_name"] == list(found)
    assert [] == simulator.predictions()


def test_an_unknown_name_is_refused_with_the_nearest_names(client):
    found = messages(generate(client, "black-forest-labs/flux-devv", prompt="a"))

    assert "black-forest-labs/flux-dev" in found["model_name"]


def test_an_unknown_name_is_refused_with_models_that_were_looked_up(client):
    latest(client, WATERCOLOR)
    found = messages(generate(client, "acme/watercolour", prompt="a"))

    assert f"known here: {WATERCOLOR}, " in found["model_name"]


def test_a_short_id_alone_is_refused_with_what_to_send(client, simulator):
    found = messages(generate(client, "c6b5d2b7", prompt="a"))

    assert "send owner/name" in found["model_name"]
    assert 0 == simulator.counts().lookups


def test_a_disabled_version_is_refused_with_the_latest(client, simulator):
    owner, name = WATERCOLOR.split("/")
    newest = latest(client, WATERCOLOR)
    for disabled, more in (
        (EARLIER, f"The latest of {WATERCOLOR} is {newest}."),
        (newest, f"It is the latest of {WATERCOLOR}."),
    ):
        simulator.publish({"owner": owner, "name": name, "simulator": {"disabled": [disabled]}})
        looked_up = simulator.counts().lookups
        refused = messages(generate(client, f"{WATERCOLOR}:{disabled}", prompt="a"))["model_name"]

        assert "disabled this version" in refused
        assert refused.endswith(more)
        assert looked_up + (disabled == EARLIER) == simulator.counts().lookups  # that of the version


def test_the_generations_of_any_model_are_listed_by_its_name(client):
    work = generate(client, UPSCALER, img=IMAGE).json["id"]
    generate(client, WATERCOLOR, prompt="a")

    for name in (UPSCALER, f"{UPSCALER}:{latest(client, UPSCALER)}"):
        listed = client.get("/generations", query_string={"model": name}, headers=ADMIN).json["generations"]
        assert [work] == [each["id"] for each in listed]


def test_a_model_without_a_version_is_refused(client):
    assert {"model_name": "has no version at Replicate yet"} == messages(
        generate(client, "acme/destination", prompt="a")
    )


def test_a_private_model_is_known_only_to_the_accounts_that_can_read_it(client, simulator):
    owner, other = {"X-Replicate-API-Key": "r8_acme"}, {"X-Replicate-API-Key": "r8_other"}

    assert 200 == generate(client, "acme/confidential", by=owner, prompt="a").status_code
    version = client.get("/models/acme/confidential", headers=owner).json["version"]
    for by in (other, ADMIN):
        for name in ("acme/confidential", f"acme/confidential:{version}", version):
            assert ["model_name"] == list(messages(generate(client, name, by=by, prompt="a"))), name
        assert 404 == client.get("/models/acme/confidential", headers=by).status_code
    assert 404 == client.get("/models/acme/confidential").status_code


# ── Inputs


def test_inputs_are_checked_by_the_published_schema_and_all_problems_are_reported(client, simulator):
    found = messages(generate(client, WATERCOLOR, guidance=3, num_outputs=9, model="max", go_fast="yes"))

    assert {
        "input.prompt": "is required",
        "input.num_outputs": "must be at most 4",
        "input.model": "must be dev or schnell",
        "input.go_fast": "must be true or false",
        "input.guidance": "is not a known field; did you mean guidance_scale?",
    } == found
    assert [] == simulator.predictions()


def test_a_field_of_the_service_among_the_inputs_is_sent_outside(client):
    batch = {"model_name": WATERCOLOR, "inputs": [{"prompt": "a"}, {"prompt": "b", "timeout": 5}]}
    outside = "is no parameter of the model; it stands outside, beside `model_name`"

    assert {"input.timeout": outside} == messages(generate(client, WATERCOLOR, prompt="a", timeout=5))
    assert {"inputs[1].timeout": outside} == messages(
        client.post("/generate-batch", json=batch, headers=ADMIN)
    )


def test_flat_parameters_serve_where_none_clashes(client, simulator):
    body = {"model_name": WATERCOLOR, "prompt": "a", "model": "schnell", "num_inference_steps": 4}

    assert 200 == client.post("/generate", json=body, headers=ADMIN).status_code
    assert {"prompt": "a", "model": "schnell", "num_inference_steps": 4} == simulator.predictions()[0].input


def test_input_and_flat_parameters_at_once_are_refused(client):
    assert ["input"] == list(messages(generate(client, WATERCOLOR, more={"seed": 3}, prompt="a")))


@pytest.mark.parametrize("value", ["text", [1], 3, True])
def test_an_input_that_is_no_object_is_refused(client, value):
    answer = client.post("/generate", json={"model_name": WATERCOLOR, "input": value}, headers=ADMIN)

    assert "input" in fields(answer)


def test_a_text_that_is_exactly_a_number_is_turned_and_told(client, simulator):
    answer = generate(client, WATERCOLOR, prompt="a", num_outputs="2", go_fast="true")

    assert 200 == answer.status_code
    assert {"prompt": "a", "num_outputs": 2, "go_fast": True} == simulator.predictions()[0].input
    assert [("num_outputs", "converted", "2", 2), ("go_fast", "converted", "true", True)] == [
        (each["field"], each["change"], each["given"], each["sent"]) for each in answer.json["changes"]
    ]


def test_a_model_with_an_input_called_input_takes_it_in_input(client, simulator):
    assert 200 == generate(client, "acme/oracle", input="a question", stream=True).status_code
    assert {"input": "a question", "stream": True} == simulator.predictions()[0].input


# ── Batches


def test_a_batch_of_inputs_is_one_generation_for_each(client, simulator):
    body = {"model_name": UPSCALER, "inputs": [{"img": f"{IMAGE}?{n}", "scale": n} for n in (1, 2, 3)]}
    answer = client.post("/generate-batch", json=body, headers=ADMIN)

    assert (200, 3) == (answer.status_code, answer.json["succeeded"])
    assert [1, 2, 3] == sorted(each.input["scale"] for each in simulator.predictions())


def test_one_bad_input_refuses_the_batch_with_its_index(client, simulator):
    body = {"model_name": UPSCALER, "inputs": [{"img": IMAGE}, {"scale": "x"}], "timeout": 0}
    found = messages(client.post("/generate-batch", json=body, headers=ADMIN))

    assert {"timeout", "inputs[1].img", "inputs[1].scale"} == set(found)
    assert [] == simulator.predictions()


def test_prompts_of_a_model_without_a_prompt_are_refused_with_the_way_out(client):
    body = {"model_name": UPSCALER, "prompts": ["a"], "img": IMAGE}
    found = messages(client.post("/generate-batch", json=body, headers=ADMIN))

    assert {"prompts": "are not taken by this model; list its parameters in `inputs`"} == found


def test_a_batch_of_prompts_shares_the_other_parameters_of_input(client, simulator):
    body = {"model_name": WATERCOLOR, "prompts": ["a", "b"], "input": {"seed": 7}}

    assert 200 == client.post("/generate-batch", json=body, headers=ADMIN).status_code
    assert [{"prompt": "a", "seed": 7}, {"prompt": "b", "seed": 7}] == sorted(
        (dict(each.input) for each in simulator.predictions()), key=lambda each: each["prompt"]
    )


def test_a_batch_of_many_models_looks_each_up_once(client, simulator):
    names = [UPSCALER, WATERCOLOR, "acme/variations"] * 20
    inputs = {UPSCALER: {"img": IMAGE}, WATERCOLOR: {"prompt": "a"}, "acme/variations": {"images": [IMAGE]}}
    body = {"requests": [{"model_name": name, "input": inputs[name]} for name in names]}

    assert 60 == client.post("/generate-batch", json=body, headers=ADMIN).json["succeeded"]
    assert 3 == simulator.counts().lookups


# ── Descriptions


def test_a_model_is_shown_like_a_declared_one(client):
    shown = client.get(f"/models/{WATERCOLOR}", headers=USER).json
    declared = client.get("/models").json["models"][0]

    assert set(declared) <= set(shown) | {"price"}
    assert shown["price"] is None
    assert declared == client.get(f"/models/{declared['name']}").json
    assert declared == client.get(f"/models/{declared['aliases'][0]}").json


def test_without_a_key_only_public_models_that_were_looked_up_are_shown(client, simulator):
    assert 404 == client.get(f"/models/{WATERCOLOR}").status_code
    assert 0 == simulator.counts().lookups
    latest(client, WATERCOLOR)
    assert 200 == client.get(f"/models/{WATERCOLOR}").status_code
    assert {"model": 1, "versions": 1} == simulator.counts().requests


@pytest.mark.parametrize(
    ("headers", "why"),
    [({}, "A look at Replicate needs a key."), (USER, "Models of Replicate are owner/name.")],
)
def test_a_short_name_that_no_model_has_is_explained_with_and_without_a_key(client, headers, why):
    answer = problem(client.get("/models/nope", headers=headers), 404, "not_found")

    assert f"No model of this name is known here. {why}" == answer["detail"]


def test_a_search_finds_declared_models_and_others(client):
    found = client.get("/models?search=watercolor", headers=ADMIN).json
    assert [] == found["models"]
    assert WATERCOLOR in [each["name"] for each in found["others"]]
    assert "black-forest-labs/flux-dev" in [
        each["name"] for each in client.get("/models?search=flux-dev").json["models"]
    ]


# ── Versions


def test_the_page_of_a_model_lists_its_versions_newest_first(client, simulator):
    earlier = "f3b507dfe625a7b19b2ed7b55513e8b8ba42502b6da407ab3103fcacd564d713"
    page = client.get(f"/models/{WATERCOLOR}", headers=ADMIN).json

    assert [page["version"], earlier] == [each["id"] for each in page["versions"]]
    assert all(each["created_at"].endswith("Z") for each in page["versions"])
    assert page["versions"] == client.get(f"/models/{WATERCOLOR}").json["versions"]
    assert 1 == simulator.counts().requests["versions"]


@pytest.mark.parametrize("trouble", ["an outage", "no key", "a deployment", "no list"])
def test_a_model_whose_versions_are_not_listed_shows_the_one_that_is_known(client, simulator, trouble):
    name = "deployments/acme/fast-upscaler" if trouble == "a deployment" else UPSCALER
    if trouble != "no key":
        simulator.inject(on="versions", status={"an outage": 503, "no list": 404}.get(trouble, 500))
    elif generate(client, name, img=IMAGE).status_code != 200:
        pytest.fail("the model was not looked up")
    page = client.get(f"/models/{name}", headers={} if trouble == "no key" else ADMIN).json

    assert [{"id": page["version"], "created_at": None}] == page["versions"]


def test_an_official_model_has_no_versions_and_no_request_lists_them(client, simulator):
    simulator.publish({"owner": "acme", "name": "silent", "is_official": True, "latest_version": SILENT})
    page = client.get("/models/acme/silent", headers=ADMIN).json

    assert (None, []) == (page["version"], page["versions"])
    assert 0 == simulator.counts().requests.get("versions", 0)


def an_official(simulator):
    """The name of an official model with the id of its version."""
    simulator.publish({"owner": "acme", "name": "silent", "is_official": True, "latest_version": SILENT})
    return f"acme/silent:{simulator.server.state.models.find('acme/silent', token='').version}"


LEFT_OUT = "acme/silent is an official model, which runs by its name: the version {} was left out."


def test_an_official_model_runs_by_its_name_also_if_a_version_is_named(client, simulator):
    name = an_official(simulator)
    version = name.partition(":")[2]

    for named in (name, version):
        answer = generate(client, named, prompt="a")
        assert (200, "acme/silent", None) == (
            answer.status_code,
            answer.json["model_name"],
            answer.json.get("version"),
        )
        assert [LEFT_OUT.format(version)] == answer.json["warnings"]
        assert "acme/silent" == simulator.predictions()[-1].body["version"]
    assert "warnings" not in generate(client, "acme/silent", prompt="a").json


def test_after_a_restart_an_official_model_still_runs_by_its_name(make_app, simulator):
    client, name = make_app(REPLICATE_CONCURRENT_LIMIT=1).test_client(), an_official(simulator)
    client.post("/generate", json={"model_name": "flux-dev", "prompt": "[[hang]]"}, headers=ADMIN | ASYNC)
    body = {"model_name": name, "input": {"prompt": "a"}}
    waiting = client.post("/generate", json=body, headers=ADMIN | ASYNC).json["id"]
    until(lambda: 1 == simulator.counts().in_flight)
    client.application.extensions["service"].close()
    simulator.finish()

    answer = ended(make_app(REPLICATE_CONCURRENT_LIMIT=1).test_client(), waiting, by=ADMIN)

    assert ("succeeded", None) == (answer["status"], answer.get("version"))
    assert "acme/silent" == simulator.predictions()[-1].body["version"]


# ── Schemas that say little, or mean something else


def publish(simulator, name, inputs):
    """A community model, or a new version of it, with these inputs."""
    properties = {"Input": {"type": "object", "properties": inputs}, "Output": FILE} if inputs else {}
    version = {"openapi_schema": {"components": {"schemas": properties}}}
    owner, _, short = name.partition("/")
    simulator.publish({"owner": owner, "name": short, "latest_version": version})


FILE = {"type": "string", "format": "uri"}


def nested(levels):
    return {"a": nested(levels - 1)} if levels else {}


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"info": {"title": "x" * 600_000}}, "it is larger than 512 kB."),
        ({"info": nested(60)}, "it is nested deeper than 50 levels."),
    ],
)
def test_a_model_whose_schema_cannot_be_read_runs_unchecked_with_the_reason(
    make_app, simulator, more, reason
):
    properties = {"scale": {"type": "integer"}}
    schema = {"components": {"schemas": {"Input": {"properties": properties}}}} | more
    simulator.publish({"owner": "acme", "name": "huge", "latest_version": {"openapi_schema": schema}})
    sent = {"scale": 2, "unknown": IMAGE, "prompt": None}
    why = (
        "The inputs of acme/huge are passed on unchecked, since its published schema could not be read: "
        + reason
    )
    for _ in range(2):  # the second service reads it from the ledger
        client = make_app().test_client()
        assert {"*": why} == client.get("/models/acme/huge", headers=ADMIN).json["unchecked"]
        answer = generate(client, "acme/huge", **sent)
        assert (200, [why]) == (answer.status_code, answer.json["warnings"])
        client.application.extensions["service"].close()
    assert [sent] * 2 == [each.input for each in simulator.predictions()]
    assert 1 == simulator.counts().requests["model"]


def test_a_model_whose_schema_says_nothing_takes_any_input_but_a_secret(client, simulator):
    publish(simulator, "acme/silent", {})

    assert 200 == generate(client, "acme/silent", prompt="a", anything=[1]).status_code
    assert {"prompt": "a", "anything": [1]} == simulator.predictions()[0].input
    found = messages(generate(client, "acme/silent", prompt="a", hf_token="hf_1"))
    assert ["input.hf_token"] == list(found)
    assert {"*"} == set(client.get("/models/acme/silent", headers=ADMIN).json["unchecked"])


@pytest.mark.parametrize(
    "bomb", ["doubled by anyOf", "doubled by properties", "a circle of items", "a chain"]
)
def test_a_model_whose_schema_has_no_end_runs_with_what_could_be_read(client, simulator, bomb):
    version = {"openapi_schema": BOMBS[bomb]}
    simulator.publish({"owner": "acme", "name": "bomb", "latest_version": version})

    assert 200 == generate(client, "acme/bomb", a=[]).status_code
    assert client.get("/models/acme/bomb", headers=ADMIN).json["unchecked"].keys() & {"a", "*"}


@pytest.mark.parametrize(
    ("name", "schema", "value"),
    [
        ("image", {"type": "string"}, "no address at all"),
        ("safety_tolerance", {"type": "integer"}, 70),
        ("aspect_ratio", {"type": "number"}, 1.5),
        ("num_outputs", {"type": "string"}, "many"),
        ("num_outputs", {"type": "integer", "nullable": True}, None),
        ("output_format", {"type": "array", "items": {"type": "string"}}, ["png"]),
    ],
)
def test_an_input_may_mean_something_else_than_the_same_name_of_a_declared_model(
    client, simulator, name, schema, value
):
    publish(simulator, "acme/other", {"prompt": {"type": "string"}, name: schema})
    more = {"fallback": ["flux-dev", "flux-1.1-pro"]}

    assert 200 == generate(client, "acme/other", prompt="a", **{name: value}).status_code
    assert 200 == generate(client, "acme/other", more=more, prompt="a", **{name: value}).status_code
    assert [{"prompt": "a", name: value}] * 2 == [each.input for each in simulator.predictions()]
    answer = generate(client, "acme/other", more=more, prompt="[[fail]] a", **{name: value})
    assert answer.status_code < 501
    assert "internal" != answer.json.get("code")


# ── What may run


def test_the_operator_bounds_what_the_token_of_the_service_runs(make_app, simulator):
    client = make_app(MODELS_ALLOWED="registry, acme/upscaler, other/*").test_client()

    assert 200 == generate(client, UPSCALER, img=IMAGE).status_code
    assert 200 == generate(client, "flux-dev", prompt="a").status_code
    assert 200 == generate(client, WATERCOLOR, by=USER, prompt="a").status_code
    found = messages(generate(client, WATERCOLOR, prompt="a"))
    assert {"model_name": "may not be run with the token of this service (MODELS_ALLOWED)"} == found


@pytest.mark.parametrize(
    ("by", "ran"),
    [
        (ADMIN, ["google/nano-banana", "black-forest-labs/flux-dev"]),
        (USER, ["google/nano-banana", "qwen/qwen-image"]),
    ],
)
def test_no_fallback_leads_to_a_model_that_may_not_run(make_app, simulator, tmp_path, by, ran):
    rules = tmp_path / "rules.toml"
    rules.write_text('nano-banana = ["qwen-image", "flux-dev"]')
    client = make_app(MODELS_ALLOWED="google/nano-banana, flux-dev", FALLBACKS_FILE=str(rules)).test_client()
    body = {"model_name": "nano-banana", "prompt": "[[nsfw]] [[only=nano-banana]] a", "fallback": True}
    answer = client.post("/generate", json=body, headers=by)

    assert (200, ran) == (answer.status_code, [each.model for each in simulator.predictions()])


def test_no_reference_leads_to_a_model_that_may_not_run(make_app, simulator):
    client = make_app(MODELS_ALLOWED="flux-schnell, google/*").test_client()
    body = {"model_name": "flux-schnell", "prompt": "a", "fallback": True, "image_input": [IMAGE, IMAGE]}
    answer = client.post("/generate", json=body, headers=ADMIN)

    assert (200, "google/nano-banana") == (answer.status_code, answer.json["model_name"])


def test_lora_is_the_model_of_the_operator(make_app, simulator):
    client = make_app(LORA_MODEL_ID=WATERCOLOR).test_client()
    answer = generate(client, "lora", prompt="a")

    assert (200, WATERCOLOR, "lora") == (
        answer.status_code,
        answer.json["model_name"],
        answer.json["requested_model"],
    )


# ── Restarts


def test_after_a_restart_a_generation_runs_the_version_that_was_pinned(make_app, simulator):
    client = make_app(REPLICATE_CONCURRENT_LIMIT=1).test_client()
    generate(client, UPSCALER, img=IMAGE)
    version = latest(client, UPSCALER)
    busy = client.post(
        "/generate", json={"model_name": "flux-dev", "prompt": "[[hang]]"}, headers=ADMIN | ASYNC
    )
    waiting = client.post(
        "/generate", json={"model_name": UPSCALER, "input": {"img": f"{IMAGE}?2"}}, headers=ADMIN | ASYNC
    ).json["id"]
    until(lambda: 1 == simulator.counts().in_flight)
    client.application.extensions["service"].close()
    looked_up = simulator.counts().lookups
    simulator.finish()

    restarted = make_app(REPLICATE_CONCURRENT_LIMIT=1).test_client()
    answer = ended(restarted, waiting, by=ADMIN)

    assert ("succeeded", version) == (answer["status"], answer["version"])
    assert looked_up == simulator.counts().lookups
    assert busy.status_code == 202
