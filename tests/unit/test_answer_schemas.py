"""Schemas of callers, and the validation of answers against them."""

import json

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.texts.schema_check import MAX_BYTES, MAX_DEPTH, schema_problems
from catalog.texts.validation import MAX_VIOLATIONS, Answers, parse
from tests.support.json_schemas import INSTANCES, SCHEMAS

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "minLength": 2}, "city": {"type": "string"}},
    "required": ["name", "city"],
}

TREE = {
    "type": "object",
    "properties": {"label": {"type": "string"}, "children": {"type": "array", "items": {"$ref": "#"}}},
}


def fields(schema):
    return {each.field.removeprefix("json_schema"): each.message for each in schema_problems(schema)}


@pytest.mark.parametrize(
    "schema",
    [
        {},
        PERSON,
        TREE,
        {"$defs": {"a": {"$anchor": "here", "type": "string"}}, "items": {"$ref": "#here"}},
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "definitions": {"a": {}},
            "$ref": "#/definitions/a",
        },
        {"$id": "https://example.com/person", **PERSON},
        {"properties": {"a/b": {"type": "string"}, "c": {"$ref": "#/properties/a~1b"}}},
        {"pattern": "^(a+)+$"},
    ],
    ids=str,
)
def test_a_usual_schema_has_no_problems(schema):
    assert [] == schema_problems(schema)
    assert Answers(schema).read("{}").value == {}


@pytest.mark.parametrize("schema", [None, [], True, "{}"], ids=repr)
def test_a_schema_is_an_object(schema):
    assert {"": "must be an object with a JSON Schema"} == fields(schema)


def test_all_problems_are_found_at_once_with_their_paths():
    found = fields(
        {
            "type": "strin",
            "properties": {
                "a": {"minLength": -1},
                "b": {"$ref": "https://example.com/b"},
                "c": {"pattern": "["},
            },
            "required": "a",
            "items": {"$dynamicRef": "#x"},
        }
    )

    assert {
        ".type",
        ".properties.a.minLength",
        ".properties.b.$ref",
        ".properties.c.pattern",
        ".required",
        ".items.$dynamicRef",
    } == found.keys()


@pytest.mark.parametrize(
    "reference", ["https://example.com/x", "file:///etc/passwd", "other.json#/a", "//host/x", "x"]
)
def test_a_reference_outside_is_refused(reference):
    schema = {"properties": {"a": {"$ref": reference}}}

    assert {".properties.a.$ref": "must lead to a part of this schema: # and what follows it"} == fields(
        schema
    )


@pytest.mark.parametrize(
    "reference", ["#/$defs/none", "#none", "#/properties", "#/properties/a/title", "#/x/0"]
)
def test_a_reference_that_leads_to_no_schema_is_refused(reference):
    schema = {"properties": {"a": {"title": "A"}, "b": {"$ref": reference}}}

    assert {".properties.b.$ref": "leads to no schema in this document"} == fields(schema)


@pytest.mark.parametrize("pattern", ["(?=a)b", r"(a)\1", "[", "a{1000}{1000}", "x" * 1001])
def test_a_pattern_without_linear_time_or_too_large_is_refused(pattern):
    assert [".pattern"] == [*fields({"pattern": pattern})]
    assert [f".patternProperties.{pattern}"] == [*fields({"patternProperties": {pattern: {}}})]


def test_a_pattern_that_backtracks_elsewhere_takes_linear_time():
    answers = Answers({"pattern": "^(([a-z])+.)+[A-Z]([a-z])+$"})

    assert [each.rule for each in answers.read(json.dumps("a" * 100_000)).violations] == [
        'pattern "^(([a-z])+.)+[A-Z]([a-z])+$"'
    ]


def test_a_schema_that_is_too_large_too_deep_or_no_json_is_refused():
    deep = {}
    for _ in range(MAX_DEPTH):
        deep = {"items": deep}

    assert f"must have at most {MAX_DEPTH} levels of JSON" == fields(deep)[""]
    assert f"must have at most {MAX_BYTES} bytes" in fields({"description": "é" * MAX_BYTES})[""]
    assert "must be JSON" in fields({"maximum": float("nan")})[""]
    assert "must have at most 100 patterns" in fields({"allOf": [{"pattern": "a"}] * 101})[""]


def test_a_reference_that_leads_back_for_the_same_value_is_refused():
    schema = {
        "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/a"}]}},
        "properties": {"x": {"$ref": "#/$defs/a"}},
    }

    assert {"leads back to itself for the same value"} == {*fields(schema).values()}


def test_references_that_multiply_are_refused():
    levels = {f"a{each}": {"anyOf": [{"$ref": f"#/$defs/a{each + 1}"}] * 2} for each in range(30)}

    assert ["applies more than 500 schemas to one value"] == [
        *fields({"$defs": {**levels, "a30": {}}}).values()
    ]


def violations(schema, value):
    text = value if isinstance(value, str) else json.dumps(value)
    return {(each.path, each.rule) for each in Answers(schema).read(text).violations}


def test_an_answer_that_fits_is_returned():
    read = Answers(PERSON).read(' {"name": "Jane", "city": "New York"}\n')

    assert read.is_valid
    assert {"name": "Jane", "city": "New York"} == read.value


def test_violations_have_paths_and_rules():
    schema = {
        "properties": {
            "people": {"type": "array", "maxItems": 1, "items": PERSON},
            "kind": {"enum": ["a", "b"]},
            "one": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        },
        "additionalProperties": False,
    }
    answer = {"people": [{"name": "J"}, {"name": 3, "city": ""}], "kind": "c", "one": 1, "more": 1}

    assert {
        ("data", "additionalProperties false"),
        ("data.people", "maxItems 1"),
        ("data.people[0]", "required city"),
        ("data.people[0].name", "minLength 2"),
        ("data.people[1].name", "type string"),
        ("data.kind", 'enum ["a", "b"]'),
        ("data.one", "anyOf"),
    } == violations(schema, answer)


def test_violations_are_at_most_some_and_each_is_short():
    many = Answers({"items": {"enum": ["x" * 1000]}}).read(json.dumps([*range(1000)])).violations

    assert MAX_VIOLATIONS == len(many)
    assert all(len(each.rule) <= 200 and len(each.message) <= 220 for each in many)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ('{"name": "Jane", "ci', "Unterminated string"),
        ('```json\n{"name": "Jane"}\n```', "Expecting value (line 1, column 1)"),
        ("{} {}", "Extra data"),
        ("{'a': 1}", "property name"),
        ("[1,]", "Expecting value"),
        ("NaN", "has NaN"),
        ("[-Infinity]", "has -Infinity"),
        ("1e999", "too large"),
        ("9" * 5000, "too large"),
        ('{"a": 1, "b": 2, "a": 1}', 'repeats the key "a"'),
        (r'["\ud800"]', "unpaired surrogate"),
        (r'{"\udc00": 1}', "unpaired surrogate"),
        ("[" * 65 + "]" * 65, "more than 64 levels"),
        ("[" * 100_000, "more than 64 levels"),
        ("\ufeff{}", "BOM"),
    ],
)
def test_text_that_is_not_whole_json_is_one_violation_and_no_value(text, reason):
    read = Answers(None).read(text)

    assert (None, 1, "json") == (read.value, len(read.violations), read.violations[0].rule)
    assert reason in read.violations[0].message


def test_any_json_fits_no_schema_also_pairs_of_surrogates():
    assert ["😀", None, 1.5] == Answers(None).read(r'["\ud83d\ude00", null, 1.5]').value


@given(INSTANCES)
def test_every_json_value_is_read_as_it_is(value):
    assert value == parse(json.dumps(value)) == parse(json.dumps(value, ensure_ascii=False))


@given(SCHEMAS, INSTANCES)
def test_an_answer_fits_a_schema_exactly_if_it_fits_for_another_validator(schema, value):
    assert [] == schema_problems(schema)
    read = Answers(schema).read(json.dumps(value))

    assert jsonschema.Draft202012Validator(schema).is_valid(value) == read.is_valid


def nested(depth):
    return "[" * depth + "1" + "]" * depth


TWICE = {
    "$defs": {
        "node": {
            "anyOf": [
                {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 0},
                {"type": "array", "items": {"$ref": "#/$defs/node"}, "minItems": 9},
            ]
        }
    },
    "$ref": "#/$defs/node",
}
"""Each level of a list is checked twice as often as the one around it."""


@pytest.mark.parametrize(("depth", "rule"), [(3, "anyOf"), (13, "schema"), (30, "depth"), (64, "depth")])
def test_a_validation_that_would_be_exponential_is_not_made(depth, rule):
    assert [] == schema_problems(TWICE)
    assert {("data", rule)} == violations(TWICE, nested(depth))


def test_recursion_into_parts_of_a_value_is_followed():
    good = {"label": "a", "children": [{"label": "b", "children": []}]}
    bad = {"label": "a", "children": [{"label": "b", "children": [{"label": 1}]}]}

    assert set() == violations(TREE, good)
    assert {("data.children[0].children[0].label", "type string")} == violations(TREE, bad)


def test_patterns_count_by_the_length_of_texts():
    schema = {"items": {"allOf": [{"pattern": "a$"}] * 50}}
    text = json.dumps(["b" * 25_000] * 1000)

    assert {("data", "depth")} == violations(schema, text)


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused_without_an_error(text):
    assert Answers(PERSON).read(text).violations or json.loads(text)
