"""Answers by a schema are instances of it, and unsuitable schemas are refused."""

import json

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.texts.story import story_schema, story_warnings
from simulator.gemini import schemas, stories, tokens
from simulator.gemini.instances import Instances
from simulator.gemini.refusals import Refused

TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 3},
            },
            "required": ["name"],
        }
    },
    "$ref": "#/$defs/node",
}
SCHEMAS = [
    TREE,
    {"type": ["string", "null"], "minLength": 40, "maxLength": 45},
    {"type": "string", "pattern": "^[A-Z]{2}-\\d{4}$"},
    {"type": "integer", "exclusiveMinimum": 3, "maximum": 4},
    {"type": "number", "minimum": -0.3, "maximum": 0.3, "multipleOf": 0.1},
    {"type": "array", "items": {"enum": [1, 2, 3]}, "minItems": 3, "uniqueItems": True},
    {"type": "array", "prefixItems": [{"type": "string"}, {"const": 7}], "items": False},
    {
        "anyOf": [
            {"type": "null"},
            {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]},
        ]
    },
    {
        "allOf": [{"properties": {"a": {"const": 1}}, "required": ["a"]}, {"required": ["b"]}],
        "type": "object",
    },
    {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 2},
    {"type": "string", "format": "date-time"},
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda each: json.dumps(each)[:50])
def test_every_instance_is_valid(schema):
    validator = jsonschema.Draft202012Validator(schema)
    for seed in range(25):
        validator.validate(Instances(schema, seed=seed).make())


leaves = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "string"}),
    st.builds(
        lambda low, more: {"type": "integer", "minimum": low, "maximum": low + more},
        st.integers(-99, 99),
        st.integers(0, 9),
    ),
    st.builds(lambda values: {"enum": values}, st.lists(st.text(max_size=5), min_size=1, max_size=4)),
)
documents = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(
            lambda least, more, items: {
                "type": "array",
                "items": items,
                "minItems": least,
                "maxItems": least + more,
            },
            st.integers(0, 3),
            st.integers(0, 3),
            inner,
        ),
        st.builds(
            lambda known, share: {
                "type": "object",
                "properties": known,
                "required": sorted(known)[: share % (len(known) + 1)],
                "additionalProperties": False,
            },
            st.dictionaries(st.text("abcdef", min_size=1, max_size=3), inner, max_size=4),
            st.integers(0, 9),
        ),
        st.builds(lambda choices: {"anyOf": choices}, st.lists(inner, min_size=1, max_size=3)),
    ),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(documents, st.integers(0, 10**6))
def test_an_instance_is_valid_and_the_same_for_the_same_seed(schema, seed):
    instance = Instances(schema, seed=seed).make()

    jsonschema.Draft202012Validator(schema).validate(instance)
    assert instance == Instances(schema, seed=seed).make()


@pytest.mark.parametrize("voices", [(), ("v1", "v2")])
def test_the_parts_of_a_cinematic_story_fit_each_other(voices):
    schema = story_schema(voices)
    validator = jsonschema.Draft202012Validator(schema)
    for seed in range(25):
        story = stories.tie(Instances(schema, seed=seed).make(), schema)
        validator.validate(story)
        assert [] == story_warnings(story, voices), seed


def test_a_schema_whose_instances_have_too_many_values_is_refused():
    doubling = {
        f"d{n}": {"type": "array", "items": {"$ref": f"#/$defs/d{n + 1}"}, "minItems": 9} for n in range(30)
    }
    schema = {"$defs": {**doubling, "d30": {"type": "string"}}, "$ref": "#/$defs/d0"}
    schemas.check(schema)

    with pytest.raises(Refused):
        Instances(schema, seed=1).make()


@pytest.mark.parametrize("schema", [[], {"type": "text"}, {"minItems": "x"}, {"properties": []}])
def test_a_value_that_is_no_schema_is_refused(talker, schema):
    config = {"responseMimeType": "application/json", "responseJsonSchema": schema}

    assert 400 == talker.ask(generationConfig=config).status_code


def test_a_document_that_nests_too_deep_is_refused(talker):
    deep = "[" * 5000 + "]" * 5000
    path = "/v1beta/models/gemini-3.8-flash:generateContent"
    answer = talker.http.post(path, content=deep, headers={"x-goog-api-key": "k"})

    assert 400 == answer.status_code


def test_a_mark_breaks_the_schema(talker):
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    config = {"responseMimeType": "application/json", "responseJsonSchema": schema}
    answer = talker.ask("[[invalid]]", generationConfig=config).json()

    assert {} == json.loads(answer["candidates"][0]["content"]["parts"][0]["text"])


def test_json_can_be_cut_by_the_limit(talker):
    config = {
        "responseMimeType": "application/json",
        "responseJsonSchema": {"type": "array", "items": {"type": "string"}, "minItems": 40},
        "maxOutputTokens": 150,
    }
    candidate = talker.ask(generationConfig=config).json()["candidates"][0]

    assert "MAX_TOKENS" == candidate["finishReason"]
    with pytest.raises(ValueError, match=r"Expecting|Unterminated|delimiter"):
        json.loads(candidate["content"]["parts"][0]["text"])


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "maxItems": 961},
        {"$ref": "https://example.com/schema"},
        {"$ref": "#/$defs/missing"},
        {"$defs": {"a": {}}, "properties": {"x": {"$ref": "#/$defs/a", "title": "x"}}},
        {
            "$defs": {"a": {"properties": {"a": {"$ref": "#/$defs/a"}}, "required": ["a"]}},
            "$ref": "#/$defs/a",
        },
    ],
)
def test_an_unsuitable_schema_is_refused(schema):
    with pytest.raises(Refused):
        schemas.check(schema)


def test_a_recursion_in_an_optional_property_is_accepted():
    schemas.check(TREE)


def test_the_openapi_form_refuses_what_json_schema_allows(talker):
    schema = {"type": "OBJECT", "properties": {"a": {"type": ["STRING"], "additionalProperties": False}}}
    config = {"responseMimeType": "application/json", "responseSchema": schema}
    answer = talker.ask(generationConfig=config)

    assert 400 == answer.status_code
    assert 2 == len(answer.json()["error"]["details"][0]["fieldViolations"])


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("", 0),
        ("12345", 5),
        ("Hello", 2),
        ("the fox", 2),
        ("漢字かな", 4),
        ("🦊", 2),
        ("Привет", 3),
        ("a, b", 3),
    ],
)
def test_tokens_are_counted_by_rules_of_its_own(text, amount):
    assert amount == tokens.of_text(text)


@given(st.text())
def test_no_text_has_more_tokens_than_bytes(text):
    assert tokens.of_text(text) <= len(text.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize(
    ("width", "height", "resolution", "amount"),
    [
        (384, 384, None, 258),
        (385, 100, None, 258),
        (1600, 769, None, 3 * 2 * 258),
        (9, 9, "MEDIA_RESOLUTION_HIGH", 1120),
    ],
)
def test_a_picture_has_tokens_by_its_tiles(picture, width, height, resolution, amount):
    assert amount == tokens.of_media("image/png", picture(width, height), resolution)
