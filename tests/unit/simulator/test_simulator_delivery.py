"""Outputs are real files of the requested kind."""

import io
import struct
from fractions import Fraction

import pytest
import requests
from PIL import Image

from simulator.catalog import MODELS
from simulator.drawing import Picture, draw


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
def test_a_picture_has_the_requested_format_and_needs_no_token(caller, ending, kind, content_type):
    (url,) = caller.outcome(output_format=ending)["output"]
    answer = fetch(url)
    assert answer.headers["Content-Type"] == content_type
    with Image.open(io.BytesIO(answer.content)) as picture:
        assert (picture.format, picture.size) == (kind, (512, 512))


@pytest.mark.parametrize(
    ("inputs", "size"),
    [
        ({"aspect_ratio": "16:9"}, (512, 288)),
        ({"aspect_ratio": "2:3"}, (341, 512)),
        ({"aspect_ratio": "custom", "width": 1024, "height": 512}, (512, 256)),
    ],
)
def test_a_picture_has_the_requested_aspect_ratio(caller, inputs, size):
    url = caller.outcome(model="black-forest-labs/flux-1.1-pro", **inputs)["output"]
    with Image.open(io.BytesIO(fetch(url).content)) as picture:
        assert picture.size == size


def test_prompt_and_seed_determine_the_picture(caller):
    def content(seed):
        return fetch(caller.outcome(seed=seed)["output"][0]).content

    assert content(7) == content(7)
    assert content(7) != content(8)


def test_the_prompt_is_written_on_the_picture():
    def bright_pixels(text):
        pixels = draw(Picture(text, "", seed=1, width=256, height=256)).convert("L").tobytes()
        return sum(1 for level in pixels if level > 240)

    assert bright_pixels("") == 0
    assert bright_pixels("a red fox") > 100


@pytest.mark.parametrize("prompt", ["", "x" * 5000, "many words " * 500, "東京 \ud800 \x00 🦊"])
def test_any_prompt_can_be_drawn(caller, prompt):
    assert fetch(caller.outcome(prompt)["output"][0]).status_code == 200


def test_only_urls_of_outputs_have_a_file(caller):
    (url,) = caller.outcome()["output"]
    assert fetch(url.replace("0.webp", "1.webp")).status_code == 404
    assert fetch(url.replace("0.webp", "0.png")).status_code == 404
    assert fetch(url.replace("/delivery/", "/delivery/x")).status_code == 404


def test_a_file_vanishes_an_hour_after_its_prediction_ended(caller, clock):
    (url,) = caller.outcome()["output"]
    clock.advance(seconds=3600)
    assert fetch(url).status_code == 200
    clock.advance(seconds=0.001)
    assert fetch(url).status_code == 404


VIDEOS = [
    (model.name, ratio, seconds)
    for model in MODELS
    if model.kind == "video"
    for ratio in model.inputs["aspect_ratio"]["enum"]
    for seconds in model.inputs["duration"]["enum"]
]


@pytest.mark.parametrize(("model", "ratio", "seconds"), VIDEOS)
def test_a_video_is_an_mp4_with_the_requested_ratio_and_duration(caller, model, ratio, seconds):
    answer = fetch(caller.outcome(model=model, aspect_ratio=ratio, duration=seconds)["output"])

    assert answer.headers["Content-Type"] == "video/mp4"
    assert shape(answer.content) == ((*map(int, ratio.split(":")),), seconds)


@pytest.mark.parametrize(("model", "ratio", "seconds"), VIDEOS)
def test_the_index_of_a_video_matches_its_frames(caller, model, ratio, seconds):
    content = fetch(caller.outcome(model=model, aspect_ratio=ratio, duration=seconds)["output"]).content

    kinds = [kind for kind, _ in boxes(content)]
    assert kinds == [b"ftyp", b"moov", b"free", b"mdat", b"free"]
    count, *sizes = frame_sizes(content)
    assert count == len(sizes) > seconds
    (place,) = struct.unpack_from(">I", content, content.index(b"stco") + 12)
    media = next(body for kind, body in boxes(content) if kind == b"mdat")
    assert content[place : place + sum(sizes)] == media
    for size in sizes:
        end = place + size
        while place < end:  # the units of a frame, each after its length
            (length,) = struct.unpack_from(">I", content, place)
            place += 4 + length
        assert place == end


def test_prompt_and_seed_determine_the_video(caller):
    def content(prompt="a fox", seed=7):
        return fetch(caller.outcome(prompt, model="google/veo-3-fast", seed=seed)["output"]).content

    assert content() == content()
    assert len({content(), content("a cat"), content(seed=8)}) == 3
    assert boxes(content())[-1] == (b"free", "a fox\nsimulated · veo-3-fast · seed 7".encode())


def test_any_prompt_can_be_in_a_video(caller):
    assert (
        fetch(caller.outcome("東京 \ud800 \x00 🦊", model="google/veo-3-fast")["output"]).status_code == 200
    )


def boxes(content):
    """The boxes of an MP4 on the outermost level: the kind and the body of each."""
    found, place = [], 0
    while place < len(content):
        size, kind = struct.unpack_from(">I4s", content, place)
        assert 8 <= size <= len(content) - place
        found.append((kind, content[place + 8 : place + size]))
        place += size
    return found


def shape(content):
    """An MP4's aspect ratio in lowest terms, and its duration in seconds."""
    ticks_per_second, ticks = struct.unpack_from(">2I", content, content.index(b"mvhd") + 16)
    width, height = struct.unpack_from(">2I", content, content.index(b"tkhd") + 80)
    ratio = Fraction(width, height)
    return (ratio.numerator, ratio.denominator), ticks / ticks_per_second


def frame_sizes(content):
    """The number of frames that an MP4's index lists, and the size of each in bytes."""
    at = content.index(b"stsz") + 12
    (count,) = struct.unpack_from(">I", content, at)
    return struct.unpack_from(f">{count + 1}I", content, at)
