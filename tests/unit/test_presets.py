"""Presets: each model gets a shape in its own inputs, and the changes show it."""

import pytest

from catalog.model import Model
from catalog.presets import PRESETS, lengths_of, shape_of, shaped, thinned
from catalog.published import compiled
from errors import InvalidRequest
from parsing.context import ParseContext
from tests.support.declarations import MODELS, REGISTRY, find, least, parse_batch, parse_generation

PICTURE = "https://example.com/a.png"


def published(**inputs) -> Model:
    """A model that is known by its published schema only."""
    document = {"components": {"schemas": {"Input": {"properties": inputs, "required": []}}}}
    facts = {"kind": "image", "price": None, "tier": None, "credits": 0, "usual_seconds": 1.0, "example": {}}
    return Model(name="acme/any", aliases=(), document=document, inputs=compiled(document), **facts)


def side(default=None, low=64, high=2048):
    return {"type": "integer", "minimum": low, "maximum": high} | ({"default": default} if default else {})


def sent(model: str, preset: str, **given):
    """The input of the first model, and the changes that are shown."""
    first = parse_generation(least(find(model)) | {"preset": preset, **given}).first
    return first.input, [(each.field, each.kind, each.sent_as, each.sent) for each in first.changes]


def problem(model: str, **given):
    with pytest.raises(InvalidRequest) as refused:
        parse_generation(least(find(model)) | given)
    (found,) = refused.value.problems
    return found.field, found.message


@pytest.mark.parametrize(
    ("model", "preset", "name", "value"),
    [
        ("flux-dev", "portrait", "aspect_ratio", "9:16"),
        ("nano-banana-2", "landscape", "aspect_ratio", "16:9"),
        ("recraft-v4", "square", "aspect_ratio", "1:1"),
        ("sora-2", "portrait", "aspect_ratio", "portrait"),
        ("veo-3.1-fast", "landscape", "aspect_ratio", "16:9"),
    ],
)
def test_a_preset_picks_the_models_own_shape_and_tells_it(model, preset, name, value):
    input_, changes = sent(model, preset)

    assert value == input_[name]
    assert "preset" not in input_
    assert [("preset", "mapped", name, value)] == changes


def test_every_shape_that_is_picked_is_valid_for_its_model():
    for model in MODELS.values():
        for preset in PRESETS:
            picked = shaped(model, preset)
            if picked is not None:
                body = least(model) | dict(picked)
                assert picked.items() <= parse_generation(body).first.input.items()


@pytest.mark.parametrize(
    ("model", "portrait", "landscape", "square"),
    [
        (published(aspect_ratio={"type": "string", "enum": ["2:3", "3:2", "21:9"]}), {"aspect_ratio": "2:3"},
         {"aspect_ratio": "3:2"}, None),
        (published(size={"type": "string", "enum": ["1024x1024", "512x512", "1365x1024", "1024x1820"]}),
         {"size": "1024x1820"}, {"size": "1365x1024"}, {"size": "1024x1024"}),
        (published(size={"type": "string", "enum": ["1280*720", "1920*1080"]}), None, {"size": "1920*1080"}, None),
        (published(width=side(1024), height=side(1024)), {"width": 576, "height": 1024},
         {"width": 1024, "height": 576}, {"width": 1024, "height": 1024}),
        (published(width=side(high=768), height=side(high=768)), {"width": 448, "height": 768},
         {"width": 768, "height": 448}, {"width": 768, "height": 768}),
        (published(width={"type": "integer", "enum": [512, 768]}, height={"type": "integer", "enum": [512, 768]}),
         {"width": 512, "height": 768}, {"width": 768, "height": 512}, {"width": 768, "height": 768}),
        (published(resolution={"type": "string", "enum": ["720p", "1080p"]}), None, None, None),
        (published(prompt={"type": "string"}), None, None, None),
    ],
)  # fmt: skip
def test_the_shape_of_a_published_model_follows_from_its_choices(model, portrait, landscape, square):
    assert [portrait, landscape, square] == [shaped(model, preset) for preset in PRESETS]


def test_only_some_lengths_of_a_side_are_tried_if_it_has_very_many():
    assert 256 >= len(thinned(range(64, 10**12, 64)))
    assert 256 >= len(lengths_of(range(1, 100_000)))
    assert [512, 768] == lengths_of([512, 768, 10**400, 0, "1024"])


def test_a_side_with_an_absurd_default_has_the_usual_size():
    model = published(width=side(10**12, high=10**13), height=side(10**12, high=10**13))

    assert {"width": 576, "height": 1024} == shaped(model, "portrait")


@pytest.mark.parametrize("ratio", ["1:" + "9" * 400, "9" * 400 + "x1", "1" * 5000 + ":1"])
def test_numbers_beyond_all_sizes_are_no_shape(ratio):
    assert shape_of(ratio) is None


@pytest.mark.parametrize(
    ("model", "given", "message"),
    [
        ("flux-dev", {"preset": "square", "aspect_ratio": "1:1"}, "cannot stand beside aspect_ratio"),
        ("seedream-4.5", {"preset": "square", "size": "2K"}, "cannot stand beside size"),
        ("flux-2-pro", {"preset": "square", "aspect_ratio": "custom", "width": 512, "height": 512},
         "cannot stand beside aspect_ratio, width, height"),
        ("hailuo-2.3", {"preset": "portrait"}, "is not possible with hailuo-2.3, which has no input for the shape"),
        ("veo-3.1-fast", {"preset": "square"}, "is not a shape of veo-3.1-fast"),
        ("wan-2.7-i2v", {"preset": "portrait", "fallback": []},
         "is not possible with wan-2.7-i2v, which has no input for the shape"),
    ],
)  # fmt: skip
def test_a_preset_that_a_model_cannot_follow_is_refused(model, given, message):
    assert ("preset", message) == problem(model, **given)


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"model_name": "hailuo-2.3", "prompt": "a", "preset": "portrait", "duration": 99}, ["duration", "preset"]),
        ({"model_name": "flux-dev", "prompt": "a", "preset": "square", "aspect_ratio": "1:1", "guidance": 99},
         ["guidance", "preset"]),
        ({"model_name": "hailuo-2.3", "preset": "square", "trigger_word": "TOK", "duration": 99},
         ["duration", "prompt", "preset"]),
    ],
)  # fmt: skip
def test_the_problem_of_a_preset_is_among_all_problems_of_a_request(body, fields):
    with pytest.raises(InvalidRequest) as refused:
        parse_generation(body)

    assert fields == [each.field for each in refused.value.problems]


def test_a_request_that_was_accepted_before_is_not_refused_for_its_preset():
    context = ParseContext(REGISTRY, accepted=True)
    for given in ({"model_name": "hailuo-2.3"}, {"model_name": "flux-dev", "aspect_ratio": "1:1"}):
        body = {"prompt": "a", "preset": "portrait", **given}
        assert body["model_name"] == parse_generation(body, context=context).model.short_name


@pytest.mark.parametrize("preset", ["Portrait", "wide", "", 1, ["square"]])
def test_an_unknown_preset_is_refused(preset):
    assert "preset" == problem("flux-dev", preset=preset)[0]


def test_in_a_fallback_each_model_gets_the_shape_in_its_own_inputs():
    request = parse_generation(
        {
            "model_name": "sora-2",
            "prompt": "a",
            "preset": "portrait",
            "fallback": ["hailuo-2.3", "kling-v2.6"],
        }
    )
    steps = [
        request.first,
        request.route.after([find("sora-2")], code="generation_failed"),
        request.route.after([find("sora-2"), find("hailuo-2.3")], code="generation_failed"),
    ]

    assert ["portrait", None, "9:16"] == [each.input.get("aspect_ratio") for each in steps]
    assert [None, True, None] == [
        each.unfit and "preset portrait is not possible" in each.unfit for each in steps
    ]
    assert ("preset", "portrait", "aspect_ratio", "9:16") in [
        (each.field, each.given, each.sent_as, each.sent) for each in steps[2].changes
    ]


def test_with_a_fallback_a_model_that_has_the_shape_is_tried_first():
    request = parse_generation(
        {
            "model_name": "hailuo-2.3",
            "prompt": "a",
            "preset": "square",
            "fallback": ["veo-3.1-fast", "kling-v2.6"],
        }
    )

    assert "kling-v2.6" == request.model.short_name


def test_a_preset_holds_for_each_item_of_a_batch():
    shared = {"model_name": "flux-dev", "prompts": ["a", "b"], "preset": "portrait"}
    whole = {"requests": [{"model_name": "sora-2", "prompt": "a", "preset": "landscape"}]}
    inputs = {"model_name": "recraft-v4", "inputs": [{"prompt": "a"}], "preset": "square"}

    assert ["9:16", "9:16"] == [each.first.input["aspect_ratio"] for each in parse_batch(shared).requests]
    assert ["landscape"] == [each.first.input["aspect_ratio"] for each in parse_batch(whole).requests]
    assert ["1:1"] == [each.first.input["aspect_ratio"] for each in parse_batch(inputs).requests]
    assert {"model_name": "flux-dev", "preset": "portrait"} == parse_batch(shared).shared


# ── Warnings


@pytest.mark.parametrize(
    ("body", "warnings"),
    [
        ({"model_name": "flux-dev"}, ()),
        ({"model_name": "imagen-4-ultra"},
         (f"imagen-4-ultra is retired. {find('imagen-4-ultra').retired}",)),
        ({"model_name": "kling-v2.5-turbo-pro", "image": PICTURE},
         ("image is deprecated: The old name of start_image.",)),
        ({"model_name": "nano-banana-pro", "allow_fallback_model": True},
         ("With allow_fallback_model, Replicate may have run another model than nano-banana-pro.",)),
        ({"model_name": "nano-banana-pro", "allow_fallback_model": False}, ()),
        ({"model_name": "nano-banana-pro", "fallback": True}, ()),
    ],
)  # fmt: skip
def test_a_request_that_may_not_do_what_it_seems_to_has_a_warning(body, warnings):
    assert warnings == parse_generation({"prompt": "a", **body}).warnings


def test_a_retired_model_in_the_callers_list_has_a_warning():
    (warning,) = parse_generation(
        {"model_name": "flux-dev", "prompt": "a", "fallback": ["qwen-image", "imagen-4-ultra"]}
    ).warnings

    assert warning.startswith("imagen-4-ultra is retired.")


def test_the_service_never_lets_replicate_run_another_model():
    for model in MODELS.values():
        for other in MODELS.values():
            body = least(model) | {"fallback": [other.name]}
            if model.kind == other.kind:
                step = parse_generation(body).route.step(other)
                assert "allow_fallback_model" not in step.input
