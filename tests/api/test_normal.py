"""Normalized bodies: null is left out, whole floats are integers, blank prompts are refused; suggestions of fields."""

import jsonschema_rs
import pytest

from api.openapi.document import openapi_document
from catalog.text_values import is_blank
from parsing import generation
from parsing.limits import parse_limits
from parsing.normal import OPTIONAL
from parsing.shapes import BatchFields, ItemFields, OwnFields
from service import VERSION
from tests.support.callers import ADMIN, PICTURE
from tests.support.declarations import CONTEXT, MODELS, find, least, parse_batch, parse_generation
from tests.support.problem_documents import fields, messages

DOCUMENT = openapi_document(VERSION, CONTEXT.registry.models)


VALIDATORS = {
    name: jsonschema_rs.Draft202012Validator(DOCUMENT | {"$ref": f"#/components/schemas/{name}"})
    for name in ("GenerationRequest", "BatchRequest")
}


def is_published(name, body) -> bool:
    return VALIDATORS[name].is_valid(body)


# ── null


OWN = [name for name in ItemFields.model_fields if name != "model_name"]


@pytest.mark.parametrize("name", OWN)
def test_null_for_an_optional_field_of_the_service_counts_as_omitted(name):
    body = PICTURE | {name: None}

    assert parse_generation(body) == parse_generation(PICTURE)
    assert PICTURE == parse_generation(body).given
    assert is_published("GenerationRequest", body)
    assert parse_batch({"requests": [body]}) == parse_batch({"requests": [PICTURE]})


@pytest.mark.parametrize("name", [*BatchFields.model_fields, *OWN, "file_names", "seed", "go_fast"])
def test_null_beside_prompts_counts_as_omitted(name):
    body = {"model_name": "flux-dev", "prompts": ["a"]}
    if name != "file_name":
        assert parse_batch(body | {name: None}) == parse_batch(body)
        assert is_published("BatchRequest", body | {name: None})
        assert name not in parse_batch(body | {name: None}).shared


@pytest.mark.parametrize("name", BatchFields.model_fields)
def test_null_beside_requests_counts_as_omitted(name):
    body = {"requests": [PICTURE]}

    assert parse_batch(body | {name: None}) == parse_batch(body)
    assert is_published("BatchRequest", body | {name: None})


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"prompt": None}, ["prompt"]),
        ({"model_name": None}, ["model_name"]),
        ({"unknown": None}, ["unknown"]),
        ({"image": [None]}, ["image"]),
        ({"seed": [None]}, ["seed"]),
        ({"fallback": [None]}, ["fallback"]),
        ({"timeout": [None]}, ["timeout"]),
        ({"model_name": "nano-banana", "image_input": [None]}, ["image_input[0]"]),
        ({"model_name": "nano-banana", "image_input": ["https://a.com/b", None]}, ["image_input[1]"]),
    ],
)
def test_null_is_refused_for_a_field_that_is_not_optional(change, wrong):
    body = PICTURE | change

    assert wrong == list(messages(parse_generation, body))
    assert [f"requests[0].{name}" for name in wrong] == list(messages(parse_batch, {"requests": [body]}))


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({"model_name": None, "prompts": ["a"]}, ["model_name"]),
        ({"model_name": "flux-dev", "prompts": None}, ["prompts"]),
        ({"model_name": "flux-dev", "prompts": [None]}, ["prompts[0]"]),
        ({"model_name": "flux-dev", "prompts": ["a"], "file_names": [None]}, ["file_names[0]"]),
        ({"model_name": "flux-dev", "prompts": ["a"], "prompt": None}, ["prompt"]),
        ({"requests": None}, ["prompts", "model_name"]),
        ({"requests": None, "prompts": None, "model_name": "flux-dev"}, ["prompts"]),
        ({"requests": [None]}, ["requests[0]"]),
        ({"requests": [PICTURE], "model_name": None}, ["model_name"]),
        ({"requests": [PICTURE], "unknown": None}, ["unknown"]),
    ],
)
def test_null_is_refused_where_a_batch_needs_a_value(body, wrong):
    assert wrong == list(messages(parse_batch, body))
    assert not is_published("BatchRequest", body)


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_null_for_an_optional_field_of_another_route_or_model_counts_as_omitted(model):
    alone = least(MODELS[model])
    beside = {each: value for each, value in alone.items() if each != "prompt"}
    for name in sorted(OPTIONAL.union(*(each.inputs for each in MODELS.values()))):
        for parse, published, plain, dumped in with_null(name, alone, beside):
            if name not in {"prompt", *beside} and not (name == "fallback" and "fallback" in plain):
                assert parse(plain) == parse(dumped), name
                assert is_published(published, dumped), name


def with_null(name, alone, beside):
    """Each way to send null for a field: the parser, the published schema, and the body without and with it."""
    return [
        (parse_generation, "GenerationRequest", alone, alone | {name: None}),
        (
            parse_generation,
            "GenerationRequest",
            alone | {"fallback": True},
            alone | {name: None, "fallback": True},
        ),
        (parse_batch, "BatchRequest", {"requests": [alone]}, {"requests": [alone | {name: None}]}),
        (parse_batch, "BatchRequest", {"requests": [alone]}, {name: None, "requests": [alone]}),
        (
            parse_batch,
            "BatchRequest",
            {**beside, "prompts": ["a"]},
            {name: None, **beside, "prompts": ["a"]},
        ),
    ]


def test_a_client_may_send_all_optional_fields_as_null(client):
    nulls = dict.fromkeys(OPTIONAL - {"dry_run"}) | {"negative_prompt": None, "dry_run": True}
    for path, body in (
        ("/generate", PICTURE),
        ("/generate-batch", {"requests": [PICTURE]}),
        ("/generate-batch", {"model_name": "flux-dev", "prompts": ["a"]}),
    ):
        assert 200 == client.post(path, json=nulls | body, headers=ADMIN).status_code


def test_with_a_fallback_null_for_a_parameter_of_any_model_counts_as_omitted():
    body = PICTURE | {"fallback": True}

    assert parse_generation(body) == parse_generation(body | {"strength": None, "image_input": None})
    assert ["unknown"] == list(messages(parse_generation, body | {"unknown": None}))


# ── Whole floats


@pytest.mark.parametrize(
    ("model", "name", "given", "sent"),
    [
        ("flux-dev", "num_inference_steps", 28.0, 28), ("flux-dev", "seed", -3.0, -3),
        ("flux-dev", "seed", 1e15, 10**15),
        ("flux-dev", "seed", -0.0, 0), ("flux-dev", "num_outputs", 4.0, 4), ("flux-dev", "output_quality", 0.0, 0),
        ("veo-3-fast", "duration", 8.0, 8), ("kling-v2.1-master", "duration", 10.0, 10),
        ("flux-dev", "guidance", 3.0, 3),
        ("flux-dev", "guidance", 2.5, 2.5), ("flux-dev", "prompt_strength", 1.0, 1),
    ],
)  # fmt: skip
def test_a_whole_float_is_sent_as_an_integer(model, name, given, sent):
    request = parse_generation({"model_name": model, "prompt": "a", name: given})

    assert (sent, type(sent)) == (request.first.input[name], type(request.first.input[name]))
    assert request == parse_generation({"model_name": model, "prompt": "a", name: sent})


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("num_inference_steps", 28.5), ("num_inference_steps", 51.0), ("num_inference_steps", 0.0), ("seed", 1e300),
        ("seed", 0.1), ("num_outputs", 4.0000001), ("num_outputs", "2.0"), ("num_outputs", [2.0]), ("go_fast", 1.0),
        ("prompt", 3.0), ("output_format", 1.0), ("timeout", 0.0),
    ],
)  # fmt: skip
def test_a_float_that_is_not_whole_is_refused_as_an_integer(name, given):
    assert [name] == list(messages(parse_generation, PICTURE | {name: given}))


def test_whole_floats_are_integers_in_the_services_own_fields_too():
    assert (60, 2) == (
        parse_generation(PICTURE | {"timeout": 60.0}).timeout,
        parse_batch({"requests": [PICTURE], "max_concurrent": 2.0}).max_concurrent,
    )
    assert (5, int) == (
        limit := parse_limits({"concurrent_limit": 5.0}).concurrent_limit,
        type(limit),
    )
    assert ["concurrent_limit"] == list(messages(parse_limits, {"concurrent_limit": 5.5}))


# ── Blank prompts


BLANK = [
    "", " ", "\n\t", "\u00a0", "\u2003\u3000", "\u200b", "\u200b\u200c\u200d\u2060", "\ufeff", "\u00ad", "\u0301",
    " \u0301", "\u034f", "\ufe0f", "\u200d\ufe0f", "\u115f", "\u1160", "\u3164", "\uffa0", "\u2800",
    "\u2800 \u200b\n\u3164",
    "\u2028\u2029", "\x01\x7f\x85", "\u202e\u202c", "\u2066\u2069", "\U000e0020\U000e007f", "\u180e", "\u20dd",
    "\u0903",
    "\u200b" * 100_000,
]  # fmt: skip

VISIBLE = [
    "a", " a ", "\u200ba", "👩\u200d🚀", "❤\ufe0f", "🏳\ufe0f\u200d🌈", "e\u0301", "क\u094dष", "\u2800a", ".", "0", "-",
    "中", "\u3164ㅎ", "\u3164x", "[[slow=0]]", "\u202eabc", "🇩🇪", "1\ufe0f\u20e3", "\ue000", "€",
    "ª", " " * 100_000 + "x",
]  # fmt: skip


@pytest.mark.parametrize("prompt", BLANK, ids=lambda prompt: ascii(prompt[:9]))
def test_a_prompt_without_a_visible_character_is_refused_like_a_space(prompt):
    assert is_blank(prompt)
    assert {"prompt": "must not be empty"} == messages(parse_generation, PICTURE | {"prompt": prompt})
    assert {"prompt": "must not be empty"} == messages(
        parse_generation, PICTURE | {"prompt": prompt, "fallback": True}
    )
    assert {"prompts[1]": "must not be empty"} == messages(
        parse_batch, {"model_name": "flux-dev", "prompts": ["a", prompt]}
    )
    assert {"requests[0].prompt": "must not be empty"} == messages(
        parse_batch, {"requests": [PICTURE | {"prompt": prompt}]}
    )


@pytest.mark.parametrize("prompt", VISIBLE, ids=lambda prompt: ascii(prompt[:9]))
def test_a_prompt_with_a_visible_character_passes_unchanged(prompt):
    assert prompt == parse_generation(PICTURE | {"prompt": prompt}).prompt
    assert prompt == parse_batch({"model_name": "flux-dev", "prompts": [prompt]}).requests[0].prompt


def test_blank_prompts_are_refused_over_http_and_nothing_is_spent(client, simulator):
    for prompt in BLANK:
        answer = client.post("/generate", json=PICTURE | {"prompt": prompt}, headers=ADMIN)
        assert ["prompt"] == fields(answer)
    assert {} == dict(simulator.counts().requests)


# ── Requests accepted before


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "\u200b"},
        {"prompt": "\u200b", "fallback": True},
        {"file_name": "CON"},
        {"image": "data:image/png;base64,iVBORw0KGgo="},
        {"image": "data:image/png;base64,iVBORw0KGgo=", "fallback": True},
        {"model_name": "imagen-4-ultra", "num_outputs": 2, "fallback": True},
    ],
)
def test_newer_rules_do_not_end_work_that_was_accepted_before(change):
    accepted = generation.ParseContext(CONTEXT.registry, accepted=True)
    body = PICTURE | change

    assert messages(parse_generation, body)
    request = generation.parse_generation(body, accepted)
    assert (body["prompt"], request.model.short_name) == (request.prompt, body["model_name"])
    for model in MODELS.values():
        if request.route and model.kind == "image":
            assert body["prompt"] == request.route.step(model).input["prompt"]


# ── Hints


HINTS = [
    ("output_filepath", "file_name"), ("output_path", "file_name"), ("outputFilePath", "file_name"),
    ("filename", "file_name"),
    ("save_as", "file_name"), ("n", "num_outputs"), ("num_images", "num_outputs"), ("N", "num_outputs"),
    ("numImages", "num_outputs"), ("number_of_images", "num_outputs"), ("samples", "num_outputs"),
    ("model", "model_name"),
    ("num_steps", "num_inference_steps"), ("guidance_scale", "guidance"), ("cfg_scale", "guidance"),
    ("response_format", "output_format"), ("quality", "output_quality"), ("image_url", "image"),
    ("init_image", "image"),
    ("callback_url", "webhook"), ("webhook_url", "webhook"), ("text", "prompt"), ("promt", "prompt"), ("sead", "seed"),
    ("aspectRatio", "aspect_ratio"), ("promts", "prompt"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "meant"), HINTS)
def test_an_unknown_field_is_refused_with_a_suggestion(given, meant):
    expected = f"is not a known field; did you mean {meant}?"

    assert {given: expected} == messages(parse_generation, PICTURE | {given: 1})
    assert {f"requests[0].{given}": expected} == messages(parse_batch, {"requests": [PICTURE | {given: 1}]})


@pytest.mark.parametrize(
    ("model", "given", "meant"),
    [("flux-dev", "steps", "num_inference_steps"), ("flux-dev", "size", "aspect_ratio"),
     ("seedream-4.5", "resolution", "size"), ("nano-banana-2", "size", "resolution"), ("sora-2", "duration", "seconds"),
     ("veo-3.1-fast", "seconds", "duration"), ("flux-2-flex", "num_inference_steps", "steps")],
)  # fmt: skip
def test_a_field_of_other_models_is_refused_with_a_suggestion_too(model, given, meant):
    body = least(find(model)) | {given: 1}

    assert messages(parse_generation, body)[given].endswith(f"; did you mean {meant}?")


@pytest.mark.parametrize(
    ("given", "meant"),
    [("output_filepaths", "file_names"), ("output_filepath", "file_names"), ("promts", "prompts"), ("texts", "prompts"),
     ("text", "prompts"), ("n", "num_outputs"), ("concurrency", "max_concurrent"), ("dryrun", "dry_run")],
)  # fmt: skip
def test_hints_beside_prompts_are_the_fields_of_a_batch(given, meant):
    body = {"model_name": "flux-dev", "prompts": ["a"], given: 1}

    assert {given: f"is not a known field; did you mean {meant}?"} == messages(parse_batch, body)


@pytest.mark.parametrize("model", MODELS)
def test_the_list_of_known_fields_has_each_field_of_the_route_once_and_no_other(model):
    parameters = set(MODELS[model].inputs)
    own, batch = set(OwnFields.model_fields), set(BatchFields.model_fields)
    alone = {"model_name": model, "prompt": "a", "xyzzy": 1}
    cases = [
        (parse_generation, alone, "xyzzy", parameters | own | {"dry_run", "external_semaphore_id"}),
        (parse_batch, {"requests": [alone]}, "requests[0].xyzzy", parameters | own | {"idempotency_key"}),
        (
            parse_batch,
            {"model_name": model, "prompts": ["a"], "xyzzy": 1},
            "xyzzy",
            parameters - {"prompt"} | own - {"file_name"} | batch | {"prompts", "file_names"},
        ),
    ]

    for parse, body, field, known in cases:
        listed = messages(parse, body)[field].removeprefix("is not a known field; there are ").split(", ")
        assert (len(known), known) == (len(listed), set(listed))


def test_beside_requests_an_unknown_field_is_refused_with_the_fields_of_a_batch():
    body = {
        "requests": [PICTURE],
        "seed": 1,
        "max_parallel": 1,
        "callback": 1,
        "xyzzy": 1,
        "file_names": ["a"],
    }

    apart = "cannot stand beside `requests`; put it into each of them"
    fields = "max_concurrent, dry_run, webhook, metadata, max_cost_usd, external_semaphore_id"
    assert {
        "seed": apart,
        "file_names": apart,
        "max_parallel": f"is not a known field; there are requests, {fields}",
        "callback": "is not a known field; did you mean webhook?",
        "xyzzy": f"is not a known field; there are requests, {fields}",
    } == messages(parse_batch, body)


def test_a_mistyped_dry_run_never_starts_a_generation():
    expected = "is not a known field; did you mean dry_run?"

    assert {"dryRun": expected} == messages(parse_generation, PICTURE | {"dryRun": True})


def test_num_outputs_is_not_suggested_for_a_model_without_it():
    message = messages(parse_generation, {"model_name": "qwen-image", "prompt": "a", "n": 2})["n"]

    assert "did you mean" not in message
    assert "num_outputs" not in message


@pytest.mark.parametrize(
    "more", [{}, {"model_name": None}, {"model_name": 3}, {"model": "x"}, {"prompt": None}]
)
def test_the_error_for_a_missing_model_name_lists_the_models(more):
    body = {"prompt": "a"} | more
    message = messages(parse_generation, body)["model_name"]

    assert all(model in message for model in MODELS)
    assert all(
        model in messages(parse_batch, {"requests": [body]})["requests[0].model_name"] for model in MODELS
    )
