"""Which model is next after a failure, and how the parameters are adapted to it."""

import json
import tomllib
from itertools import permutations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.adaptation import SAFETY
from catalog.fallback import CODES, Route, read_rules
from catalog.model import Fallback
from errors import InvalidRequest
from models import declared
from parsing.context import ParseContext
from settings import SettingsError
from tests.support.declarations import MODELS, REGISTRY, find, least, parse_generation

PICTURE = "https://example.com/a.png"


def route(model_name: str, rules=None, **given) -> Route:
    """The models that a request with a fallback may use."""
    body = {"model_name": model_name, "prompt": "a", "fallback": True, **given}
    return parse_generation(body, context=ParseContext(declared(rules))).route


def way(model: str, code: str = "generation_failed", **given) -> list[str]:
    """The models that are tried when each fails with this code."""
    path = route(model, **given)
    step, tried = path.first(), []
    while step is not None:
        tried.append(step.model)
        step = path.after(tried, code=code)
    return [each.short_name for each in tried]


def sent(model: str, to: str, **given):
    """The input that another model is sent, and the reported changes."""
    path = route(model, **{"fallback": [to], **given})
    step = path.after([find(model)], code="generation_failed")
    changes = {each.field: (each.kind, each.sent_as, each.sent) for each in step.changes}
    return {name: value for name, value in step.input.items() if name != "prompt"}, changes


@pytest.mark.parametrize(
    ("model", "given", "code", "expected"),
    [
        ("nano-banana", {}, "generation_failed", ["nano-banana", "nano-banana-2", "seedream-4.5"]),
        ("nano-banana", {"image_input": [PICTURE]}, "content_refused",
         ["nano-banana", "nano-banana-2", "seedream-4.5"]),
        ("nano-banana-pro", {}, "generation_timeout", ["nano-banana-pro", "nano-banana-2", "seedream-4.5"]),
        ("qwen-image-edit-2511", {"image": [PICTURE]}, "content_refused",
         ["qwen-image-edit-2511", "flux-kontext-max", "qwen-image", "flux-dev"]),
        ("flux-dev", {}, "generation_failed", ["flux-dev", "qwen-image"]),
        ("flux-dev", {"image": PICTURE}, "generation_failed", ["flux-dev", "flux-kontext-max"]),
        ("flux-dev", {"image": PICTURE}, "content_refused", ["flux-dev", "flux-kontext-max", "qwen-image"]),
        ("flux-kontext-max", {}, "content_refused", ["flux-kontext-max", "qwen-image", "flux-dev"]),
        ("flux-kontext-max", {}, "generation_timeout", ["flux-kontext-max"]),
        ("qwen-image", {}, "upstream_error", ["qwen-image", "flux-dev"]),
        ("qwen-image", {"image": PICTURE}, "content_refused", ["qwen-image", "flux-dev", "flux-kontext-max"]),
        ("flux-schnell", {}, "generation_failed", ["flux-schnell"]),
        ("veo-3-fast", {}, "generation_failed", ["veo-3-fast"]),
    ],
)  # fmt: skip
def test_a_failure_leads_to_the_fallback_of_the_registry(model, given, code, expected):
    assert expected == way(model, code, **given)


@pytest.mark.parametrize(
    ("model", "given", "expected"),
    [
        ("flux-schnell", {"input_image": PICTURE}, "flux-kontext-max"),
        ("flux-schnell", {"image": [PICTURE]}, "flux-kontext-max"),
        ("imagen-4-ultra", {"image_input": [PICTURE] * 2}, "nano-banana"),
        ("flux-schnell", {"image": PICTURE, "input_image": PICTURE, "start_image": PICTURE}, "nano-banana"),
        ("flux-dev", {"input_image": [PICTURE] * 2}, "nano-banana"),
        ("flux-dev", {"image": PICTURE}, "flux-dev"),
        ("flux-schnell", {"image": [PICTURE] * 4}, "nano-banana-2"),
        ("nano-banana", {"input_image": [PICTURE] * 3}, "nano-banana"),
        ("nano-banana", {"images": [PICTURE] * 4}, "nano-banana-2"),
        ("seedream-4.5", {"input_images": [PICTURE] * 9}, "seedream-4.5"),
        ("qwen-image-edit-2511", {"input_image": PICTURE}, "qwen-image-edit-2511"),
        ("kling-v2.6", {"image": PICTURE}, "kling-v2.6"),
        ("sora-2", {"start_image": [PICTURE]}, "sora-2"),
        ("flux-schnell", {"fallback": ["imagen-4-ultra", "qwen-image"], "image": PICTURE}, "qwen-image"),
        ("flux-schnell", {"image": PICTURE, "num_outputs": 2}, "flux-dev"),
        ("flux-schnell", {"image": PICTURE, "num_outputs": 1}, "flux-kontext-max"),
        (
            "flux-schnell",
            {"fallback": ["nano-banana", "flux-dev"], "image": PICTURE, "num_outputs": 4},
            "flux-dev",
        ),
        ("kontext-max", {"image": PICTURE, "num_outputs": 1}, "flux-kontext-max"),
    ],
)
def test_a_fallback_accepts_as_many_reference_images(model, given, expected):
    path = route(model, **given)

    assert expected == path.first().model.short_name
    assert REGISTRY.references_in(path.given) == REGISTRY.references_in(path.first().input)


@pytest.mark.parametrize("model", ["flux-dev", "qwen-image", "flux-1.1-pro", "flux-dev-lora"])
@pytest.mark.parametrize(
    ("given", "expected", "sent_as"),
    [
        ({"input_image": PICTURE}, "flux-kontext-max", "input_image"),
        ({"start_image": [PICTURE]}, "flux-kontext-max", "input_image"),
        ({"image_input": [PICTURE] * 2}, "nano-banana", "image_input"),
        ({"input_images": [PICTURE] * 9}, "nano-banana-2", "image_input"),
        ({"input_image": PICTURE, "fallback": ["qwen-image", "flux-2-pro"]}, "flux-2-pro", "input_images"),
    ],
)
def test_an_image_by_another_models_name_goes_to_a_model_that_edits(model, given, expected, sent_as):
    first = route(model, **given).first()

    assert (expected, True) == (first.model.short_name, sent_as in first.input)
    assert not {"image", "image_prompt"} & first.input.keys()


@pytest.mark.parametrize(
    ("model", "given"),
    [
        ("flux-dev", {"input_image": PICTURE, "num_outputs": 2}),
        ("flux-dev", {"input_image": PICTURE, "fallback": ["qwen-image", "flux-schnell"]}),
        ("qwen-image", {"image_input": [PICTURE] * 2, "fallback": ["flux-kontext-max"]}),
    ],
)
def test_an_image_that_is_to_be_edited_is_refused_if_no_model_that_may_be_tried_edits_it(model, given):
    with pytest.raises(InvalidRequest) as refused:
        route(model, **given)

    (problem,) = refused.value.problems
    assert (
        problem.message.startswith("asks for an edit, and none of the models")
        or "num_outputs" == problem.field
    )


def test_without_a_fallback_an_image_by_another_models_name_is_refused_with_both_models():
    with pytest.raises(InvalidRequest) as refused:
        parse_generation({"model_name": "flux-dev", "prompt": "a", "input_image": PICTURE})

    (problem,) = refused.value.problems
    assert problem.message == (
        "is not taken by flux-dev, whose reference image is image; flux-kontext-max takes one (input_image), "
        "nano-banana takes up to three (image_input), nano-banana-2 takes up to 14 (image_input)"
    )


def test_no_built_in_fallback_leads_to_a_retired_model():
    retired = {model.name for model in MODELS.values() if model.retired}
    targets = {rule.to for model in MODELS.values() for rule in model.fallbacks}
    images = [{}, {"image": PICTURE}, {"image": [PICTURE] * 5}, {"num_outputs": 2}]
    reached = {
        step.model.name
        for model in MODELS.values()
        if model.kind == "image" and not model.retired
        for given in images
        for step in [Route(model, {"prompt": "a", **given}, REGISTRY).first()]
        if step is not None
    }

    assert {"google/imagen-4-ultra", "google/veo-3-fast"} == retired
    assert set() == (targets | reached) & retired
    assert targets <= MODELS.keys()


def test_a_second_frame_or_another_image_of_its_own_stays_with_its_model():
    own = {"start_image": PICTURE, "end_image": "https://example.com/b.png"}
    first = route("kling-v3-video", **own).first()
    cast = route("seedance-2.0", reference_images=[PICTURE] * 9).first()

    assert own == {name: first.input[name] for name in own}
    assert ("seedance-2.0", [PICTURE] * 9) == (cast.model.short_name, cast.input["reference_images"])
    assert () == first.changes == cast.changes


def test_a_model_that_requires_an_image_is_passed_over_without_one():
    step = route("flux-dev", fallback=["qwen-image-edit-2511"]).after(
        [find("flux-dev")], code="generation_failed"
    )

    assert "qwen-image-edit-2511 needs image." == step.unfit


@pytest.mark.parametrize(
    ("model", "given", "expected"),
    [
        ("flux-dev", {"num_outputs": 4}, "flux-dev"),
        ("qwen-image", {"num_outputs": 2}, "flux-dev"),
        ("qwen-image", {"num_outputs": 1}, "qwen-image"),
        ("flux-kontext-max", {"num_outputs": 2}, "flux-dev"),
        ("imagen-4-ultra", {"num_outputs": 3, "fallback": ["qwen-image", "flux-schnell"]}, "flux-schnell"),
        ("imagen-4-ultra", {"num_outputs": 1, "fallback": ["qwen-image", "flux-schnell"]}, "imagen-4-ultra"),
    ],
)
def test_a_fallback_makes_as_many_outputs(model, given, expected):
    first = route(model, **given).first()

    assert expected == first.model.short_name
    assert given["num_outputs"] == first.input.get("num_outputs", 1)


@pytest.mark.parametrize(
    ("model", "given", "wrong"),
    [
        ("imagen-4-ultra", {"num_outputs": 2}, "num_outputs"),
        ("nano-banana", {"num_outputs": 2}, "num_outputs"),
        ("qwen-image", {"num_outputs": 2, "fallback": []}, "num_outputs"),
        ("qwen-image", {"num_outputs": 2, "fallback": ["imagen-4-ultra"]}, "num_outputs"),
        ("nano-banana", {"num_outputs": 2, "image_input": [PICTURE] * 2}, "num_outputs"),
        ("qwen-image", {"num_outputs": 5}, "num_outputs"),
        ("qwen-image", {"num_outputs": 1.5}, "num_outputs"),
        ("veo-3-fast", {"num_outputs": 2}, "num_outputs"),
        ("flux-schnell", {"num_outputs": 2, "fallback": ["imagen-4-ultra"], "image": PICTURE}, "image"),
        ("flux-schnell", {"image": [PICTURE] * 15}, "fallback"),
        ("flux-schnell", {"image": PICTURE, "image_input": [PICTURE] * 14}, "fallback"),
        ("flux-schnell", {"fallback": ["imagen-4-ultra"], "image": PICTURE}, "image"),
        ("flux-schnell", {"fallback": [], "image": PICTURE}, "image"),
        ("veo-3-fast", {"image": [PICTURE] * 2}, "image"),
        ("flux-schnell", {"image": [PICTURE, "/etc/passwd"]}, "image[1]"),
        ("flux-dev", {"fallback": ["nope"]}, "fallback[0]"),
        ("flux-dev", {"fallback": ["qwen-image", "veo-3-fast"]}, "fallback[1]"),
        ("flux-dev", {"fallback": "qwen-image"}, "fallback"),
        ("flux-dev", {"fallback": [3]}, "fallback"),
        ("flux-dev", {"guidance": 99}, "guidance"),
        ("flux-dev", {"negative_prompt": 3}, "negative_prompt"),
        ("flux-dev", {"guidence": 3}, "guidence"),
    ],
)
def test_a_parameter_that_no_model_accepts_is_refused_even_with_a_fallback(model, given, wrong):
    with pytest.raises(InvalidRequest) as refused:
        route(model, **given)

    assert [wrong] == [each.field for each in refused.value.problems]


@given(st.permutations(list(MODELS)), st.sampled_from(CODES), st.booleans())
def test_no_model_is_tried_twice_under_any_rules(names, code, with_image):
    circle = {name: [Fallback(other) for other in names] for name in names}
    path = route(**least(find(names[0])) | ({"image": PICTURE} if with_image else {}), rules=circle)
    step, tried = path.first(), []
    while step is not None:
        tried.append(step.model)
        step = path.after(tried, code=code)

    assert len(tried) == len({model.name for model in tried}) <= len(MODELS)


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (["imagen-4-ultra", "qwen-image"], ["qwen-image"]),
        (["qwen-image", "flux-schnell"], ["qwen-image"]),
        (["qwen-image", "imagen-4-ultra", "flux-dev"], ["qwen-image", "imagen-4-ultra", "flux-dev"]),
    ],
)
def test_a_callers_list_of_models_is_never_tried_backwards(order, expected):
    assert expected == way("flux-schnell", fallback=order, image=PICTURE)


def test_a_callers_list_of_models_is_tried_in_order_and_each_once():
    listed = ["qwen-image", "flux-dev", "imagen-4-ultra", "qwen-image"]

    assert ["flux-dev", "qwen-image", "imagen-4-ultra"] == way("flux-dev", fallback=listed)


@pytest.mark.parametrize(
    ("model", "to", "given", "expected", "changes"),
    [
        ("flux-kontext-max", "imagen-4-ultra", {"aspect_ratio": "match_input_image"}, {"aspect_ratio": "16:9"},
         {"aspect_ratio": ("mapped", "aspect_ratio", "16:9")}),
        ("flux-dev", "qwen-image", {"aspect_ratio": "21:9"}, {"aspect_ratio": "16:9"},
         {"aspect_ratio": ("mapped", "aspect_ratio", "16:9")}),
        ("flux-dev", "imagen-4-ultra", {"aspect_ratio": "4:5"}, {"aspect_ratio": "3:4"},
         {"aspect_ratio": ("mapped", "aspect_ratio", "3:4")}),
        ("flux-1.1-pro", "qwen-image", {"aspect_ratio": "custom", "width": 1024, "height": 768},
         {"aspect_ratio": "4:3"},
         {"aspect_ratio": ("mapped", "aspect_ratio", "4:3"), "width": ("dropped", None, None),
          "height": ("dropped", None, None)}),
        ("flux-1.1-pro", "qwen-image", {"aspect_ratio": "custom"}, {}, {"aspect_ratio": ("dropped", None, None)}),
        ("qwen-image", "flux-schnell", {"num_inference_steps": 30}, {"num_inference_steps": 4},
         {"num_inference_steps": ("clamped", "num_inference_steps", 4)}),
        ("veo-3-fast", "kling-v2.1-master", {"duration": 8, "generate_audio": False}, {"duration": 10},
         {"duration": ("clamped", "duration", 10), "generate_audio": ("dropped", None, None)}),
        ("kling-v2.1-master", "veo-3-fast", {"duration": 5, "aspect_ratio": "1:1"},
         {"duration": 4, "aspect_ratio": "16:9"},
         {"duration": ("clamped", "duration", 4), "aspect_ratio": ("mapped", "aspect_ratio", "16:9")}),
        ("qwen-image", "flux-dev", {"strength": 0.5, "image": PICTURE},
         {"prompt_strength": 0.5, "image": PICTURE, "output_format": "jpg"},
         {"strength": ("mapped", "prompt_strength", 0.5)}),
        ("flux-dev", "flux-kontext-max", {"output_format": "webp", "image": PICTURE, "seed": 3},
         {"output_format": "jpg", "input_image": PICTURE, "seed": 3},
         {"output_format": ("mapped", "output_format", "jpg"), "image": ("mapped", "input_image", [PICTURE])}),
        ("nano-banana", "imagen-4-ultra", {"image_input": [PICTURE] * 2, "output_format": "png"},
         {"output_format": "png"}, {"image_input": ("dropped", None, None)}),
        ("nano-banana", "flux-dev", {"image_input": ["https://a.com/1", "https://a.com/2"]},
         {"image": "https://a.com/1", "output_format": "jpg"},
         {"image_input": ("mapped", "image", ["https://a.com/1"])}),
        ("flux-dev", "nano-banana", {"image": PICTURE}, {"image_input": [PICTURE]},
         {"image": ("mapped", "image_input", [PICTURE])}),
        ("flux-dev", "qwen-image", {"seed": 3, "guidance": 2.5}, {"seed": 3, "guidance": 2.5}, {}),
        ("imagen-4-ultra", "qwen-image", {"image_size": "2K"}, {}, {"image_size": ("dropped", None, None)}),
    ],
)  # fmt: skip
def test_parameters_are_mapped_clamped_or_dropped_for_the_next_model_and_every_change_is_reported(
    model, to, given, expected, changes
):
    assert (expected, changes) == sent(model, to, **given)


def test_a_parameter_that_one_model_does_not_accept_is_sent_to_the_next():
    path = route(
        "qwen-image", negative_prompt="rain", num_inference_steps=40, fallback=["flux-schnell", "flux-dev"]
    )
    tried = [find("qwen-image"), find("flux-schnell")]

    assert 4 == path.after(tried[:1], code="generation_failed").input["num_inference_steps"]
    assert 40 == path.after(tried, code="generation_failed").input["num_inference_steps"]


def test_a_parameter_of_another_model_is_left_out_of_the_first_and_kept_for_the_next():
    path = route("flux-dev", negative_prompt="rain")
    first = path.first()

    assert "negative_prompt" not in first.input
    assert [("negative_prompt", "dropped")] == [(each.field, each.kind) for each in first.changes]
    assert "rain" == path.after([first.model], code="generation_failed").input["negative_prompt"]


def test_a_change_reports_the_number_of_images_and_never_their_content():
    path = route(
        "imagen-4-ultra",
        image_input=[
            "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7",
            PICTURE,
        ],
        fallback=["nano-banana", "flux-dev"],
    )

    shown = [change.as_json() for change in path.after([find("nano-banana")], code="content_refused").changes]
    assert [
        {
            "field": "image_input",
            "change": "mapped",
            "given": "2 images",
            "sent_as": "image",
            "sent": "an image",
        }
    ] == shown


SAFE = [(model, setting) for model in MODELS.values() for setting in SAFETY if setting in model.inputs]


@pytest.mark.parametrize(("model", "setting"), SAFE, ids=lambda each: getattr(each, "short_name", each))
def test_no_safety_setting_is_sent_that_is_weaker_than_the_callers_or_the_models_default(model, setting):
    scale = SAFETY[setting]
    for to, value in product(MODELS.values(), scale):
        if model.kind != to.kind or model is to or [] != wrong(model, **{setting: value}):
            continue
        step = route(**least(model) | {setting: value, "fallback": [to.name]}).after(
            [model], code="content_refused"
        )
        sent = {name: each for name, each in step.input.items() if name in SAFETY}
        for name, each in sent.items():
            assert SAFETY[name].index(each) <= SAFETY[name].index(to.default(name))
        if scale.index(value) < scale.index(model.default(setting)):
            as_cautious = sent.get(setting) == value if setting in to.inputs else most_cautious(to, sent)
            assert step.unfit or as_cautious


def most_cautious(model, sent):
    """Whether these are a safety setting at the strictest value of its model."""
    return [
        value == next(each for each in SAFETY[name] if [] == wrong(model, **{name: each}))
        for name, value in sent.items()
    ] == [True]


def wrong(model, **given):
    try:
        parse_generation(least(model) | given)
    except InvalidRequest as refused:
        return [each.field for each in refused.problems]
    return []


@pytest.mark.parametrize(
    ("model", "to", "given", "expected"),
    [
        ("flux-dev", "qwen-image", {"disable_safety_checker": True}, {"disable_safety_checker": False}),
        ("flux-kontext-max", "flux-1.1-pro", {"safety_tolerance": 6}, {"safety_tolerance": 2}),
        ("flux-kontext-max", "flux-1.1-pro", {"safety_tolerance": 1}, {"safety_tolerance": 1}),
        ("flux-kontext-max", "qwen-image", {"safety_tolerance": 0}, {"disable_safety_checker": False}),
        ("flux-kontext-max", "qwen-image", {"safety_tolerance": 5}, {}),
        ("flux-dev", "flux-kontext-max", {"disable_safety_checker": True}, {}),
        ("imagen-4-ultra", "flux-1.1-pro", {"safety_filter_level": "block_low_and_above"}, {"safety_tolerance": 1}),
        ("flux-1.1-pro", "imagen-4-ultra", {"safety_tolerance": 1}, {"safety_filter_level": "block_low_and_above"}),
    ],
)  # fmt: skip
def test_a_safety_setting_is_mapped_unless_it_would_be_weaker(model, to, given, expected):
    step = route(model, **{"fallback": [to], **given}).after([find(model)], code="content_refused")

    assert expected == {name: value for name, value in step.input.items() if name in SAFETY}


def test_the_more_cautious_of_two_safety_settings_applies_in_any_order():
    both = {"safety_filter_level": "block_low_and_above", "safety_tolerance": 2}
    for ordered in (both, dict(reversed(both.items()))):
        assert 1 == sent("flux-dev", "flux-1.1-pro", **ordered)[0]["safety_tolerance"]


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    ("model", "to", "given", "expected"),
    [
        ("flux-dev", "imagen-4-ultra", {"safety_tolerance": 0, "safety_filter_level": "block_only_high"},
         {"safety_filter_level": "block_low_and_above"}),
        ("flux-dev", "flux-kontext-max", {"safety_filter_level": "block_low_and_above", "safety_tolerance": 6},
         {"safety_tolerance": 0}),
    ],
)  # fmt: skip
def test_reported_safety_settings_are_those_sent(model, to, given, expected, order):
    in_this_order = dict(list(given.items())[::order])
    step = route(model, **in_this_order, fallback=[to]).after([find(model)], code="content_refused")

    assert expected == {name: value for name, value in step.input.items() if name in SAFETY}
    assert {change.sent for change in step.changes} == set(expected.values())


def test_a_model_without_a_safety_setting_is_passed_over_if_the_caller_set_a_stricter_one():
    for value, unfit in ((0, True), (1, True), (2, False), (6, False)):
        step = route("kontext-max", safety_tolerance=value, fallback=["nano-banana"]).after(
            [find("kontext-max")], code="content_refused"
        )
        assert unfit is bool(step.unfit), value


def test_a_model_that_cannot_be_as_cautious_as_requested_is_passed_over():
    path = route("flux-kontext-max", safety_tolerance=0, fallback=["flux-1.1-pro", "qwen-image"])
    step = path.after([find("flux-kontext-max")], code="content_refused")

    assert "flux-1.1-pro cannot be as cautious as safety_tolerance 0 asks." == step.unfit
    assert path.after([find("flux-kontext-max"), step.model], code="content_refused").unfit is None


def test_every_example_can_be_adapted_between_every_pair_of_models():
    for model, to in permutations(MODELS.values(), 2):
        if model.kind != to.kind:
            continue
        step = route(model.name, **{**model.example, "fallback": [to.name]}).after(
            [model], code="content_refused"
        )
        assert [] == wrong(to, **{name: value for name, value in step.input.items() if name != "prompt"})


# ── The operator's file ─────────────────────────────────────────────────────────────────────────────


TOML = """
flux-dev = ["imagen-4-ultra", "qwen/qwen-image"]
nano-banana = [{to = "flux-1.1-pro", on = ["content_refused"]}, {to = "flux-dev", references = true}]
qwen-image = []
"""


@pytest.mark.parametrize("ending", [".toml", ".json"])
def test_a_fallbacks_file_replaces_the_rules_of_the_registry_model_by_model(tmp_path, ending):
    path = tmp_path / f"rules{ending}"
    path.write_text(TOML if ending == ".toml" else json.dumps(tomllib.loads(TOML)))
    rules = read_rules(path, REGISTRY)

    def goes(model, code="generation_failed", **given):
        found = route(model, rules=rules, **given)
        step = found.after([found.first().model], code=code)
        return step and step.model.short_name

    assert "imagen-4-ultra" == goes("flux-dev")
    assert "imagen-4-ultra" == goes("flux-dev", image=PICTURE)
    assert None is goes("qwen-image")
    assert None is goes("nano-banana")
    assert "flux-1.1-pro" == goes("nano-banana", "content_refused", image_input=[PICTURE])
    assert "flux-dev" == goes("nano-banana", image_input=[PICTURE])
    assert "qwen-image" == goes("flux-kontext-max", "content_refused")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("flux-dev = [", "cannot be read"),
        ('nope = ["flux-dev"]', "nope is not a known model"),
        ('flux-dev = ["nope"]', "nope is not another known model"),
        ('flux-dev = ["black-forest-labs/flux-dev"]', "is not another known model"),
        ('flux-dev = ["veo-3-fast"]', "makes videos"),
        ("flux-dev = 3", "flux-dev: "),
        ("flux-dev = [{references = true}]", "to is not what it should be"),
        ('flux-dev = [{to = "qwen-image", on = ["insufficient_credit"]}]', "none of the codes"),
        ('flux-dev = [{to = "qwen-image", when = "always"}]', "when is not what it should be"),
    ],
)
def test_an_error_in_the_fallbacks_file_is_reported_in_a_sentence(tmp_path, content, said):
    path = tmp_path / "rules.toml"
    path.write_text(content)

    with pytest.raises(SettingsError, match=f"^FALLBACKS_FILE: .*{said}"):
        read_rules(path, REGISTRY)


def test_a_missing_fallbacks_file_and_one_without_a_table_are_reported(tmp_path):
    for content in ("[1]", "null", '"a"', "{"):
        (tmp_path / "rules.json").write_text(content)
        with pytest.raises(SettingsError, match=r"^FALLBACKS_FILE: "):
            read_rules(tmp_path / "rules.json", REGISTRY)
    with pytest.raises(SettingsError, match="cannot be read"):
        read_rules(tmp_path / "nowhere.toml", REGISTRY)
