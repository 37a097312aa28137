"""Drift: each difference between Replicate's schemas and the registry is reported on one line, and nothing else is
reported. The documents are the simulator's, which were written independently of the registry.
"""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from catalog import drift
from catalog.registry import Registry
from harness.service_process import free_port
from settings import Settings
from simulator import Options, catalog, official, representations, running
from tests.support.callers import SERVER_TOKEN
from tests.support.declarations import MODELS, REGISTRY, find

ROOT = Path(__file__).parents[2]
HOSTED = {model.name: model for model in (*catalog.MODELS, *official.models())}


def document(name: str) -> dict[str, Any]:
    """The response to `GET /v1/models/{owner}/{name}`, as a copy that a test may change."""
    hosted = HOSTED.get(find(name).name)  # type: ignore[union-attr]
    assert hosted, f"simulator/catalog.py or simulator/official.py has {name}"
    return json.loads(json.dumps(representations.model(hosted)))


def openapi(name: str) -> dict[str, Any]:
    return document(name)["latest_version"]["openapi_schema"]


def schemas(published: dict[str, Any]) -> dict[str, Any]:
    return published["components"]["schemas"]


def differences(name: str, published: dict[str, Any]) -> list[str]:
    """The differences of a model, without the model's name before each."""
    before = f"{find(name).name}: "  # type: ignore[union-attr]
    found = drift.differences(find(name), published)  # type: ignore[arg-type]
    assert all(line.startswith(before) for line in found)
    return [line.removeprefix(before) for line in found]


def differences_after(name: str, parameter: str, **edit: Any) -> list[str]:
    """The differences after these keywords of a parameter are set, or removed if the value is None."""
    published = openapi(name)
    its = schemas(published)["Input"]["properties"][parameter]
    its |= edit
    for keyword in [keyword for keyword, value in edit.items() if value is None]:
        del its[keyword]
    return differences(name, published)


@pytest.mark.parametrize("name", MODELS)
def test_the_registry_agrees_with_independent_copies_of_the_schemas(name):
    assert [] == differences(name, openapi(name))


@pytest.mark.parametrize("name", MODELS)
def test_inline_choices_and_referenced_choices_do_not_differ(name):
    published = openapi(name)
    for parameter, its in schemas(published)["Input"]["properties"].items():
        if its.pop("allOf", None):
            its |= schemas(published).pop(parameter)

    assert [] == differences(name, published)


EDITS = [
    ("flux-dev", "guidance", {"type": "integer"}, 'type: "integer" at Replicate, "number" in the registry'),
    ("flux-dev", "guidance", {"type": None}, 'type: none at Replicate, "number" in the registry'),
    ("flux-dev", "guidance", {"default": 3.5}, "default: 3.5 at Replicate, 3 in the registry"),
    ("flux-dev", "guidance", {"default": None}, "default: none at Replicate, 3 in the registry"),
    ("flux-dev", "guidance", {"default": "3"}, 'default: "3" at Replicate, 3 in the registry'),
    ("flux-dev", "seed", {"default": 42}, "default: 42 at Replicate, none in the registry"),
    ("flux-dev", "go_fast", {"default": 1}, "default: 1 at Replicate, true in the registry"),
    ("flux-dev", "output_format", {"default": "jpg"}, 'default: "jpg" at Replicate, "webp" in the registry'),
    ("qwen-image", "negative_prompt", {"default": ""}, 'default: "" at Replicate, " " in the registry'),
    ("flux-dev", "guidance", {"minimum": 1}, "minimum: 1 at Replicate, 0 in the registry"),
    ("flux-dev", "guidance", {"minimum": None}, "minimum: none at Replicate, 0 in the registry"),
    ("flux-dev", "guidance", {"maximum": 5}, "maximum: 5 at Replicate, 10 in the registry"),
    (
        "flux-dev",
        "guidance",
        {"exclusiveMaximum": 10},
        "exclusiveMaximum: 10 at Replicate, none in the registry",
    ),
    (
        "flux-dev",
        "seed",
        {"maximum": 4294967295},
        "maximum: 4294967295 at Replicate, none in the registry",
    ),
    ("qwen-image", "lora_scale", {"maximum": 4}, "maximum: 4 at Replicate, none in the registry"),
    ("flux-1.1-pro", "width", {"multipleOf": 16}, "multipleOf: 16 at Replicate, none in the registry"),
    ("flux-dev", "guidance", {"multipleOf": 0.5}, "multipleOf: 0.5 at Replicate, none in the registry"),
    ("flux-dev", "image", {"format": None}, 'format: none at Replicate, "uri" in the registry'),
    ("qwen-image", "lora_weights", {"format": "uri"}, 'format: "uri" at Replicate, none in the registry'),
    ("qwen-image", "negative_prompt", {"maxLength": 9}, "maxLength: 9 at Replicate, none in the registry"),
    ("qwen-image", "negative_prompt", {"minLength": 1}, "minLength: 1 at Replicate, none in the registry"),
    ("nano-banana", "image_input", {"maxItems": 14}, "maxItems: 14 at Replicate, none in the registry"),
    (
        "nano-banana",
        "image_input",
        {"uniqueItems": True},
        "uniqueItems: true at Replicate, none in the registry",
    ),
    ("flux-dev", "guidance", {"nullable": True}, "nullable: true at Replicate, none in the registry"),
    ("flux-dev", "guidance", {"deprecated": True}, "deprecated: true at Replicate, none in the registry"),
    (
        "nano-banana",
        "image_input",
        {"items": {"type": "integer", "format": "uri"}},
        'each item\'s type: "integer" at Replicate, "string" in the registry',
    ),
    (
        "nano-banana",
        "image_input",
        {"items": {"type": "string"}},
        'each item\'s format: none at Replicate, "uri" in the registry',
    ),
    (
        "flux-dev",
        "guidance",
        {"x-cog-secret": True},
        "x-cog-secret: true at Replicate, none in the registry (a keyword that this check does not understand)",
    ),
]


@pytest.mark.parametrize(("name", "parameter", "edit", "what"), EDITS, ids=lambda value: str(value)[:40])
def test_an_edit_of_one_constraint_is_reported_in_one_line(name, parameter, edit, what):
    assert [f"{parameter}: {what}"] == differences_after(name, parameter, **edit)


def test_an_exclusive_bound_of_openapi_3_0_differs_from_an_inclusive_one():
    assert [
        "guidance: exclusiveMinimum: 0 at Replicate, none in the registry",
        "guidance: minimum: none at Replicate, 0 in the registry",
    ] == differences_after("flux-dev", "guidance", exclusiveMinimum=True)


@pytest.mark.parametrize(
    ("choices", "what"),
    [
        (["1", "0.25", "match_input"], 'choices: added at Replicate: "match_input"'),
        (["1"], 'choices: gone at Replicate: "0.25"'),
        (["1", "2", "4"], 'choices: added at Replicate: "2", "4"; gone at Replicate: "0.25"'),
        (["1", 0.25], 'choices: added at Replicate: 0.25; gone at Replicate: "0.25"'),
    ],
    ids=str,
)
def test_added_and_removed_choices_are_reported(choices, what):
    published = openapi("flux-dev")
    schemas(published)["megapixels"]["enum"] = choices

    assert [f"megapixels: {what}"] == differences("flux-dev", published)


def test_choices_on_one_side_only_are_reported():
    freed = openapi("flux-dev")
    del schemas(freed)["megapixels"]["enum"]

    assert ['megapixels: choices: none at Replicate, ["1", "0.25"] in the registry'] == differences(
        "flux-dev", freed
    )
    assert ["num_outputs: choices: [1, 2] at Replicate, none in the registry"] == differences_after(
        "flux-dev", "num_outputs", enum=[1, 2]
    )


def test_an_input_that_only_one_side_has_is_reported():
    published = openapi("flux-dev")
    inputs = schemas(published)["Input"]
    del inputs["properties"]["megapixels"]
    inputs["properties"] |= {"lora": {"type": "string", "title": "Lora"}, "mask\n": {"format": "uri"}}
    inputs["required"] += ["mask\n", "nowhere"]

    assert {
        "megapixels: Replicate lacks this input of the registry's",
        'lora: the registry lacks this input, which Replicate takes: {"type": "string"}',
        'mask\\n: the registry lacks this input, which Replicate requires: {"format": "uri"}',
        "nowhere: the registry lacks this input, which Replicate requires: {}",
    } == set(differences("flux-dev", published))


def test_an_input_required_on_one_side_only_is_reported():
    published = openapi("kling-v2.1-master")
    schemas(published)["Input"]["required"] = ["start_image"]

    assert [
        "prompt: required: false at Replicate, true in the registry",
        "start_image: required: true at Replicate, false in the registry",
    ] == sorted(differences("kling-v2.1-master", published))


@pytest.mark.parametrize(
    ("name", "parameter", "edit"),
    [
        ("flux-dev", "guidance", {"title": "G", "description": "How close", "x-order": 99, "example": 4}),
        (
            "flux-dev",
            "guidance",
            {"default": 3.0, "minimum": 0.0, "exclusiveMinimum": False, "nullable": False},
        ),
        ("flux-dev", "seed", {"nullable": True}),
        ("flux-dev", "seed", {"type": ["integer", "null"]}),
        ("flux-dev", "seed", {"type": None, "anyOf": [{"type": "integer"}, {"type": "null"}]}),
        (
            "flux-dev",
            "seed",
            {"type": None, "oneOf": [{"type": "integer", "title": "Seed"}], "default": None},
        ),
        ("flux-dev", "megapixels", {"allOf": None, "$ref": "#/components/schemas/megapixels"}),
        ("flux-dev", "megapixels", {"allOf": None, "enum": ["0.25", "1"]}),
        (
            "nano-banana",
            "image_input",
            {"items": {"type": "string", "anyOf": [], "format": "uri", "title": ""}},
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_equivalent_schemas_do_not_differ(name, parameter, edit):
    published = openapi(name)
    its = schemas(published)["Input"]["properties"][parameter]
    for keyword, value in edit.items():
        its[keyword] = value
        if value is None and keyword != "default":
            del its[keyword]

    assert [] == differences(name, published)


@pytest.mark.parametrize(
    "edit",
    [
        {"$ref": "#/components/schemas/nowhere"},
        {"$ref": "#/components/schemas/round"},
        {"$ref": "https://example.com/schema.json"},
        {"$ref": 5},
        {"allOf": [{"minimum": 2}]},
        {"allOf": {"minimum": 2}},
        {"anyOf": [{"type": "number"}, {"type": "string"}]},
        {"not": {"const": 4}},
        {"type": []},
        {"default": float("nan")},
    ],
    ids=str,
)
def test_unresolved_references_and_unknown_keywords_are_reported(edit):
    published = openapi("flux-dev")
    schemas(published)["round"] = {"allOf": [{"$ref": "#/components/schemas/round"}]}
    schemas(published)["Input"]["properties"]["guidance"] |= edit

    found = differences("flux-dev", published)

    assert found
    assert all(line.startswith("guidance: ") for line in found)


def test_an_input_that_is_no_schema_is_reported():
    published = openapi("flux-dev")
    schemas(published)["Input"]["properties"]["seed"] = False

    assert "seed: schema: false at Replicate, none in the registry" in "\n".join(
        differences("flux-dev", published)
    )


def test_constraints_on_all_inputs_together_are_reported_unless_the_registry_has_them():
    published = openapi("kontext-max")
    inputs = schemas(published)["Input"]
    inputs |= {"additionalProperties": False}
    assert [] == differences("kontext-max", published)

    inputs |= {"minProperties": 2}
    assert [
        "Input: minProperties: 2 at Replicate, none in the registry (a keyword that this check does not understand)"
    ] == differences("kontext-max", published)


PARAMETERS = [(model.name, parameter) for model in catalog.MODELS for parameter in model.inputs]
SMALL = st.integers(-1000, 1000) | st.floats(-1000, 1000, allow_nan=False)
SCALARS = st.booleans() | SMALL | st.text(max_size=5)
NEW = st.one_of(
    st.tuples(
        st.just("type"), st.sampled_from(["string", "integer", "number", "boolean", "array", "object"])
    ),
    st.tuples(st.sampled_from(["default", "const", "x-anything", "contentEncoding"]), SCALARS),
    st.tuples(st.sampled_from(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"]), SMALL),
    st.tuples(
        st.sampled_from(["multipleOf", "minLength", "maxLength", "minItems", "maxItems"]), st.integers(40, 49)
    ),
    st.tuples(st.sampled_from(["format", "pattern"]), st.text(max_size=5)),
    st.tuples(st.just("enum"), st.lists(SCALARS, min_size=1, max_size=3)),
    st.tuples(st.just("deprecated"), st.just(True)),
)


def same(one: Any, other: Any) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)


@given(st.sampled_from(PARAMETERS), NEW)
def test_every_edited_constraint_is_reported_for_its_parameter(where, new):
    (name, parameter), (keyword, value) = where, new
    stands = catalog.find(name).inputs[parameter]
    assume(not same(stands.get(keyword), value))

    found = differences_after(name, parameter, **{keyword: value})

    assert found
    assert all(line.startswith(f"{parameter}: ") for line in found)


@given(st.sampled_from(PARAMETERS), st.data())
def test_every_removed_constraint_is_reported_for_its_parameter(where, data):
    name, parameter = where
    its = schemas(openapi(name))["Input"]["properties"][parameter]
    keyword = data.draw(
        st.sampled_from([*({"type", "default", "format", "minimum", "maximum", "allOf"} & {*its})])
    )

    found = differences_after(name, parameter, **{keyword: None})

    assert found
    assert all(line.startswith(f"{parameter}: ") for line in found)


WORDS = st.sampled_from(
    ["type", "enum", "items", "allOf", "anyOf", "$ref", "minimum", "exclusiveMinimum", "default", "null", "properties",
     "required", "Input", "components", "schemas", "openapi_schema", "latest_version", "owner", "name", "prompt",
     "#/components/schemas/Input", "#", "#/components", "integer", "const"]
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["prompt", "seed", "image", "lora"]), JSON, max_size=4), JSON)
def test_every_document_is_compared_and_reported_in_single_lines(inputs, required):
    published = {"components": {"schemas": {"Input": {"properties": inputs, "required": required}}}}
    try:
        found = differences("flux-dev", published)
    except drift.CannotCheck:
        return

    assert all(line.isprintable() for line in found)


# ── Files ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def check(capsys, tmp_path, monkeypatch):
    """Runs the command in a directory that has only the files of the test. Returns the exit status, and the lines of
    stdout and of stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*files: str, registry=REGISTRY, **settings: object) -> tuple[int, list[str], list[str]]:
        environ = {name: str(value) for name, value in settings.items()}
        status = drift.main(["--check", *files], registry, load=lambda: Settings.from_env(environ))
        written = capsys.readouterr()
        return status, written.out.splitlines(), written.err.splitlines()

    return run


def write(path: str, value: Any) -> str:
    Path(path).write_text(json.dumps(value))
    return path


def test_all_models_in_their_files_agree(check):
    files = [write(f"{number}.json", document(name)) for number, name in enumerate(MODELS)]

    assert (0, [f"{len(MODELS)} models agree."], []) == check(*files)


SHAPES = {
    "a whole model": document("flux-dev"),
    "a version": document("flux-dev")["latest_version"],
    "a bare openapi_schema": openapi("flux-dev"),
    "its Input, as the schema page shows it": {
        "type": "object",
        "title": "Input",
        "required": ["prompt"],
        "properties": dict(catalog.find("black-forest-labs/flux-dev").inputs),
    },
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "file",
    ["flux-dev.json", "black-forest-labs--flux-dev.json", "black-forest-labs_flux-dev.json", "flux-dev"],
)
def test_the_file_name_selects_the_model_for_documents_of_every_shape(check, shape, file):
    write(file, SHAPES[shape])

    assert (0, ["1 model agrees."], []) == check(file)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["flux-dev", "black-forest-labs/flux-dev"])
def test_a_name_before_the_file_selects_the_model(check, shape, name):
    assert (0, ["1 model agrees."], []) == check(f"{name}={write('saved.json', SHAPES[shape])}")


def test_a_dot_in_a_model_name_is_not_read_as_a_suffix(check):
    assert 0 == check(write("flux-1.1-pro", openapi("flux-1.1-pro")))[0]


def test_a_file_with_a_byte_order_mark_is_read(check):
    Path("flux-dev.json").write_text("\ufeff" + json.dumps(openapi("flux-dev")), encoding="utf-8")

    assert 0 == check("flux-dev.json")[0]


def test_differences_are_reported_one_per_line_and_the_other_models_still_agree(check):
    drifted = document("flux-dev")
    published = schemas(drifted["latest_version"]["openapi_schema"])
    published["megapixels"]["enum"].append("4")
    published["Input"]["properties"]["guidance"]["maximum"] = 5

    status, out, err = check(write("a.json", drifted), write("b.json", document("qwen-image")))

    assert (1, []) == (status, err)
    assert [
        'black-forest-labs/flux-dev: megapixels: choices: added at Replicate: "4"',
        "black-forest-labs/flux-dev: guidance: maximum: 5 at Replicate, 10 in the registry",
        "1 model agrees.",
    ] == sorted(out, key=lambda line: ("agree" in line, "guidance" in line))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "it cannot be read as JSON: Expecting value"),
        ("{", "it cannot be read as JSON: Expecting property name"),
        ("\udcff", "it cannot be read as JSON: 'utf-8' codec"),
        ("1" * 5000, "it cannot be read as JSON: Exceeds the limit"),
        ("[" * 100_000, "it cannot be read as JSON: maximum recursion depth"),
        ("[]", "it holds no model with a latest_version, no version and no openapi_schema."),
        ("null", "it holds no model"),
        ('{"detail": "Unauthenticated"}', "it holds no model"),
        ('{"owner": "black-forest-labs", "name": "flux-dev", "latest_version": null}', "it holds no model"),
        (
            '{"components": {}}',
            "it does not describe its inputs (components.schemas.Input: properties, required).",
        ),
        ('{"components": {"schemas": {"Input": []}}}', "it does not describe its inputs"),
        ('{"properties": {}, "required": "prompt"}', "it does not describe its inputs"),
        (" " * drift.MAX_DOCUMENT + "{}", f"it is larger than {drift.MAX_DOCUMENT} bytes."),
    ],
    ids=lambda value: value[:30],
)
def test_a_file_that_cannot_be_checked_is_reported_and_the_others_are_checked(check, content, said):
    Path("flux-dev.json").write_text(content, errors="surrogateescape")

    status, out, err = check("flux-dev.json", write("b.json", document("qwen-image")))

    assert (2, ["1 model agrees."], 1) == (status, out, len(err))
    assert err[0].startswith(f"flux-dev.json: {said}")


def test_a_schema_nested_too_deeply_is_reported(check):
    inputs = '{"items":' * 100_000 + "{}" + "}" * 100_000
    Path("flux-dev.json").write_text(f'{{"properties": {{"prompt": {inputs}}}}}')

    status, out, err = check("flux-dev.json")

    assert (2, [], 1) == (status, out, len(err))


def test_a_failed_check_outweighs_a_difference_in_the_exit_status(check):
    drifted = document("flux-dev")
    schemas(drifted["latest_version"]["openapi_schema"])["megapixels"]["enum"].append("4")

    status, out, err = check("nowhere.json", write("a.json", drifted), ".")

    assert (2, 1) == (status, len(out))
    assert [
        "nowhere.json: it cannot be read: No such file or directory.",
        ".: it cannot be read: Is a directory.",
    ] == err


def test_a_file_that_names_no_registered_model_cannot_be_checked(check):
    stranger = document("flux-dev") | {"owner": "acme"}
    unnamed = write("saved.json", openapi("flux-dev"))

    assert (
        2,
        [],
        [
            "saved.json: it does not say which model it is of; put the model's name and = before the file's.",
            f"flux=saved.json: there is no model called flux; there are {', '.join(MODELS)}.",
            'stranger.json: it is of "acme/flux-dev", which the registry does not have.',
            'qwen-image=a.json: it is of "black-forest-labs/flux-dev", not of qwen/qwen-image.',
        ],
    ) == check(
        unnamed,
        f"flux={unnamed}",
        write("stranger.json", stranger),
        f"qwen-image={write('a.json', document('flux-dev'))}",
    )


def test_a_short_name_shared_by_two_owners_selects_neither_model(check):
    ours = MODELS["qwen/qwen-image"]
    twins = [dataclasses.replace(ours, name=name, aliases=()) for name in ("acme/twin", "qwen/twin")]
    files = [write(name, openapi("qwen-image")) for name in ("twin.json", "qwen_twin.json")]

    status, out, err = check(*files, registry=Registry(twins))

    assert (2, ["1 model agrees."], 1) == (status, out, len(err))
    assert err[0].startswith("twin.json: it does not say which model it is of")


# ── Replicate itself ────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def ask(check, simulator):
    """Runs the command against the simulator."""

    def run(**settings: object) -> tuple[int, list[str], list[str]]:
        return check(**{"REPLICATE_API_TOKEN": SERVER_TOKEN, "REPLICATE_BASE_URL": simulator.url} | settings)

    return run


def test_every_model_is_fetched_from_replicate(ask):
    assert (0, [f"{len(MODELS)} models agree."], []) == ask()


def test_a_change_at_replicate_is_reported(ask, simulator):
    drifted = document("flux-dev")["latest_version"]
    schemas(drifted["openapi_schema"])["Input"]["properties"]["guidance"]["default"] = 4
    simulator.inject(
        on="model", after=list(MODELS).index("black-forest-labs/flux-dev"), set={"latest_version": drifted}
    )

    assert (
        1,
        [
            "black-forest-labs/flux-dev: guidance: default: 4 at Replicate, 3 in the registry",
            f"{len(MODELS) - 1} models agree.",
        ],
        [],
    ) == ask()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"status": 503}, "Replicate answered 503."),
        ({"status": 429}, "Replicate answered 429."),
        ({"reset": "before"}, "no whole answer came ("),
        ({"truncate": True}, "no whole answer came ("),
        ({"garbage": True}, "it cannot be read as JSON: Expecting value"),
        ({"drop": ["latest_version"]}, "it holds no model"),
        ({"set": {"owner": "acme"}}, 'it is of "acme/flux-schnell", not of black-forest-labs/flux-schnell.'),
    ],
    ids=str,
)
def test_a_model_that_replicate_does_not_show_is_reported_and_the_others_are_checked(
    ask, simulator, fault, said
):
    simulator.inject(on="model", **fault)

    status, out, err = ask()

    assert (2, [f"{len(MODELS) - 1} models agree."], 1) == (status, out, len(err))
    assert err[0].startswith(f"{next(iter(MODELS))}: {said}")


def test_a_model_that_replicate_does_not_have_is_reported(check, simulator):
    gone = dataclasses.replace(MODELS["qwen/qwen-image"], name="acme/gone", aliases=())

    assert (2, ["1 model agrees."], ["acme/gone: Replicate has no model of this name (404)."]) == check(
        registry=Registry([gone, MODELS["qwen/qwen-image"]]),
        REPLICATE_API_TOKEN=SERVER_TOKEN,
        REPLICATE_BASE_URL=simulator.url,
    )


def test_a_refused_token_is_reported_once(ask, simulator):
    simulator.account(SERVER_TOKEN, reject=True)

    assert (2, [], ["Replicate refused the token (401): check REPLICATE_API_TOKEN."]) == ask()
    assert 1 == simulator.counts().requests["model"]


def test_no_server_at_the_base_url_is_reported_once(ask):
    status, out, err = ask(REPLICATE_BASE_URL=f"http://127.0.0.1:{free_port()}")

    assert (2, [], 1) == (status, out, len(err))
    assert err[0].startswith(("REPLICATE_BASE_URL cannot be reached: ", "REPLICATE_BASE_URL: must have no "))


@pytest.mark.parametrize("url", ["http://a b", "http://a_b/"])
def test_an_invalid_base_url_is_reported_once(ask, url):
    status, out, err = ask(REPLICATE_BASE_URL=url)

    assert (2, [], 1) == (status, out, len(err))
    assert err[0].startswith(("REPLICATE_BASE_URL cannot be reached: ", "REPLICATE_BASE_URL: must have no "))


def test_without_a_token_no_request_is_sent(ask, simulator):
    said = "REPLICATE_API_TOKEN is not set, so Replicate is not asked; set it, or give files."

    assert (2, [], [said]) == ask(REPLICATE_API_TOKEN="")
    assert 0 == sum(simulator.counts().requests.values())


def test_a_simulated_service_sends_no_request_to_replicate(check):
    said = "REPLICATE_SIMULATE is set, so Replicate is not asked; unset it, or give files."

    assert (2, [], [said]) == check(REPLICATE_SIMULATE=1, REPLICATE_API_TOKEN=SERVER_TOKEN)


def test_a_simulator_needs_no_token(check, simulator):
    assert 0 == check(REPLICATE_SIMULATE=1, REPLICATE_BASE_URL=simulator.url)[0]


def test_invalid_settings_are_reported(ask):
    assert (2, [], ["PORT: must be a whole number."]) == ask(PORT="x")


def test_the_token_is_sent_only_to_the_configured_base_url(ask, simulator, monkeypatch):
    with running(Options()) as elsewhere:
        for proxy in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(proxy, elsewhere.url)
        location = {"Location": f"{elsewhere.url}/v1/models/{next(iter(MODELS))}"}
        simulator.inject(on="model", status=307, headers=location)

        status, _, err = ask()

        assert (2, [f"{next(iter(MODELS))}: Replicate answered 307."]) == (status, err)
        assert 0 == sum(elsewhere.counts().requests.values())


# ── The command ─────────────────────────────────────────────────────────────────────────────────────


def command(*arguments: str, given: Any = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "models", *arguments],
        cwd=ROOT,
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_checks_files_and_the_standard_input(tmp_path):
    file = write(str(tmp_path / "flux-dev.json"), openapi("flux-dev"))

    done = command("--check", file, "-", given=document("qwen-image"))

    assert (0, "2 models agree.\n", "") == (done.returncode, done.stdout, done.stderr)


def test_a_name_before_the_standard_input_selects_the_model(tmp_path):
    given = openapi("flux-dev")
    del schemas(given)["Input"]["properties"]["seed"]

    done = command("--check", "flux-dev=-", given=given)

    said = "black-forest-labs/flux-dev: seed: Replicate lacks this input of the registry's\n"
    assert (1, said, "") == (done.returncode, done.stdout, done.stderr)


def test_the_command_without_arguments_prints_its_usage():
    done = command()

    assert 2 == done.returncode
    assert done.stderr.startswith("usage: python -m models [-h] --check [[NAME=]SCHEMA.json ...]")
