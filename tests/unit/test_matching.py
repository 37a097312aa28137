"""Which creation made a listed prediction, by what Replicate shows of it."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.targets import Target
from providers import Prediction
from providers.fingerprints import fingerprint
from providers.origins import Origin
from providers.replicate.answers import ListedPrediction
from providers.replicate.matching import Candidates, CreationKey, Fit, fit_of

ONE, TWO = "1" * 64, "2" * 64
SENT = {"prompt": "a fox"}
NAME, FIRST, SECOND, DEPLOYED = "a/b", f"a/b:{ONE}", f"a/b:{TWO}", "deployments/me/app"


OFFICIAL = "hidden"


def key(target, sent=SENT, hidden=(), account="r8_me"):
    return CreationKey(account, Target.parse(target), fingerprint(sent), frozenset(hidden))


def listed(model="a/b", version=None, deployment=None, sent=SENT, *, name="p1", age=0.0, removed=False):
    made = datetime(2026, 1, 1, tzinfo=UTC) - timedelta(seconds=age)
    prediction = Prediction(name, "starting", created_at=made, is_removed=removed)
    return ListedPrediction(prediction, Origin(model, version, deployment, sent))


@pytest.mark.parametrize(
    ("target", "shown", "fit"),
    [
        (NAME, {"version": "hidden"}, Fit.EXACT),
        (NAME, {"version": "dp-4d0bcc010b3049749a251855f12800be"}, Fit.EXACT),
        (NAME, {}, Fit.POSSIBLE),
        (NAME, {"version": ONE}, Fit.POSSIBLE),
        (NAME, {"model": "a/c"}, Fit.NONE),
        (NAME, {"model": None}, Fit.NONE),
        (NAME, {"deployment": "me/app"}, Fit.NONE),
        (FIRST, {"version": ONE}, Fit.EXACT),
        (FIRST, {"version": TWO}, Fit.NONE),
        (FIRST, {"version": "hidden"}, Fit.POSSIBLE),
        (FIRST, {}, Fit.POSSIBLE),
        (FIRST, {"version": ONE, "model": "a/c"}, Fit.NONE),
        (FIRST, {"version": ONE, "deployment": "me/app"}, Fit.NONE),
        (ONE, {"version": ONE}, Fit.EXACT),
        (ONE, {"version": ONE, "model": "a/c"}, Fit.EXACT),
        (ONE, {"version": TWO}, Fit.NONE),
        (ONE, {"version": "hidden"}, Fit.POSSIBLE),
        (ONE, {"version": ONE, "deployment": "me/app"}, Fit.NONE),
        (DEPLOYED, {"deployment": "me/app"}, Fit.EXACT),
        (DEPLOYED, {"deployment": "me/app", "model": "c/d", "version": ONE}, Fit.EXACT),
        (DEPLOYED, {"deployment": "app"}, Fit.EXACT),
        (DEPLOYED, {"deployment": "me/other"}, Fit.NONE),
        (DEPLOYED, {"deployment": "other"}, Fit.NONE),
        (DEPLOYED, {"version": "hidden"}, Fit.NONE),
        (DEPLOYED, {"version": ONE}, Fit.DOUBTFUL),
        (DEPLOYED, {}, Fit.DOUBTFUL),
    ],
)
def test_a_prediction_fits_a_target_by_its_model_version_and_deployment(target, shown, fit):
    origin = listed(**shown).origin

    assert fit is fit_of(Target.parse(target), origin)
    assert fit is key(target).fit(listed(**shown))


def test_a_prediction_with_another_input_fits_no_creation():
    assert Fit.NONE is key(NAME).fit(listed(sent={"prompt": "a cat"}))


@pytest.mark.parametrize("sent", [None, [], "a fox"])
def test_a_prediction_without_an_input_is_doubtful(sent):
    assert Fit.DOUBTFUL is key(NAME).fit(listed(sent=sent))
    assert Fit.DOUBTFUL is key(NAME).fit(listed(sent={}, removed=True))
    assert Fit.NONE is key(NAME).fit(listed(sent={}))
    assert Fit.NONE is key(FIRST).fit(listed(version=TWO, sent=sent))


@pytest.mark.parametrize(
    ("shown", "fit"),
    [
        ({"hf_token": "hf_secret"}, Fit.EXACT),
        ({"hf_token": "[REDACTED]"}, Fit.EXACT),
        ({"hf_token": None}, Fit.EXACT),
        ({}, Fit.POSSIBLE),
        ({"hf_token": "hf_secret", "seed": 1}, Fit.NONE),
    ],
)
def test_inputs_are_compared_without_the_secret_ones_whatever_replicate_shows_of_them(shown, fit):
    assert fit is key(NAME, hidden=["hf_token"]).fit(listed(version=OFFICIAL, sent=SENT | shown))


def test_a_prediction_with_a_secret_does_not_fit_a_creation_without_one():
    assert Fit.NONE is key(NAME).fit(listed(sent=SENT | {"hf_token": "hf_secret"}))


def test_nothing_secret_is_in_the_text_of_an_origin_or_of_a_key():
    secret = listed(sent={"hf_token": "hf_secret"})

    assert "hf_secret" not in repr(secret)
    assert "r8_me" not in repr(key(NAME))


def candidates(target, *items, hidden=()):
    return Candidates(key(target, hidden=hidden), items, may_be=lambda _: True)


def adopted(target, *items, others=(), hidden=()):
    others = [key(each) for each in others]
    return [each.id for each in candidates(target, *items, hidden=hidden).adoptable(others)]


def test_the_oldest_prediction_is_adopted_first():
    items = [listed(name=f"p{age}", age=age) for age in (1, 3, 2)]

    assert ["p3", "p2", "p1"] == adopted(NAME, *items)


def test_two_versions_with_the_same_input_are_told_apart_by_version():
    items = [listed(name="p1", version=ONE), listed(name="p2", version=TWO)]

    assert ["p1"] == adopted(FIRST, *items, others=[SECOND])
    assert ["p2"] == adopted(SECOND, *items, others=[FIRST])


def test_a_prediction_that_hides_its_version_is_adopted_by_no_version_while_another_is_in_doubt():
    item = listed(version="hidden")

    assert ["p1"] == adopted(FIRST, item)
    assert [] == adopted(FIRST, item, others=[SECOND])
    assert candidates(FIRST, item).are_undecided([key(SECOND)], latest=0.0)
    assert not candidates(FIRST, item).are_undecided([], latest=0.0)


def test_a_model_by_its_name_adopts_what_hides_its_version_and_a_version_what_shows_it():
    hidden, shown = listed(version="hidden", name="p1"), listed(version=ONE, name="p2")

    assert ["p1"] == adopted(NAME, hidden, shown, others=[FIRST])
    assert ["p2"] == adopted(FIRST, hidden, shown, others=[NAME])


def test_a_prediction_that_shows_the_version_is_preferred_to_one_that_hides_it():
    hidden, shown = listed(version="hidden", name="p1", age=5), listed(version=ONE, name="p2")

    assert ["p2"] == adopted(FIRST, hidden, shown)
    assert ["p1"] == adopted(NAME, hidden, shown)


def test_a_deployment_adopts_only_what_shows_its_name_and_is_undecided_about_the_rest():
    mine, unnamed = listed(deployment="me/app", name="p1"), listed(version=ONE, name="p2")

    assert ["p1"] == adopted(DEPLOYED, mine, unnamed, listed(deployment="me/other"))
    assert candidates(DEPLOYED, unnamed).are_undecided([], latest=2e9)
    assert ["p2"] == adopted(FIRST, unnamed, others=[DEPLOYED])


def test_a_creation_of_another_account_contests_nothing():
    assert not key(FIRST, account="r8_other").may_contest(key(SECOND))
    assert key(FIRST).may_contest(key(SECOND))
    assert not key(FIRST).may_contest(key(FIRST))


TARGETS = [NAME, FIRST, SECOND, DEPLOYED, "deployments/me/other"]
TRUTHS = {
    NAME: ("a/b", "hidden", None),
    FIRST: ("a/b", ONE, None),
    SECOND: ("a/b", TWO, None),
    DEPLOYED: ("a/b", ONE, "me/app"),
    "deployments/me/other": ("a/b", TWO, "me/other"),
}


@given(
    made=st.lists(st.tuples(st.sampled_from(TARGETS), st.booleans()), max_size=6),
    lost=st.lists(st.sampled_from(TARGETS), min_size=1, max_size=5, unique=True),
)
def test_no_creation_in_doubt_adopts_the_prediction_of_another_whether_versions_are_shown_or_not(made, lost):
    items, makers = [], {}
    for number, (target, shows_version) in enumerate(made):
        if target in lost:
            model, version, deployment = TRUTHS[target]
            items.append(listed(model, version if shows_version else None, deployment, name=f"p{number}"))
            makers[f"p{number}"] = target

    for target in lost:
        others = [each for each in lost if each != target]
        assert {target} >= {makers[each] for each in adopted(target, *items, others=others)}
