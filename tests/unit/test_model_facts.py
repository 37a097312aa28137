"""Which facts of models, versions, deployments and searches are read, and which are left out."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from replicate.schema import make_schema_backwards_compatible

from catalog.outputs import output_form
from providers.connections import Lost
from providers.models import ListedVersion, ModelFacts
from providers.redaction import REDACTED, Redaction
from providers.replicate.model_facts import (
    MAX_EXAMPLE,
    MAX_SCHEMA,
    read_deployment,
    read_model,
    read_search,
    read_version,
    read_versions,
)
from tests.support.hostile_replicate import VALUES

ID = "5c7d5dc6dd8bf75c1acaa8565735e7986bc5b66206b55cca93cb72c9bf15ccaa"
TOKEN = "r8_marked_token"
REDACT = Redaction(TOKEN)
SCHEMA = {
    "openapi": "3.0.2",
    "components": {"schemas": {"Input": {"properties": {"prompt": {"type": "string", "default": None}}}}},
}
MODEL = {
    "owner": "ann",
    "name": "fox",
    "description": "Foxes",
    "visibility": "public",
    "is_official": False,
    "run_count": 7,
    "default_example": {"id": "p1", "input": {"prompt": "a fox"}, "logs": "…"},
    "latest_version": {"id": ID, "cog_version": "0.13.7", "openapi_schema": SCHEMA},
}


def test_a_model_is_read_with_its_latest_version():
    facts = ModelFacts(
        "ann/fox",
        ID,
        SCHEMA,
        is_official=False,
        description="Foxes",
        example={"prompt": "a fox"},
        run_count=7,
    )

    assert facts == read_model(MODEL, REDACT)


@pytest.mark.parametrize(
    ("changed", "left"),
    [
        ({"latest_version": None}, {"version": None, "schema": None}),
        ({"latest_version": {"id": "c6b5d2b7", "openapi_schema": None}}, {"version": None, "schema": None}),
        ({"latest_version": {"id": ID, "openapi_schema": []}}, {"version": ID, "schema": None}),
        ({"is_official": None}, {"is_official": None}),
        ({"is_official": "yes"}, {"is_official": None}),
        ({"is_official": True}, {"is_official": True}),
        ({"visibility": "private"}, {"is_private": True}),
        ({"visibility": None}, {"is_private": False}),
        ({"description": None}, {"description": ""}),
        ({"description": "x" * 5_000}, {"description": "x" * 2_000}),
        ({"run_count": -1}, {"run_count": None}),
        ({"run_count": 10**400}, {"run_count": None}),
        ({"run_count": "7"}, {"run_count": None}),
        ({"default_example": None}, {"example": None}),
        ({"default_example": {"input": ["a fox"]}}, {"example": None}),
        ({"default_example": {"input": {"prompt": "x" * MAX_EXAMPLE}}}, {"example": None}),
    ],
)
def test_what_cannot_be_used_of_a_model_is_left_out(changed, left):
    read = read_model(MODEL | changed, REDACT)

    assert left == {name: getattr(read, name) for name in left}


@pytest.mark.parametrize(
    "answer",
    [None, [], "ann/fox", {}, MODEL | {"owner": None}, MODEL | {"name": "../fox"}, MODEL | {"name": 7}],
)
def test_an_answer_without_a_usable_name_is_no_model(answer):
    with pytest.raises(Lost):
        read_model(answer, REDACT)


def test_a_version_is_read_with_the_name_of_its_model():
    version = {"id": ID, "cog_version": None, "openapi_schema": SCHEMA}

    assert ModelFacts("ann/fox", ID, SCHEMA) == read_version(version, "ann/fox", REDACT)
    assert read_version(version | {"openapi_schema": None}, "ann/fox", REDACT).schema is None
    with pytest.raises(Lost):
        read_version(version | {"id": "c6b5d2b7"}, "ann/fox", REDACT)


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"info": "x" * MAX_SCHEMA}, "it is larger than 512 kB."),
        (json.loads('{"a":' * 60 + "1" + "}" * 60), "it is nested deeper than 50 levels."),
    ],
)
def test_a_schema_that_cannot_be_read_leaves_its_reason_and_all_other_facts(schema, reason):
    version = {"id": ID, "openapi_schema": schema}
    read = read_model(MODEL | {"latest_version": version}, REDACT)

    assert replace(read_model(MODEL, REDACT), schema=reason) == read
    assert ModelFacts("ann/fox", ID, reason) == read_version(version, "ann/fox", REDACT)


def test_numbers_that_json_does_not_have_are_left_out_of_a_schema():
    document = json.loads('{"default": NaN, "minimum": -Infinity, "maximum": 3, "enum": [1, NaN, 2.5]}')
    read = read_version({"id": ID, "openapi_schema": document}, "ann/fox", REDACT)

    assert {"maximum": 3, "enum": [1, 2.5]} == read.schema


def test_the_callers_token_is_removed_wherever_a_model_repeats_it():
    marked = {"description": f"by {TOKEN}", TOKEN: [f"{TOKEN}\0", {"title": TOKEN}]}
    version = {"id": ID, "openapi_schema": marked}
    model = MODEL | {"description": TOKEN, "latest_version": version, "default_example": {"input": marked}}
    read = read_model(model, REDACT)

    assert TOKEN not in repr(read)
    assert REDACTED == read.description


def test_halves_of_surrogate_pairs_and_nul_do_not_get_into_a_schema():
    read = read_version({"id": ID, "openapi_schema": {"title": "a\0\ud800"}}, "ann/fox", REDACT)

    assert {"title": "a\ufffd\ufffd"} == read.schema


def test_a_list_of_versions_is_read_with_its_dates_and_leaves_out_items_without_an_id():
    items = [
        {"id": ID, "created_at": "2024-04-23T15:28:31.123456Z", "openapi_schema": SCHEMA},
        {"id": "c6b5d2b7"}, 7, {}, {"id": "0" * 64, "created_at": "yesterday"},
    ]  # fmt: skip

    read = read_versions({"next": None, "results": items})

    assert [ListedVersion(ID, "2024-04-23T15:28:31.123Z"), ListedVersion("0" * 64)] == read
    assert 100 == len(read_versions({"results": items[:1] * 1_000}))
    with pytest.raises(Lost):
        read_versions({"results": None})


@pytest.mark.parametrize(
    ("cog_version", "kind", "grows"),
    [
        ("0.3.8", "array", True), ("0.2.10", "array", True), ("0.3.9", "array", False), ("0.13.7", "array", False),
        ("1.0.0", "array", False), ("dev", "array", False), (None, "array", False), ("0.3.8", "string", False),
    ],
)  # fmt: skip
def test_a_list_of_an_old_cog_is_read_as_an_iterator_as_the_official_client_does(cog_version, kind, grows):
    output = {"type": kind, "items": {"type": "string"}}
    version = {
        "id": ID,
        "cog_version": cog_version,
        "openapi_schema": {"components": {"schemas": {"Output": output}}},
    }
    read = read_version(version, "ann/fox", REDACT)

    assert grows == output_form(read.schema).streams
    official = make_schema_backwards_compatible(version["openapi_schema"], cog_version or "")
    assert official == read.schema


def test_a_deployment_is_read_with_its_release():
    release = {"number": 1, "model": "ann/fox", "version": ID, "configuration": {"hardware": "gpu-t4"}}
    facts = ModelFacts("deployments/acme/app", ID, is_private=True, release=("ann/fox", ID))

    assert facts == read_deployment({"owner": "acme", "name": "app", "current_release": release})


@pytest.mark.parametrize(
    "release",
    [None, [], {}, {"model": "ann/fox"}, {"model": "fox", "version": ID}, {"model": 7, "version": ID}],
)
def test_a_deployment_without_a_usable_release_has_none(release):
    read = read_deployment({"owner": "acme", "name": "app", "current_release": release})

    assert ("deployments/acme/app", None) == (read.name, read.release)


def test_a_search_names_models_without_their_schemas():
    found = read_search({"models": [{"model": MODEL, "metadata": {"score": 1.0}}]}, REDACT)

    assert [ModelFacts("ann/fox", ID, is_official=False, description="Foxes", run_count=7)] == found


def test_a_search_leaves_out_what_is_no_model_and_has_an_end():
    stray = [None, 7, {}, {"model": None}, {"model": {"name": "fox"}}]

    assert 1 == len(read_search({"models": [*stray, {"model": MODEL}]}, REDACT))
    assert 100 == len(read_search({"models": [{"model": MODEL}] * 1_000}, REDACT))
    assert [] == read_search({"models": None}, REDACT)


@given(VALUES, VALUES, VALUES)
def test_any_answer_is_read_or_refused_and_never_repeats_the_token(first, second, third):
    version = {"id": ID, "openapi_schema": {"a": first, "b": [second]}}
    model = MODEL | {
        "latest_version": version,
        "default_example": {"input": {"a": third}},
        "description": second,
    }
    for read in (
        lambda: read_model(model, REDACT),
        lambda: read_model(first, REDACT),
        lambda: read_version(version, "ann/fox", REDACT),
        lambda: read_deployment({"owner": "a", "name": "b", "current_release": first}),
        lambda: read_search({"models": [{"model": model}, {"model": second}]}, REDACT),
    ):
        try:
            facts = read()
        except Lost:
            continue
        assert TOKEN not in repr(facts)
