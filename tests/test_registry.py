"""The registry against the published schemas: every parameter of every model, both ends and just outside.

The schemas are the simulator's, which were written down independently: where the two disagree, one is wrong.
"""

from typing import Any

import pytest
from callers import ADMIN
from problems import fields, problem

import models
from errors import InvalidRequest
from models import MAX_IMAGE, MODELS, Inputs, Price, find, registered
from openapi import openapi_document
from parsing import parse_generation
from simulator import catalog

PARAMETERS = [
    (name, parameter, schema)
    for name in MODELS
    for parameter, schema in catalog.find(name).inputs.items()  # type: ignore[union-attr]
]
PICTURE_URL = "https://example.com/a.png"
PICTURE_DATA = "data:image/png;base64,iVBORw0KGgo="
STEP = {"integer": 1, "number": 0.001}

PRICES = {
    "black-forest-labs/flux-dev": (0.025, "image"),
    "black-forest-labs/flux-kontext-max": (0.08, "image"),
    "qwen/qwen-image": (0.025, "image"),
}
ALIASES = {
    "flux-dev": "black-forest-labs/flux-dev",
    "flux-kontext-max": "black-forest-labs/flux-kontext-max",
    "kontext-max": "black-forest-labs/flux-kontext-max",
    "qwen-image": "qwen/qwen-image",
}


def wrong(model: str, **given: Any) -> list[str]:
    """The fields that are refused."""
    try:
        parse_generation({"model_name": model, "prompt": "a fox", **given})
    except InvalidRequest as refused:
        return [each.field for each in refused.problems]
    return []


def of_every_parameter(test):
    ids = [f"{name.split('/')[1]}-{parameter}" for name, parameter, _ in PARAMETERS]
    return pytest.mark.parametrize(("model", "parameter", "schema"), PARAMETERS, ids=ids)(test)


def allowed(schema) -> list[Any]:
    if "enum" in schema:
        return schema["enum"]
    if schema.get("format") == "uri":
        return [PICTURE_URL, PICTURE_DATA]
    match schema["type"]:
        case "boolean":
            return [True, False]
        case "string":
            return ["x", " x ", "é\U0001f600"]
    return [schema.get("minimum", -(2**63)), schema.get("maximum", 2**63 - 1), schema.get("default", 3)]


def foreign(schema) -> list[Any]:
    every = [[], {}, [1], {"a": 1}]
    if "enum" in schema or schema.get("format") == "uri":
        return [*every, "foreign", "", 1, 1.5, True, *(f" {value}" for value in schema.get("enum", ()))]
    match schema["type"]:
        case "boolean":
            return [*every, "true", "", 0, 1, 1.0]
        case "string":
            return [*every, 1, 1.5, True, "a\0b", "\ud800"]
    step = STEP[schema["type"]]
    outside = [schema[end] + way for end, way in (("minimum", -step), ("maximum", step)) if end in schema]
    fractional = [1.0, 1.5] if schema["type"] == "integer" else []
    return [*every, *outside, *fractional, "1", "", True, False, 10**400, float("inf"), float("nan")]


@pytest.mark.parametrize("model", MODELS)
def test_a_model_takes_what_its_published_schema_names_and_nothing_else(model):
    assert set(catalog.find(model).inputs) == set(MODELS[model].inputs.model_fields)


@of_every_parameter
def test_every_value_the_schema_allows_is_accepted_to_both_ends(model, parameter, schema):
    for value in allowed(schema):
        assert [] == wrong(model, **{parameter: value}), value


@of_every_parameter
def test_every_value_the_schema_does_not_allow_is_refused_by_its_field(model, parameter, schema):
    for value in foreign(schema):
        assert [parameter] == wrong(model, **{parameter: value}), value


@of_every_parameter
def test_null_stands_only_where_leaving_out_has_no_default(model, parameter, schema):
    nullable = "default" not in schema and parameter != "prompt"

    assert ([] if nullable else [parameter]) == wrong(model, **{parameter: None})


@of_every_parameter
def test_the_documented_default_range_and_choices_are_the_published_ones(model, parameter, schema):
    told = MODELS[model].input_schema["properties"][parameter]
    bounded = next((each for each in told.get("anyOf", [told]) if each["type"] != "null"), told)

    seen_by_callers = MODELS[model].asks_for.get(parameter, schema.get("default"))
    assert seen_by_callers == told.get("default")
    assert schema["type"] == bounded["type"]
    assert sorted(schema.get("enum", ())) == sorted(bounded.get("enum", ()))
    for end in ("minimum", "maximum"):
        if parameter != "seed":
            assert schema.get(end) == bounded.get(end)


def test_kontexts_safety_tolerance_is_at_most_2_with_an_input_image():
    assert [] == wrong("kontext-max", safety_tolerance=6)
    assert [] == wrong("kontext-max", safety_tolerance=6, input_image=None)
    assert [] == wrong("kontext-max", safety_tolerance=2, input_image=PICTURE_URL)
    assert ["safety_tolerance"] == wrong("kontext-max", safety_tolerance=3, input_image=PICTURE_URL)
    assert ["input_image"] == wrong("kontext-max", safety_tolerance=3, input_image="no image")
    assert ["safety_tolerance"] == wrong("kontext-max", safety_tolerance="3", input_image=PICTURE_URL)


@pytest.mark.parametrize(
    "image",
    [
        "", " ", "street.jpg", "/etc/passwd", "file:///etc/passwd", "ftp://a/b", "javascript:1", "//a/b", "http://",
        "http:///x", "http://[::1", "http://a b/", "http://a/\n", "https://\xe9.com/", "http://user@/", "http://a:99999/",
        "data:,x", "data:text/html;base64,AAAA", "data:image/svg+xml;base64,AAAA", "data:image/png;base64,",
        "data:image/png;base64,A A", "data:image/png;base64,AAAA\n", "data:image/png,AAAA",
        "http://a/" + "x" * MAX_IMAGE, "data:image/png;base64," + "A" * MAX_IMAGE,
    ],
    ids=lambda image: image[:30],
)  # fmt: skip
def test_what_is_no_image_is_refused(image):
    assert ["image"] == wrong("flux-dev", image=image)


@pytest.mark.parametrize(
    "image",
    [
        "http://a/b", "HTTPS://example.com:8443/a?b=c#d", "http://[::1]/x", PICTURE_DATA,
        "data:image/webp;base64,".ljust(MAX_IMAGE, "A"), "http://a/".ljust(MAX_IMAGE, "x"),
    ],
    ids=lambda image: image[:30],
)  # fmt: skip
def test_an_image_is_a_url_or_a_data_uri(image):
    assert [] == wrong("flux-dev", image=image)


def test_every_name_finds_its_model_and_no_two_models_share_one():
    names = [name for model in MODELS.values() for name in model.names]

    assert len(names) == len(set(names))
    assert all(models.find(name) is model for model in MODELS.values() for name in model.names)
    assert ALIASES == {alias: model.name for model in MODELS.values() for alias in model.aliases}
    assert {name: PRICES[name] for name in MODELS} == {
        model.name: (model.price.usd, model.price.per) for model in MODELS.values()
    }


def run(client, simulator, *requests: Any) -> tuple[list[Any], list[Any]]:
    """What came of these requests, and what Replicate was sent for them, both in their order."""
    results = client.post("/generate-batch", json={"requests": list(requests)}, headers=ADMIN).json["results"]
    made = {each.id: each for each in simulator.predictions()}
    return results, [made[each["prediction_id"]] for each in results]


def test_every_name_runs_the_model_it_stands_for(client, simulator):
    names = [*ALIASES, *MODELS]

    results, made = run(client, simulator, *({"model_name": name, "prompt": "a fox"} for name in names))

    expected = [ALIASES.get(name, name) for name in names]
    assert expected == [each.model for each in made]
    assert expected == [each["model_name"] for each in results]
    assert names == [each["requested_model"] for each in results]


def test_the_example_of_each_model_runs_as_it_is_shown(client, simulator):
    shown = [each["example"] for each in client.get("/models").json["models"]]

    results, made = run(client, simulator, *shown)

    assert all(each["success"] for each in results)
    for model, example, each in zip(MODELS.values(), shown, made, strict=True):
        given = {name: value for name, value in example.items() if name != "model_name"}
        assert model.asks_for | given == each.input


def test_what_the_caller_did_not_give_is_not_sent(client, simulator):
    _, made = run(
        client,
        simulator,
        {"model_name": "qwen-image", "prompt": "a"},
        {"model_name": "kontext-max", "prompt": "a", "seed": None, "input_image": None, "timeout": 60},
        {"model_name": "qwen-image", "prompt": "a", "guidance": 3, "seed": 0, "go_fast": False},
    )

    assert [
        {"prompt": "a"},
        {"prompt": "a"},
        {"prompt": "a", "guidance": 3, "seed": 0, "go_fast": False},
    ] == [each.input for each in made]


def test_flux_dev_asks_for_jpg_unless_the_caller_names_a_format(client, simulator):
    body = {"model_name": "flux-dev", "prompt": "a"}

    _, (first, second) = run(client, simulator, body, body | {"output_format": "webp"})

    assert ("jpg", "webp") == (first.input["output_format"], second.input["output_format"])
    assert first.output[0].endswith(".jpg")


def test_an_unknown_field_is_refused_with_the_nearest_name(client):
    body = {"model_name": "flux-dev", "prompt": "a", "guidence": 3, "xyzzy": 1}
    fields = find("flux-dev").inputs.model_fields
    answer = client.post("/generate", json=body, headers=ADMIN)

    assert [
        {"field": "guidence", "message": "is not a known field; did you mean guidance?", "given": 3},
        {"field": "xyzzy", "message": f"is not a known field; there are {', '.join(fields)}", "given": 1},
    ] == problem(answer, 400, "invalid_request")["errors"]


@pytest.mark.parametrize("name", ["flux-devv", "FLUX-DEV", "", " flux-dev", "\ud800", "x" * 10_000])
def test_an_unknown_model_is_refused_with_the_list_of_those_that_exist(client, name):
    answer = client.post("/generate", json={"model_name": name, "prompt": "a"}, headers=ADMIN)

    assert {"model_name"} == set(fields(answer))
    assert all(model in answer.json["errors"][-1]["message"] for model in MODELS)
    assert name != "flux-devv" or "did you mean flux-dev?" in answer.json["errors"][0]["message"]


@pytest.fixture
def throw_away():
    @registered(
        name="acme/animator",
        aliases=("animator",),
        kind="video",
        price=Price(1.5, per="call"),
        example={"prompt": "A dancing bear"},
    )
    class Animator(Inputs):
        beats: int = 4

    openapi_document.cache_clear()
    yield Animator
    del MODELS["acme/animator"]
    openapi_document.cache_clear()


def test_adding_a_model_is_adding_one_class(throw_away, client):
    (shown,) = [each for each in client.get("/models").json["models"] if each["name"] == "acme/animator"]
    assert {"model_name": "animator", "prompt": "A dancing bear"} == shown["example"]
    assert ".mp4" == shown["default_extension"]
    assert 4 == shown["input_schema"]["properties"]["beats"]["default"]

    schemas = client.get("/openapi.json").json["components"]["schemas"]
    assert ["acme/animator", "animator"] == schemas["Animator"]["properties"]["model_name"]["enum"]
    assert {"$ref": "#/components/schemas/Animator"} in schemas["GenerationRequest"]["oneOf"]

    assert ["beats"] == wrong("animator", beats="4")
    assert [] == wrong("acme/animator", beats=8)


def test_models_tells_of_each_model_what_a_caller_needs(client):
    answer = client.get("/models").json

    assert list(MODELS) == [each["name"] for each in answer["models"]]
    for each in answer["models"]:
        assert ["name", "aliases", "kind", "price", "default_extension", "input_schema", "example"] == list(
            each
        )
