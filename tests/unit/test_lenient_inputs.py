"""A request that is read as Replicate reads inputs."""

from dataclasses import replace

import pytest

from errors import InvalidRequest
from parsing.generation import parse_generation
from tests.support.declarations import CONTEXT

LENIENT = replace(CONTEXT, lenient=True)


def body(**inputs):
    return {"model_name": "flux-schnell", "input": {"prompt": "a fox", **inputs}}


def test_inputs_that_the_model_does_not_have_are_passed_on_unchanged():
    strange = {"no_such_input": {"a": [1, None]}, "input_image": "not an image", "guidance": None}

    request = parse_generation(body(**strange), LENIENT)

    assert strange | {"prompt": "a fox"} == request.first.input
    with pytest.raises(InvalidRequest):
        parse_generation(body(**strange), CONTEXT)


def test_a_text_that_is_exactly_a_number_or_a_boolean_becomes_one():
    request = parse_generation(body(seed="3", go_fast="false"), LENIENT)

    assert (3, False) == (request.first.input["seed"], request.first.input["go_fast"])


@pytest.mark.parametrize("wrong", [{"num_outputs": 9}, {"num_outputs": "many"}, {"api_key": "secret"}])
def test_an_input_that_the_model_refuses_or_that_names_a_secret_stays_a_problem(wrong):
    with pytest.raises(InvalidRequest) as refused:
        parse_generation(body(**wrong), LENIENT)

    assert [f"input.{name}" for name in wrong] == [each.field for each in refused.value.problems]


def test_an_accepted_request_is_read_again_as_it_was():
    sent = body(no_such_input=1, seed="3")
    first = parse_generation(sent, LENIENT)

    again = parse_generation(dict(first.given), replace(LENIENT, accepted=True))

    assert first.first.input == again.first.input
