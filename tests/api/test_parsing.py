"""Parsing: all problems are reported at once, by field and index, before anything is spent. A batch has two forms."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errors import InvalidRequest
from parsing.batch import MAX_BATCH_ITEMS
from parsing.limits import parse_limits
from parsing.params import LONGEST_INPUT
from providers.replicate.resources import MAX_PREDICTION
from tests.support.callers import ADMIN, PICTURE
from tests.support.declarations import MODELS, parse_batch, parse_generation
from tests.support.problem_documents import fields, messages


def refused(parse, body):
    """The messages of the problems of a refused body, by field."""
    found = messages(parse, body)
    assert found
    return found


@pytest.mark.parametrize(
    "wrong",
    [{"timeout": 0}, {"max_cost_usd": -1}, {"model_name": "nope"}, {"guidance": 99}, {"fallback": 3}],
)
def test_an_invalid_webhook_is_reported_with_all_other_problems(wrong):
    body = PICTURE | {"webhook": "x"} | wrong

    assert {"webhook", *wrong} == set(refused(parse_generation, body))
    assert {"webhook", "max_concurrent", *(f"requests[0].{name}" for name in ("webhook", *wrong))} == set(
        refused(parse_batch, {"requests": [body], "webhook": "x", "max_concurrent": 0})
    )


def test_an_invalid_fallback_is_reported_with_all_other_problems():
    body = PICTURE | {"timeout": 0, "negative_prompt": "blur", "fallback": ["nope"]}

    assert {"timeout", "fallback[0]"} == set(refused(parse_generation, body))


def test_all_problems_are_reported_at_once_by_field(client, simulator):
    body = {
        "model_name": "flux-dev",
        "prompt": " ",
        "num_inference_steps": 99,
        "guidance": "3",
        "aspect_ratio": "7:1",
        "go_fast": 1,
        "image": "no",
        "timeout": 0,
        "steps": 4,
    }
    answer = client.post("/generate", json=body, headers=ADMIN)

    assert sorted(set(body) - {"model_name"}) == sorted(fields(answer))
    by_field = {each["field"]: each for each in answer.json["errors"]}
    assert {"field": "num_inference_steps", "message": "must be at most 50", "given": 99} == by_field[
        "num_inference_steps"
    ]
    assert "must be true or false" == by_field["go_fast"]["message"]
    assert "must be a number" == by_field["guidance"]["message"]
    assert by_field["aspect_ratio"]["message"].startswith("must be 1:1, 16:9, ")
    assert {} == dict(simulator.counts().requests)


@pytest.mark.parametrize("body", [[], "x", 1, 1.5, None, True, [PICTURE]])
@pytest.mark.parametrize("parse", [parse_generation, parse_batch, parse_limits])
def test_a_body_that_is_no_object_is_refused(parse, body):
    assert {"body": "must be a JSON object"} == refused(parse, body)


def test_a_missing_field_is_reported_without_a_value():
    names = ", ".join(MODELS)

    assert {"model_name": f"is required; there are {names}", "prompt": "is required"} == refused(
        parse_generation, {}
    )
    assert {"prompt": "is required"} == refused(parse_generation, {"model_name": "flux-dev"})


def test_a_bad_prompt_is_reported_even_when_the_model_is_unknown():
    assert {"model_name", "prompt"} == set(refused(parse_generation, {"model_name": "nope", "prompt": 3}))


@pytest.mark.parametrize(
    ("given", "called"),
    [
        ("https://a.com/b?c=%2F", "https://a.com/b?c=%2F"),
        (" https://a.com/b c\n", "https://a.com/b%20c"),
        ("https://a.com/{b}?c=%", "https://a.com/%7Bb%7D?c=%25"),
        ("https://ü.com/ä", "https://xn--tda.com/%C3%A4"),
    ],
)
def test_a_webhook_is_called_at_its_encoded_url(given, called):
    assert called == parse_generation(PICTURE | {"webhook": given}).webhook
    assert called == parse_batch({"requests": [PICTURE], "webhook": given}).webhook


@pytest.mark.parametrize(
    "given",
    ["https://a.com/b\nc", "https://a.com\\b", "https://a b.com", "https://a.com/\u200b", "https://ü/"],
)
def test_a_webhook_that_cannot_be_encoded_is_refused(given):
    assert ["webhook"] == list(refused(parse_generation, PICTURE | {"webhook": given}))


@pytest.mark.parametrize("timeout", [1, 1.5, 1800, None])
def test_a_timeout_is_accepted_up_to_both_bounds(timeout):
    assert timeout == parse_generation(PICTURE | {"timeout": timeout}).timeout


@pytest.mark.parametrize("timeout", [0, 0.99, 1800.01, "5", True, [], 10**400, float("nan")])
def test_a_timeout_outside_its_bounds_is_refused(timeout):
    assert ["timeout"] == list(refused(parse_generation, PICTURE | {"timeout": timeout}))


def test_a_batch_is_refused_as_a_whole_with_the_index_of_each_bad_item():
    body = {
        "requests": [
            PICTURE,
            PICTURE | {"guidance": 11},
            7,
            PICTURE,
            {"model_name": "qwen-image"},
            PICTURE | {"promt": 1},
        ]
    }

    assert {
        "requests[1].guidance": "must be at most 10",
        "requests[2]": "must be a JSON object",
        "requests[4].prompt": "is required",
        "requests[5].promt": "is not a known field; did you mean prompt?",
    } == refused(parse_batch, body)


def test_prompts_are_refused_by_index_and_shared_fields_by_name():
    body = {"model_name": "flux-dev", "prompts": ["a", "", 3, "\0"], "guidance": 11, "max_concurrent": 0}

    assert {
        "max_concurrent": "must be at least 1",
        "prompts[1]": "must not be empty",
        "prompts[2]": "must be a string",
        "prompts[3]": "must not contain NUL",
        "guidance": "must be at most 10",
    } == refused(parse_batch, body)


TOO_LONG = "is too long: the input of a model may have 4,000,000 bytes as JSON"


@pytest.mark.parametrize("prompt", ["a" * LONGEST_INPUT, "\u00e9" * 700_000, "\U0001f98a" * 340_000])
@pytest.mark.parametrize("fallback", [False, True])
def test_an_input_too_long_for_replicate_to_repeat_is_refused_at_its_longest_field(prompt, fallback):
    body = PICTURE | {"prompt": prompt, "fallback": fallback}

    assert {"prompt": TOO_LONG} == refused(parse_generation, body)
    assert {"requests[1].prompt": TOO_LONG} == refused(parse_batch, {"requests": [PICTURE, body]})


def test_each_prompt_of_a_batch_is_measured_together_with_the_shared_fields():
    body = {"model_name": "qwen-image", "negative_prompt": "b" * 2_000_000}

    wrong = refused(parse_batch, body | {"prompts": ["a" * 1_900_000, "a" * 2_000_001, "\u00e9" * 333_334]})

    assert {"prompts[1]": TOO_LONG, "prompts[2]": TOO_LONG} == wrong


@pytest.mark.parametrize("prompt", ["a" * 3_999_000, "\u00e9" * 660_000])
def test_an_input_short_enough_to_be_repeated_is_accepted(prompt):
    assert prompt == parse_generation(PICTURE | {"prompt": prompt}).first.input["prompt"]
    batch = parse_batch({"model_name": "flux-dev", "prompts": ["a", prompt]})
    assert prompt == batch.requests[1].first.input["prompt"]


def test_a_prediction_of_four_times_the_longest_input_is_read():
    assert 4 * LONGEST_INPUT <= MAX_PREDICTION


def test_prompts_share_the_fields_beside_them():
    batch = parse_batch(
        {"model_name": "qwen-image", "prompts": ["a", "b"], "seed": 1, "max_concurrent": 2, "timeout": 9}
    )

    assert [{"prompt": "a", "seed": 1}, {"prompt": "b", "seed": 1}] == [
        each.first.input for each in batch.requests
    ]
    assert [9, 9] == [each.timeout for each in batch.requests]
    assert 2 == batch.max_concurrent


def test_the_requests_of_a_batch_may_mix_models_and_keep_their_order():
    batch = parse_batch(
        {"requests": [PICTURE, {"model_name": "qwen-image", "prompt": "b"}], "max_concurrent": 1}
    )

    assert ["flux-dev", "qwen-image"] == [each.requested_model for each in batch.requests]


@pytest.mark.parametrize("form", ["prompts", "requests"])
def test_a_batch_of_10000_is_accepted_and_one_item_more_is_refused(form):
    def body(items):
        if form == "prompts":
            return {"model_name": "flux-dev", "prompts": ["a"] * items}
        return {"requests": [PICTURE] * items}

    assert MAX_BATCH_ITEMS == 10_000 == len(parse_batch(body(10_000)).requests)
    assert {form: "must hold at most 10000 items"} == refused(parse_batch, body(10_001))


@pytest.mark.parametrize("form", ["prompts", "requests"])
@pytest.mark.parametrize("given", ["abc", {}, 1, True, {"0": PICTURE}])
def test_a_batch_that_is_no_list_is_refused(form, given):
    assert "must be a list" == refused(parse_batch, {"model_name": "flux-dev", form: given})[form]


@pytest.mark.parametrize("form", ["prompts", "requests"])
def test_an_empty_batch_is_refused(form):
    assert "must hold at least one item" == refused(parse_batch, {"model_name": "flux-dev", form: []})[form]


def test_a_batch_of_neither_form_is_refused_with_both_forms_and_all_other_problems():
    problems = refused(parse_batch, {"model_name": "flux-dev", "promts": ["a"], "guidance": 11})

    assert {"prompts", "promts", "guidance"} == set(problems)
    assert "is required, or `requests` in its place" == problems["prompts"]


def test_both_forms_at_once_are_refused():
    body = {"model_name": "flux-dev", "prompts": ["a"], "requests": [PICTURE]}

    assert {"model_name", "prompts"} == set(refused(parse_batch, body))


def test_a_prompt_beside_prompts_is_refused():
    body = PICTURE | {"prompts": ["a"]}

    assert {"prompt": "cannot stand beside `prompts`"} == refused(parse_batch, body)


@pytest.mark.parametrize("given", [0, -1, 1.5, 0.0, "1", True, [], [None]])
def test_max_concurrent_is_a_whole_number_from_1(given):
    assert ["max_concurrent"] == list(refused(parse_batch, {"requests": [PICTURE], "max_concurrent": given}))


def test_ten_thousand_bad_items_are_reported_in_a_bounded_response():
    with pytest.raises(InvalidRequest) as refused:
        parse_batch({"requests": [{"prompt": 1}] * 10_000})

    assert 101 == len(refused.value.problems)
    assert ("body", "has more problems than these") == (
        refused.value.problems[-1].field,
        refused.value.problems[-1].message,
    )


def test_a_body_with_far_too_many_fields_is_refused_without_a_check_of_each():
    many = PICTURE | {f"field_{number}": 1 for number in range(100)}

    assert {"body": "must have at most 100 fields"} == refused(parse_generation, many)
    assert {"requests[1]": "must have at most 100 fields"} == refused(
        parse_batch, {"requests": [PICTURE, many]}
    )
    assert {"body": "must have at most 100 fields"} == refused(parse_limits, many)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(
    ["model_name", "prompt", "prompts", "requests", "timeout", "max_concurrent", "image", "seed", "guidance"]
)
LIKELY = (
    JSON_VALUES
    | st.sampled_from(["flux-dev", "qwen-image", "kontext-max"])
    | st.lists(st.just(PICTURE), max_size=3)
)


@given(st.dictionaries(NAMES | st.text(max_size=6), LIKELY, max_size=6) | JSON_VALUES)
def test_every_body_is_accepted_as_valid_or_refused_with_problems(body):
    for parse in (parse_generation, parse_batch, parse_limits):
        try:
            parse(body)
        except InvalidRequest as invalid:
            refused = invalid.as_problem("req")
            assert refused["errors"]


def test_a_request_for_an_unknown_model_also_reports_fields_that_no_model_has():
    body = {"model": "flux-dev", "prompt": "a", "guidance": 3, "sead": 1}

    assert {
        "model_name": f"is required; there are {', '.join(MODELS)}",
        "model": "is not a known field; did you mean model_name?",
        "sead": "is not a known field; did you mean seed?",
    } == refused(parse_generation, body)


@pytest.mark.parametrize("more", [{}, {"fallback": True}, {"model_name": "nope"}])
def test_a_batch_field_inside_a_request_is_reported_as_belonging_to_the_batch(more):
    fields = {"dry_run": True, "max_concurrent": 1, "prompts": ["a"], "file_names": ["a"], "requests": []}
    found = refused(parse_batch, {"requests": [PICTURE | fields | more]})

    belongs, cannot = "belongs to the batch, beside `requests`", "cannot stand in `requests`"
    for name in fields:
        expected = belongs if name in {"dry_run", "max_concurrent"} else cannot
        assert expected == found[f"requests[0].{name}"]
    alone = refused(parse_generation, PICTURE | more | {"max_concurrent": 1, "prompts": ["a"]})
    assert "is for POST /generate-batch" == alone["max_concurrent"] == alone["prompts"]
