"""Bodies sent to break the service: each gets a short, clear 4xx response in valid JSON, and nothing is spent."""

import gzip
import io
import json

import pytest

from tests.support.callers import ADMIN, PICTURE
from tests.support.problem_documents import problem

JSON = "application/json"
ROUTES = ("/generate", "/generate-batch", "/configure")


def with_field(name, value):
    return json.dumps(PICTURE | {name: value}).encode()


UNREADABLE = {
    "empty": b"",
    "blank": b" \n\t ",
    "not JSON": b"model_name=flux-dev",
    "half": b'{"model_name": "flux-dev", "prompt": "a',
    "two": b"{}{}",
    "single quotes": b"{'prompt': 'a'}",
    "two byte order marks": b"\xef\xbb\xbf" * 2 + json.dumps(PICTURE).encode(),
    "UTF-16": json.dumps(PICTURE).encode("utf-16"),
    "UTF-16 without a mark": json.dumps(PICTURE).encode("utf-16-le"),
    "UTF-32": json.dumps(PICTURE).encode("utf-32"),
    "latin-1": '{"prompt":"\xe9"}'.encode("latin-1"),
    "overlong": b'{"prompt":"\xc0\xaf"}',
    "an encoded surrogate": b'{"prompt":"\xed\xa0\x80"}',
    "raw NUL": b'{"model_name": "flux-dev", "prompt": "a\0b"}',
    "nothing but NUL": b"\0" * 1000,
    "100k lists": b"[" * 100_000 + b"]" * 100_000,
    "100k objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "100k lists in a field": b'{"model_name":"flux-dev","prompt":"a","image":'
    + b"[" * 100_000
    + b"]" * 100_000
    + b"}",
    "NaN": b'{"model_name":"flux-dev","prompt":"a","guidance":NaN}',
    "Infinity": b'{"model_name":"flux-dev","prompt":"a","guidance":Infinity}',
    "1e999": b'{"model_name":"flux-dev","prompt":"a","guidance":1e999}',
    "a million digits": b'{"model_name":"flux-dev","prompt":"a","seed":' + b"9" * 1_000_000 + b"}",
    "a key twice": b'{"model_name":"flux-dev","prompt":"cheap","prompt":"dear"}',
    "a surrogate as key": b'{"model_name":"flux-dev","prompt":"a","\\ud800":1}',
    "gzip without saying so": gzip.compress(json.dumps(PICTURE).encode()),
}

INVALID = {
    "a list": b"[]",
    "a string": b'"flux-dev"',
    "null": b"null",
    "a number": b"1e3",
    "500 lists": b"[" * 500 + b"]" * 500,
    "500 lists in a field": with_field("image", None)[:-5] + b"[" * 500 + b"]" * 500 + b"}",
    "500 objects in a field": with_field("seed", None)[:-5] + b'{"a":' * 500 + b"1" + b"}" * 500 + b"}",
    "500 objects in an unknown field": with_field("z", None)[:-5] + b'{"a":' * 500 + b"1" + b"}" * 500 + b"}",
    "escaped NUL": with_field("prompt", "a\0b"),
    "NUL in the name": with_field("model_name", "flux-dev\0"),
    "NUL as key": with_field("\0", 1),
    "a surrogate in the prompt": with_field("prompt", "a\ud800"),
    "a low surrogate alone": with_field("prompt", "\udc00 a"),
    "surrogates in the wrong order": with_field("prompt", "\udc00\ud800"),
    "a surrogate in the name": with_field("model_name", "\ud800"),
    "a surrogate for a choice": with_field("aspect_ratio", "\ud800"),
    "a surrogate for a number": with_field("seed", "\ud800"),
    "a surrogate in the image": with_field("image", "http://a/\ud800"),
    "a huge integer": with_field("seed", 10**4000),
    "a huge integer for a number": with_field("guidance", 10**4000),
    "a huge integer for the timeout": with_field("timeout", 10**400),
    "a huge integer for the prompt": with_field("prompt", 10**4000),
    "a huge integer for a choice": with_field("aspect_ratio", 10**4000),
    "a huge string in an unknown field": with_field("z", "z" * 5_000_000),
    "a huge key": with_field("z" * 5_000_000, 1),
    "a huge name": with_field("model_name", "z" * 5_000_000),
    "a huge choice": with_field("aspect_ratio", "z" * 5_000_000),
    "a huge image": with_field("image", "data:image/png;base64," + "A" * 5_000_000),
    "a huge address": with_field("image", "http://a/" + "A" * 5_000_000),
    "a huge list": with_field("prompt", [0] * 499_000),
    "100k unknown fields": json.dumps(PICTURE | {f"field_{n}": n for n in range(100_000)}).encode(),
    "an empty key": with_field("", 1),
    "markup": with_field("<script>alert(1)</script>", "<img src=x>"),
    "a prototype": with_field("__proto__", {"admin": True}),
    "a dunder": with_field("__class__", "x"),
    "format strings": with_field("{0.__class__}", "%s%n{}"),
}


def refused(client, simulator, status, code, body, *, kind=JSON, encoding=None):
    headers = ADMIN if encoding is None else ADMIN | {"Content-Encoding": encoding}
    for path in ROUTES:
        answer = client.post(path, data=body, headers=headers, content_type=kind)
        told = problem(answer, status, code)
        assert answer.data.isascii()
        assert 32_000 > len(answer.data)
        assert json.dumps(told, ensure_ascii=False).encode(), "no half of a surrogate pair comes back"
    assert {} == dict(simulator.counts().requests)


def test_unreadable_bodies_are_invalid_json_and_nothing_is_spent(client, simulator):
    for body in UNREADABLE.values():
        refused(client, simulator, 400, "invalid_json", body)


@pytest.mark.slow
def test_a_nonsensical_body_is_an_invalid_request_with_a_short_response(client, simulator):
    for body in INVALID.values():
        refused(client, simulator, 400, "invalid_request", body)


def test_a_body_of_more_than_half_a_million_values_is_413_and_is_not_parsed(client, simulator):
    for body in (
        with_field("prompt", [0] * 500_000),
        with_field("prompt", [[]] * 500_000),
        with_field("prompt", [{"": ""}] * 250_000),
        b"[" * 500_001,
        b'{"":' * 500_001,
        b"1," * 500_001,
    ):
        refused(client, simulator, 413, "payload_too_large", body)


def test_a_body_without_a_json_content_type_is_415(client, simulator):
    for kind in (
        "", "text/plain", "application/x-www-form-urlencoded", "application/jsonp",
        "text/json", "application/problem+json", "application/json, text/plain", "json", "*/*", "\xe9",
    ):  # fmt: skip
        refused(client, simulator, 415, "unsupported_media_type", json.dumps(PICTURE), kind=kind)


def test_a_compressed_body_is_415(client, simulator):
    body = gzip.compress(json.dumps(PICTURE).encode())
    for encoding in ("gzip", "deflate", "br", "x"):
        refused(client, simulator, 415, "unsupported_media_type", body, encoding=encoding)


def test_a_json_content_type_may_name_its_charset(client):
    body = json.dumps(PICTURE | {"prompt": "é"}, ensure_ascii=False).encode()
    kind = "Application/JSON; charset=UTF-8"

    assert 200 == client.post("/generate", data=body, content_type=kind, headers=ADMIN).status_code


def test_a_body_of_20_megabytes_is_413(client, simulator):
    refused(client, simulator, 413, "payload_too_large", b" " * 20_000_000)


def chunked(client, path, body):
    told = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked", "CONTENT_LENGTH": ""}
    stream = io.BytesIO(body)
    return client.post(path, input_stream=stream, content_type=JSON, headers=ADMIN, environ_overrides=told)


@pytest.mark.parametrize("path", ROUTES)
def test_a_chunked_body_is_413_once_it_is_too_large_even_if_its_beginning_is_valid(client, simulator, path):
    body = {
        "/generate": PICTURE,
        "/generate-batch": {"requests": [PICTURE]},
        "/configure": {"concurrent_limit": 1},
    }

    answer = chunked(client, path, json.dumps(body[path]).encode() + b" " * 20_000_000)

    problem(answer, 413, "payload_too_large")
    assert {} == dict(simulator.counts().requests)
    assert 10 == client.get("/status").json["concurrency"]["concurrent_limit"]


def test_a_chunked_body_of_ordinary_size_is_accepted(client):
    assert 200 == chunked(client, "/generate", json.dumps(PICTURE).encode()).status_code


def test_a_body_that_ends_before_its_length_is_refused_even_if_its_beginning_is_valid(client, simulator):
    answer = client.post(
        "/generate",
        input_stream=io.BytesIO(json.dumps(PICTURE).encode()),
        content_type=JSON,
        headers=ADMIN,
        environ_overrides={"CONTENT_LENGTH": "1000"},
    )

    problem(answer, 400, "invalid_request")
    assert {} == dict(simulator.counts().requests)


@pytest.mark.parametrize(
    "item",
    [
        {},
        {"model_name": "x" * 1000, "prompt": "\ud800"},
        PICTURE | {"z" * 1000: "z" * 400},
        [],
        None,
        "x",
        10**400,
    ],
    ids=lambda item: str(item)[:20],
)
def test_ten_thousand_bad_items_get_a_bounded_response(client, simulator, item):
    answer = client.post("/generate-batch", json={"requests": [item] * 10_000}, headers=ADMIN)

    problem(answer, 400, "invalid_request")
    assert 101 == len(answer.json["errors"])
    assert 100_000 > len(answer.data)
    assert {} == dict(simulator.counts().requests)


def test_ten_thousand_bad_prompts_get_a_bounded_response(client):
    body = {"model_name": "flux-dev", "prompts": ["\ud800" * 500] * 5_000}

    answer = client.post("/generate-batch", json=body, headers=ADMIN)

    assert 101 == len(problem(answer, 400, "invalid_request")["errors"])
    assert 100_000 > len(answer.data)
