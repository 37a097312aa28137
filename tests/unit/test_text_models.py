"""Text models: names, versions of answers, and costs to the micro-dollar."""

from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.texts.declared import TEXT_MODELS
from catalog.texts.models import TextModel, TextModels
from catalog.texts.prices import FIRST_DAY, LONG_PROMPT
from catalog.texts.registry import text_registry
from providers.calls import Usage

MODELS = TEXT_MODELS.models
REGISTRY = text_registry(lambda _: 1)


def at(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


NOVEMBER = at("2026-11-28T12:00:00")


def named(name):
    return REGISTRY.find(name).text


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("gemini-2.5-flash", "gemini-3.5-flash-lite"),
        ("gemini-2.5-pro", "gemini-3.8-flash"),
        ("gemini-3.7-flash", "gemini-3.8-flash"),
        ("gemini-3.5-flash", "gemini-3.6-flash"),
    ],
)
def test_old_names_are_sent_under_the_names_they_are_routed_to(old, new):
    model = named(old)

    assert (old, new) == (model.name, TEXT_MODELS.sent(model).name)


def test_a_current_model_is_sent_under_its_own_name():
    current = [each for each in MODELS if each.sent_as is None]

    assert [each.name for each in current] == [TEXT_MODELS.sent(each).name for each in current]


@pytest.mark.parametrize("model", MODELS, ids=lambda each: each.name)
def test_a_model_is_found_by_each_of_its_names_with_and_without_a_prefix(model):
    for name in model.names:
        assert model is named(name) is named(f"models/{name}")


def test_an_unknown_name_has_no_model_and_the_list_of_all_begins_with_the_nearest():
    assert REGISTRY.find("gemini-3.8-flahs") is None
    listed = REGISTRY.nearest_first("gemini-3.8-flahs")
    assert "gemini-3.8-flash" == listed[0]
    assert {each.name for each in MODELS} == {*listed}


@pytest.mark.parametrize(
    ("version", "name"),
    [
        ("gemini-3.8-flash", "gemini-3.8-flash"),
        ("models/gemini-3.8-flash-001", "gemini-3.8-flash"),
        ("gemini-3.5-flash-lite-preview-09-2026", "gemini-3.5-flash-lite"),
        ("gemini-3.1-pro", "gemini-3.1-pro-preview"),
        ("gemini-3.1-pro-preview-11-2026", "gemini-3.1-pro-preview"),
        ("gemini-2.5-flash-002", "gemini-2.5-flash"),
    ],
)
def test_the_version_of_an_answer_names_its_model(version, name):
    assert name == TEXT_MODELS.answered_by(version).name


@pytest.mark.parametrize(
    "version", [None, "", "gemini-5-neon", "gemini-3.8-flash-image", "gemini-3.8", "-001"]
)
def test_another_version_names_no_model(version):
    assert TEXT_MODELS.answered_by(version) is None


@pytest.mark.parametrize("model", MODELS, ids=lambda each: each.name)
def test_the_declared_facts_of_a_model_are_consistent(model):
    assert [each.since for each in model.prices] == sorted({each.since for each in model.prices})
    assert not model.prices or FIRST_DAY == model.prices[0].since
    assert model.thinking_default is None or model.takes_thinking(model.thinking_default)
    for price in model.prices:
        for rates in filter(None, (price.rates, price.long)):
            assert rates.cached in {rates.prompt / 10, rates.prompt / 20}


def test_two_models_with_one_name_are_refused_and_a_retired_one_is_never_sent():
    one = TextModel(name="one", provider="p")
    with pytest.raises(ValueError, match="one is already"):
        TextModels([one, TextModel(name="two", provider="p", aliases=("one",))])
    with pytest.raises(ValueError, match="which is retired"):
        TextModels(
            [
                one,
                TextModel(name="two", provider="p", sent_as="one"),
                TextModel(name="three", provider="p", sent_as="two"),
            ]
        )


def test_minimal_thinking_is_unknown_to_the_strong_models():
    takers = {each.name for each in MODELS if each.sent_as is None and each.takes_thinking("minimal")}

    assert {"gemini-3.5-flash-lite", "gemini-3.6-flash", "gemini-3.1-flash-lite"} == takers


def cost(version, when, **tokens):
    return TEXT_MODELS.cost(version, Usage(**tokens), when).micro_usd


def test_thinking_is_billed_as_the_answer_and_cached_tokens_at_a_tenth():
    tokens = {
        "prompt_tokens": 1000,
        "cached_tokens": 400,
        "completion_tokens": 198,
        "thinking_tokens": 402,
    }

    assert 600 * 0.75 + 400 * 0.075 + 600 * 3.75 == cost("gemini-3.8-flash", NOVEMBER, **tokens)


def test_half_a_micro_dollar_is_rounded_up():
    assert [0, 1, 2] == [cost("gemini-2.5-flash-lite", NOVEMBER, prompt_tokens=each) for each in (4, 5, 15)]


def test_a_price_changes_at_the_first_second_of_its_day_in_utc():
    def argon(when):
        return cost("gemini-4-argon", at(when), prompt_tokens=100, completion_tokens=10)

    assert (300, 600) == (argon("2026-11-30T23:59:59"), argon("2026-12-01T00:00:00"))


def test_a_prompt_above_the_step_costs_the_long_rates_for_all_its_tokens():
    pro = "gemini-3.1-pro-preview"

    assert 400_000 + 12 == cost(pro, NOVEMBER, prompt_tokens=LONG_PROMPT, completion_tokens=1)
    assert 800_004 + 18 == cost(pro, NOVEMBER, prompt_tokens=LONG_PROMPT + 1, completion_tokens=1)


def test_an_answer_of_an_unknown_version_costs_what_the_dearest_model_would():
    usage = Usage(prompt_tokens=100, completion_tokens=10)
    found = TEXT_MODELS.cost("gemini-5-neon", usage, NOVEMBER)

    assert (320, False) == (found.micro_usd, found.is_known)
    assert TEXT_MODELS.cost("gemini-3.8-flash", usage, NOVEMBER).is_known


def bound(name, prompt, most, begin, end):
    return TEXT_MODELS.bound(named(name), prompt_tokens=prompt, max_output_tokens=most, begin=begin, end=end)


def test_a_call_that_may_end_after_a_rise_of_the_price_is_reserved_at_the_higher_price():
    eve = at("2026-11-30T23:59:00")

    assert (300, 300, 600) == tuple(bound("gemini-4-argon", 100, 10, eve, eve + each) for each in (0, 59, 60))


def test_an_old_name_is_reserved_at_the_dearer_of_its_own_price_and_that_of_its_successor():
    assert 1_250 + 10_000 == bound("gemini-2.5-pro", 1000, 1000, NOVEMBER, NOVEMBER)
    assert 750 + 3_750 == bound("gemini-3.7-flash", 1000, 1000, NOVEMBER, NOVEMBER)


def test_a_model_that_may_be_replaced_is_reserved_at_the_dearest_price_of_all():
    before, after = at("2027-05-06T00:00:00"), at("2027-05-07T00:00:00")

    assert 250 + 1_500 == bound("gemini-3.1-flash-lite", 1000, 1000, before, before + 60)
    assert 4_000 + 20_000 == bound("gemini-3.1-flash-lite", 1000, 1000, after, after)


COUNTS = st.integers(0, 1_100_000)
TIMES = st.floats(at("2026-11-25T00:00:00"), at("2027-06-01T00:00:00"))


@given(st.sampled_from([each for each in MODELS if each.prices]), COUNTS, COUNTS, COUNTS, COUNTS, TIMES)
def test_a_cost_is_the_decimal_sum_of_the_bill(model, prompt, cached, completion, thinking, when):
    cached = min(cached, prompt)
    day = datetime.fromtimestamp(when, UTC).date()
    price = [each for each in model.prices if each.since <= day][-1]
    rates = price.long if price.long and prompt > 200_000 else price.rates
    rate = {
        name: Decimal(getattr(rates, name).numerator) / getattr(rates, name).denominator
        for name in ("prompt", "answer", "cached")
    }
    million = 1_000_000
    usd = (
        rate["prompt"] * (prompt - cached) / million
        + rate["cached"] * cached / million
        + rate["answer"] * (completion + thinking) / million
    )

    assert usd.quantize(Decimal("0.000001"), ROUND_HALF_UP) * million == cost(
        model.name,
        when,
        prompt_tokens=prompt,
        cached_tokens=cached,
        completion_tokens=completion,
        thinking_tokens=thinking,
    )


@given(
    st.sampled_from(MODELS),
    st.booleans(),
    st.tuples(COUNTS, COUNTS, COUNTS, COUNTS),
    st.tuples(st.integers(0, 100_000), st.integers(0, 100_000)),
    TIMES,
    st.floats(0, 86_400 * 40),
    st.floats(0, 1),
)
def test_no_cost_is_above_what_was_reserved(model, by_successor, tokens, over, begin, seconds, share):
    prompt, cached, completion, thinking = tokens
    sent = TEXT_MODELS.sent(model)
    answered = sent if by_successor or not model.prices else model
    reserved = TEXT_MODELS.bound(
        model,
        prompt_tokens=prompt + over[0],
        max_output_tokens=completion + thinking + over[1],
        begin=begin,
        end=begin + seconds,
    )
    usage = Usage(prompt, min(cached, prompt), completion, thinking)

    assert TEXT_MODELS.cost(answered.name, usage, begin + seconds * share).micro_usd <= reserved


def test_the_catalogue_shows_prices_with_their_dates_and_the_successor_of_an_old_name():
    argon, old = (REGISTRY.find(name).as_json() for name in ("gemini-4-argon", "gemini-2.5-pro"))

    assert [None, "2026-12-01"] == [each.get("since") for each in argon["usd_per_million_tokens"]]
    assert ("text", "gemini-3.8-flash", "2026-12-01") == (old["kind"], old["sent_as"], old["ends"])
    assert {"above_tokens": 200_000, "prompt": 2.5, "answer": 15.0, "cached": 0.25} == old[
        "usd_per_million_tokens"
    ][0]["long_prompts"]
