"""What any model of Replicate makes, through the whole service: answers, kept files, batches, events and webhooks."""

import json
from urllib.parse import urlsplit

import pytest

from harness.service_process import until
from tests.support.api_client import ended
from tests.support.callers import ADMIN
from tests.support.ndjson import lines
from tests.support.problem_documents import problem
from tests.support.served_in_process import receiving

pytestmark = pytest.mark.every_database

IMAGE = "https://example.com/chair.png"
ANYTHING = "acme/oracle"


def generate(client, name, *, headers=ADMIN, **inputs):
    return client.post("/generate", json={"model_name": name, "input": inputs}, headers=headers)


def made(client, name, **inputs):
    """The kind, the outputs and the files of a generation, each file by its type and its content."""
    answer = generate(client, name, **inputs)
    assert 200 == answer.status_code, answer.json
    return (
        answer.json["kind"],
        answer.json["output"],
        [fetched(client, link) for link in answer.json["files"]],
    )


def fetched(client, link):
    with client.get(urlsplit(link).path) as answer:
        assert 200 == answer.status_code
        return answer.headers["Content-Type"].partition(";")[0], answer.data


def test_sound_and_models_in_3d_are_kept_by_their_content(client):
    kind, [_], [(media, sound)] = made(client, "acme/musician", prompt="a song", output_format="wav")
    assert ("audio", "audio/wav", b"RIFF") == (kind, media, sound[:4])

    kind, [_], [(media, mesh)] = made(client, "acme/sculptor", image=IMAGE)
    assert ("3d", "model/gltf-binary", b"glTF") == (kind, media, mesh[:4])


def test_the_pieces_of_a_text_are_one_output(client, simulator):
    kind, [text], files = made(client, "acme/storyteller", prompt="a fox")
    [prediction] = simulator.predictions()

    assert ("text", "".join(prediction.output), []) == (kind, text, files)
    assert 1 < len(prediction.output)


def test_an_object_stays_an_object_with_its_files_beside(client, simulator):
    kind, [shown], files = made(client, "acme/segmenter", image=IMAGE)
    [prediction] = simulator.predictions()

    assert prediction.output == shown
    assert {"image/png"} <= {media for media, _ in files}
    assert "image" == kind


@pytest.mark.parametrize(
    ("output", "kind", "files"),
    [
        ("a fox", "text", []),
        (0, "data", []),
        ({"score": 0.5, "labels": ["fox"]}, "data", []),
        (["a", {"b": None}], "data", []),
        (
            {"mesh": "<glb>", "views": ["<png>", "<png>"]},
            "3d",
            ["model/gltf-binary", "image/png", "image/png"],
        ),
        ([{"sound": "<wav>"}, "<txt>"], "audio", ["audio/wav", "text/plain"]),
        ({"table": "<csv>", "all": "<zip>"}, "data", ["text/csv", "application/zip"]),
        ("<svg>", "image", ["image/svg+xml"]),
    ],
)
def test_any_output_is_told_as_it_came(client, simulator, output, kind, files):
    found = made(client, ANYTHING, input=f"[[output={json.dumps(output)}]]")
    [prediction] = simulator.predictions()

    whole = prediction.output if isinstance(prediction.output, list) else [prediction.output]
    assert (kind, whole, files) == (found[0], found[1], [media for media, _ in found[2]])
    if not files:
        assert output == prediction.output


@pytest.mark.parametrize("output", [None, "", [], {}])
def test_nothing_is_no_output(client, output):
    answer = generate(client, ANYTHING, input=f"[[output={json.dumps(output)}]]")

    assert (
        "The model reported success without an output." == problem(answer, 500, "generation_failed")["detail"]
    )


def test_text_where_a_file_should_be_fails_with_the_text(client):
    answer = generate(client, "acme/musician", prompt="[[text=I cannot sing that.]]")

    assert "I cannot sing that." == problem(answer, 500, "generation_failed")["detail"]


def test_a_large_output_is_a_file_of_json(client, simulator):
    output = {"vectors": [[0.5] * 1000] * 300}
    simulator.inject(on="create", set={"status": "succeeded", "output": output})
    kind, [link], [(media, content)] = made(client, ANYTHING, input="a")

    assert ("data", "application/json", output) == (kind, media, json.loads(content))
    assert link.endswith(".json")


def test_look_ups_batches_streams_events_and_webhooks_tell_the_same(make_app):
    client = make_app(REPLICATE_SIMULATE=1, WEBHOOK_SECRET="whsec_" + "A" * 32).test_client()
    output = {"mesh": "<glb>", "score": 0.5, "tags": ["a", None]}
    inputs = {"input": f"[[output={json.dumps(output)}]] a"}
    with receiving() as receiver:
        body = {"model_name": ANYTHING, "input": inputs, "webhook": receiver.url}
        answer = client.post("/generate", json=body, headers=ADMIN | {"Prefer": "respond-async"})
        single = ended(client, answer.json["id"], by=ADMIN)
        until(lambda: receiver.received)
    assert ({"score": 0.5, "tags": ["a", None]}, 1, "3d") == (
        {name: each for name, each in single["output"][0].items() if name != "mesh"}, single["count"], single["kind"]
    )  # fmt: skip
    posted = receiver.received[0].json
    assert posted == {each: single[each] for each in posted}
    with client.get(f"/generations/{single['id']}/events", headers=ADMIN) as answer:
        last = json.loads(answer.get_data(as_text=True).rpartition("data: ")[2])
    assert posted == {each: last[each] for each in posted}

    requests = {"requests": [{"model_name": ANYTHING, "input": inputs}] * 2}
    results = client.post("/generate-batch", json=requests, headers=ADMIN).json["results"]
    with client.post(
        "/generate-batch", json=requests, headers=ADMIN | {"Accept": "application/x-ndjson"}
    ) as answer:
        results += [each for each in lines(answer) if "index" in each]
    assert 4 == len(results)
    assert {"3d"} == {each["kind"] for each in results}
    assert all(each["output"][0]["tags"] == ["a", None] and len(each["files"]) == 1 for each in results)


def test_an_idempotent_repetition_has_the_same_output_after_a_restart(restarted):
    body = {"model_name": ANYTHING, "input": {"input": '[[output={"a": [0, null, "b"]}]]'}}
    headers = ADMIN | {"Idempotency-Key": "one"}
    first = restarted().post("/generate", json=body, headers=headers).json
    again = restarted().post("/generate", json=body, headers=headers).json

    assert ([{"a": [0, None, "b"]}], "data") == (first["output"], first["kind"])
    assert (first["id"], first["output"]) == (again["id"], again["output"])
