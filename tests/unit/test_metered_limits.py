"""The limits of metered calls: by patterns of models, lowered, and checked against one ticket."""

import re

import pytest

from admission.metered.demand import Demand, TooLarge
from admission.metered.limits import MeteredLimits, ModelLimits

PARSED = MeteredLimits.parse(
    {
        "*": {"rpm": 300, "tpm": 1_000_000, "rpd": None},
        "one-*": {"rpm": 20},
        "one-two-*": {"tpm": 5000, "rpd": 100},
        "one-two-three": {"rpm": 7},
        "account": {"usd_per_10_minutes": 2.5},
    }
)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("else", ModelLimits(300, 1_000_000, None)),
        ("one-more", ModelLimits(20, 1_000_000, None)),
        ("one-two-four", ModelLimits(300, 5000, 100)),
        ("one-two-three", ModelLimits(7, 1_000_000, None)),
    ],
)
def test_a_model_has_the_limits_of_its_name_or_else_of_the_longest_pattern(model, expected):
    assert expected == PARSED.of(model)


def test_money_is_counted_in_micro_dollars():
    assert 2_500_000 == PARSED.micro_usd


def test_a_limit_that_is_left_out_has_its_default():
    limits = MeteredLimits.parse({"a": {"rpm": 5}})

    assert (ModelLimits(5, 1_000_000, None), 10_000_000) == (limits.of("a"), limits.micro_usd)
    assert ModelLimits() == limits.of("b") == MeteredLimits().of("b")


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"*": {"rpm": 0}}, "*: rpm must be an integer of at least 1, got 0"),
        ({"*": {"tpm": None}}, "*: tpm must be an integer of at least 1, got None"),
        ({"a*": {"tpm": True}}, "a*: tpm must be an integer of at least 1, got True"),
        ({"a*": {"rpd": 1.5}}, "a*: rpd must be an integer of at least 1, got 1.5"),
        ({"a*": {"rps": 1}}, "a*: rps is not a limit of a model"),
        ({"account": {"usd": 1}}, "account: usd is not a limit of an account"),
        ({"account": {"usd_per_10_minutes": 0}}, "usd_per_10_minutes must be above 0, got 0.0"),
        ({"account": {"usd_per_10_minutes": "5"}}, "usd_per_10_minutes must be a number, got '5'"),
    ],
)
def test_an_invalid_limit_is_refused_by_its_name(limits, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        MeteredLimits.parse(limits)


def test_a_limit_is_lowered_and_never_raised():
    limits = ModelLimits(rpm=10, rpd=None)

    assert ModelLimits(rpm=5) == limits.lowered("rpm", 5)
    assert limits == limits.lowered("rpm", 50)
    assert ModelLimits(rpm=10, rpd=250) == limits.lowered("rpd", 250)
    with pytest.raises(ValueError, match="rpm must be"):
        limits.lowered("rpm", 0)
    with pytest.raises(ValueError, match="ipm is not a limit"):
        limits.lowered("ipm", 1)


def demand(tokens=1, micro_usd=1):
    return Demand(caller="ann", account="ours", model="a", tokens=tokens, micro_usd=micro_usd)


def test_a_ticket_that_needs_more_than_a_whole_window_is_refused_with_both_numbers():
    limits = ModelLimits(tpm=5000)
    demand(5000, 10).check(limits, 10)

    with pytest.raises(TooLarge, match="needs 5,001 of tpm, whose whole window has 5,000") as caught:
        demand(5001).check(limits, 10)
    assert ("tpm", 5001, 5000) == (caught.value.limit, caught.value.needed, caught.value.most)
    with pytest.raises(TooLarge, match=r"needs 2\.5 of usd_per_10_minutes, whose whole window has 1"):
        demand(1, 2_500_000).check(limits, 1_000_000)


def test_a_turn_is_as_long_as_the_largest_share_in_millionths():
    limits = ModelLimits(rpm=100, tpm=1000)

    assert 10_000 == demand(1).share(limits, 100)  # a request
    assert 500_000 == demand(500).share(limits, 100)
    assert 700_000 == demand(500, 70).share(limits, 100)


def test_more_than_two_per_cent_of_a_window_is_large():
    limits = ModelLimits(tpm=1000)

    assert [False, True, True] == [
        each.is_large(limits, 1000) for each in (demand(20, 20), demand(21, 20), demand(20, 21))
    ]
