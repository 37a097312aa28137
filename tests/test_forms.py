"""Forms: images sent as files, and everything else beside them."""

import base64
import json
from io import BytesIO

import pytest
from callers import ADMIN
from declarations import REGISTRY
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from problems import fields, problem
from streams import NDJSON, lines
from werkzeug.datastructures import FileStorage, MultiDict
from werkzeug.test import encode_multipart

from catalog.references import INLINE, LARGEST
from errors import InvalidRequest, PayloadTooLarge
from parsing.multipart_form import read_form

PNG = b"\x89PNG\r\n\x1a\n"
SMALL = PNG + b"small"
LARGE = PNG.ljust(INLINE + 1, b"x")
INLINED = "data:image/png;base64,iVBORw0KGgpzbWFsbA=="
EDIT = {"model_name": "flux-kontext-max", "prompt": "make it blue"}


def a_file(content: bytes = SMALL, name: str = "a.png"):
    return FileStorage(BytesIO(content), name)


def post(client, form, path="/generate", **headers):
    boundary, body = encode_multipart(MultiDict(form))  # the client's own leaves its temporary files open
    kind = f"multipart/form-data; boundary={boundary}"
    return client.post(path, data=body, content_type=kind, headers=ADMIN | headers)


def sent(simulator):
    return [each.input for each in simulator.predictions()]


def test_a_file_of_up_to_256_kb_is_sent_inline(client, simulator):
    answer = post(client, EDIT | {"input_image": a_file()})

    assert 200 == answer.status_code, answer.json
    assert [{"prompt": EDIT["prompt"], "input_image": INLINED}] == sent(simulator)
    assert [] == simulator.uploads()


def test_a_larger_file_goes_through_replicates_files_first(client, simulator):
    assert 200 == post(client, EDIT | {"input_image": a_file(LARGE, "photo.jpg")}).status_code

    (upload,) = simulator.uploads()
    assert (INLINE + 1, "image/png") == (upload.size, upload.content_type)
    assert [f"{simulator.url}/v1/files/{upload.id}"] == [each["input_image"] for each in sent(simulator)]
    assert 1 == simulator.counts().requests["file"]
    assert "r8_server" == upload.token


def test_so_does_a_large_data_uri_in_a_json_body(client, simulator):
    data = "data:image/png;base64," + base64.b64encode(LARGE).decode()

    assert 200 == client.post("/generate", json=EDIT | {"input_image": data}, headers=ADMIN).status_code
    assert [INLINE + 1] == [upload.size for upload in simulator.uploads()]


def test_a_file_is_uploaded_once_for_a_whole_batch(client, simulator):
    form = {
        "model_name": "flux-kontext-max",
        "prompts": json.dumps(["a", "b", "c"]),
        "input_image": a_file(LARGE),
    }

    answer = post(client, form, "/generate-batch")

    assert (200, 3) == (answer.status_code, answer.json["succeeded"])
    assert 1 == len({each["input_image"] for each in sent(simulator)}) == len(simulator.uploads())


def test_a_stream_outlives_the_request_its_file_came_with(client, simulator):
    form = {"model_name": "flux-kontext-max", "prompts": ["a", "b"], "input_image": a_file(LARGE)}

    with post(client, form, "/generate-batch", **NDJSON) as answer:
        *results, summary = lines(answer)

    assert 2 == summary["succeeded"], results
    assert 1 == len(simulator.uploads())


def test_several_files_go_where_their_names_say(client, simulator):
    form = {"model_name": "nano-banana", "prompt": "a", "image_input": [a_file(), a_file(LARGE), a_file()]}

    assert 200 == post(client, form).status_code

    (upload,) = simulator.uploads()
    assert [[INLINED, f"{simulator.url}/v1/files/{upload.id}", INLINED]] == [
        each["image_input"] for each in sent(simulator)
    ]


def test_one_file_is_a_list_where_a_list_is_taken(client, simulator):
    assert (
        200 == post(client, {"model_name": "nano-banana", "prompt": "a", "image_input": a_file()}).status_code
    )
    assert (
        200 == post(client, {"model_name": "nano-banana", "prompt": "a", "image_input": INLINED}).status_code
    )

    assert [[INLINED]] * 2 == [each["image_input"] for each in sent(simulator)]


def test_a_file_finds_its_request_in_a_batch_of_whole_ones(client, simulator):
    requests = [EDIT, EDIT | {"prompt": "second"}, {"model_name": "nano-banana", "prompt": "third"}]
    form = {
        "requests": json.dumps(requests),
        "requests[1].input_image": a_file(),
        "requests[2].image_input": [a_file(), a_file()],
    }

    assert 200 == post(client, form, "/generate-batch").status_code

    by_prompt = {each["prompt"]: each for each in sent(simulator)}
    assert "input_image" not in by_prompt["make it blue"]
    assert INLINED == by_prompt["second"]["input_image"]
    assert [INLINED] * 2 == by_prompt["third"]["image_input"]


def test_text_is_read_as_what_the_field_holds(client, simulator):
    form = {
        "model_name": "flux-dev", "prompt": "3", "seed": "3", "guidance": "2.5", "go_fast": "false", "megapixels": "1",
        "aspect_ratio": "16:9", "timeout": "60", "fallback": '["qwen-image"]', "placeholder": "true", "file_name": "7",
    }  # fmt: skip

    answer = post(client, form)

    assert 200 == answer.status_code, answer.json
    (given,) = sent(simulator)
    expected = {
        "prompt": "3", "seed": 3, "guidance": 2.5, "go_fast": False, "megapixels": "1", "aspect_ratio": "16:9",
        "output_format": "jpg",
    }  # fmt: skip
    assert expected == given


@pytest.mark.parametrize(
    ("form", "wrong"),
    [
        (EDIT | {"input_image": a_file(b"<svg/>", "a.png")}, ["input_image"]),
        (EDIT | {"input_image": a_file(b"")}, ["input_image"]),
        (EDIT | {"prompt": a_file()}, ["prompt"]),
        (EDIT | {"seed": "three"}, ["seed"]),
        (EDIT | {"seed": "3.0"}, ["seed"]),
        (EDIT | {"seed": ["1", "2"]}, ["seed"]),
        (EDIT | {"input_image": [a_file(), a_file()]}, ["input_image"]),
        (EDIT | {"input_image": "/etc/passwd"}, ["input_image"]),
        (EDIT | {"picture": a_file()}, ["picture"]),
        (EDIT | {"requests[0].input_image": a_file()}, ["requests[0].input_image"]),
        (
            {"model_name": "nano-banana", "prompt": "a", "image_input": [a_file() for _ in range(4)]},
            ["image_input"],
        ),
        ({"prompt": "a"}, ["model_name"]),
        ({}, ["model_name", "prompt"]),
    ],
    ids=str,
)
def test_a_form_is_checked_like_any_body_and_nothing_is_sent(client, simulator, form, wrong):
    assert wrong == fields(post(client, form))
    assert {} == dict(simulator.counts().requests)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "multipart/form-data; boundary=x"),
        (b"--x\r\n", "multipart/form-data; boundary=x"),
        (b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\nb", "multipart/form-data; boundary=x"),
        (b'{"a": 1}', "multipart/form-data; boundary=x"),
        (b"--x--\r\n", "multipart/form-data"),
        (b"--x--\r\n", "multipart/form-data; boundary=\xe9"),
    ],
)
def test_what_is_no_form_is_refused(client, body, kind):
    answer = client.post("/generate", data=body, content_type=kind, headers=ADMIN)

    assert 400 == answer.status_code, answer.json


def test_a_form_has_bounds_of_its_own(make_app, simulator):
    client = make_app(MAX_BODY_BYTES=100_000, MAX_UPLOAD_BYTES=1_000_000).test_client()

    assert 200 == post(client, EDIT | {"input_image": a_file(PNG.ljust(900_000))}).status_code
    problem(post(client, EDIT | {"input_image": a_file(PNG.ljust(1_000_001))}), 413, "payload_too_large")
    problem(post(client, EDIT | {"prompt": "x" * 100_001}), 413, "payload_too_large")
    problem(post(client, {str(number): "x" for number in range(501)}), 413, "payload_too_large")

    roomy = make_app(MAX_BODY_BYTES=100_000).test_client()
    problem(post(roomy, {str(number): "x" * 90_000 for number in range(20)}), 413, "payload_too_large")


def test_a_form_is_not_taken_where_nothing_is_generated(client):
    problem(post(client, {"concurrent_limit": "3"}, "/configure"), 415, "unsupported_media_type")


def test_an_image_of_more_than_100_mb_is_refused(make_app, simulator):
    client = make_app().test_client()

    assert ["input_image"] == fields(post(client, EDIT | {"input_image": a_file(PNG.ljust(LARGEST + 1))}))
    assert {} == dict(simulator.counts().requests)


# Any headers of a part.

DISPOSITION = b"Content-Disposition: "


def raw_post(client, *parts: bytes, path="/generate"):
    body = b"".join(b"--b\r\n" + part + b"\r\n" for part in parts) + b"--b--\r\n"
    kind = "multipart/form-data; boundary=b"
    return client.post(path, data=body, content_type=kind, headers=ADMIN)


@pytest.mark.parametrize(
    "headers",
    [
        DISPOSITION + b"form-data",
        DISPOSITION + b"form-data; name",
        DISPOSITION + b"form-data; name=",
        DISPOSITION + b'form-data; name=""',
        DISPOSITION + b"form-data; nam\xe9=prompt",
        DISPOSITION + b'form-data; filename="a.png"',
        DISPOSITION + b'form-data; name=""; filename="a.png"',
        DISPOSITION + b"form-data; filename*=UTF-8''a.png",
        DISPOSITION,
        DISPOSITION + b"\xff",
        b"Content-Type: text/plain",
        b"",
    ],
)
def test_a_part_without_a_readable_name_is_refused(client, headers):
    for path in ("/generate", "/generate-batch"):
        whole = DISPOSITION + b'form-data; name="prompt"\r\n\r\na'
        assert ["body"] == fields(raw_post(client, whole, headers + b"\r\n\r\na", path=path))


HEADER_PARTS = st.sampled_from(
    [
        b"Content-Disposition", b"Content-Type", b"Content-Length", b":", b" ", b";", b"=", b'"', b"'", b"\\", b"*",
        b"\r\n", b"\n", b"\r\n ", b"form-data", b"name", b"filename", b"filename*", b"name*", b"name*0", b"UTF-8''",
        b"prompt", b"input_image", b"requests[0].input_image", b"text/plain", b"charset", b"utf-16", b"%ff", b"\xff",
        b"\x00", b"\xe2\x80\xae", b"-1", b"9" * 5000, b"attachment", b"--b",
    ]
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.lists(HEADER_PARTS, max_size=12).map(b"".join),
            st.lists(HEADER_PARTS, max_size=10).map(
                lambda parts: DISPOSITION + b"form-data; " + b"".join(parts)
            ),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_no_headers_of_any_part_are_a_fault_of_the_service(tmp_path, parts):
    def read():
        body = b"".join(b"--b\r\n" + part + b"\r\n\r\na\r\n" for part in parts) + b"--b--\r\n"
        return read_form(
            BytesIO(body),
            registry=REGISTRY,
            options={"boundary": "b"},
            length=None,
            most_text=1000,
            spool=tmp_path,
            hold=lambda size: None,
        )

    try:
        body = read()
    except (InvalidRequest, PayloadTooLarge):
        return
    assert all(isinstance(name, str) and name for name in body)
