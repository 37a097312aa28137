"""What predictions cost: tables of prices, their dearest reading, and what Replicate has counted."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.prices import UNITS, Price, Rate, rates, seconds, weakest
from models import MODELS

NONSENSE = [-1, 0, math.nan, math.inf, -math.inf, 10**400, True, "3", None, [3], {}]


@dataclass
class Inputs:
    """Inputs by name: their defaults, choices and greatest numbers."""

    defaults: Mapping[str, Any] = field(default_factory=dict)
    lists: Mapping[str, list[Any]] = field(default_factory=dict)
    most: Mapping[str, float] = field(default_factory=dict)

    def takes(self, name):
        return name in self.defaults

    def default(self, name):
        return self.defaults.get(name)

    def choices(self, name):
        return self.lists.get(name, ())

    def maximum(self, name):
        return self.most.get(name)


SEEDANCE = Inputs(
    {"duration": 5, "resolution": "720p", "generate_audio": True},
    {"resolution": ["480p", "720p"]},
    {"duration": 15},
)
SEEDREAM = Inputs(
    {"size": "2K", "sequential_image_generation": "disabled", "max_images": 1},
    {"sequential_image_generation": ["disabled", "auto"]},
    {"max_images": 15},
)
FLUX_2 = Inputs(
    {"resolution": "1 MP", "input_images": []},
    {"resolution": ["match_input_image", "0.5 MP", "1 MP", "4 MP"]},
)
BY_RESOLUTION = Price(0.17, "second", rates("resolution", {"480p": 0.07, "720p": 0.17}))
BY_MODE_AND_SOUND = Price(
    0.224,
    "second",
    (
        Rate(0.168, {"mode": "standard", "generate_audio": False}),
        Rate(0.252, {"mode": "standard", "generate_audio": True}),
        Rate(0.224, {"mode": "pro", "generate_audio": False}),
        Rate(0.336, {"mode": "pro", "generate_audio": True}),
    ),
)


@pytest.mark.parametrize(
    ("sent", "usd"),
    [
        ({}, 0.85),
        ({"resolution": "480p"}, 0.35),
        ({"duration": 8}, 1.36),
        ({"duration": 8, "resolution": "480p"}, 0.56),
    ],
)
def test_a_second_costs_the_rate_of_the_resolution(sent, usd):
    assert usd == BY_RESOLUTION.bound(sent, SEEDANCE) == BY_RESOLUTION.cost(sent, SEEDANCE)


def test_a_rate_may_depend_on_several_inputs():
    kling = Inputs({"mode": "pro", "generate_audio": False, "duration": 5})

    assert 1.12 == BY_MODE_AND_SOUND.bound({}, kling)
    assert 0.84 == BY_MODE_AND_SOUND.bound({"mode": "standard"}, kling)
    assert 1.68 == BY_MODE_AND_SOUND.bound({"generate_audio": True}, kling)


def test_a_rate_may_hold_for_several_values():
    price = Price(0.15, "image", (Rate(0.15, {"resolution": ["1K", "2K"]}), Rate(0.3, {"resolution": "4K"})))
    inputs = Inputs({"resolution": "2K"})

    assert [0.15, 0.15, 0.3] == [price.bound({"resolution": each}, inputs) for each in ("1K", "2K", "4K")]


@pytest.mark.parametrize("automatic", [-1, 0, "auto", "", None])
def test_an_automatic_length_counts_as_the_longest(automatic):
    assert 2.55 == BY_RESOLUTION.bound({"duration": automatic}, SEEDANCE)


def test_a_length_whose_default_is_not_known_counts_as_the_longest():
    assert 2.55 == BY_RESOLUTION.bound(
        {}, Inputs({"duration": None, "resolution": "720p"}, {}, {"duration": 15})
    )
    assert 2.04 == BY_RESOLUTION.bound(
        {}, Inputs({"seconds": None, "resolution": "720p"}, {"seconds": [4, 8, 12]})
    )


def test_a_value_that_no_rate_names_has_the_dearest_rate():
    price = Price(0.03, "image", rates("resolution", {"0.5 MP": 0.0225, "1 MP": 0.03, "4 MP": 0.075}))

    assert 0.03 == price.bound({}, FLUX_2)
    assert 0.075 == price.bound({"resolution": "match_input_image"}, FLUX_2)
    assert 0.075 == price.bound({"resolution": "2 MP"}, FLUX_2)


def test_a_switch_whose_default_is_not_known_counts_as_the_dearest():
    price = Price(0.1, "second", rates("generate_audio", {True: 0.15, False: 0.1}))

    assert 0.75 == price.bound({}, Inputs({"duration": 5, "generate_audio": None}))
    assert 0.5 == price.bound({"generate_audio": False}, Inputs({"duration": 5, "generate_audio": None}))


def test_a_switch_is_no_number():
    price = Price(0.1, "image", (Rate(0.1, {"go_fast": 1}), Rate(0.2, {"go_fast": True})))

    assert 0.2 == price.bound({"go_fast": True}, Inputs({"go_fast": False}))


@pytest.mark.parametrize(
    ("sent", "images"),
    [
        ({}, 1),
        ({"max_images": 4}, 1),
        ({"sequential_image_generation": "auto"}, 1),
        ({"sequential_image_generation": "auto", "max_images": 4}, 4),
    ],
)
def test_the_most_images_count_only_if_several_may_be_made(sent, images):
    price = Price(0.04, "image")

    assert round(0.04 * images, 6) == price.bound(sent, SEEDREAM)
    assert 0.04 == price.cost(sent, SEEDREAM, outputs=1)


def test_each_reference_image_may_cost_something():
    price = Price(0.03, "image", each={"input_images": 0.015})

    assert 0.03 == price.bound({}, FLUX_2)
    assert 0.06 == price.bound({"input_images": ["a", "b"]}, FLUX_2)


@pytest.mark.parametrize(
    ("sent", "usd"),
    [({}, 0.015), ({"megapixels": "4"}, 0.06), ({"width": 2048, "height": 2048}, 0.062915)],
)
def test_a_price_may_be_by_megapixel(sent, usd):
    inputs = Inputs({"megapixels": "1", "width": None, "height": None}, {"megapixels": ["0.25", "1", "4"]})

    assert usd == Price(0.015, "megapixel").bound(sent, inputs)


def test_the_operator_names_an_input_that_says_how_many_units_are_made():
    inputs = Inputs({"num_frames_s": 3}, {}, {"num_frames_s": 9})
    price = Price(0.5, "second", units="num_frames_s")

    assert (1.5, 4.5) == (price.bound({}, inputs), price.bound({"num_frames_s": -1}, inputs))


def test_without_such_an_input_nothing_bounds_the_price():
    assert math.isinf(Price(0.5, "second").bound({}, Inputs()))
    assert 0.0 == Price(0.0, "second").bound({}, Inputs())


@pytest.mark.parametrize(
    ("per", "name", "counted", "usd"),
    [
        ("image", "image_output_count", 2, 0.2),
        ("image", "image_count", 2, 0.2),
        ("second", "video_output_duration_seconds", 4.5, 0.45),
        ("running_second", "predict_time", 12.5, 1.25),
        ("call", "image_count", 3, 0.1),
    ],
)
def test_what_replicate_has_counted_comes_first(per, name, counted, usd):
    inputs = Inputs({"num_outputs": 4, "duration": 10})

    assert usd == Price(0.1, per).cost({}, inputs, outputs=1, metrics={name: counted})


@pytest.mark.parametrize("counted", NONSENSE)
def test_an_impossible_count_is_not_believed(counted):
    inputs = Inputs({"num_outputs": 4, "duration": 10})

    assert 0.3 == Price(0.1, "image").cost({}, inputs, outputs=3, metrics={"image_count": counted})
    assert 1.0 == Price(0.1, "second").cost({}, inputs, metrics={"video_output_duration_seconds": counted})


def test_an_absurd_count_costs_no_more_than_the_bound():
    assert 0.4 == Price(0.1, "image").cost({}, Inputs({"num_outputs": 4}), metrics={"image_count": 1e9})


def test_a_running_second_is_bounded_by_the_seconds_that_a_prediction_may_take():
    price = Price(0.001525, "running_second")

    assert 1.83 == price.bound({}, Inputs(), longest=1200)
    assert 1.83 == price.cost({}, Inputs(), longest=1200, metrics={"predict_time": 5000})


def test_no_output_costs_nothing_unless_running_is_billed():
    inputs = Inputs({"num_outputs": 1, "duration": 5})

    assert [0, 0, 0, 0, 18.0] == [Price(0.01, per).cost({}, inputs, outputs=0) for per in UNITS]


def test_the_length_of_a_video_is_never_negative():
    assert 15 == seconds({"duration": -1}, SEEDANCE)
    assert 5 == seconds({}, SEEDANCE)
    assert 4.5 == seconds({"duration": -1}, SEEDANCE, {"video_output_duration_seconds": 4.5})
    assert 0 == seconds({}, Inputs())


def test_the_least_certain_basis_is_told():
    assert "bounded" == weakest(["declared", "bounded", "learned"], "declared")
    assert "learned" == weakest(["learned", "declared"], "declared")
    assert "declared" == weakest([], "declared")


def test_a_price_is_shown_as_it_was_before_there_were_tables():
    assert {"usd": 0.025, "per": "image"} == Price(0.025, "image").as_json()
    assert "0.025 / image" == str(Price(0.025, "image"))


def test_a_table_is_shown_beside_its_usual_rate():
    shown = BY_RESOLUTION.as_json()

    assert {"usd": 0.17, "per": "second"} == {name: shown[name] for name in ("usd", "per")}
    assert [
        {"usd": 0.07, "when": {"resolution": "480p"}},
        {"usd": 0.17, "when": {"resolution": "720p"}},
    ] == shown["by"]
    assert "0.07 to 0.17 / second by `resolution`" == str(BY_RESOLUTION)


# ── Properties

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63),
    st.floats(),
    st.sampled_from(["1 MP", "auto", "8s", ""]),
)
NAMES = st.sampled_from(
    ["num_outputs", "max_images", "duration", "seconds", "megapixels", "width", "height", "mode"]
)
SENT = st.dictionaries(NAMES, VALUES, max_size=4)
KNOWN = st.builds(
    Inputs,
    st.dictionaries(NAMES, VALUES),
    st.dictionaries(NAMES, st.lists(VALUES, max_size=3)),
    st.dictionaries(NAMES, st.floats(0, 1e6)),
)
USD = st.floats(0, 100)
PRICES = st.builds(
    Price,
    USD,
    st.sampled_from(UNITS),
    st.lists(st.builds(Rate, USD, st.dictionaries(NAMES, VALUES, min_size=1, max_size=2)), max_size=3).map(
        tuple
    ),
)
METRICS = st.dictionaries(
    st.sampled_from(
        ["image_count", "image_output_count", "predict_time", "total_time", "video_output_duration_seconds"]
    ),
    st.one_of(VALUES, st.sampled_from(NONSENSE)),
)
OUTPUTS = st.none() | st.integers(0, 1000)


@given(price=PRICES, sent=SENT, known=KNOWN, outputs=OUTPUTS, metrics=METRICS, longest=st.floats(1, 5400))
def test_no_count_makes_a_prediction_cost_more_than_its_bound(price, sent, known, outputs, metrics, longest):
    bound = price.bound(sent, known, longest=longest)
    cost = price.cost(sent, known, outputs=outputs, metrics=metrics, longest=longest)

    assert 0 <= cost <= bound


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.short_name)
@given(outputs=OUTPUTS, metrics=METRICS)
def test_a_declared_model_costs_no_more_than_its_bound(model, outputs, metrics):
    sent = {**model.asks_for, **model.example}

    assert 0 <= model.cost(sent, outputs=outputs, metrics=metrics) <= model.bound(sent) < math.inf
    assert model.bound(sent) == model.cost(sent)


@pytest.mark.parametrize(
    ("name", "sent", "usd"),
    [
        ("flux-schnell", {}, 0.003),
        ("flux-schnell", {"num_outputs": 4}, 0.012),
        ("flux-dev", {}, 0.025),
        ("flux-1.1-pro", {}, 0.04),
        ("flux-kontext-max", {}, 0.08),
        ("qwen-image", {}, 0.025),
        ("imagen-4-ultra", {}, 0.06),
        ("nano-banana", {"image_input": ["a", "b"]}, 0.039),
        ("veo-3-fast", {"duration": 4, "generate_audio": False}, 3.32),
        ("kling-v2.1-master", {}, 1.4),
        ("kling-v2.1-master", {"duration": 10}, 2.8),
    ],
)
def test_the_dearest_reading_of_the_first_nine_models_is_their_price(name, sent, usd):
    model = next(each for each in MODELS if name in each.aliases)

    assert usd == model.bound({"prompt": "a", **sent}) == model.cost({"prompt": "a", **sent})
