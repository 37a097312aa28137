"""Texts that are paths of local files: sent as files where the model takes one, and as texts elsewhere."""

import json

import pytest
from replicate_concurrent.operations import generating, looking
from replicate_concurrent.operations.generating import Order

from tests.client.test_references import JPEG, MADE, form
from tests.support.scripted_service import ScriptedService, answer, problem

FILE = {"anyOf": [{"type": "string", "format": "uri"}, {"type": "null"}]}
MODEL = answer(
    200,
    {
        "name": "painter",
        "input_schema": {
            "properties": {
                "image": FILE,
                "images": {"type": "array", "items": {"type": "string", "format": "uri"}},
                "style": {"type": "string"},
            }
        },
    },
)


@pytest.fixture
def photo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "photo.jpg").write_bytes(JPEG)


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def scripted(request):
    return lambda *answers: ScriptedService(answers, on_asyncio=request.param)


def submit(service, path="/generate", **body):
    order = Order({"model_name": "painter", "prompt": "A fox", **body}, path=path)
    service.run(generating.accepted(service.service, order, wait=0, deadline=2000.0))
    return service.requests[-1]


def files(request):
    return [(name, filename, content) for name, filename, content in form(request) if filename]


@pytest.mark.parametrize("path", ["photo.jpg", "./photo.jpg", "~/photo.jpg"])
def test_the_path_of_a_local_file_is_sent_as_the_file(scripted, photo, path):
    service = scripted(MODEL, MADE)

    assert [("image", "photo.jpg", JPEG)] == files(submit(service, image=path))
    assert ["GET /models/painter", "POST /generate"] == service.paths()


def test_paths_in_lists_and_in_the_input_are_sent_as_files(scripted, photo):
    sent = submit(scripted(MODEL, MADE), images=["photo.jpg", "photo.jpg"], input={"image": "photo.jpg"})

    assert ["images", "images", "input.image"] == sorted(name for name, _, _ in files(sent))


def test_a_path_where_the_model_takes_a_text_stays_a_text(scripted, photo):
    sent = submit(scripted(MODEL, MADE), style="photo.jpg", prompt="photo.jpg")

    assert {"model_name": "painter", "prompt": "photo.jpg", "style": "photo.jpg"} == json.loads(sent.content)


@pytest.mark.parametrize(
    "text",
    [
        "https://a.test/photo.jpg",
        "data:image/png;base64,AA",
        "absent.jpg",
        "",
        ".",
        "a" * 9999,
        "a\0b",
    ],
)
def test_a_text_that_is_no_local_file_is_sent_as_it_is_and_no_model_is_looked_up(scripted, photo, text):
    service = scripted(MADE)

    submit(service, image=text, images=[text], seed=3, prompt="photo.jpg")

    assert text == service.bodies()[-1]["image"]
    assert ["POST /generate"] == service.paths()


def test_each_item_of_a_batch_is_read_by_the_schema_of_its_own_model(scripted, photo):
    writer = answer(200, {"input_schema": {"properties": {"image": {"type": "string"}}}})
    service = scripted(MODEL, writer, MADE)
    items = [{"image": "photo.jpg"}, {"model_name": "writer", "image": "photo.jpg"}, {"image": "photo.jpg"}]

    sent = submit(service, "/generate-batch", requests=items)

    assert ["requests[0].image", "requests[2].image"] == [name for name, _, _ in files(sent)]
    assert ["GET /models/painter", "GET /models/writer", "POST /generate-batch"] == service.paths()
    assert {"model_name": "writer", "image": "photo.jpg"} == json.loads(
        next(content for name, _, content in form(sent) if name == "requests")
    )[1]


def test_the_inputs_of_a_batch_have_its_model(scripted, photo):
    sent = submit(scripted(MODEL, MADE), "/generate-batch", inputs=[{"image": "photo.jpg"}, {}])

    assert ["inputs[0].image"] == [name for name, _, _ in files(sent)]


def test_a_forecast_has_the_files_too(scripted, photo):
    service = scripted(MODEL, answer(200, {"total": 1}))

    service.run(looking.estimate(service.service, "A fox", "painter", None, {"image": "photo.jpg"}))

    assert ["image"] == [name for name, _, _ in files(service.requests[-1])]


def test_the_service_explains_a_model_that_it_does_not_know(scripted, photo):
    service = scripted(problem(404, "not_found"), MADE)

    assert "photo.jpg" == json.loads(submit(service, image="photo.jpg").content)["image"]
