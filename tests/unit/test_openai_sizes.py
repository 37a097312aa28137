"""Sizes of OpenAI's requests in the inputs of models."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

import models
from catalog.adaptation import is_taken
from catalog.inputs import Input, Inputs
from catalog.model import Model
from doors.openai.requests import translated
from doors.openai.sizes import sized

IMAGES = [each for each in models.MODELS if each.kind == "image"]


def a_model(**fields):
    """A model with these integer or text inputs."""
    inputs = Inputs({name: Input(name=name, **each) for name, each in fields.items()}, lenient=True)
    return Model(
        name="acme/draw", aliases=(), kind="image", price=None, tier=None, credits=0, usual_seconds=1.0, document={},
        inputs=inputs, example={},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("flux-dev", "1024x1024", {"aspect_ratio": "1:1"}),
        ("flux-dev", "1792x1024", {"aspect_ratio": "16:9"}),
        ("flux-dev", "1024 X 1536", {"aspect_ratio": "2:3"}),
        ("flux-dev", "21:9", {"aspect_ratio": "21:9"}),
        ("seedream-4.5", "2K", {"size": "2K"}),
        ("recraft-v4", "1024x1024", {"size": "1024x1024"}),
        ("flux-dev", "huge", None),
    ],
)
def test_a_size_becomes_the_nearest_of_the_model(name, size, expected):
    [model] = [each for each in IMAGES if name in each.names]

    assert expected == sized(model, size)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("1024x768", {"width": 1024, "height": 768}),
        ("100x100", {"width": 256, "height": 256}),
        ("3000x1500", {"width": 1408, "height": 704}),
        ("1000x1000", {"width": 992, "height": 992}),
    ],
)
def test_a_model_with_sides_gets_the_nearest_shape_and_size_that_it_takes(size, expected):
    side = {"type": "integer", "minimum": 256, "maximum": 1440, "multiple_of": 32}

    assert expected == sized(a_model(width=side, height=side), size)


def test_a_model_with_any_aspect_ratio_gets_the_one_of_the_size():
    assert {"aspect_ratio": "16:9"} == sized(a_model(aspect_ratio={"type": "string"}), "1536x864")


@given(some.sampled_from(IMAGES), some.text() | some.from_regex(r"[0-9]{1,6}[x:][0-9]{1,6}", fullmatch=True))
def test_no_size_is_refused_and_only_values_are_sent_that_the_model_takes(model, size):
    call = translated(
        {"model_name": model.name, "prompt": "a", "size": size}, model, default="url", edits=False
    )

    sent = {name: value for name, value in call.body.items() if name not in {"model_name", "prompt"}}
    assert all(is_taken(model, name, value) for name, value in sent.items())
    assert sent or size == "auto" or "dropped" in {each.kind for each in call.changes}
