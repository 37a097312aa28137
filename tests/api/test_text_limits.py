"""Calls at the limits of their account, over HTTP: who counts the tokens of a prompt, and what another model does."""

import json

import pytest

from tests.support.text_calls import ask

LITE, FLASH = "gemini-3.5-flash-lite", "gemini-3.8-flash"

TPM = 20_000
LARGE = "internationalization " * 1_500
"""31,500 bytes, which are above the whole window of tokens. By the upstream's count they are within it."""


@pytest.fixture
def client(texts):
    return texts(GEMINI_LIMITS=json.dumps({"*": {"rpm": 300, "tpm": TPM, "rpd": None}}))


def counted(simulator):
    """How often the tokens of a prompt were counted, and how many calls were sent."""
    requests = simulator.gemini.counts().requests
    return requests.get("count", 0), requests.get("stream", 0)


@pytest.mark.every_database
def test_the_upstream_counts_the_tokens_of_a_prompt_above_two_per_cent_of_the_window(client, simulator):
    small = ask(client, {"prompt": "x" * (TPM // 100)})
    assert (200, (0, 1)) == (small.status_code, counted(simulator))

    large = ask(client, {"prompt": LARGE})

    assert (200, (1, 2)) == (large.status_code, counted(simulator)), large.text
    assert len(LARGE) > TPM > large.json["usage"]["prompt_tokens"]


def test_a_large_prompt_whose_tokens_cannot_be_counted_is_taken_at_one_for_each_byte(client, simulator):
    simulator.gemini.inject(on="count", status=503, times=10)

    refused = ask(client, {"prompt": LARGE})
    assert (400, "prompt_too_large") == (refused.status_code, refused.json["code"])
    assert 200 == ask(client, {"prompt": LARGE[: TPM // 2]}).status_code


@pytest.mark.parametrize(("fallback", "status"), [(False, 500), (True, 200), ([FLASH], 200)])
def test_another_model_answers_only_if_the_caller_allows_it(texts, simulator, fallback, status):
    client = texts()
    simulator.gemini.inject(on="stream", model=LITE, marks="[[capacity]]", times=100)

    answer = ask(client, {"prompt": "Hello", "model": LITE, "fallback": fallback})

    assert status == answer.status_code, answer.text
    if status == 200:
        assert (LITE, True) == (answer.json["model"], answer.json["model_version"].startswith(FLASH))
        tried = [
            (each["model_name"], (each.get("error") or {}).get("code")) for each in answer.json["attempts"]
        ]
        assert {(LITE, "upstream_rate_limited")} == {*tried[:-1]}
        assert (FLASH, None) == tried[-1]
        [bill] = simulator.gemini.bills()
        assert round(answer.json["cost_usd"] * 1e6) == bill.micro_usd
    else:
        assert "upstream_rate_limited" == answer.json["code"]
