"""Outputs are real files of the kind that was asked for."""

import io
import struct

import pytest
import requests
from PIL import Image

from simulator import film
from simulator.drawing import Picture, paint
from simulator.film import _macroblocks


def fetch(url):
    return requests.get(url, timeout=20)


@pytest.mark.parametrize(
    ("ending", "kind", "content_type"),
    [
        ("webp", "WEBP", "image/webp"),
        ("jpg", "JPEG", "image/jpeg"),
        ("png", "PNG", "image/png"),
    ],
)
def test_a_picture_has_the_format_asked_for_and_needs_no_token(caller, ending, kind, content_type):
    (url,) = caller.outcome(output_format=ending)["output"]
    answer = fetch(url)
    assert answer.headers["Content-Type"] == content_type
    with Image.open(io.BytesIO(answer.content)) as picture:
        assert (picture.format, picture.size) == (kind, (512, 512))


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ({"aspect_ratio": "16:9"}, (512, 288)),
        ({"aspect_ratio": "2:3"}, (341, 512)),
        ({"aspect_ratio": "custom", "width": 1024, "height": 512}, (512, 256)),
    ],
)
def test_a_picture_has_the_shape_asked_for(caller, given, size):
    url = caller.outcome(model="black-forest-labs/flux-1.1-pro", **given)["output"]
    with Image.open(io.BytesIO(fetch(url).content)) as picture:
        assert picture.size == size


def test_the_same_prompt_and_seed_make_the_same_picture_and_another_seed_another(caller):
    def content(seed):
        return fetch(caller.outcome(seed=seed)["output"][0]).content

    assert content(7) == content(7)
    assert content(7) != content(8)


def test_the_prompt_is_written_on_the_picture():
    def light(text):
        pixels = paint(Picture(text, "", seed=1, width=256, height=256)).convert("L").tobytes()
        return sum(1 for level in pixels if level > 240)

    assert light("") == 0
    assert light("a red fox") > 100


@pytest.mark.parametrize("prompt", ["", "x" * 5000, "many words " * 500, "東京 \ud800 \x00 🦊"])
def test_any_prompt_can_be_drawn(caller, prompt):
    assert fetch(caller.outcome(prompt)["output"][0]).status_code == 200


def test_there_are_no_more_files_than_outputs(caller):
    (url,) = caller.outcome()["output"]
    assert fetch(url.replace("0.webp", "1.webp")).status_code == 404
    assert fetch(url.replace("0.webp", "0.png")).status_code == 404
    assert fetch(url.replace("/delivery/", "/delivery/x")).status_code == 404


def test_a_file_vanishes_an_hour_after_its_prediction_ended(caller, hand):
    (url,) = caller.outcome()["output"]
    hand.forward(seconds=3600)
    assert fetch(url).status_code == 200
    hand.forward(seconds=0.001)
    assert fetch(url).status_code == 404


def test_a_film_is_an_mp4_whose_index_matches_its_frames(caller):
    url = caller.outcome(model="google/veo-3-fast", duration=4)["output"]
    answer = fetch(url)
    assert answer.headers["Content-Type"] == "video/mp4"
    content = answer.content
    assert content[4:12] == b"ftypisom"
    count = 4 * film.FRAMES_PER_SECOND
    sizes_at = content.index(b"stsz") + 12
    assert struct.unpack_from(">I", content, sizes_at) == (count,)
    sizes = struct.unpack_from(f">{count}I", content, sizes_at + 4)
    (place,) = struct.unpack_from(">I", content, content.index(b"stco") + 12)
    units = []
    for size in sizes:
        (length,) = struct.unpack_from(">I", content, place)
        assert length == size - 4
        units.append(content[place + 4] & 31)
        place += size
    assert place == len(content)
    assert units == [5] + [1] * (count - 1)


def test_a_films_first_frame_holds_the_picture_sample_by_sample():
    picture = Picture("a fox", "", seed=1, width=32, height=16)
    content = film.encoded(picture, 1)
    blocks = list(_macroblocks(paint(picture)))
    assert [len(block) for block in blocks] == [384, 384]
    assert all(block in content for block in blocks)
