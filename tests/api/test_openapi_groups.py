"""The OpenAPI document beside its shapes: groups, examples of bodies, and the roles that each route lets in."""

import re

import pytest
from jsonschema import Draft202012Validator

from api.openapi.document import openapi_document
from api.openapi.groups import GROUPS
from service import VERSION
from tests.support.callers import ADMIN
from tests.support.declarations import REGISTRY
from tests.support.named_keys import sender_of_each_role

DOCUMENT = openapi_document(VERSION, REGISTRY.models)
OPERATIONS = {
    f"{method} {path}": operation
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}


@pytest.fixture
def senders(client):
    return sender_of_each_role(client)


def code(answer):
    """The code of an error, in the shape of any door."""
    body = answer.get_json(silent=True) or {}
    return body.get("error", body).get("code") if answer.status_code >= 400 else None


def requested(client, name, headers):
    method, path = name.split(" ")
    body = {"json": {}} if "requestBody" in OPERATIONS[name] else {}
    return client.open(re.sub(r"\{\w+\}", "nothing", path), method=method.upper(), headers=headers, **body)


def bodies():
    """Each JSON body that an operation takes."""
    for name, operation in OPERATIONS.items():
        content = operation.get("requestBody", {}).get("content", {})
        if "application/json" in content and name != "post /webhooks/replicate":
            yield name, content["application/json"]


def test_every_operation_is_in_one_group_that_the_document_describes():
    described = {each["name"] for each in DOCUMENT["tags"] if each["description"]}

    assert [] == [name for name, each in OPERATIONS.items() if not {*each["tags"]} <= described]
    assert {1} == {len(each["tags"]) for each in OPERATIONS.values()}


def test_no_route_is_in_two_groups():
    assert [] == [path for path in DOCUMENT["paths"] if sum(each.has(path) for each in GROUPS) > 1]


def test_every_json_body_has_examples_that_its_schema_accepts():
    found = {name: content.get("examples", {}) for name, content in bodies()}

    assert [] == [name for name, examples in found.items() if not examples]
    for name, content in bodies():
        check = Draft202012Validator(DOCUMENT | content["schema"])
        for example in found[name].values():
            assert [] == [error.message for error in check.iter_errors(example["value"])], name


def test_every_route_lets_in_the_roles_that_the_document_names_and_no_other(client, senders):
    wrong = [
        (name, role, answer.status_code)
        for name, operation in OPERATIONS.items()
        if name != "get /models/{name}"  # open to all, but a look at Replicate needs a role that may read
        for role, headers in senders.items()
        if (code(answer := requested(client, name, headers)) == "forbidden")
        is not ("x-roles" in operation and role not in operation["x-roles"])
    ]

    assert [] == wrong, "`who` in api/openapi/ names the roles"


def test_every_route_with_roles_needs_a_key(client):
    needed = {name for name, operation in OPERATIONS.items() if "x-roles" in operation}

    assert needed == {name for name in needed if code(requested(client, name, {})) == "unauthenticated"}
    assert [] == [name for name, each in OPERATIONS.items() if bool(each["security"]) is not (name in needed)]


@pytest.mark.parametrize(
    ("scheme", "roles"),
    [
        ("admin", {"admin"}),
        ("key", {"admin", "caller", "viewer", "metrics"}),
        ("user", {"admin", "caller", "viewer", "metrics", "user"}),
    ],
)
def test_each_header_takes_the_keys_of_its_description(client, senders, scheme, roles):
    header = DOCUMENT["components"]["securitySchemes"][scheme]["name"]
    texts = {role: next(iter(headers.values())) for role, headers in senders.items()}

    accepted = {
        role
        for role, text in texts.items()
        if client.get("/keys/self", headers={header: text}).status_code == 200
    }
    assert roles == accepted


def test_the_bearer_takes_every_key(client, senders):
    for headers in (ADMIN, *senders.values()):
        (text,) = headers.values()
        answer = client.get("/keys/self", headers={"Authorization": f"Bearer {text}"})
        assert 200 == answer.status_code
