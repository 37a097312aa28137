"""The kind of failure by the words of the error: refused, temporary, or neither."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from concurrency import Gate
from errors import GenerationFailed
from generations.retries import COSTLY, MAX_ATTEMPTS, MAX_COSTLY_ATTEMPTS
from providers import TryAgain
from providers.memory import MemoryProvider
from providers.outcomes import raise_unless_made
from providers.replicate.errors import cause_of
from providers.replicate.wordings import MOST_READ
from tests.support import virtual_time
from tests.support.callers import ADMIN, PICTURE
from tests.support.problem_documents import problem
from tests.support.wiring import a_picture, core, failed, run

WORDINGS = tomllib.loads((Path(__file__).parents[1] / "data" / "wordings.toml").read_text())

NSFW = "NSFW content detected. Try running it again, or try a different prompt."
OVERLOADED = "Service is currently unavailable due to high demand. Please try again later. (E003)"


def every(group):
    return [(cause, error) for cause, errors in WORDINGS[group].items() for error in errors]


def test_the_table_covers_the_wordings_that_it_was_made_from():
    assert [] == [(cause, error) for cause, error in every("made_from") if cause != cause_of(error)]


def test_the_table_covers_further_wordings():
    assert [] == [(cause, error) for cause, error in every("others") if cause != cause_of(error)]


@pytest.mark.parametrize(
    "spelled",
    [
        lambda error: error.replace(" ", "\t\u00a0 "),
        lambda error: error.replace(" ", "-"),
        lambda error: error.replace("'", "\u2019"),
        lambda error: error.replace(". ", ".\n"),
        lambda error: f"\n {error}\r\n\n",
        lambda error: f"[{error}]",
        lambda error: f"ModelError: {error}",
        lambda error: f"{error} (E1234)",
        lambda error: json.dumps({"error": {"code": 400, "message": error}}),
    ],
)
def test_spaces_punctuation_prefixes_and_codes_are_ignored(spelled):
    assert [] == [
        error for cause, error in every("made_from") + every("others") if cause != cause_of(spelled(error))
    ]


@pytest.mark.parametrize("spelled", [str.upper, str.lower])
def test_capitals_are_ignored_unless_they_separate_words(spelled):
    errors = [each for each in every("made_from") + every("others") if not re.search("[a-z][A-Z]", each[1])]

    assert [] == [error for cause, error in errors if cause != cause_of(spelled(error))]


def test_a_refusal_is_final_even_if_it_invites_to_retry():
    for invitation in ("Please try again.", "Try again later. (E004)", "The service is busy, retry later."):
        assert "content" == cause_of(f"Your prompt was flagged. {invitation}")


def test_a_long_error_is_read_at_its_start_and_end():
    filler = "x " * 500_000

    assert "content" == cause_of(f"{NSFW} {filler}")
    assert "passing" == cause_of(f"{filler} {OVERLOADED}")
    assert "model" == cause_of(f"{filler[:MOST_READ]} {NSFW} {filler}")


@pytest.mark.parametrize(
    "error", [None, "", " \n ", ".", "\0", "\ud800", "(", "Traceback (most recent call last):"]
)
def test_an_error_without_a_known_wording_is_a_failure_of_the_model(error):
    assert "model" == cause_of(error)


# Tracebacks.

FRAMES = """Traceback (most recent call last):
  File "/src/safety_checker.py", line 3, in flagged
    raise Moderated("NSFW content detected, please try again later")
    ^^^^^^^^^^^^^^^
"""


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("ValueError: no", f"{FRAMES}ValueError: no"),
        ("ValueError: no", f"{FRAMES}ValueError: no\n\n  \n"),
        ("ValueError: no", f"It failed.\n{FRAMES}ValueError: no"),
        (
            "ValueError: no",
            f"{FRAMES}KeyError: 1\n\nDuring handling of the above, another:\n\n{FRAMES}ValueError: no\n",
        ),
        ("ValueError: no", f"  {FRAMES}ValueError: no".replace("\n", "\n  ")),
        ("ValueError: no", f"{FRAMES}ValueError: no".replace("\n", "\r\n")),
        ("of two lines", f"{FRAMES}ValueError: an error\nof two lines"),
        ("ValueError: no", f"{FRAMES * 100_000}ValueError: no"),
        ("V" * 300, f"{FRAMES}{'V' * 1_000_000}"),
        ("It failed.", f"It failed.\nTwice.\n{FRAMES}"),
        ("The model failed.", FRAMES),
        ("It failed.", "\n It failed. \n Twice."),
    ],
)
def test_the_detail_is_the_last_line_of_a_traceback_and_the_first_of_any_other_error(line, error):
    with pytest.raises(GenerationFailed) as raised:
        raise_unless_made(failed(error))

    assert line == raised.value.detail


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        ("model", "ValueError: height must be divisible by 8"),
        ("content", f"Exception: {NSFW}"),
        ("content", "Exception: the prompt was refused.\nIt violates the content policy.\nPlease try again."),
        ("passing", f"Exception: {OVERLOADED}"),
    ],
)
def test_a_traceback_is_judged_by_its_exception_and_not_by_its_frames(cause, said):
    assert cause == cause_of(FRAMES + said) == cause_of(f"{FRAMES}KeyError: 'x'\n\nThen:\n\n{FRAMES}{said}")


# Attempts.


def run_to_the_end(error, **fields):
    async def scenario():
        fake = MemoryProvider(*[failed(error)] * 9)
        inside = core(fake, gate=Gate(concurrent_limit=1, requests_per_minute=600), GENERATION_TIMEOUT=60)
        return await run(inside, a_picture(**fields)), len(fake.sent)

    ended, sent = virtual_time.run(scenario())
    return sent, ended.error.code, ended.error.retryable


@pytest.mark.parametrize("error", ["Director: unexpected error handling prediction", OVERLOADED])
def test_a_temporary_failure_is_retryable_for_the_caller_after_the_last_attempt(error):
    assert (MAX_ATTEMPTS, "generation_failed", True) == run_to_the_end(error)


@pytest.mark.parametrize(
    ("code", "error"), [("content_refused", NSFW), ("generation_failed", "No words known here.")]
)
def test_a_refusal_and_an_unknown_failure_are_final_at_once(code, error):
    assert (1, code, False) == run_to_the_end(error)


@pytest.mark.parametrize(
    ("attempts", "fields"),
    [
        (MAX_COSTLY_ATTEMPTS, {"model_name": "veo-3-fast"}),
        (MAX_COSTLY_ATTEMPTS, {"model_name": "kling-v2.1-master", "duration": 5}),
        (MAX_ATTEMPTS, {"model_name": "flux-dev", "num_outputs": 4}),
    ],
)
def test_a_prediction_over_one_dollar_is_retried_once(attempts, fields):
    model = a_picture(**fields).first
    assert (attempts == MAX_COSTLY_ATTEMPTS) == (model.model.cost(model.input) > COSTLY)

    assert (attempts, "generation_failed", True) == run_to_the_end(OVERLOADED, **fields)


def test_a_retried_attempt_is_shown_as_retryable():
    with pytest.raises(TryAgain) as raised:
        raise_unless_made(failed(OVERLOADED))

    assert {
        "code": "generation_failed",
        "detail": OVERLOADED,
        "retryable": True,
    } == raised.value.error.as_item()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "status", "code", "retryable"),
    [
        ("Queue is full. Please retry later.", 500, "generation_failed", True),
        ("Request Moderated", 422, "content_refused", False),
        ("Failed to load nsfw_checker weights: connection reset", 500, "generation_failed", False),
    ],
)
def test_the_caller_gets_the_cause_as_a_code(client, error, status, code, retryable):
    body = PICTURE | {"prompt": f"[[fail={error}]] x"}

    document = problem(client.post("/generate", json=body, headers=ADMIN), status, code, retryable=retryable)

    assert error == document["detail"]
