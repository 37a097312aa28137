"""Requests that name an uploaded file by its address: it is sent as if it had come with the request."""

import jsonschema
import pytest
from werkzeug.datastructures import FileStorage, MultiDict
from werkzeug.test import encode_multipart

from api import request_files
from catalog.references import INLINE
from tests.api.test_forms import EDIT, INLINED, LARGE, a_file, sent
from tests.support.callers import ADMIN, USER
from tests.support.problem_documents import fields, problem

GONE = "names an uploaded file that does not exist, or has expired"


def uploaded(client, file: FileStorage | None = None, *, by=ADMIN) -> str:
    """The address of a new upload."""
    boundary, body = encode_multipart(MultiDict({"content": file or a_file()}))
    kind = f"multipart/form-data; boundary={boundary}"
    answer = client.post("/replicate/v1/files", data=body, content_type=kind, headers=by)
    assert 201 == answer.status_code, answer.text
    return str(answer.get_json()["urls"]["get"])


def post(client, body, path="/generate", *, by=ADMIN, **headers):
    return client.post(path, json=body, headers={**by, **headers})


def test_a_generation_gets_the_content_of_an_upload(client, simulator):
    address = uploaded(client)
    schema = client.get("/models/flux-kontext-max", headers=ADMIN).get_json()["input_schema"]

    jsonschema.validate({"prompt": "x", "input_image": address}, schema)
    for _ in range(2):
        assert 200 == post(client, EDIT | {"input_image": address}).status_code
    assert 200 == post(client, EDIT | {"input_image": uploaded(client, a_file(LARGE))}).status_code

    *small, large = (each["input_image"] for each in sent(simulator))
    assert [INLINED, INLINED] == small
    assert [INLINE + 1] == [each.size for each in simulator.uploads()]
    assert large == f"{simulator.url}/v1/files/{simulator.uploads()[0].id}"


def test_lists_and_inputs_name_uploads_too(client, simulator):
    first, second = uploaded(client), uploaded(client)
    several = {"model_name": "nano-banana", "prompt": "both", "image_input": [first, INLINED, second]}

    assert 200 == post(client, several).status_code
    alone = post(client, {"model_name": "acme/upscaler", "input": {"img": first}})
    assert 200 == alone.status_code, alone.text

    both, upscaled = sent(simulator)
    assert [INLINED] * 3 == both["image_input"]
    assert [f"{simulator.url}/v1/files/{each.id}" for each in simulator.uploads()] == [upscaled["img"]]


@pytest.mark.parametrize(
    "items",
    [
        lambda address: {"requests": [EDIT, EDIT | {"input_image": address}]},
        lambda address: {"model_name": "flux-kontext-max", "prompts": ["a"], "input_image": address},
        lambda address: {
            "model_name": "flux-kontext-max",
            "inputs": [{"prompt": "a", "input_image": address}],
        },
    ],
    ids=["requests", "prompts", "inputs"],
)
def test_a_batch_gets_the_content_of_an_upload(client, simulator, items):
    answer = post(client, items(uploaded(client)), "/generate-batch")

    assert answer.get_json()["succeeded"] == answer.get_json()["total"], answer.text
    assert [INLINED] == [each["input_image"] for each in sent(simulator) if "input_image" in each]


def test_the_same_key_is_the_same_generation(client, simulator):
    body, key = EDIT | {"input_image": uploaded(client)}, {"Idempotency-Key": "blue-1"}

    first, second = (post(client, body, **key).get_json()["id"] for _ in range(2))

    assert first == second
    assert 1 == len(sent(simulator))


def test_an_upload_of_another_caller_or_one_that_is_gone_is_refused_by_its_field(client, simulator):
    others = uploaded(client, by={"Authorization": "Bearer r8_user"})

    refused = post(client, EDIT | {"input_image": others})
    of_item = post(client, {"requests": [EDIT, EDIT | {"input_image": others}]}, "/generate-batch")

    assert GONE == problem(refused, 400, "invalid_request")["errors"][0]["message"]
    assert ["input_image"] == fields(refused)
    assert ["requests[1].input_image"] == fields(of_item)
    assert [] == simulator.predictions()
    assert 200 == post(client, EDIT | {"input_image": others}, by=USER).status_code


def test_an_address_in_a_prompt_stays_text(client, simulator):
    address = uploaded(client)

    assert 200 == post(client, {"model_name": "flux-dev", "prompt": address}).status_code

    assert address == sent(simulator)[0]["prompt"]


def test_an_upload_that_is_no_image_is_refused(client):
    refused = post(client, EDIT | {"input_image": uploaded(client, a_file(b"text", "a.txt"))})

    assert ["input_image"] == fields(refused)


def test_a_request_names_uploads_up_to_the_limits_of_a_form(make_app, monkeypatch):
    client = make_app(MAX_UPLOAD_BYTES=2 * len(LARGE)).test_client()
    named = [{**EDIT, "input_image": uploaded(client, a_file(LARGE))}] * 3

    two, three = (
        post(client, {"requests": named[:count], "dry_run": True}, "/generate-batch") for count in (2, 3)
    )
    monkeypatch.setattr(request_files, "MAX_PARTS", 1)
    too_many = post(client, {"requests": named[:2]}, "/generate-batch")

    assert 200 == two.status_code
    problem(three, 413, "payload_too_large")
    problem(too_many, 413, "payload_too_large")


def test_a_text_model_gets_an_upload(texts, simulator):
    client = texts()

    answer = post(client, {"prompt": "What is it?", "images": [uploaded(client)]}, "/chat")

    assert 200 == answer.status_code, answer.text
    inline = post(client, {"prompt": "What is it?", "images": [INLINED]}, "/chat").get_json()
    assert inline["usage"]["prompt_tokens"] == answer.get_json()["usage"]["prompt_tokens"]
