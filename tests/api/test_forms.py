"""Forms: images are sent as files, and all other fields beside them."""

import base64
import json
from io import BytesIO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from werkzeug.datastructures import FileStorage, MultiDict
from werkzeug.test import encode_multipart

from catalog.references import INLINE, LARGEST
from errors import InvalidRequest, PayloadTooLarge
from parsing.multipart_form import read_form
from tests.support.callers import ADMIN, PNG
from tests.support.declarations import REGISTRY
from tests.support.ndjson import NDJSON, lines
from tests.support.problem_documents import fields, problem

SMALL = PNG + b"small"
LARGE = PNG.ljust(INLINE + 1, b"x")
INLINED = "data:image/png;base64," + base64.b64encode(SMALL).decode()
EDIT = {"model_name": "flux-kontext-max", "prompt": "make it blue"}


def a_file(content: bytes = SMALL, name: str = "a.png"):
    return FileStorage(BytesIO(content), name)


def post(client, form, path="/generate", **headers):
    boundary, body = encode_multipart(
        MultiDict(form)
    )  # the client's own method leaves its temporary files open
    kind = f"multipart/form-data; boundary={boundary}"
    return client.post(path, data=body, content_type=kind, headers=ADMIN | headers)


def sent(simulator):
    return [each.input for each in simulator.predictions()]


def test_a_file_of_up_to_256_kb_is_sent_inline(client, simulator):
    answer = post(client, EDIT | {"input_image": a_file()})

    assert 200 == answer.status_code, answer.json
    assert [{"prompt": EDIT["prompt"], "input_image": INLINED}] == sent(simulator)
    assert [] == simulator.uploads()


def test_a_larger_file_is_uploaded_to_replicate_first(client, simulator):
    assert 200 == post(client, EDIT | {"input_image": a_file(LARGE, "photo.jpg")}).status_code

    (upload,) = simulator.uploads()
    assert (INLINE + 1, "image/png") == (upload.size, upload.content_type)
    assert [f"{simulator.url}/v1/files/{upload.id}"] == [each["input_image"] for each in sent(simulator)]
    assert 1 == simulator.counts().requests["file"]
    assert "r8_server" == upload.token


def test_a_large_data_uri_in_a_json_body_is_uploaded_to_replicate_first(client, simulator):
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


def test_each_file_goes_to_the_field_of_its_name(client, simulator):
    form = {"model_name": "nano-banana", "prompt": "a", "image_input": [a_file(), a_file(LARGE), a_file()]}

    assert 200 == post(client, form).status_code

    (upload,) = simulator.uploads()
    assert [[INLINED, f"{simulator.url}/v1/files/{upload.id}", INLINED]] == [
        each["image_input"] for each in sent(simulator)
    ]


def test_one_file_for_a_list_field_becomes_a_list(client, simulator):
    assert (
        200 == post(client, {"model_name": "nano-banana", "prompt": "a", "image_input": a_file()}).status_code
    )
    assert (
        200 == post(client, {"model_name": "nano-banana", "prompt": "a", "image_input": INLINED}).status_code
    )

    assert [[INLINED]] * 2 == [each["image_input"] for each in sent(simulator)]


def test_a_field_is_a_list_only_for_a_model_that_takes_one(client, simulator):
    lists = {"model_name": "qwen-image-edit-2511", "prompt": "a", "image": a_file()}
    alone = {"model_name": "flux-dev", "prompt": "a", "image": a_file()}
    requests = json.dumps([{"model_name": each["model_name"], "prompt": "a"} for each in (lists, alone)])

    assert 200 == post(client, lists).status_code
    assert 200 == post(client, alone | {"image": a_file()}).status_code
    numbered = {"requests": requests, "requests[0].image": a_file(), "requests[1].image": a_file()}
    assert 200 == post(client, numbered, "/generate-batch").status_code
    images = [each["image"] for each in sent(simulator)]
    assert [[INLINED], INLINED] == images[:2]
    assert sorted([[INLINED], INLINED], key=str) == sorted(images[2:], key=str)


def test_a_file_reaches_the_request_that_its_name_numbers(client, simulator):
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


@pytest.mark.parametrize(
    ("model", "field", "sent_as"),
    [("flux-kontext-max", "input_image", INLINED), ("nano-banana", "image_input", [INLINED])],
)
def test_a_file_replaces_null_in_its_request(client, simulator, model, field, sent_as):
    request = {"model_name": model, "prompt": "a", field: None}
    form = {"requests": json.dumps([request]), f"requests[0].{field}": a_file()}

    assert 200 == post(client, form, "/generate-batch").status_code

    assert [sent_as] == [each[field] for each in sent(simulator)]


@pytest.mark.parametrize(
    ("form", "empty"),
    [
        ({"requests": json.dumps([EDIT])}, "requests[0].input_image"),
        ({"requests": json.dumps([EDIT])}, "requests[0].seed"),
        ({"requests": json.dumps([EDIT])}, "prompts"),
        ({"model_name": "flux-dev", "prompts": ["a"]}, "requests"),
        ({"model_name": "flux-dev", "prompts": ["a"]}, "requests[0].file_name"),
    ],
)
def test_empty_text_counts_as_omitted_in_both_forms_of_a_batch(client, form, empty):
    assert 200 == post(client, form | {empty: ""}, "/generate-batch").status_code


@pytest.mark.parametrize("name", ["requests[0].prompt", "requests[0].model_name", "requests[0].xyzzy"])
def test_empty_text_of_a_required_or_unknown_field_of_a_request_is_refused(client, name):
    form = {"requests": json.dumps([EDIT]), name: ""}

    assert [name] == fields(post(client, form, "/generate-batch"))


def test_text_is_parsed_as_the_type_of_its_field(client, simulator):
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
        (EDIT | {"seed": "3.5"}, ["seed"]),
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
def test_an_invalid_form_is_refused_like_any_body_and_nothing_is_sent(client, simulator, form, wrong):
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
def test_an_unreadable_form_is_refused(client, body, kind):
    answer = client.post("/generate", data=body, content_type=kind, headers=ADMIN)

    assert 400 == answer.status_code, answer.json


def test_the_size_of_a_form_is_limited(make_app, simulator):
    client = make_app(MAX_BODY_BYTES=100_000, MAX_UPLOAD_BYTES=1_000_000).test_client()

    assert 200 == post(client, EDIT | {"input_image": a_file(PNG.ljust(900_000))}).status_code
    problem(post(client, EDIT | {"input_image": a_file(PNG.ljust(1_000_001))}), 413, "payload_too_large")
    problem(post(client, EDIT | {"prompt": "x" * 100_001}), 413, "payload_too_large")
    problem(post(client, {str(number): "x" for number in range(501)}), 413, "payload_too_large")

    roomy = make_app(MAX_BODY_BYTES=100_000).test_client()
    problem(post(roomy, {str(number): "x" * 90_000 for number in range(20)}), 413, "payload_too_large")


def test_routes_that_generate_nothing_refuse_a_form(client):
    refused = problem(post(client, {"concurrent_limit": "3"}, "/configure"), 415, "unsupported_media_type")
    assert "must be application/json, without" in refused["detail"]


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
def test_no_part_headers_cause_an_error_of_the_service(tmp_path, parts):
    try:
        body = read(*(part + b"\r\n\r\na" for part in parts), tmp_path=tmp_path, most_text=1000)
    except (InvalidRequest, PayloadTooLarge):
        return
    assert all(isinstance(name, str) and name for name in body)


# Parts as browsers and scripts send them


def read(*parts: bytes, tmp_path, most_text=10_000_000):
    """The body that the parser alone reads from a form of these parts."""
    body = b"".join(b"--b\r\n" + part + b"\r\n" for part in parts) + b"--b--\r\n"
    return read_form(
        BytesIO(body),
        registry=REGISTRY,
        options={"boundary": "b"},
        most_text=most_text,
        spool=tmp_path,
        hold=lambda size: None,
    )


def field(name: str, text: str | bytes) -> bytes:
    text = text if isinstance(text, bytes) else text.encode()
    return DISPOSITION + f'form-data; name="{name}"'.encode() + b"\r\n\r\n" + text


def file(headers: bytes, content: bytes = SMALL, *, kind: bytes = b"") -> bytes:
    typed = b"\r\nContent-Type: " + kind if kind else b""
    return DISPOSITION + b"form-data; " + headers + typed + b"\r\n\r\n" + content


FILES = {
    "a Latin-1 name": file(b'name="input_image"; filename="caf\xe9.png"', kind=b"image/png"),
    "a Latin-1 name, untyped": file(b'name="input_image"; filename="\xfcber.png"'),
    "a Windows-1252 name": file(b'name="input_image"; filename="\x93fox\x94.png"'),
    "a Shift-JIS name": file(b'name="input_image"; filename="\x8c\xcf.png"', kind=b"image/png"),
    "a UTF-8 name": file('name="input_image"; filename="café.png"'.encode()),
    "an encoded name": file(b"name=\"input_image\"; filename*=UTF-8''caf%C3%A9.png"),
    "an encoded Latin-1 name": file(b"name=\"input_image\"; filename*=ISO-8859-1''caf%E9.png"),
    "a name of nothing": file(b'name="input_image"; filename=""', kind=b"image/png"),
    "typed, without a name": file(b'name="input_image"', kind=b"image/png"),
    "typed as another image": file(b'name="input_image"', kind=b"image/jpeg; charset=binary"),
    "typed in capitals": file(b'name="input_image"', kind=b"IMAGE/PNG"),
    "typed as bytes, with a name": file(
        b'name="input_image"; filename="a"', kind=b"application/octet-stream"
    ),
}


@pytest.mark.parametrize("way", FILES)
def test_a_part_is_a_file_whatever_its_file_name_and_type(tmp_path, way):
    upload = read(FILES[way], tmp_path=tmp_path)["input_image"]

    assert SMALL == upload.head(1000)


@pytest.mark.slow
@pytest.mark.parametrize("way", FILES)
def test_a_file_with_any_file_name_and_type_is_sent_to_replicate(client, simulator, way):
    parts = (field("model_name", "kontext-max"), field("prompt", "make it blue"), FILES[way])

    assert 200 == raw_post(client, *parts).status_code
    assert [INLINED] == [each["input_image"] for each in sent(simulator)]


@pytest.mark.parametrize(
    "part",
    [
        file(b'name="input_image"', kind=b"text/plain"),
        file(b'name="input_image"'),
        file(b'name="input_image"; filename="a.png"', b""),
        file(b'name="input_image"', b"<svg/>", kind=b"image/svg+xml"),
        file(b'name="caf\xe9"; filename="a.png"'),
        file(b'name="caf\xe9"', b"a"),
        field("prompt", b"caf\xe9"),
    ],
)
def test_a_field_or_a_file_that_is_no_picture_is_refused(client, simulator, part):
    answer = raw_post(client, field("model_name", "kontext-max"), field("prompt", "a"), part)

    assert 400 == answer.status_code
    assert {} == dict(simulator.counts().requests)


NOTHING = {
    "a file input without a choice": file(b'name="input_image"; filename=""', b"", kind=b"application/octet-stream"),
    "the same, typed as an image": file(b'name="input_image"', b"", kind=b"image/png"),
    "the same, of no model": file(b'name="photo"; filename=""', b""),
    "a number": field("seed", ""),
    "a choice": field("aspect_ratio", ""),
    "a switch": field("prompt_upsampling", ""),
    "a reference": field("input_image", ""),
    "a field of ours": field("timeout", ""),
    "a webhook": field("webhook", ""),
    "a name": field("file_name", ""),
    "a fallback": field("fallback", ""),
    "a parameter of another model": field("duration", ""),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("what", NOTHING)
def test_the_empty_inputs_of_a_browsers_form_are_dropped(tmp_path, client, what):
    parts = (field("model_name", "kontext-max"), field("prompt", "a"))

    assert read(*parts, tmp_path=tmp_path) == read(*parts, NOTHING[what], tmp_path=tmp_path)
    assert 200 == raw_post(client, *parts, NOTHING[what]).status_code


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        (field("seed", "null"), "seed"),
        (field("input_image", "null"), "input_image"),
        (field("go_fast", "null"), "go_fast"),
        (field("timeout", "null"), "timeout"),
        (field("fallback", "null"), "fallback"),
        (field("seed", "[null]"), "seed"),
        (field("seed", " "), "seed"),
        (field("unknown", ""), "unknown"),
        (field("prompt", ""), "prompt"),
        (field("model_name", ""), "model_name"),
    ],
)
def test_null_as_text_and_an_empty_required_field_are_refused_in_a_form(client, simulator, part, wrong):
    name = wrong.encode()
    parts = [field("model_name", "flux-dev"), field("prompt", "a")]
    parts = [each for each in parts if b'name="' + name + b'"' not in each]

    answer = raw_post(client, *parts, part)

    assert [wrong] == fields(answer)
    assert {} == dict(simulator.counts().requests)


def test_free_text_may_be_empty_or_the_word_null(client, simulator):
    for text in ("", "null", " ", "28.0"):
        parts = (field("model_name", "qwen-image"), field("prompt", "null"), field("negative_prompt", text))
        assert 200 == raw_post(client, *parts).status_code
        assert {"prompt": "null", "negative_prompt": text} == sent(simulator)[-1]


def test_whole_floats_in_a_form_are_read_as_integers(client, simulator):
    parts = (
        field("model_name", "flux-dev"),
        field("prompt", "a"),
        field("seed", "3.0"),
        field("guidance", "3.0"),
    )

    assert 200 == raw_post(client, *parts).status_code
    values = [sent(simulator)[-1][name] for name in ("seed", "guidance")]
    assert [(3, int), (3, int)] == [(value, type(value)) for value in values]


def test_file_names_in_a_form_keep_their_positions(tmp_path):
    def read_names(*names):
        return read(*(field("file_names", name) for name in names), tmp_path=tmp_path).get("file_names")

    assert ["a", "", "b"] == read_names("a", "", "b")
    assert ["a"] == read_names("a")
    assert None is read_names("", "")


def test_an_incomplete_picture_is_refused_before_anything_is_spent(client, simulator):
    for content in (LARGE[:60], PNG[:-4], PNG[:20].ljust(900_000, b"\0")):
        answer = post(client, EDIT | {"input_image": a_file(content)})
        (found,) = problem(answer, 400, "invalid_request")["errors"]
        assert "must be a whole PNG image" in found["message"]
    assert {} == dict(simulator.counts().requests)


LINK = "the link of an uploaded file"


def linked(simulator):
    """What was sent, with one word for the links of uploaded files."""
    links = {f"{simulator.url}/v1/files/{each.id}" for each in simulator.uploads()}

    def shown(value):
        return (
            [shown(each) for each in value] if isinstance(value, list) else LINK if value in links else value
        )

    return [{name: shown(value) for name, value in each.items()} for each in sent(simulator)]


def test_a_file_may_be_any_parameter_of_a_model_that_is_not_declared(client, simulator):
    assert 200 == post(client, {"model_name": "acme/upscaler", "img": a_file()}).status_code
    assert (
        200
        == post(
            client, {"model_name": "acme/upscaler", "input.img": a_file(), "input": '{"scale": 3}'}
        ).status_code
    )
    assert [{"img": LINK}, {"scale": 3, "img": LINK}] == linked(simulator)


def test_a_file_may_be_a_parameter_in_the_input_of_an_item(client, simulator):
    requests = [{"model_name": "acme/upscaler"}, {"model_name": "acme/upscaler", "input": {"scale": 4}}]
    form = {"requests": json.dumps(requests), "requests[0].img": a_file(), "requests[1].input.img": a_file()}
    assert 2 == post(client, form, "/generate-batch").json["succeeded"]
    inputs = {"model_name": "acme/upscaler", "inputs": "[{}]", "inputs[0].img": a_file()}
    assert 1 == post(client, inputs, "/generate-batch").json["succeeded"]
    assert [{"img": LINK}, {"img": LINK}, {"scale": 4, "img": LINK}] == sorted(linked(simulator), key=len)


def test_one_file_of_a_list_and_numbers_are_what_the_published_schema_says(client, simulator):
    form = {
        "model_name": "acme/watercolor",
        "prompt": "28",
        "num_outputs": "2",
        "extra_lora": "7",
        "seed": "",
        "go_fast": "true",
    }
    answer = post(client, form)
    assert (200, None) == (answer.status_code, answer.json.get("changes")), answer.json
    assert 200 == post(client, {"model_name": "acme/variations", "images": a_file()}).status_code

    assert [
        {"prompt": "28", "num_outputs": 2, "extra_lora": "7", "go_fast": True},
        {"images": [LINK]},
    ] == linked(simulator)


@pytest.mark.parametrize("place", ["input.img", "inputs[0].img", "requests[0].input.img", "input.input.img"])
def test_a_file_for_an_object_that_is_none_is_refused(client, place):
    form = {"model_name": "acme/upscaler", "input": "[1]", place: a_file()}
    assert 400 == post(client, form).status_code
    assert 400 == post(client, form, "/generate-batch").status_code
