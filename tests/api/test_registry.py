"""The registry agrees with the published schemas: every parameter of every model is tested at both bounds and just
outside.

The schemas are the simulator's, which were written independently: where the two disagree, one is wrong.
"""

import base64
import dataclasses
import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from api import incoming
from catalog.model import KINDS, TIERS, Fallback, References, declare
from catalog.prices import Price
from catalog.published import SCHEMAS, compiled
from catalog.published import saved as saved_document
from catalog.registry import Registry
from errors import InvalidRequest
from models import declared
from parsing.context import ParseContext
from parsing.generation import generation_fields
from simulator import catalog, official
from tests.support.callers import ADMIN, PNG
from tests.support.declarations import MODELS, REGISTRY, find, least, parse_generation
from tests.support.problem_documents import fields, problem

PARAMETERS = [
    (model.name, parameter, schema) for model in catalog.MODELS for parameter, schema in model.inputs.items()
]
HOSTED = {model.name: model for model in (*catalog.MODELS, *official.models())}
PICTURE_URL = "https://example.com/a.png"
PICTURE_DATA = "data:image/png;base64," + base64.b64encode(PNG).decode()
FORM = "multipart/form-data"
CUSTOM = {"aspect_ratio": "custom"}
BESIDE = {"width": CUSTOM, "height": CUSTOM}
"""Other parameters that a parameter requires."""

STEP = {"integer": 1, "number": 0.001}

ALIASES = {model.short_name: name for name, model in MODELS.items()} | {
    "kontext-max": "black-forest-labs/flux-kontext-max"
}
PLANS = {"flux-schnell": ("free", 1), "flux-dev": ("basic", 2), "flux-1.1-pro": ("premium", 5)}
REFERENCES = {
    "flux-schnell": None,
    "flux-dev": ("image", 1),
    "flux-1.1-pro": ("image_prompt", 1),
    "flux-kontext-max": ("input_image", 1),
    "qwen-image": ("image", 1),
    "imagen-4-ultra": None,
    "recraft-v4": None,
    "wan-2.7-t2v": None,
    "nano-banana": ("image_input", 3),
    "nano-banana-2": ("image_input", 14),
    "nano-banana-pro": ("image_input", 14),
    "flux-2-pro": ("input_images", 8),
    "flux-2-max": ("input_images", 8),
    "flux-2-flex": ("input_images", 10),
    "flux-2-klein-9b": ("images", 5),
    "seedream-4.5": ("image_input", 14),
    "qwen-image-edit-2511": ("image", None),
    "kling-v3-video": ("start_image", 1),
    "wan-2.7-i2v": ("first_frame", 1),
    "wan-2.7-r2v": ("reference_images", None),
    "hailuo-2.3": ("first_frame_image", 1),
    "sora-2": ("input_reference", 1),
    "veo-3-fast": ("image", 1),
    "kling-v2.1-master": ("start_image", 1),
}


def wrong(model: str, **given: Any) -> list[str]:
    """The fields that are refused."""
    try:
        parse_generation({**least(find(model)), "prompt": "a fox", **given})
    except InvalidRequest as refused:
        return [each.field for each in refused.problems]
    return []


SIDE = (256, 1440)
"""The bounds of the parameters that also have to be multiples of 32, which the published schema cannot say."""


def of_every_parameter(test):
    ids = [f"{name.split('/')[1]}-{parameter}" for name, parameter, _ in PARAMETERS]
    return pytest.mark.parametrize(("model", "parameter", "schema"), PARAMETERS, ids=ids)(test)


def allowed(schema) -> list[Any]:
    if schema["type"] == "array" and "format" not in schema["items"]:
        return [[], [1], [2, 1]] if schema["items"]["type"] == "number" else [[], ["x"]]
    if schema["type"] == "array":
        return [[], *([each] * count for each in (PICTURE_URL, PICTURE_DATA) for count in (1, 2, 3))]
    if "enum" in schema:
        return schema["enum"]
    if schema.get("format") == "uri":
        return [PICTURE_URL, PICTURE_DATA]
    match schema["type"]:
        case "boolean":
            return [True, False]
        case "string":
            return ["x", " x ", "é\U0001f600"]
    if (schema.get("minimum"), schema.get("maximum")) == SIDE:
        return [*range(*SIDE, 32), SIDE[1]]
    return [schema.get("minimum", -(2**63)), schema.get("maximum", 2**63 - 1), schema.get("default", 3)]


def foreign(schema) -> list[Any]:
    every = [[], {}, [1], {"a": 1}]
    if schema["type"] == "array" and "format" not in schema["items"]:
        return [{}, "foreign", 1, True, [None], [True], [[]]]
    if schema["type"] == "array":
        return [
            {},
            "foreign",
            PICTURE_URL,
            1,
            True,
            [1],
            [None],
            [[PICTURE_URL]],
            ["foreign"],
            [PICTURE_URL] * 4,
        ]
    if "enum" in schema or schema.get("format") == "uri":
        others = [each for each in (1, 2, 8, 10) if each not in schema.get("enum", ())]
        return [*every, "foreign", "", *others, 1.5, True, *(f" {value}" for value in schema.get("enum", ()))]
    match schema["type"]:
        case "boolean":
            return [*every, "true", "", 0, 1, 1.0]
        case "string":
            return [*every, 1, 1.5, True, "a\0b", "\ud800"]
    step = STEP[schema["type"]]
    outside = [schema[end] + way for end, way in (("minimum", -step), ("maximum", step)) if end in schema]
    fractional = [1.5, 4.000001] if schema["type"] == "integer" else []
    if (schema.get("minimum"), schema.get("maximum")) == SIDE:
        outside += [schema["minimum"] + 1, 1000, 1439]
    return [*every, *outside, *fractional, "1", "", True, False, 10**400, float("inf"), float("nan")]


@pytest.mark.parametrize("model", MODELS)
def test_a_model_takes_exactly_the_inputs_of_its_published_schema(model):
    assert set(HOSTED[model].inputs) == set(MODELS[model].inputs)


@of_every_parameter
def test_every_value_the_schema_allows_is_accepted_up_to_both_bounds(model, parameter, schema):
    for value in allowed(schema):
        assert [] == wrong(model, **BESIDE.get(parameter, {}), **{parameter: value}), value


@of_every_parameter
def test_every_value_the_schema_does_not_allow_is_refused_by_its_field(model, parameter, schema):
    for value in foreign(schema):
        found = {
            each.partition("[")[0] for each in wrong(model, **BESIDE.get(parameter, {}), **{parameter: value})
        }
        assert {parameter} == found, value


@of_every_parameter
def test_null_counts_as_omitted_for_optional_parameters_only_as_in_the_published_schema(
    model, parameter, schema
):
    is_optional = parameter != "prompt"
    published = Draft202012Validator(MODELS[model].input_schema)

    assert ([] if is_optional else [parameter]) == wrong(model, **{parameter: None})
    assert is_optional is published.is_valid({"prompt": "a", parameter: None})
    if is_optional:
        least = {"model_name": model, "prompt": "a"}
        for more in ({}, {"fallback": None}, {"fallback": []}):
            sent = parse_generation(least | more | {parameter: None}).first.input
            assert parse_generation(least | more).first.input == sent
    assert parameter in wrong(model, **{parameter: [None]})[0]


@of_every_parameter
def test_a_whole_float_is_the_integer_that_is_sent(model, parameter, schema):
    for value in (each for each in allowed(schema) if type(each) is int):
        given = {"model_name": model, "prompt": "a", **BESIDE.get(parameter, {}), parameter: float(value)}
        if float(value) == value <= schema.get("maximum", 2**53):
            sent = parse_generation(given).first.input[parameter]
            assert (value, int) == (sent, type(sent))
            assert Draft202012Validator(MODELS[model].input_schema).is_valid(
                {name: each for name, each in given.items() if name != "model_name"}
            )


@of_every_parameter
def test_the_documented_default_range_and_choices_are_the_published_ones(model, parameter, schema):
    described = MODELS[model].input_schema["properties"][parameter]
    bounded = next(
        (each for each in described.get("anyOf", [described]) if each["type"] != "null"), described
    )

    seen_by_callers = MODELS[model].asks_for.get(parameter, schema.get("default"))
    assert seen_by_callers == described.get("default")
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


def test_flux_1_1_pros_width_and_height_require_a_custom_aspect_ratio():
    assert [] == wrong("flux-1.1-pro", aspect_ratio="custom", width=1024, height=768)
    assert [] == wrong("flux-1.1-pro", aspect_ratio="1:1", width=None)
    assert ["width", "height"] == wrong("flux-1.1-pro", width=1024, height=768)
    assert ["height"] == wrong("flux-1.1-pro", aspect_ratio="16:9", height=768)


@pytest.mark.parametrize(
    ("model", "given", "cost"),
    [
        ("flux-schnell", {"num_outputs": 4}, 0.012), ("flux-dev", {}, 0.025), ("nano-banana", {}, 0.039),
        ("veo-3-fast", {"duration": 4}, 3.32), ("veo-3-fast", {}, 3.32),
        ("kling-v2.1-master", {}, 1.4), ("kling-v2.1-master", {"duration": 10}, 2.8),
        ("flux-2-pro", {}, 0.03), ("flux-2-pro", {"resolution": "2 MP"}, 0.045),
        ("flux-2-max", {"aspect_ratio": "custom", "width": 256, "height": 256}, 0.16),
        ("flux-2-flex", {"resolution": "match_input_image"}, 0.24), ("nano-banana-pro", {"resolution": "4K"}, 0.3),
        ("seedream-4.5", {"max_images": 4, "sequential_image_generation": "auto"}, 0.16),
        ("seedream-4.5", {"max_images": 4}, 0.04), ("sora-2", {"seconds": 12}, 1.2),
        ("kling-v3-video", {"mode": "pro", "generate_audio": True, "duration": 15}, 5.04),
        ("seedance-2.0", {"duration": -1}, 2.55), ("veo-3.1-fast", {"generate_audio": False, "duration": 4}, 0.4),
    ],
)  # fmt: skip
def test_a_prediction_is_priced_by_image_by_call_or_by_second(model, given, cost):
    assert cost == find(model).cost(given)
    assert 0.0 == find(model).cost(given, outputs=0)


@pytest.mark.parametrize("name", MODELS)
def test_a_models_kind_and_price_are_the_published_ones(name):
    assert name in HOSTED, f"simulator/catalog.py or simulator/official.py has {name}"
    hosted, model = HOSTED[name], MODELS[name]

    assert (hosted.kind, hosted.price.per) == (model.kind, model.price.per)
    assert hosted.price.each == model.price.each
    assert model.price.usd == hosted.price.of(hosted.schema, {})
    for rate in model.price.by:
        assert rate.usd == hosted.price.of(hosted.schema, rate.when)
    for by in model.price.by[0].when if model.price.by else ():
        unnamed = set(model.choices(by)) - {rate.when.get(by) for rate in model.price.by}
        for choice in unnamed - {"match_input_image"}:  # a size that is not known, and so the largest
            assert hosted.price.of(hosted.schema, {by: choice}) <= model.price.dearest


def test_every_saved_schema_compiles_and_says_where_it_is_from():
    for path in SCHEMAS.rglob("*.json"):
        name = str(path.relative_to(SCHEMAS).with_suffix(""))
        inputs = compiled(saved_document(name))
        assert "prompt" in inputs, name
        assert [] == [each.name for each in inputs.fields.values() if each.unchecked], name
        assert json.loads(path.read_text())["source"]


def test_the_secret_inputs_of_the_declared_models_are_known():
    secrets = {model.short_name: model.inputs.secrets for model in MODELS.values() if model.inputs.secrets}

    assert {
        "p-image": {"hf_api_token"},
        "flux-dev-lora": {"hf_api_token", "civitai_api_token"},
        "sora-2": {"openai_api_key"},
    } == secrets


@pytest.mark.parametrize("model", MODELS.values(), ids=lambda each: each.short_name)
def test_what_an_example_may_cost_is_at_most_what_the_dearest_call_costs(model):
    assert 0 < model.cost(model.example) == model.bound(model.example)
    assert model.credits > 0


@pytest.mark.parametrize(
    ("model", "given", "broken"),
    [
        ("flux-2-pro", {"width": 512}, ["width"]),
        ("flux-2-pro", {"width": 500, "height": 512, "aspect_ratio": "custom"}, []),
        ("flux-2-flex", {"input_images": ["https://example.com/a.png"] * 11}, ["input_images"]),
        ("p-image", {"width": 500, "height": 512, "aspect_ratio": "custom"}, ["width"]),
        ("recraft-v4", {"prompt": "a" * 10_001}, ["prompt"]),
        ("seedream-4.5", {"max_images": 14, "image_input": ["https://example.com/a.png"] * 2}, []),
        (
            "seedream-4.5",
            {
                "max_images": 14,
                "image_input": ["https://example.com/a.png"] * 2,
                "sequential_image_generation": "auto",
            },
            ["max_images"],
        ),
        ("kling-v3-video", {"end_image": "https://example.com/a.png"}, ["end_image"]),
        ("seedance-2.0", {"reference_images": []}, []),
        (
            "seedance-2.0",
            {"reference_images": ["https://example.com/a.png"], "image": "https://example.com/a.png"},
            ["reference_images"],
        ),
        ("wan-2.7-i2v", {"prompt": "", "last_frame": "https://example.com/a.png"}, ["last_frame"]),
        ("hailuo-2.3", {"duration": 10, "resolution": "1080p"}, ["duration"]),
        ("hailuo-2.3", {"duration": 10}, []),
    ],
)
def test_a_rule_that_a_model_states_in_words_is_checked_and_documented(model, given, broken):
    body = {"prompt": "a", **given}

    assert broken == wrong(model, **given)
    if broken != ["max_images"]:  # which JSON Schema cannot say
        assert (broken == []) is Draft202012Validator(find(model).input_schema).is_valid(body)


def test_the_cost_counts_the_outputs_made_and_not_those_requested():
    assert 0.009 == find("flux-schnell").cost({"num_outputs": 4}, outputs=3)


def test_each_model_has_its_tier_credits_kind_and_references():
    described = {model.short_name: model for model in MODELS.values()}

    assert PLANS == {name: (described[name].tier, described[name].credits) for name in PLANS}
    assert REFERENCES == {
        name: described[name].references
        and (described[name].references.parameter, described[name].references.most)
        for name in REFERENCES
    }


@pytest.mark.parametrize(
    ("query", "tiers", "kinds"),
    [
        ("tier=free", {"free"}, KINDS),
        ("tier=basic", {"basic"}, KINDS),
        ("kind=video", TIERS, {"video"}),
        ("kind=video&tier=basic", {"basic"}, {"video"}),
        ("tier=free&tier=basic", {"free", "basic"}, KINDS),
        ("page=3", TIERS, KINDS),
    ],
)
def test_models_are_listed_by_tier_and_by_kind(client, query, tiers, kinds):
    listed = client.get(f"/models?{query}").json["models"]
    listed = [each for each in listed if each.get("provider") != "gemini"]

    assert [each["name"] for each in listed] == [
        name for name, model in MODELS.items() if model.tier in tiers and model.kind in kinds
    ]


def test_an_unknown_tier_or_kind_is_refused_with_the_known_ones(client):
    answer = client.get("/models?tier=gold&kind=")

    messages = {each["field"]: each["message"] for each in problem(answer, 400, "invalid_request")["errors"]}
    kinds = "must be image or video or audio or text or 3d or data"
    assert {"tier": "must be free or basic or premium", "kind": kinds} == messages


def test_a_parameter_of_another_model_is_refused_with_the_models_that_take_it():
    editors = (
        "flux-kontext-max takes one (input_image), nano-banana takes up to three (image_input), "
        "nano-banana-2 takes up to 14 (image_input)"
    )

    def messages(model, **given):
        with pytest.raises(InvalidRequest) as refused:
            parse_generation({"model_name": model, "prompt": "a", **given})
        return {each.field: each.message for each in refused.value.problems}

    assert {
        "negative_prompt": "is not taken by flux-dev, but by qwen-image",
        "strength": "is not taken by flux-dev, but by qwen-image; did you mean prompt_strength?",
        "duration": "is not taken by flux-dev, but by veo-3-fast, veo-3.1-fast, kling-v2.1-master, kling-v3-video, "
        "kling-v2.6 and 6 more",
    } == messages("flux-dev", negative_prompt="a", strength=1, duration=3)
    assert {"image": f"is not taken by flux-schnell, as no reference image is; {editors}"} == messages(
        "flux-schnell", image=PICTURE_URL
    )
    assert {
        "image": "is not taken by flux-kontext-max, whose reference image is input_image",
        "input_image": "must be one image and no list for flux-kontext-max; "
        "nano-banana takes up to three (image_input), nano-banana-2 takes up to 14 (image_input)",
    } == messages("kontext-max", image=PICTURE_URL, input_image=[PICTURE_URL])


def test_every_name_finds_its_model_and_no_two_models_share_one():
    names = [name for model in MODELS.values() for name in model.names]

    assert len(names) == len(set(names))
    assert all(REGISTRY.find(name) is model for model in MODELS.values() for name in model.names)
    assert (
        ALIASES.items() <= {alias: model.name for model in MODELS.values() for alias in model.aliases}.items()
    )


def run(client, simulator, *requests: Any) -> tuple[list[Any], list[Any]]:
    """The results of these requests, and the inputs that were sent to Replicate, both in the order of the requests."""
    results = client.post("/generate-batch", json={"requests": list(requests)}, headers=ADMIN).json["results"]
    made = {each.id: each for each in simulator.predictions()}
    return results, [made[each["prediction_id"]] for each in results]


def test_every_name_runs_its_model(client, simulator):
    names = [*ALIASES, *MODELS]

    results, made = run(client, simulator, *({**least(find(name)), "model_name": name} for name in names))

    expected = [ALIASES.get(name, name) for name in names]
    assert expected == [each.model for each in made]
    assert expected == [each["model_name"] for each in results]
    assert names == [each["requested_model"] for each in results]


def test_the_example_of_each_model_runs_as_shown(client, simulator):
    listed = client.get("/models").json["models"]
    shown = [each["example"] for each in listed if each["kind"] != "text"]

    results, made = run(client, simulator, *shown)

    assert all(each["success"] for each in results)
    for model, example, each in zip(MODELS.values(), shown, made, strict=True):
        given = {name: value for name, value in example.items() if name != "model_name"}
        assert model.asks_for | given == each.input


def test_parameters_that_the_caller_leaves_out_are_not_sent(client, simulator):
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


def test_flux_dev_requests_jpg_unless_the_caller_names_a_format(client, simulator):
    body = {"model_name": "flux-dev", "prompt": "a"}

    _, (first, second) = run(client, simulator, body, body | {"output_format": "webp"})

    assert ("jpg", "webp") == (first.input["output_format"], second.input["output_format"])
    assert first.output[0].endswith(".jpg")


def test_an_unknown_field_is_refused_with_the_nearest_name(client):
    body = {"model_name": "flux-dev", "prompt": "a", "guidence": 3, "xyzzy": 1}
    fields = generation_fields(find("flux-dev").inputs)
    answer = client.post("/generate", json=body, headers=ADMIN)

    assert [
        {"field": "guidence", "message": "is not a known field; did you mean guidance?", "given": 3},
        {"field": "xyzzy", "message": f"is not a known field; there are {', '.join(fields)}", "given": 1},
    ] == problem(answer, 400, "invalid_request")["errors"]


@pytest.mark.parametrize("name", ["flux-devv", "FLUX-DEV", "", " flux-dev", "\ud800", "x" * 10_000])
def test_an_unknown_model_is_refused_with_the_list_of_known_models(client, name):
    answer = client.post("/generate", json={"model_name": name, "prompt": "a"}, headers=ADMIN)

    assert {"model_name"} == set(fields(answer))
    assert all(model in answer.json["errors"][-1]["message"] for model in MODELS)
    listed = answer.json["errors"][-1]["message"].partition("first: ")[2].split(", ")
    assert sorted(MODELS) == sorted(listed)
    assert (
        name.lower() not in {"flux-devv", "flux-dev", " flux-dev"}
        or "black-forest-labs/flux-dev" == listed[0]
    )


def published(required=("prompt",), **inputs):
    """An OpenAPI document with these inputs."""
    return {"components": {"schemas": {"Input": {"properties": inputs, "required": [*required]}}}}


ANIMATOR = declare(
    "acme/animator",
    document=published(
        prompt={"type": "string"},
        beats={"type": "integer", "default": 4},
        output_format={"type": "string", "enum": ["jpg", "png"], "default": "png"},
        lyrics={"type": "string"},
        photos={"type": "array", "items": {"type": "string", "format": "uri"}, "default": []},
    ),
    aliases=("animator",),
    kind="image",
    price=Price(1.5, per="call"),
    tier="premium",
    credits=200,
    usual_seconds=30.0,
    example={"prompt": "A dancing bear"},
    references=References("photos", most=5, preferred=True),
    fallbacks=(Fallback("black-forest-labs/flux-dev"),),
)


@pytest.fixture
def animated(app, client):
    """A client of a service whose registry gained another model after its first responses."""
    client.get("/openapi.json")
    client.get("/models")
    app.extensions["service"].context.registry.register(ANIMATOR)
    return client


def test_a_model_registered_later_is_listed_and_documented(animated):
    shown = animated.get("/models/animator").json
    assert {"model_name": "animator", "prompt": "A dancing bear"} == shown["example"]
    assert 4 == shown["input_schema"]["properties"]["beats"]["default"]

    schemas = animated.get("/openapi.json").json["components"]["schemas"]
    assert ["acme/animator", "animator"] == schemas["Animator"]["properties"]["model_name"]["enum"]
    assert {"$ref": "#/components/schemas/Animator"} in schemas["GenerationRequest"]["oneOf"]
    assert "animator" in schemas["WithFallback"]["properties"]["model_name"]["enum"]


def test_a_model_registered_later_is_parsed_and_named_in_errors_of_other_models(animated):
    def refused(**given):
        answer = animated.post("/generate", json={"prompt": "a"} | given, headers=ADMIN)
        return {each["field"]: each["message"] for each in problem(answer, 400, "invalid_request")["errors"]}

    assert {"beats": "must be an integer"} == refused(model_name="animator", beats="4")
    assert {"beats": "is not taken by flux-dev, but by animator"} == refused(model_name="flux-dev", beats=8)
    assert {
        "photos": "is not taken by flux-schnell, as no reference image is; flux-kontext-max takes one "
        "(input_image), nano-banana takes up to three (image_input), animator takes up to 5 (photos), "
        "nano-banana-2 takes up to 14 (image_input)"
    } == refused(model_name="flux-schnell", photos=[PICTURE_URL])
    assert "acme/animator" in refused(model_name="animate")["model_name"]
    listed = animated.get("/generations?model=animator", headers=ADMIN)
    assert (200, []) == (listed.status_code, listed.json["generations"])


def test_the_fields_of_a_model_registered_later_are_text_and_lists_in_a_form(app, animated):
    service = app.extensions["service"]
    fields = {"model_name": "animator", "prompt": "1", "lyrics": "2", "beats": "3", "photos": PICTURE_URL}

    with (
        app.test_request_context("/generate", method="POST", data=fields, content_type=FORM),
        incoming.body("ann", forms=True) as body,
    ):
        pass

    given = parse_generation(body, context=service.context).first.input
    assert {"prompt": "1", "lyrics": "2", "beats": 3, "photos": [PICTURE_URL]} == given


def test_a_fallback_leads_to_and_from_a_model_registered_later():
    context = ParseContext(declared())
    context.registry.register(ANIMATOR)

    def parse(**given):
        return parse_generation({"prompt": "a", "fallback": True} | given, context=context)

    many = parse(model_name="flux-schnell", image=[PICTURE_URL] * 4, beats=8)
    assert ("animator", [PICTURE_URL] * 4, 8) == (
        many.model.short_name,
        many.first.input["photos"],
        many.first.input["beats"],
    )
    path = parse(model_name="animator", photos=[PICTURE_DATA]).route
    step = path.after([ANIMATOR], code="generation_failed")
    assert ("flux-dev", PICTURE_DATA) == (step.model.short_name, step.input["image"])
    assert {
        "field": "photos",
        "change": "mapped",
        "given": "an image",
        "sent_as": "image",
        "sent": "an image",
    } in [each.as_json() for each in step.changes]
    ordered = parse(model_name="flux-dev", fallback=["animator"])
    assert [ANIMATOR] == [ordered.route.after([find("flux-dev")], code="generation_failed").model]


def test_a_model_whose_name_is_in_use_is_not_registered_under_any_name():
    registry = Registry([ANIMATOR])

    for names in ({"name": "acme/animator", "aliases": ()}, {"name": "acme/new", "aliases": ("animator",)}):
        with pytest.raises(ValueError, match="is already the name of a model"):
            registry.register(dataclasses.replace(ANIMATOR, **names))
    assert ((ANIMATOR,), None) == (registry.models, registry.find("acme/new"))


def test_two_registries_are_independent():
    one, other = declared(), declared()
    one.register(ANIMATOR)

    assert (ANIMATOR, None) == (one.find("animator"), other.find("animator"))
    assert "beats" in one.takers
    assert "beats" not in other.takers


def test_a_fallback_to_an_unregistered_model_is_skipped():
    context = ParseContext(Registry([ANIMATOR]))
    body = {"model_name": "animator", "prompt": "a", "fallback": True}

    path = parse_generation(body, context=context).route

    assert path.after([ANIMATOR], code="generation_failed") is None


def test_models_lists_the_facts_that_a_caller_needs(client):
    answer = client.get("/models").json

    pictures = [each for each in answer["models"] if each["kind"] != "text"]
    assert list(MODELS) == [each["name"] for each in pictures]
    assert {"imagen-4-ultra", "veo-3-fast"} == {
        each["aliases"][0] for each in answer["models"] if "Google shut down" in each.pop("retired", "")
    }
    for each in pictures:
        assert [
            "name", "aliases", "kind", "price", "tier", "credits", "references", "fallbacks",
            "default_extension", "input_schema", "example",
        ] == list(each)  # fmt: skip
