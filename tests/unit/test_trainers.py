"""Trainers: the names of their inputs, how long they take, and what a training may cost."""

import pytest

from catalog.trainers import trainer_of
from generations.costs import charge
from providers import Prediction
from tests.support.trainers import published, trainer

H100 = 0.001525

NAMES = {
    "ostris/flux-dev-lora-trainer": ("input_images", "trigger_word", "steps"),
    "replicate/fast-flux-trainer": ("input_images", "trigger_word", "training_steps"),
    "qwen/qwen-image-lora-trainer": ("dataset", None, "steps"),
    "stability-ai/sdxl": ("input_images", "token_string", "max_train_steps"),
}


@pytest.mark.parametrize("name", NAMES)
def test_the_inputs_of_each_trainer_are_found(name):
    found = trainer(name)
    assert (found.zip_input, found.word_input, found.steps_input) == NAMES[name]


def test_a_model_without_a_training_is_no_trainer():
    assert trainer_of(published("acme/upscaler")) is None


def test_secrets_of_a_training_are_known():
    assert trainer().inputs.secrets == {"hf_token", "wandb_api_key"}


def test_a_training_may_cost_its_timeout_at_the_price_of_an_h100():
    assert trainer().bound({}, longest=7200) == pytest.approx(7200 * H100)


def test_a_trainer_on_eight_gpus_has_a_shorter_timeout_and_the_same_bound():
    fast = trainer("replicate/fast-flux-trainer")
    assert fast.bound({}, longest=fast.pace.timeout) == pytest.approx(7200 * H100)


def test_more_steps_take_longer():
    found = trainer()
    assert found.usual_run({"steps": 3000}) > 2 * found.usual_run({"steps": 1000})


def test_steps_that_are_not_sent_are_those_of_the_trainer():
    assert trainer().steps({}) == 1000


@pytest.mark.parametrize(
    ("status", "started", "usd"),
    [
        ("failed", True, 100 * H100),
        ("canceled", True, 100 * H100),
        ("canceled", False, 0.0),
        ("failed", False, 0.0),
    ],
)
def test_a_training_that_ends_early_costs_what_it_ran(status, started, usd):
    ended = Prediction("t", status, started=started, metrics={"predict_time": 100.0, "total_time": 400.0})
    assert charge(trainer(), {}, ended, longest=7200) == pytest.approx(usd)
