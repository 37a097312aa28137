"""Files among parameters: what is sent as a part of a form, under which name, and what stays JSON."""

import io
import json
from email.parser import BytesParser
from email.policy import HTTP
from pathlib import Path

import httpx
import pytest
from PIL import Image
from replicate_concurrent import Upload
from replicate_concurrent.operations import batches, generating, texts
from replicate_concurrent.operations.generating import Order
from replicate_concurrent.operations.references import payload, upload

from tests.support.scripted_service import ScriptedService, answer

PNG = b"\x89PNG\r\n\x1a\n and more"
JPEG = b"\xff\xd8\xff and more"
ADDRESS = "https://service.test/replicate/v1/files/1"
UPLOADED = answer(201, {"id": "1", "name": "photo.jpg", "size": 12, "urls": {"get": ADDRESS}})
MADE = answer(200, {"id": "gen_1", "status": "succeeded", "success": True})


def form(request):
    """The parts of a form as (name, filename, content)."""
    head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
    message = BytesParser(policy=HTTP).parsebytes(head + request.content)
    return [
        (
            part.get_param("name", header="content-disposition"),
            part.get_filename(),
            part.get_payload(decode=True).strip(b"\r\n"),
        )
        for part in message.iter_parts()
    ]


def sent(body):
    service = ScriptedService([MADE])
    service.run(generating.submit(service.service, Order(body)))
    return form(service.requests[0])


def files(body):
    return [(part.name, part.filename, part.content) for part in payload(body).parts if part.filename]


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(JPEG)
    return path


def test_each_kind_of_file_is_sent_as_a_part_and_all_else_as_a_field(photo):
    body = {"model_name": "flux-kontext-max", "prompt": "123", "seed": 3, "raw": True, "input_image": photo}

    assert [
        ("model_name", None, b"flux-kontext-max"),
        ("prompt", None, b"123"),
        ("seed", None, b"3"),
        ("raw", None, b"true"),
        ("input_image", "photo.jpg", JPEG),
    ] == sent(body)


@pytest.mark.parametrize(
    ("file", "filename"),
    [
        (PNG, "file.png"),
        (bytearray(PNG), "file.png"),
        (memoryview(PNG), "file.png"),
        (io.BytesIO(PNG), "file.png"),
    ],
)
def test_bytes_and_file_objects_are_files(file, filename):
    assert [("image", filename, PNG)] == files({"image": file})


def test_a_file_object_can_be_sent_again(photo):
    with photo.open("rb") as file:
        first, second = (files({"input_image": file}) for _ in range(2))

    assert [("input_image", "photo.jpg", JPEG)] == first == second


@pytest.mark.parametrize(("mode", "shown"), [("RGB", "RGB"), ("RGBA", "RGBA"), ("CMYK", "RGB"), ("F", "RGB")])
def test_images_of_pil_are_sent_as_png(mode, shown):
    [(name, filename, content)] = files({"image": Image.new(mode, (3, 2))})

    assert ("image", "image.png", "PNG") == (name, filename, Image.open(io.BytesIO(content)).format)
    assert shown == Image.open(io.BytesIO(content)).mode


def test_an_image_of_pil_keeps_a_format_that_the_service_takes():
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2)).save(buffer, "JPEG")

    assert ["image.jpg"] == [filename for _, filename, _ in files({"image": Image.open(buffer)})]


def test_texts_are_passed_as_json():
    body = {"model_name": "x", "input_image": "https://a.test/fox.jpg", "other": "data:image/png;base64,AAAA"}
    service = ScriptedService([MADE])

    service.run(generating.submit(service.service, Order(body)))

    assert [body] == service.bodies()


def test_lists_and_inputs_have_names_of_their_own():
    body = {"model_name": "a/b", "input": {"img": PNG, "scale": 2}, "image_input": [PNG, JPEG]}

    assert [
        ("model_name", None, b"a/b"),
        ("input", None, b'{"scale": 2}'),
        ("input.img", "file.png", PNG),
        ("image_input", "file.png", PNG),
        ("image_input", "file.jpg", JPEG),
    ] == sent(body)


def test_a_list_of_files_and_addresses_keeps_its_order():
    made = payload({"model_name": "nano-banana", "image_input": [PNG, "https://a.test/b.jpg"]})

    first, second = made.json["image_input"] if made.json else ("", "")
    assert ("data:image/png;base64,", "https://a.test/b.jpg") == (first[:22], second)


def test_files_of_a_batch_have_the_place_of_their_request(photo):
    requests = [
        {"model_name": "flux-dev", "prompt": "A fox"},
        {"model_name": "flux-kontext-max", "prompt": "A hare", "input_image": photo},
        {"model_name": "a/b", "input": {"img": PNG}},
    ]
    service = ScriptedService([answer(202, {"id": "batch_1", "status": "queued"})])

    wanted = batches.order(
        None, None, requests=requests, idempotency_key=None, webhook=None, metadata=None, common={}
    )
    service.run(batches.submit(service.service, wanted))

    fields, *rest = form(service.requests[0])
    assert "requests" == fields[0]
    assert b'"input_image"' not in fields[2]
    assert [("requests[1].input_image", "photo.jpg"), ("requests[2].input.img", "file.png")] == [
        each[:2] for each in rest
    ]


def test_a_repeated_form_has_the_same_content(photo):
    service = ScriptedService([httpx.ReadError("lost"), MADE])

    service.run(generating.submit(service.service, Order({"model_name": "x", "image": photo})))

    assert form(service.requests[0]) == form(service.requests[1])


def test_a_file_that_is_missing_is_found_before_the_request():
    service = ScriptedService([MADE])

    with pytest.raises(FileNotFoundError):
        service.run(generating.submit(service.service, Order({"image": Path("/nowhere.jpg")})))
    assert [] == service.requests


@pytest.mark.parametrize("file", [3, None, {"a": 1}])
def test_an_upload_that_is_no_file_is_refused(file):
    service = ScriptedService([UPLOADED])

    with pytest.raises(TypeError):
        service.run(upload(service.service, file))
    assert [] == service.requests


def test_a_file_object_that_is_open_for_text_is_refused(photo):
    with pytest.raises(TypeError, match="rb"), io.StringIO("text") as file:
        payload({"image": file})


@pytest.mark.parametrize("kind", ["path", "text", "bytes", "file"])
def test_an_upload_is_sent_once_and_its_address_in_each_request(photo, kind):
    service = ScriptedService([UPLOADED, MADE])
    with photo.open("rb") as file:
        source = {"path": photo, "text": str(photo), "bytes": JPEG, "file": file}[kind]
        kept = service.run(upload(service.service, source))
    body = {"image": kept, "images": [kept, "https://a.test/fox.jpg"], "input": {"mask": kept}}
    service.run(generating.submit(service.service, Order(body)))
    several = batches.order(
        None, "x", requests=[{"image": kept}], idempotency_key=None, webhook=None, metadata=None, common={}
    )
    service.run(batches.submit(service.service, several))

    assert (ADDRESS, "photo.jpg", 12, UPLOADED.json()) == (kept.url, kept.name, kept.size, kept.raw)
    assert [("content", "file.jpg" if kind == "bytes" else "photo.jpg", JPEG)] == form(service.requests[0])
    assert [
        {"image": ADDRESS, "images": [ADDRESS, "https://a.test/fox.jpg"], "input": {"mask": ADDRESS}},
        {"requests": [{"model_name": "x", "image": ADDRESS}]},
    ] == [json.loads(each.content) for each in service.requests[1:]]


def test_an_upload_beside_a_file_keeps_its_place_in_a_list(photo):
    kept = Upload("1", ADDRESS)

    assert payload({"images": [photo, kept]}).json["images"][1] == ADDRESS
    assert {"images": [ADDRESS, ADDRESS]} == payload({"images": [kept, kept]}).json


def test_an_upload_that_may_have_arrived_is_sent_again():
    service = ScriptedService([httpx.ReadError("lost"), UPLOADED])

    assert ADDRESS == service.run(upload(service.service, PNG)).url
    assert 2 == len(service.requests)


@pytest.mark.parametrize(
    "where", [{"images": [Upload("1", ADDRESS)]}, {"messages": [{"images": [Upload("1", ADDRESS)]}]}]
)
def test_calls_to_text_models_take_the_file_itself(where):
    service = ScriptedService([MADE])

    with pytest.raises(TypeError, match="file itself"):
        service.run(texts.answer(service.service, texts.chat_order("What is it?", where), dict))
