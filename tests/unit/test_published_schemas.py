"""The schemas that Replicate publishes are compiled and checked as an independent checker does, with three deliberate
differences: null counts as left out, text that is exactly a number or boolean is turned into it, and unknown inputs are
refused elsewhere.

The documents are small ones of our own, with every quirk that published schemas are known to have. SCHEMAS=directory
also tests the documents in a directory, each a version with `openapi_schema`, a model, or an OpenAPI document, and the
inputs of `examples.jsonl` there.
"""

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.inputs import LARGEST, SMALLEST
from catalog.plain_schema import NoInputs, PlainSchemas
from catalog.published import SCHEMAS, Published, compiled, saved
from tests.support.schema_bombs import BOMBS

URL = "https://example.com/a.bin"


def document(required=(), schemas=None, **inputs) -> dict[str, Any]:
    """An OpenAPI document with these inputs."""
    own = {"type": "object", "properties": inputs, "required": [*required]}
    return {"components": {"schemas": {"Input": own, **(schemas or {})}}}


def choice(*values, kind="string"):
    return {"enum": [*values], "type": kind, "title": "choice", "description": "An enumeration."}


QUIRKS = document(
    required=["prompt", "size"],
    schemas={
        "model": choice("dev", "schnell"),
        "size": choice(512, 768, 1024, kind="integer"),
        "scheduler": choice("K_EULER", "Juiced \U0001f525 (default)", "Not set", "19.5:9"),
        "ratio": choice("a, b", "c d"),
    },
    prompt={"type": "string", "title": "Prompt", "x-order": 0},
    model={"allOf": [{"$ref": "#/components/schemas/model"}], "default": "dev", "x-order": 3},
    size={"allOf": [{"$ref": "#/components/schemas/size"}], "x-order": 1},
    scheduler={"$ref": "#/components/schemas/scheduler"},
    ratio={"anyOf": [{"$ref": "#/components/schemas/ratio"}, {"type": "null"}]},
    seed={"type": "integer", "nullable": True},
    steps={"type": "integer", "minimum": 1, "maximum": 50, "default": 28},
    guidance={"type": "number", "minimum": 0, "maximum": 10, "default": 3.5},
    strength={"type": "number", "minimum": 0, "default": 1},
    go_fast={"type": "boolean", "default": True},
    image={"type": "string", "format": "uri"},
    images={"type": "array", "items": {"type": "string", "format": "uri"}, "default": []},
    weights_list={"type": "array", "items": {"type": "number"}, "nullable": True},
    fps={"type": "integer", "enum": [24], "default": 24},
    text={"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
    options={"type": "object", "default": {}},
    short={"type": "string", "minLength": 2, "maxLength": 5},
    duration={"type": "integer", "minimum": -1, "maximum": 15, "default": 5},
    mode={"enum": ["std", "pro"], "type": "string", "ge": 1, "le": 3},
)
"""A model with each form of input that published schemas have."""


def documents() -> dict[str, Any]:
    found = {"quirks": QUIRKS}
    for path in sorted(SCHEMAS.rglob("*.json")):
        name = path.relative_to(SCHEMAS).with_suffix("").as_posix()
        found[name] = saved(name)
    for path in sorted(Path(os.environ["SCHEMAS"]).glob("*.json")) if "SCHEMAS" in os.environ else ():
        content = json.loads(path.read_text())
        content = content.get("latest_version", content)
        found[path.stem] = content.get("openapi_schema", content)
    return found


DOCUMENTS = documents()


class Oracle:
    """An independent checker of the inputs of one document, and values for each of its inputs."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.inputs = compiled(document)
        self.plain, self.required, _ = PlainSchemas(document).inputs()
        self.checks = {name: jsonschema_rs.Draft4Validator(_draft(it)) for name, it in self.plain.items()}

    def accepts(self, name: str, value: Any) -> bool:
        return self.checks[name].is_valid(value)

    def valid(self, name: str, chance: random.Random) -> Any:
        return _value(self.plain[name], chance)

    def inputs_of(self, chance: random.Random) -> dict[str, Any]:
        """Valid inputs: the required ones, and some others."""
        return {
            name: self.valid(name, chance)
            for name in self.plain
            if name in self.required or chance.random() < 0.4
        }


def _draft(plain: dict[str, Any]) -> dict[str, Any]:
    """The schema with `nullable` as JSON Schema has it."""
    schema = {key: value for key, value in plain.items() if key not in {"nullable", "format"}}
    if "items" in schema:
        schema["items"] = _draft(schema["items"])
    return {"anyOf": [schema, {"type": "null"}]} if plain.get("nullable") else schema


def _value(plain: dict[str, Any], chance: random.Random) -> Any:
    if options := plain.get("anyOf") or plain.get("oneOf"):
        return _value(chance.choice(options), chance)
    if plain.get("nullable") and chance.random() < 0.1:
        return None
    if "enum" in plain:
        return chance.choice(plain["enum"])
    low, high = plain.get("minimum", -1000), plain.get("maximum", 1000)
    shortest = plain.get("minLength", 0)
    length = chance.randint(shortest, plain.get("maxLength", shortest + 9))
    values = {
        "string": lambda: "".join(chance.choices("ab 9\u00e9\U0001f600", k=length)),
        "integer": lambda: chance.choice([low, high, chance.randint(int(low), int(high))]),
        "number": lambda: chance.choice([low, high, chance.uniform(low, high)]),
        "boolean": lambda: chance.random() < 0.5,
        "array": lambda: [_value(plain.get("items", {}), chance) for _ in range(chance.randint(0, 3))],
        "object": lambda: {"a": 1},
    }
    if plain.get("format") == "uri":
        return chance.choice([URL, "http://example.com/b.zip", "data:text/plain,hello"])
    return values.get(plain.get("type"), lambda: "anything")()


FAULTS = [
    None,
    True,
    False,
    "",
    "x",
    "12x",
    "1.5",
    " 7",
    0,
    -1,
    3,
    7.5,
    10**6,
    -(10**6),
    [],
    [1],
    ["x"],
    [None],
    {},
    {"a": 1},
]


def faulty(oracle: Oracle, name: str, chance: random.Random) -> list[Any]:
    """Values of one input that Replicate refuses, by the independent checker and its known tolerances."""
    plain = oracle.plain[name]
    outside = [plain[end] + way for end, way in (("minimum", -1), ("maximum", 1)) if end in plain]
    return [
        value
        for value in (*FAULTS, *outside, *(f"{each}?" for each in plain.get("enum", ())))
        if not oracle.accepts(name, value) and not _is_tolerated(value, plain)
    ]


def _is_tolerated(value: Any, plain: dict[str, Any]) -> bool:
    """Whether Replicate accepts the value although the schema does not: null for any optional input, and text that is
    exactly a number where one belongs."""
    return value is None or (value == "1.5" and plain.get("type") == "number" and "enum" not in plain)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_published_schema_compiles_with_each_of_its_inputs(name):
    oracle = Oracle(DOCUMENTS[name])

    assert set(oracle.plain) == set(oracle.inputs)
    assert set(oracle.required) == {name for name in oracle.inputs if oracle.inputs[name].required}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_valid_inputs_are_accepted_unchanged(name):
    oracle, chance = Oracle(DOCUMENTS[name]), random.Random(name)
    for _ in range(2000 // len(DOCUMENTS) + 1):
        inputs = oracle.inputs_of(chance)
        checked = oracle.inputs.check(inputs)

        assert ([], []) == (list(checked.problems), list(checked.turned)), inputs
        left_out = {each for each in inputs if inputs[each] is None and not oracle.inputs[each].nullable}
        assert set(inputs) - left_out == set(checked.values)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_single_fault_is_refused_by_its_field(name):
    oracle, chance = Oracle(DOCUMENTS[name]), random.Random(name)
    checkable = [each for each in oracle.plain if oracle.inputs[each].unchecked is None]
    for _ in range(2000 // len(DOCUMENTS) + 1):
        where = chance.choice(checkable)
        if not (values := faulty(oracle, where, chance)):
            continue
        inputs = oracle.inputs_of(chance) | {where: (value := chance.choice(values))}

        fields = {each.field.partition("[")[0] for each in oracle.inputs.check(inputs).problems}

        assert {where} == fields, (where, value)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_missing_required_input_is_refused(name):
    oracle, chance = Oracle(DOCUMENTS[name]), random.Random(name)
    for missing in oracle.required:
        inputs = {each: value for each, value in oracle.inputs_of(chance).items() if each != missing}

        assert [(missing, "is required")] == [
            (each.field, each.message) for each in oracle.inputs.check(inputs).problems
        ]


@pytest.mark.parametrize(
    ("name", "text", "sent"),
    [
        ("steps", "28", 28), ("size", "512", 512), ("guidance", "3.5", 3.5), ("guidance", "4", 4),
        ("go_fast", "true", True), ("go_fast", "false", False), ("seed", "-7", -7), ("fps", "24", 24),
        ("weights_list", ["1", 2.5], [1, 2.5]), ("duration", "-1", -1),
    ],
)  # fmt: skip
def test_a_text_that_is_exactly_a_number_or_boolean_becomes_it(name, text, sent):
    checked = compiled(QUIRKS).check({"prompt": "a", "size": 512, name: text})

    assert sent == checked.values[name]
    assert [(name, text, sent)] == [(each.name, each.given, each.sent) for each in checked.turned]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("steps", " 28"), ("steps", "28 "), ("steps", "0x1c"), ("steps", "28.5"), ("steps", "51"), ("steps", ""),
        ("steps", "1_0"), ("go_fast", "True"), ("go_fast", "1"), ("go_fast", "yes"), ("guidance", "nan"),
        ("guidance", "Infinity"), ("guidance", "1e999"), ("size", "513"), ("steps", "\u0662"),
    ],
)  # fmt: skip
def test_other_texts_stay_texts_and_are_refused(name, text):
    problems = compiled(QUIRKS).check({"prompt": "a", "size": 512} | {name: text}).problems

    assert [name] == [each.field for each in problems]


def test_a_text_stays_a_text_where_the_schema_says_text():
    inputs = {"prompt": "28", "size": 512, "text": ["true"], "short": "3.5"}

    assert inputs == compiled(QUIRKS).check(inputs).values


def test_null_is_sent_where_it_is_nullable_and_left_out_elsewhere():
    checked = compiled(QUIRKS).check({"prompt": "a", "size": 512, "seed": None, "ratio": None, "steps": None})

    assert {"prompt": "a", "size": 512, "seed": None, "ratio": None} == checked.values


def test_all_problems_are_reported_at_once_in_the_order_of_the_schema():
    problems = compiled(QUIRKS).check({"steps": 99, "size": 3, "images": [URL, 7]}).problems

    assert ["prompt", "size", "steps", "images[1]"] == [each.field for each in problems]


def examples() -> list[Any]:
    """The published examples in the directory SCHEMAS, one a line of `examples.jsonl`; none without it."""
    path = Path(os.environ.get("SCHEMAS", "")) / "examples.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def test_the_inputs_of_published_examples_are_accepted():
    for example in examples():
        choices = {
            name: found if isinstance(found, dict) else {"enum": found, "type": "string"}
            for name, found in (example["enums"] or {}).items()
        }
        inputs = compiled(document(required=example["required"], schemas=choices, **example["Input"]))

        assert [] == list(inputs.check(example["example"]).problems), example["model"]


CONTRADICTIONS = {
    "choices that are texts for an integer": {"type": "integer", "enum": ["32", "64"], "default": "64"},
    "no type": {"title": "Anything"},
    "an unknown type": {"type": "file"},
    "a reference to nothing": {"$ref": "#/components/schemas/Gone"},
    "two types": {"allOf": [{"type": "string"}, {"type": "integer"}]},
    "a minimum above its maximum": {"type": "integer", "minimum": 9, "maximum": 1},
    "a bound that is no number": {"type": "integer", "minimum": "1"},
    "a bound beyond all numbers": {"type": "integer", "maximum": 10**400},
    "an empty list of choices": {"type": "string", "enum": []},
    "an option that is not described": {"anyOf": [{"type": "string"}, {}]},
    "not even a schema": 7,
}


@pytest.mark.parametrize("why", CONTRADICTIONS)
@pytest.mark.parametrize("value", ["64", 64, None, [1], {"a": [None]}, True])
def test_what_a_schema_contradicts_is_passed_on_and_said(why, value):
    inputs = compiled(document(odd=CONTRADICTIONS[why]))
    checked = inputs.check({"odd": value})

    assert ([], {"odd": value}) == (checked.problems, checked.values)
    assert inputs["odd"].unchecked


@pytest.mark.parametrize(
    ("name", "schema"),
    [
        ("anything", {"type": "string", "x-cog-secret": True}),
        ("anything", {"type": "string", "format": "password"}),
        ("anything", {"type": "string", "writeOnly": True}),
        ("hf_token", {"type": "string"}), ("hf_api_token", {"type": "string"}), ("openai_api_key", {"type": "string"}),
        ("civitai_api_token", {"type": "string"}), ("api_key", {"type": "string"}), ("password", {"type": "string"}),
    ],
)  # fmt: skip
def test_a_secret_is_known_by_its_schema_or_its_name(name, schema):
    assert [name] == list(compiled(document(**{name: schema})).secrets)


@pytest.mark.parametrize(
    "name", ["max_tokens", "max_new_tokens", "token_count", "keyframes", "key", "tokens", "trigger_word"]
)
def test_other_inputs_are_no_secrets(name):
    assert [] == list(compiled(document(**{name: {"type": "string"}})).secrets)


@pytest.mark.parametrize(
    "name",
    [
        "lora", "loras", "hf_lora", "hf_loras", "extra_lora", "extra_lora2", "lora_weights", "extra_lora_weights",
        "lora_weights_transformer", "replicate_weights", "weights", "lora_url", "lora_urls", "lora_links", "lora_path",
        "lora_model", "lora_model_extra_url", "lora_input",
    ],
)  # fmt: skip
def test_a_text_that_names_weights_takes_a_file(name):
    for schema in ({"type": "string"}, {"type": "array", "items": {"type": "string"}}):
        assert compiled(document(**{name: schema}))[name].takes_files


@pytest.mark.parametrize(
    "name", ["lora_scale", "lora_scales", "lora_strength", "explorative", "weight", "color"]
)
def test_other_texts_about_weights_take_no_file(name):
    assert not compiled(document(**{name: {"type": "string"}}))[name].takes_files


@pytest.mark.parametrize(
    "wrong",
    [{}, {"components": {}}, document() | {"components": {"schemas": {"Input": 3}}}, {"components": None}],
)
def test_a_document_without_inputs_is_refused(wrong):
    with pytest.raises(NoInputs):
        compiled(wrong)


def test_of_a_document_that_cannot_be_read_any_input_is_passed_on_and_the_reason_is_kept():
    deep = {"$ref": "#/components/schemas/A0"}
    chain = {f"A{n}": {"items": {"$ref": f"#/components/schemas/A{n + 1}"}} for n in range(5_000)}
    many = {f"a{n}": {"type": "string"} for n in range(501)}

    for published, reason in (
        (document(schemas=chain, a=deep), "its schemas are nested too deeply."),
        (document(**many), "it has more than 500 inputs."),
        ("it is too large.", "it is too large."),
        ({}, None),
    ):
        form = Published.of(published)
        assert reason == form.unread
        assert {"a": 7} == form.inputs.check({"a": 7}).values


@pytest.mark.parametrize("bomb", BOMBS)
def test_no_published_document_takes_long_to_compile(bomb):
    """Without bounds, some take minutes. The figure is CPU time of this thread, and the margin is twentyfold."""
    began = time.thread_time()
    form = Published.of(BOMBS[bomb])
    form.inputs.check({"a": "x"})
    json.dumps(form.inputs.schema({}))

    assert time.thread_time() - began < 2


def test_references_that_would_make_millions_of_schemas_are_left_out():
    twice = {}
    for n in range(40):
        following = {"$ref": f"#/components/schemas/A{n + 1}"}
        twice[f"A{n}"] = {"anyOf": [following, {"items": following}]}
    inputs = compiled(document(schemas=twice, a={"$ref": "#/components/schemas/A0"}, b={"type": "integer"}))

    assert inputs["a"].unchecked is not None
    assert "must be an integer" == inputs.check({"a": 3, "b": "x"}).problems[0].message


@pytest.mark.parametrize("step", [0, -2, 0.1])
def test_a_step_that_is_no_positive_integer_refuses_no_value(step):
    inputs = compiled(document(a={"type": "integer", "multipleOf": step}))

    assert inputs["a"].takes(3)
    assert inputs["a"].unchecked == "Its multipleOf is no positive integer."


def test_the_message_about_a_choice_is_short_whatever_the_choices_are():
    inputs = compiled(document(a={"type": "string", "enum": [f"{n}{'x' * 9000}" for n in range(30)]}))

    [problem] = inputs.check({"a": "b"}).problems
    assert len(problem.message) < 4000


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=12,
)
KEYWORDS = st.sampled_from(
    [
        "type", "enum", "allOf", "anyOf", "$ref", "items", "minimum", "maximum", "default", "nullable", "format",
        "minLength", "multipleOf",
    ]
)  # fmt: skip


@given(st.dictionaries(KEYWORDS, JSON, max_size=5), JSON)
def test_no_schema_and_no_value_break_the_check(schema, value):
    inputs = compiled(document(odd=schema))
    inputs.check({"odd": value})
    json.dumps(inputs.schema({}))


@given(st.integers(SMALLEST, LARGEST))
def test_an_integer_without_bounds_takes_64_bits(seed):
    assert {"seed": seed} == compiled(document(seed={"type": "integer"})).check({"seed": seed}).values


def test_a_check_costs_a_fraction_of_a_millisecond():
    """The target is 0.2 ms. The figure is CPU time of this thread, and the margin is tenfold."""
    inputs, chance = compiled(QUIRKS), random.Random(1)
    given_inputs = [Oracle(QUIRKS).inputs_of(chance) for _ in range(50)]
    began = time.thread_time()
    for each in given_inputs * 20:
        inputs.check(each)

    assert (time.thread_time() - began) / 1000 < 0.002
