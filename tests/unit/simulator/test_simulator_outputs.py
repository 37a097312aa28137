"""The output of any model has the form that its schema publishes, with real files."""

import asyncio
import io
import json
import wave
import zipfile

import pytest
import requests

from simulator import Options, files, loading, outputs
from simulator.directives import Plan
from simulator.files import Subject
from simulator.schemas import Schema
from simulator.state import SimulatorState
from tests.support import virtual_time
from tests.unit.simulator.creations import WATERCOLOR, creation, run_in_virtual_time

FACE = "https://example.com/face.jpg"
STORY = "acme/storyteller"


def output(model, prompt="a fox", **given):
    """The output of one prediction, with `LINK` in place of the address of its files."""
    (record,), _ = run_in_virtual_time(creation(prompt, model=model, **given))
    assert "succeeded" == record.status
    return _shortened(record.output, f"http://replicate.test/delivery/{record.id}")


def _shortened(value, base):
    return json.loads(json.dumps(value).replace(base, "LINK"))


@pytest.mark.parametrize(
    ("model", "inputs", "expected"),
    [
        (WATERCOLOR, {"num_outputs": 2, "output_format": "png"}, ["LINK/0.png", "LINK/1.png"]),
        ("acme/upscaler", {"img": FACE}, "LINK/0.webp"),
        ("acme/variations", {"images": [FACE]}, ["LINK/0.webp", "LINK/1.webp"]),
        ("acme/musician", {}, "LINK/0.wav"),
        ("acme/sculptor", {"image": FACE}, "LINK/0.glb"),
        ("acme/oracle", {}, {"text": "This is a simulated answer to: a fox", "score": 0.5}),
    ],
)
def test_each_shipped_model_puts_out_what_its_schema_says(model, inputs, expected):
    assert expected == output(model, **inputs)


def test_an_object_has_its_files_and_values_by_name():
    made = output("acme/segmenter", None, image=FACE)

    assert {
        "mask": "LINK/0.png",
        "overlay_image": "LINK/1.png",
        "report_json": "LINK/2.json",
        "labels": [f"This is a simulated answer to: {FACE}"] * 2,
        "score": 0.5,
    } == made


URI = {"type": "string", "format": "uri"}


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ({"type": "string"}, "This is a simulated answer to: a fox"),
        ({"type": "number"}, 0.5),
        ({"type": "integer"}, 7),
        ({"type": "boolean"}, True),
        ({}, "0.webp"),
        ({"anyOf": [{"type": "null"}, URI]}, "0.webp"),
        ({"$ref": "#/components/schemas/Made"}, {"video": "0.mp4", "parts": [{"srt_file": "1.srt"}]}),
        ({"type": "array", "items": {"type": "object", "properties": {"file": URI}}}, [{"file": "0.webp"}]),
        ({"type": "array", "items": {"type": "array", "items": {"type": "number"}}}, [[0.5, 0.5]] * 2),
        ({"$ref": "#/components/schemas/Output"}, "0.webp"),
    ],
)
def test_an_output_follows_the_form_that_is_published(form, expected):
    parts = {"type": "array", "items": {"type": "object", "properties": {"srt_file": URI}}}
    made = {"type": "object", "properties": {"video": URI, "parts": parts}}
    schema = Schema({"components": {"schemas": {"Output": form, "Made": made}}})

    assert expected == outputs.make(
        schema, {"prompt": "a fox"}, Plan(0, 0), model="acme/any", kind="image", base=""
    )


@pytest.mark.parametrize(
    ("directive", "expected"),
    [
        ("[[text=No.]]", "No."),
        ("[[empty]]", None),
        (
            '[[output={"a": ["<png>", "<glb>"], "b": "<x>", "c": [1]}]]',
            {"a": ["LINK/0.png", "LINK/1.glb"], "b": "<x>", "c": [1]},
        ),
        ('[[output=["<mp4>"]]]', ["LINK/0.mp4"]),
        ("[[output=12]]", 12),
        ("[[output=no JSON]]", "no JSON"),
    ],
)
def test_a_directive_sets_another_output(directive, expected):
    assert expected == output("acme/musician", f"a {directive} tune")


def test_the_directives_of_a_model_without_a_prompt_are_in_any_text_but_a_secret():
    failed, fine = run_in_virtual_time(
        creation(None, model="acme/upscaler", img=f"{FACE}?[[fail=no face]]"),
        creation(model="acme/hub-painter", hf_token="[[fail]]"),
    )[0]

    assert ("failed", "no face", "succeeded") == (failed.status, failed.error, fine.status)


def test_a_text_grows_in_pieces_while_it_is_processing():
    async def watch():
        loop = asyncio.get_running_loop()
        world = SimulatorState(
            Options(prediction_seconds=10, jitter=0), clock=lambda: round(loop.time() * 1e9)
        )
        made = world.create(creation(model=STORY))
        seen = []
        for _ in range(11):
            await asyncio.sleep(1)
            seen.append((made.status, "".join(made.output or [])))
        await world.close()
        return seen

    seen = virtual_time.run(watch())
    texts = [text for _, text in seen]

    assert {"processing", "succeeded"} == {status for status, _ in seen}
    assert "This is a simulated answer to: a fox" == texts[-1]
    assert sorted(texts, key=len) == texts
    assert 5 < len(set(texts))
    assert all(texts[-1].startswith(text) for text in texts)


def test_each_piece_is_announced_by_a_webhook_event():
    events = []

    async def watch():
        loop = asyncio.get_running_loop()
        world = SimulatorState(
            Options(prediction_seconds=10, jitter=0), clock=lambda: round(loop.time() * 1e9)
        )
        world.predictions._publish = lambda it, event: events.append((event, len(it.output or [])))  # noqa: SLF001
        world.create(creation(model=STORY))
        await asyncio.sleep(20)
        await world.close()

    virtual_time.run(watch())

    assert [("start", 0), *(("output", count) for count in range(1, 8))] == events[:8]
    assert [("logs", 8), ("output", 8), ("completed", 8)] == events[8:]


def test_a_cancelled_text_keeps_the_pieces_that_came():
    (record,), _ = run_in_virtual_time(creation(model=STORY), cancelled_after=5)

    assert "canceled" == record.status
    assert 0 < len(record.output) < 8


def test_the_words_of_a_text_and_the_files_of_official_models_are_counted(caller, sim):
    body = {"version": sim.latest_version(STORY), "input": {"prompt": "a fox"}}
    text = caller.post("/v1/predictions", json=body, headers={"Prefer": "wait"}).json()["metrics"]
    film = caller.create(model="kwaivgi/kling-v2.1-master", headers={"Prefer": "wait"}).json()["metrics"]

    assert (2, 8) == (text["input_token_count"], text["output_token_count"])
    assert (1, 5.0) == (film["video_output_count"], film["video_output_duration_seconds"])


SUBJECT = Subject(text="a fox", foot="simulated", seed=3, ratio="5:4", seconds=7, quality=80)
HEADS = {
    "webp": b"RIFF", "jpg": b"\xff\xd8", "jpeg": b"\xff\xd8", "png": b"\x89PNG", "svg": b"<svg", "mp4": b"\0\0\0",
    "wav": b"RIFF", "glb": b"glTF", "ply": b"ply\n", "txt": b"a fox", "srt": b"1\n00:", "json": b"{", "csv": b"seed",
    "zip": b"PK",
}  # fmt: skip


@pytest.mark.parametrize("extension", files.CONTENT_TYPES)
def test_a_file_of_each_type_is_what_it_says(extension):
    content = files.encode(SUBJECT, extension)

    assert content.startswith(HEADS[extension])
    assert content == files.encode(SUBJECT, extension)
    assert files.KINDS.keys() == files.CONTENT_TYPES.keys()


def test_a_sound_a_3d_model_and_an_archive_can_be_opened():
    with wave.open(io.BytesIO(files.encode(SUBJECT, "wav"))) as sound:
        assert (8000, 8000) == (sound.getframerate(), sound.getnframes())
    model = files.encode(SUBJECT, "glb")
    assert len(model) == int.from_bytes(model[8:12], "little")
    assert (
        "a fox" in json.loads(model[20 : 20 + int.from_bytes(model[12:16], "little")])["asset"]["generator"]
    )
    with zipfile.ZipFile(io.BytesIO(files.encode(SUBJECT, "zip"))) as archive:
        assert ["label.txt"] == archive.namelist()


@pytest.mark.parametrize(
    ("model", "content_type"), [("acme/musician", "audio/wav"), ("acme/sculptor", "model/gltf-binary")]
)
def test_a_file_is_served_with_its_type(sim, caller, model, content_type):
    body = {"version": sim.latest_version(model), "input": {"prompt": "x", "image": FACE}}
    link = caller.post("/v1/predictions", json=body, headers={"Prefer": "wait"}).json()["output"]
    answer = requests.get(link, timeout=20)

    assert (200, content_type) == (answer.status_code, answer.headers["Content-Type"])


def test_the_example_of_each_shipped_model_is_accepted_by_its_schema():
    examples = {
        model.name: (model.schema, model.page["default_example"]["input"])
        for model, _ in loading.shipped()
        if model.page["default_example"]
    }

    assert 11 == len(examples)
    assert {} == {
        name: found for name, (schema, given) in examples.items() if (found := schema.errors(given))
    }
