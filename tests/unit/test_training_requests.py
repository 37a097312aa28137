"""The body of `POST /trainings`: the inputs that follow from it, and its refusals."""

from io import BytesIO

import pytest

from catalog.references import Upload
from errors import InvalidRequest
from models import declared
from parsing.context import ParseContext
from parsing.trainings import parse_training
from tests.support.trainers import trainer, trainer_with

CONTEXT = ParseContext(declared())


def a_zip():
    return Upload(BytesIO(b"PK\x05\x06"))


def parsed(body=(), *, name="ostris/flux-dev-lora-trainer", accepted=False, **fields):
    sent = {"trainer": name, "destination": "me/dog", "images": a_zip(), **dict(body), **fields}
    context = ParseContext(declared(), accepted=accepted)
    return parse_training(sent, trainer(name), context)[1]


def problems_of(body=(), **fields):
    """The messages of all problems, by field."""
    with pytest.raises(InvalidRequest) as refused:
        parsed(body, **fields)
    return {each.field: each.message for each in refused.value.problems}


@pytest.mark.parametrize(
    ("name", "zip_input", "word_input"),
    [
        ("ostris/flux-dev-lora-trainer", "input_images", "trigger_word"),
        ("stability-ai/sdxl", "input_images", "token_string"),
    ],
)
def test_images_and_the_trigger_word_go_to_the_inputs_of_the_trainer(name, zip_input, word_input):
    sent = parsed(name=name, trigger_word="TOK").first.input
    assert isinstance(sent[zip_input], Upload)
    assert sent[word_input] == "TOK"


def test_a_trainer_without_a_word_is_sent_none():
    sent = parsed(name="qwen/qwen-image-lora-trainer", trigger_word="TOK").first.input
    assert [*sent] == ["dataset"]


@pytest.mark.parametrize("field", ["input_images", "trigger_word"])
def test_what_has_a_field_of_its_own_cannot_stand_in_input(field):
    assert f"input.{field}" in problems_of(input={field: "https://example.com/a.zip"})


def test_a_misspelt_input_is_refused_with_the_name_that_was_meant():
    fast = problems_of(name="replicate/fast-flux-trainer", input={"steps": 1000})
    assert "training_steps" in fast["input.steps"]
    assert "steps" in problems_of(input={"training_steps": 1000})["input.training_steps"]


def test_inputs_are_checked_against_the_schema_of_trainings():
    found = problems_of(input={"steps": 7000, "lora_rank": 0, "autocaption": "maybe"})
    assert {*found} == {"input.steps", "input.lora_rank", "input.autocaption"}


def test_numbers_as_texts_become_numbers():
    assert parsed(input={"steps": "1500"}).first.input["steps"] == 1500


def test_all_problems_are_reported_together():
    found = problems_of(
        destination="me/dog/9", images=None, timeout=1, colour="red", input={"steps": 0}, create_destination=3
    )
    assert {*found} == {"destination", "images", "timeout", "colour", "input.steps", "create_destination"}


def test_a_trainer_that_is_none_is_refused_beside_the_others():
    body = {"trainer": "acme/upscaler", "destination": "me/dog", "timeout": 1}
    with pytest.raises(InvalidRequest) as refused:
        parse_training(body, "is a model without a training", CONTEXT)
    assert {each.field for each in refused.value.problems} == {"trainer", "timeout", "images"}


def test_a_secret_is_neither_sent_as_an_input_nor_kept():
    request = parsed(input={"hf_token": "hf_secret", "hf_repo_id": "me/dog"})
    assert dict(request.secrets) == {"hf_token": "hf_secret"}
    assert "hf_token" not in request.first.input
    assert request.given["input"] == {"hf_token": None, "hf_repo_id": "me/dog"}


def test_a_secret_that_was_lost_with_a_process_is_remembered_as_lost():
    kept = parsed(input={"hf_token": "hf_secret"}).given
    again = parse_training(kept, trainer(), ParseContext(declared(), accepted=True))[1]
    assert again.lost_secrets == {"hf_token"}


def test_the_timeout_bounds_the_cost():
    assert parsed().bound == pytest.approx(10.98)
    assert parsed(timeout=1000).bound == pytest.approx(1.525)


@pytest.mark.parametrize(
    ("timeout", "steps", "warns"), [(600, 1000, True), (1120, 1000, False), (600, 300, False)]
)
def test_a_training_that_usually_runs_longer_than_its_timeout_has_a_warning(timeout, steps, warns):
    warnings = parsed(timeout=timeout, input={"steps": steps}).warnings
    assert warns == any("timeout of 600 s" in each and "1,120 s" in each for each in warnings)
    assert warns == bool(warnings)


def test_a_zip_at_an_address_is_put_in_when_it_is_there():
    assert "input_images" not in parsed(images="https://example.com/a.zip").first.input


FILE = {"type": "string", "format": "uri"}


@pytest.mark.parametrize(
    ("schema", "required", "word", "message"),
    [
        ({"type": "string", "enum": ["TOK", "SKS"]}, (), "dog", "must be"),
        ({"type": "string", "maxLength": 3}, (), "long", "at most 3"),
        ({"type": "string"}, ("trigger",), None, "is required"),
    ],
)
def test_the_word_is_checked_by_the_schema_of_the_trainer(schema, required, word, message):
    found = trainer_with({"images": FILE, "trigger": schema}, required=required)
    body = {"trainer": "acme/trainer", "destination": "me/dog", "images": a_zip(), "trigger_word": word}
    with pytest.raises(InvalidRequest) as refused:
        parse_training(body, found, CONTEXT)
    [problem] = refused.value.problems
    assert ("trigger_word", True) == (problem.field, message in problem.message)
    body["trigger_word"] = "SKS"
    assert "SKS" == parse_training(body, found, CONTEXT)[1].first.input["trigger"]


def test_a_trainer_of_lists_of_files_takes_no_zip():
    found = trainer_with({"images": {"type": "array", "items": FILE}, "archive": FILE})
    assert "archive" == found.zip_input
    body = {"trainer": "acme/trainer", "destination": "me/dog", "images": a_zip()}
    with pytest.raises(InvalidRequest) as refused:
        parse_training(body, trainer_with({"images": {"type": "array", "items": FILE}}), CONTEXT)
    assert ["trainer"] == [each.field for each in refused.value.problems]
