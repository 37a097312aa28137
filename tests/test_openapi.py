"""OpenAPI: valid, complete both ways, and of one mind with what validation and the answers really do."""

import copy
import json
import re

import pytest
from callers import ADMIN, PICTURE, USER
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from streams import lines, stream

import models
from errors import InvalidRequest, every_error
from intake.parsing import parse_batch, parse_generation, parse_limits
from openapi import openapi_document
from service import VERSION

DOCUMENT = openapi_document(VERSION)
PARSERS = {"GenerationRequest": parse_generation, "BatchRequest": parse_batch, "Limits": parse_limits}

EXAMPLES = [model.as_json()["example"] for model in models.MODELS.values()]
FULL = [
    {
        name: schema["default"]
        for name, schema in model.input_schema["properties"].items()
        if "default" in schema
    }
    | {"model_name": model.name, "prompt": "a", "timeout": 60}
    for model in models.MODELS.values()
]
VALID = {
    "GenerationRequest": [
        *EXAMPLES,
        *FULL,
        PICTURE | {"image": "https://a.com/b", "seed": 1, "timeout": None},
    ],
    "BatchRequest": [
        {"requests": EXAMPLES, "max_concurrent": 2},
        {"requests": FULL},
        {"model_name": "flux-dev", "prompts": ["a", "b"], "guidance": 2.5, "max_concurrent": None},
        {
            "model_name": "kontext-max",
            "prompts": ["a"],
            "input_image": "https://a.com/b",
            "safety_tolerance": 2,
        },
    ],
    "Limits": [
        {"concurrent_limit": 1},
        {"requests_per_minute": 60_000},
        {"concurrent_limit": 1000, "requests_per_minute": 1},
        {"concurrent_limit": 5, "requests_per_minute": None},
    ],
}
STRANGE = [
    None, True, False, 0, -1, 1, 2, 3, 4, 7, 99, 10**9, 2**63, 0.5, 2.5, -0.1, "", " ", "\n", "a", "1", "3:2", "jpg",
    "webp", "a\0b", "https://a.com/b", "https://a/b", "http://a.com/b", "https://", "ftp://a/b", "/etc/passwd",
    "data:image/png;base64,iVBORw0KGgo=", "data:image/png;base64,AAAA", "data:image/png,AAAA",
    "flux-dev", "kontext-max", "qwen-image", "nope", [], ["a"], [""], [1], [PICTURE], [{}], {}, {"a": 1}, PICTURE,
]  # fmt: skip


UNSEEN = {"https://a/b", "data:image/png;base64,AAAA"}
"""What JSON Schema cannot see: that a host is not public, and that a content is no picture."""


def validator(name, document=DOCUMENT):
    return Draft202012Validator(document | {"$ref": f"#/components/schemas/{name}"})


def accepted(parse, body):
    try:
        parse(body)
    except InvalidRequest:
        return False
    return True


def mutations(body):
    """`body` with each field left out, each set to something strange, and one more."""
    for name in body:
        yield {other: value for other, value in body.items() if other != name}
        yield from (body | {name: strange} for strange in STRANGE)
    yield from (
        body | {extra: 1} for extra in ("unknown", "prompt", "prompts", "requests", "max_concurrent", "image")
    )
    yield {}


def test_the_document_is_valid_openapi_3_1():
    OpenAPIV31SpecValidator(copy.deepcopy(DOCUMENT)).validate()
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_every_route_is_in_the_document_and_nothing_else_is(app):
    served = {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }

    assert served == {(path, method) for path, methods in DOCUMENT["paths"].items() for method in methods}


def test_what_is_served_is_the_document(client):
    assert json.loads(json.dumps(DOCUMENT)) == client.get("/openapi.json").json


def test_every_reference_leads_somewhere():
    names = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(DOCUMENT)))

    assert set() == names - set(DOCUMENT["components"]["schemas"])


def test_every_code_an_operation_can_answer_with_stands_under_its_status():
    told = json.dumps(DOCUMENT["paths"])

    never_alone = {"not_found", "method_not_allowed"}
    assert [] == [
        error.code
        for error in every_error()
        if f"`{error.code}`" not in told and error.code not in never_alone
    ]


@pytest.mark.parametrize("name", VALID)
def test_the_schema_and_validation_accept_the_same_good_requests(name):
    for body in VALID[name]:
        assert accepted(PARSERS[name], body)
        assert [] == [error.message for error in validator(name).iter_errors(body)]


@pytest.mark.parametrize("name", VALID)
def test_the_schema_and_validation_agree_on_every_mutation_of_them(name):
    check = validator(name)
    differ = [
        body
        for good in VALID[name]
        for body in mutations(good)
        if accepted(PARSERS[name], body) is not check.is_valid(body)
    ]

    assert [] == [
        body for body in differ if not any(each in UNSEEN for each in body.values() if isinstance(each, str))
    ]


def test_each_parameter_alone_is_judged_alike():
    for model in models.MODELS.values():
        check = validator(model.inputs.__name__)
        for parameter in model.input_schema["properties"]:
            for strange in STRANGE:
                body = {"model_name": model.name, "prompt": "a", parameter: strange}
                if not (isinstance(strange, str) and strange in UNSEEN):
                    assert accepted(parse_generation, body) is check.is_valid(body), body


def described(path, status, kind):
    method = next(iter(DOCUMENT["paths"][path].values()))
    return method["responses"][str(status)]["content"][kind]["schema"]["$ref"].rsplit("/", 1)[1]


def conforms(answer, path):
    name = described(path, answer.status_code, answer.content_type)
    errors = [error.message for error in validator(name).iter_errors(json.loads(answer.data))]
    assert [] == errors, (path, answer.status_code)


def test_real_answers_are_what_the_document_says(client, simulator):
    mixed = {"model_name": "flux-dev", "prompts": ["a", "[[fail]]", "[[nsfw]]"]}
    asked = [
        ("/generate", PICTURE, ADMIN),
        ("/generate", PICTURE | {"prompt": "[[nsfw]]"}, ADMIN),
        ("/generate", PICTURE | {"prompt": "[[fail]]"}, ADMIN),
        ("/generate", PICTURE | {"guidance": 99, "x": None}, ADMIN),
        ("/generate", PICTURE, {}),
        ("/generate-batch", mixed, ADMIN),
        ("/generate-batch", {"requests": [PICTURE]}, ADMIN),
        ("/generate-batch", {"requests": [3]}, ADMIN),
        ("/generate-batch", mixed, {}),
        ("/configure", {"concurrent_limit": 3}, ADMIN),
        ("/configure", {"concurrent_limit": 0}, ADMIN),
        ("/configure", {"concurrent_limit": 3}, USER),
        ("/configure", {"concurrent_limit": 3}, {}),
    ]
    for path, body, headers in asked:
        conforms(client.post(path, json=body, headers=headers), path)
        conforms(client.post(path, data="x", headers=ADMIN), path)
        conforms(client.post(path, data=b"{", content_type="application/json", headers=ADMIN), path)
    for path in ("/models", "/status", "/health", "/openapi.json"):
        conforms(client.get(path), path)
    for account in ({"reject": True}, {"credit": "empty"}):
        simulator.account("r8_user", **account)
        conforms(client.post("/generate", json=PICTURE, headers=USER), "/generate")
        conforms(client.post("/generate-batch", json=mixed, headers=USER), "/generate-batch")


def test_the_lines_of_a_stream_are_what_the_document_says(client):
    *results, summary = lines(stream(client, ADMIN, "a", "[[nsfw]]", "[[fail]]"))

    assert 3 == len(results)
    for result in results:
        assert validator("BatchItem").is_valid(result)
    assert validator("BatchSummary").is_valid(summary)


def test_a_draining_service_answers_as_the_document_says(app):
    app.extensions["service"].begin_drain(0)
    client = app.test_client()

    conforms(client.get("/health"), "/health")
    conforms(client.post("/generate", json=PICTURE, headers=ADMIN), "/generate")
    conforms(client.post("/generate-batch", json=PICTURE, headers=ADMIN), "/generate-batch")


def test_the_page_runs_nothing_and_loads_nothing_from_elsewhere(client):
    answer = client.get("/docs")
    page, policy = answer.get_data(as_text=True), answer.headers["Content-Security-Policy"]

    addresses = re.findall(r"""(?:src|href|action|url|import)\s*[=(]\s*["']?([^"')\s>]+)""", page)
    assert [] == [each for each in addresses if re.match(r"(?i)\w+://|//", each)]
    assert [] == re.findall(r"(?i)<[^>]+\son\w+\s*=", page)
    assert [] == re.findall(r"(?i)<[^>]+\sstyle\s*=", page)
    assert "innerHTML" not in page
    (nonce,) = set(re.findall(r'nonce="([^"]+)"', page))
    assert f"script-src 'nonce-{nonce}'" in policy
    assert f"style-src 'nonce-{nonce}'" in policy
    assert "default-src 'none'" in policy
    assert len(re.findall(r"<script|<style", page)) == page.count("nonce=")
    assert "unsafe" not in policy


def test_every_errors_type_leads_to_its_line_on_the_page(client):
    page = client.get("/docs").get_data(as_text=True)

    assert [] == [error.code for error in every_error() if f'id="{error.code}"' not in page]


def test_no_two_pages_share_a_nonce(client):
    assert (
        client.get("/docs").headers["Content-Security-Policy"]
        != client.get("/docs").headers["Content-Security-Policy"]
    )


def test_the_page_asks_only_for_addresses_that_exist(client):
    page = client.get("/docs").get_data(as_text=True)

    for address in set(re.findall(r'href="(/[^"]*)"', page)):
        assert 200 == client.get(address).status_code
