"""Streams of chats, and the images and forms of calls to text models."""

import json
from base64 import b64encode
from io import BytesIO

import pytest
from werkzeug.datastructures import FileStorage, MultiDict
from werkzeug.test import encode_multipart

from tests.support.callers import PNG
from tests.support.text_calls import ADMIN, OWNER, PERSON, ask, code


@pytest.fixture
def client(texts):
    return texts()


def events(answer):
    """The events of a stream: their names and their data."""
    found = []
    for each in answer.text.strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in each.split("\n"))
        found.append((lines.get("event"), json.loads(lines["data"])))
    return found


@pytest.mark.parametrize("by", [ADMIN, OWNER])
def test_a_stream_has_each_piece_and_at_last_the_whole_answer(client, simulator, by):
    simulator.gemini.configure(chunks=4)
    answer = ask(client, {"prompt": "Hello", "stream": True}, by=by)

    assert "text/event-stream" == answer.mimetype
    *pieces, (name, whole) = events(answer)
    assert name is None
    assert len(pieces) == 4
    assert whole["response"] == "".join(data["delta"] for _, data in pieces)
    assert whole["usage"]["total_tokens"] > 0


def test_a_stream_that_fails_ends_with_an_event_of_the_error(client):
    answer = ask(client, {"prompt": "Hello [[late-error=demand]]", "stream": True})

    *pieces, (name, error) = events(answer)
    assert pieces
    assert "error" == name
    assert error["code"]
    assert "".join(data["delta"] for _, data in pieces) == error["partial"]


def test_a_stream_that_fails_before_any_text_is_a_problem(client):
    assert (422, "content_refused") == code(ask(client, {"prompt": "x [[blocked]]", "stream": True}))


PICTURE = f"data:image/png;base64,{b64encode(PNG).decode()}"


def test_images_come_as_data_and_as_parts_of_a_form(client):
    alone = ask(client, {"prompt": "What is it?"}).json["usage"]["prompt_tokens"]

    inline = ask(client, {"prompt": "What is it?", "images": [PICTURE]})
    assert 200 == inline.status_code, inline.text
    assert inline.json["usage"]["prompt_tokens"] > alone
    form = {"prompt": "What is it?", "images": (BytesIO(PNG), "it.png"), "max_output_tokens": "50"}
    uploaded = client.post("/chat", data=form, headers=ADMIN)
    assert 200 == uploaded.status_code, uploaded.text
    assert inline.json["usage"]["prompt_tokens"] == uploaded.json["usage"]["prompt_tokens"]
    several = {"prompt": "What is it?", "images": [(BytesIO(PNG), "a.png"), (BytesIO(PNG), "b.png")]}
    assert 200 == client.post("/chat", data=several | {"seed": "4"}, headers=ADMIN).status_code


@pytest.mark.parametrize(
    "image", ["http://127.0.0.1/x.png", "http://169.254.169.254/latest", "http://localhost:1/x.png",
              "http://[::1]/x.png", "file:///etc/passwd", "data:image/png;base64,AAAA", "x"]
)  # fmt: skip
def test_an_image_that_may_not_be_fetched_is_refused_before_anything_is_spent(client, simulator, image):
    answer = ask(client, {"prompt": "x", "images": [image]})

    assert 400 == answer.status_code, answer.text
    assert answer.json["errors"][0]["field"].startswith("images")
    assert not simulator.gemini.counts().requests


def test_text_that_looks_like_json_stays_text_in_a_form(client):
    form = {"user_content": "123", "system_prompt": "true", "json_schema": json.dumps(PERSON)}
    answer = client.post("/structured-output", data=form, headers=ADMIN, content_type="multipart/form-data")
    assert 200 == answer.status_code, answer.text


def form_of(*sizes):
    """A form with images of so many bytes, and its type."""
    images = [
        ("images", FileStorage(BytesIO(PNG + bytes(size)), f"{number}.png"))
        for number, size in enumerate(sizes)
    ]
    boundary, body = encode_multipart(
        MultiDict([("prompt", "x"), *images])
    )  # the client would leave a temporary file open
    return {"data": body, "content_type": f"multipart/form-data; boundary={boundary}"}


def test_the_images_of_a_call_have_at_most_20_mb_together(client, simulator):
    answer = client.post("/chat", **form_of(11_000_000, 11_000_000), headers=ADMIN)

    assert (400, "invalid_request") == code(answer)
    assert "20 MB" in answer.json["errors"][0]["message"]
    assert not simulator.gemini.counts().requests.get("stream")


def test_images_of_nearly_20_mb_are_sent(client):
    answer = client.post("/chat", **form_of(10_000_000, 9_900_000), headers=ADMIN)
    assert 200 == answer.status_code, answer.text
