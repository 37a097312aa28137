"""The copies of schemas that are sent to Gemini."""

import copy
import json

import jsonschema_rs
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from catalog.texts.schema_check import schema_problems
from catalog.texts.validator import compiled
from providers.gemini.copied import schemas_in
from providers.gemini.schemas import MOST_ITEMS, READABLE, sent_schema
from tests.support.json_schemas import DOCUMENTS, INSTANCES, SCHEMAS


def refused_by_gemini(sent):
    """What Gemini would ignore or refuse in a copy."""
    for each in schemas_in(sent):
        yield from each.keys() - READABLE
        if "$ref" in each:
            if each is sent or each.keys() != {"$ref"}:
                yield each
            if each["$ref"].removeprefix("#/$defs/") not in sent["$defs"]:
                yield each["$ref"]
        if {*each.get("required", ())} - {*each.get("properties", {})}:
            yield each["required"]
        if any(
            not isinstance(value, str | int | float) or isinstance(value, bool)
            for value in each.get("enum", ())
        ):
            yield each["enum"]
        if [] in (each.get("enum"), each.get("anyOf"), each.get("type"), each.get("prefixItems")):
            yield each
    if sum(each.get("maxItems", 0) for each in schemas_in(sent)) > MOST_ITEMS:
        yield "maxItems"


def names_in(schema, *, through_optional):
    """The definitions that a schema refers to, with or without references inside of optional properties."""
    if "$ref" in schema:
        yield schema["$ref"].removeprefix("#/$defs/")
    for name, each in schema.get("properties", {}).items():
        if through_optional or name in schema.get("required", ()):
            yield from names_in(each, through_optional=through_optional)
    for each in (*schema.get("anyOf", ()), *schema.get("prefixItems", ())):
        yield from names_in(each, through_optional=through_optional)
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), dict):
            yield from names_in(schema[name], through_optional=through_optional)


def endless(sent):
    """The definitions that lead back to themselves without an optional property."""
    below = {name: {*names_in(each, through_optional=False)} for name, each in sent.get("$defs", {}).items()}
    while free := {name for name, used in below.items() if not used & below.keys()}:
        below = {name: used for name, used in below.items() if name not in free}
    return below


@settings(suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(st.one_of(SCHEMAS, DOCUMENTS), st.lists(INSTANCES, min_size=1, max_size=10))
def test_a_copy_is_readable_and_allows_all_that_the_original_allows(schema, instances):
    assume(not schema_problems(schema))
    before = copy.deepcopy(schema)
    sent = sent_schema(schema)

    assert before == schema
    assert [] == [*refused_by_gemini(sent)]
    assert {} == endless(sent)
    assert [] == schema_problems(sent)
    fits, fits_copy = compiled(schema).is_valid, jsonschema_rs.Draft202012Validator(sent).is_valid
    assert [] == [each for each in instances if fits(each) and not fits_copy(each)]


def test_a_plain_schema_is_sent_as_it_is():
    schema = {
        "type": "object",
        "title": "Person",
        "properties": {
            "name": {"type": "string", "description": "As in the passport."},
            "born": {"type": "string", "format": "date"},
            "mood": {"type": "string", "enum": ["good", "bad"]},
            "tags": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 5},
            "age": {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 150}, {"type": "null"}]},
        },
        "required": ["name", "born"],
        "additionalProperties": False,
        "propertyOrdering": ["name", "born", "mood", "tags", "age"],
    }

    assert schema == sent_schema(schema)


def test_ignored_keywords_are_described():
    sent = sent_schema(
        {
            "type": "object",
            "$comment": "for ourselves",
            "properties": {
                "code": {"type": "string", "description": "A code.", "minLength": 3, "pattern": "^[A-Z]+$"},
                "half": {"type": "number", "exclusiveMinimum": 0, "multipleOf": 0.5},
                "list": {"type": "array", "uniqueItems": True, "default": []},
            },
        }
    )

    assert {
        "code": {"type": "string", "description": 'A code. Rules: minLength 3; pattern "^[A-Z]+$".'},
        "half": {"type": "number", "minimum": 0, "description": "Rules: multipleOf 0.5; exclusiveMinimum 0."},
        "list": {"type": "array", "description": "Rules: uniqueItems true; default []."},
    } == sent["properties"]
    assert "$comment" not in sent


@pytest.mark.parametrize(
    ("schema", "sent"),
    [
        (
            {"oneOf": [{"type": "string"}, {"type": "null"}]},
            {"anyOf": [{"type": "string"}, {"type": "null"}]},
        ),
        ({"const": "a"}, {"enum": ["a"], "type": "string"}),
        ({"const": 1.5}, {"enum": [1.5], "type": "number"}),
        ({"const": True}, {"type": "boolean", "description": "Rules: one of [true]."}),
        (
            {"type": ["string", "null"], "enum": ["a", None]},
            {"anyOf": [{"type": "string", "enum": ["a"]}, {"type": "null"}]},
        ),
        (
            {"type": "integer", "exclusiveMinimum": 0, "maximum": 9},
            {"type": "integer", "minimum": 1, "maximum": 9},
        ),
        (
            {"prefixItems": [{"type": "string"}], "items": False},
            {"prefixItems": [{"type": "string"}], "maxItems": 1},
        ),
        ({"properties": {"a": True, "b": False}}, {"properties": {"a": {}}}),
    ],
    ids=str,
)
def test_other_spellings_become_those_that_are_read(schema, sent):
    assert sent == sent_schema(schema)


def test_properties_by_pattern_keep_a_place():
    schema = {"patternProperties": {"^x-": {"type": "string"}}, "additionalProperties": False}

    assert {"type": "string"} == sent_schema(schema)["additionalProperties"]


def test_a_required_name_without_a_property_is_only_described():
    sent = sent_schema({"properties": {"a": {}}, "required": ["a", "b"]})

    assert (["a"], 'Rules: required ["b"].') == (sent["required"], sent["description"])


ADDRESS = {
    "type": "object",
    "title": "Address",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}


def test_a_reference_stays_and_its_definition_moves():
    sent = sent_schema(
        {
            "definitions": {"Address": ADDRESS, "Unused": {}},
            "properties": {"home": {"$ref": "#/definitions/Address"}},
        }
    )

    assert {"properties": {"home": {"$ref": "#/$defs/Address"}}, "$defs": {"Address": ADDRESS}} == sent


def test_keywords_beside_a_reference_are_merged_with_its_definition():
    home = {"$ref": "#/$defs/Address", "description": "Where they live."}
    sent = sent_schema({"$defs": {"Address": ADDRESS}, "properties": {"home": home}})

    assert {**ADDRESS, "description": "Where they live."} == sent["properties"]["home"]
    assert "$defs" not in sent


def test_all_of_is_merged():
    sent = sent_schema(
        {
            "$defs": {"Base": {"properties": {"id": {"type": "integer"}}, "required": ["id"]}},
            "allOf": [
                {"$ref": "#/$defs/Base"},
                {"properties": {"name": {"type": "string"}, "id": {"minimum": 1}}},
            ],
            "required": ["name"],
        }
    )

    assert {"name": {"type": "string"}, "id": {"type": "integer"}} == sent["properties"]
    assert {"name", "id"} == {*sent["required"]}
    assert 'Rules: properties {"id": {"minimum": 1}}.' == sent["description"]


def test_a_root_that_is_a_reference_is_written_out():
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}}

    assert {**node, "$defs": {"Node": node}} == sent_schema({"$defs": {"Node": node}, "$ref": "#/$defs/Node"})


def test_a_required_property_with_recursion_becomes_optional_and_is_described():
    node = {
        "type": "object",
        "properties": {"value": {"type": "string"}, "children": {"type": "array", "items": {"$ref": "#"}}},
        "required": ["value", "children"],
    }
    sent = sent_schema(node)["$defs"]["root"]

    assert (["value"], 'Rules: required ["children"].') == (sent["required"], sent["description"])
    assert {"$ref": "#/$defs/root"} == sent["properties"]["children"]["items"]


def test_recursion_outside_of_properties_is_cut_and_described():
    schema = {"$defs": {"List": {"type": "array", "items": {"$ref": "#/$defs/List"}}}, "$ref": "#/$defs/List"}
    sent = sent_schema(schema)

    assert {"type": "array", "description": "Rules: as List."} == sent["$defs"]["List"]["items"]


def test_the_largest_bounds_of_lists_are_described_until_the_rest_fits():
    lists = {
        name: {"type": "array", "maxItems": most} for name, most in {"a": 500, "b": 1000, "c": 460}.items()
    }
    sent = sent_schema({"properties": lists})["properties"]

    assert (500, None, 460) == tuple(sent[name].get("maxItems") for name in "abc")
    assert "Rules: maxItems 1000." == sent["b"]["description"]


def test_a_long_rule_is_cut_in_its_description():
    described = sent_schema({"not": {"enum": ["x" * 5000]}})["description"]

    assert len(described) < 250
    assert "…" in described


def test_references_with_descriptions_that_multiply_do_not_blow_up():
    levels = {
        f"l{each}": {
            "properties": {
                side: {"$ref": f"#/$defs/l{each + 1}", "description": side} for side in ("left", "right")
            }
        }
        for each in range(20)
    }
    schema = {"$defs": {**levels, "l20": {"type": "string"}}, "$ref": "#/$defs/l0"}

    assert [] == schema_problems(schema)
    assert len(json.dumps(sent_schema(schema))) < 100_000


def test_a_chain_of_references_is_followed():
    chain = {f"c{each}": {"$ref": f"#/$defs/c{each + 1}", "title": f"{each}"} for each in range(400)}
    schema = {"$defs": {**chain, "c400": {"type": "string"}}, "properties": {"a": {"$ref": "#/$defs/c0"}}}

    assert [] == schema_problems(schema)
    assert [] == [*refused_by_gemini(sent_schema(schema))]
