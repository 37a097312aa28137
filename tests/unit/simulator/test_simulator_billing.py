"""The cost of each prediction, and the models to which directives apply."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator import catalog
from tests.unit.simulator.creations import BANANA, FLUX_DEV, KLING, PRO, VEO, creation, run_in_virtual_time


def bill(*arguments, cancelled_after=None, **named):
    """The final status and the cost of one prediction."""
    (record,), counts = run_in_virtual_time(creation(*arguments, **named), cancelled_after=cancelled_after)
    assert counts.billed_usd == record.billed_usd
    return record.status, record.billed_usd


@pytest.mark.parametrize(
    ("model", "inputs", "usd"),
    [
        (FLUX_DEV, {}, 0.025),
        (FLUX_DEV, {"num_outputs": 4}, 0.1),
        ("black-forest-labs/flux-schnell", {"num_outputs": 3}, 0.009),
        (PRO, {}, 0.04),
        (PRO, {"num_outputs": 4}, 0.04),  # it has no such input
        ("black-forest-labs/flux-kontext-max", {}, 0.08),
        ("qwen/qwen-image", {}, 0.025),
        ("qwen/qwen-image", {"num_outputs": 4}, 0.025),
        ("google/imagen-4-ultra", {}, 0.06),
        (BANANA, {}, 0.039),
        (VEO, {}, 3.32),
        (VEO, {"duration": 4}, 3.32),
        (KLING, {}, 1.4),
        (KLING, {"duration": 10}, 2.8),
    ],
)
def test_a_success_costs_its_models_price(model, inputs, usd):
    assert ("succeeded", usd) == bill(model=model, **inputs)
    assert ("processing", usd) == bill("[[early]]", model=model, **inputs)


def test_missing_outputs_are_not_billed():
    assert ("succeeded", 0.075) == bill("[[fewer]]", num_outputs=4)
    assert ("succeeded", 0.0) == bill("[[empty]]", num_outputs=4)
    assert ("succeeded", 0.0) == bill("[[empty]]", model=VEO)


@pytest.mark.parametrize("prompt", ["[[text]]", "[[gone]]", "[[blank]]", "[[page]]"])
def test_an_output_without_a_picture_is_billed_only_per_call_or_second(prompt):
    assert ("succeeded", 0.0) == bill(prompt, num_outputs=4)
    assert ("succeeded", 3.32) == bill(prompt, model=VEO)
    assert ("succeeded", 2.8) == bill(prompt, model=KLING, duration=10)
    assert ("succeeded", 0.075) == bill("[[fewer]] [[text]]", num_outputs=4)


@pytest.mark.parametrize("prompt", ["[[fail]]", "[[nsfw]]", "[[transient]]"])
@pytest.mark.parametrize("model", [FLUX_DEV, VEO, KLING])
def test_a_failure_costs_nothing(model, prompt):
    assert ("failed", 0.0) == bill(prompt, model=model)


@pytest.mark.parametrize(
    ("model", "inputs", "usd"),
    [(FLUX_DEV, {"num_outputs": 3}, 0.075), (PRO, {}, 0.04), (VEO, {}, 3.32), (KLING, {"duration": 10}, 2.8)],
)
def test_a_prediction_cancelled_while_running_costs_all_requested_outputs(model, inputs, usd):
    assert ("canceled", usd) == bill("[[hang]]", model=model, cancelled_after=5, **inputs)
    assert ("canceled", usd) == bill("[[hang]]", model=model, cancel_after=5, **inputs)
    assert ("canceled", usd) == bill("[[canceled]]", model=model, **inputs)


@pytest.mark.parametrize("model", [FLUX_DEV, VEO, KLING])
def test_a_prediction_that_never_started_costs_nothing(model):
    assert ("canceled", 0.0) == bill("[[cold]]", model=model, cancelled_after=5)
    assert ("aborted", 0.0) == bill("[[cold]]", model=model, cancel_after=5)
    assert ("aborted", 0.0) == bill("[[aborted]]", model=model)


def test_cancelling_an_ended_prediction_does_not_change_its_cost():
    assert ("succeeded", 0.025) == bill(cancelled_after=20)
    assert ("failed", 0.0) == bill("[[fail]]", cancelled_after=20)


PROMPTS = ["a fox", "[[early]]", "[[empty]]", "[[fewer]]", "[[fail]]", "[[hang]]", "[[cold]]", "[[aborted]]"]
REQUESTS = st.builds(
    creation,
    st.sampled_from(PROMPTS),
    model=st.sampled_from([model.name for model in catalog.MODELS]),
    num_outputs=st.integers(1, 4),
)


@settings(max_examples=30, deadline=None)
@given(st.lists(REQUESTS, max_size=8), st.none() | st.integers(0, 20))
def test_the_bill_is_the_sum_of_the_costs_of_all_predictions(requests, cancelled_after):
    records, counts = run_in_virtual_time(*requests, cancelled_after=cancelled_after)

    assert counts.billed_usd == round(sum(record.billed_usd for record in records), 6)


def test_the_bill_is_in_the_counts_over_http_and_a_reset_clears_it(sim, http, outcome):
    outcome(num_outputs=2)
    outcome(model=KLING)

    assert 1.45 == sim.counts().billed_usd == http.get("/simulator/counts").json()["billed_usd"]
    shown = http.get("/simulator/predictions").json()["predictions"]
    assert [1.4, 0.05] == [each["billed_usd"] for each in shown]
    assert [0.05, 1.4] == [each.billed_usd for each in sim.predictions()]
    sim.reset()
    assert 0.0 == sim.counts().billed_usd


@pytest.mark.parametrize(
    ("prompt", "failed"),
    [
        ("[[nsfw]]", {FLUX_DEV, PRO, BANANA}),
        ("[[nsfw]] [[only=flux-dev]]", {FLUX_DEV}),
        ("[[only=flux-dev,nano-banana]] a fox [[nsfw]]", {FLUX_DEV, BANANA}),
        ("[[nsfw]] [[only=google/nano-banana, flux-1.1-pro]]", {PRO, BANANA}),
        ("[[nsfw]] [[only=flux]]", set()),
        ("[[nsfw]] [[only=somebody/flux-dev]]", set()),
        ("[[nsfw]] [[only=]]", set()),
        ("[[only=flux-dev]]", set()),
    ],
)
def test_only_limits_directives_to_the_named_models(prompt, failed):
    records, _ = run_in_virtual_time(*(creation(prompt, model=model) for model in (FLUX_DEV, PRO, BANANA)))

    assert failed == {record.model for record in records if record.status == "failed"}


def test_another_model_does_not_use_up_a_transient_failure():
    prompt = "[[transient]] [[only=nano-banana]]"
    records, _ = run_in_virtual_time(*(creation(prompt, model=model) for model in (FLUX_DEV, BANANA, BANANA)))

    assert ["succeeded", "failed", "succeeded"] == [record.status for record in records]


def test_one_prompt_can_fail_on_one_model_and_succeed_on_another(outcome):
    prompt = "[[only=flux-dev]] [[fail=out of foxes]]"

    assert ("failed", "out of foxes") == tuple(map(outcome(prompt).get, ("status", "error")))
    assert ("succeeded", None) == tuple(map(outcome(prompt, model=BANANA).get, ("status", "error")))
