"""Azure AI Content Safety: the pieces of texts, the severities that refuse, and failures."""

import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safety.azure import CATEGORIES, LONGEST, AzureContentSafety, pieces
from safety.http import Answer
from safety.judging import CheckFailed, Content, Judge, Verdict
from settings.rotating import RotatingSecret
from tests.support.virtual_time import in_virtual_time, now


def rated(**severities):
    rates = dict.fromkeys(CATEGORIES, 0) | severities
    found = [{"category": each, "severity": severity} for each, severity in rates.items()]
    return Answer(200, {"blocklistsMatch": [], "categoriesAnalysis": found}, None)


class Client:
    """Answers with the next of `answers`, and the last one again and again."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.sent = []

    async def post(self, url, body, headers):
        self.sent.append((url, json.loads(body), dict(headers)))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    async def aclose(self):
        pass


def azure(client, threshold=4, key="a-key"):
    return AzureContentSafety("https://x.example", RotatingSecret(key), client, threshold=threshold)


def judged(client, content, **more):
    return asyncio.run(azure(client, **more).judge(content))


def test_a_text_is_sent_as_azure_documents_it():
    client = Client(rated(Violence=2))

    assert Verdict(True) == judged(client, Content("a cat"))
    body = {"text": "a cat", "categories": [*CATEGORIES], "outputType": "FourSeverityLevels"}
    url = "https://x.example/contentsafety/text:analyze?api-version=2024-09-01"
    assert [(url, body, {"Ocp-Apim-Subscription-Key": "a-key"})] == client.sent


@pytest.mark.parametrize(
    ("severity", "threshold", "allow"),
    [(0, 2, True), (2, 2, False), (2, 4, True), (4, 4, False), (4, 6, True), (6, 6, False)],
)
def test_a_severity_of_the_threshold_refuses(severity, threshold, allow):
    assert allow == judged(Client(rated(Hate=severity)), Content("x"), threshold=threshold).allow


def test_a_refusal_names_its_categories_the_worst_first():
    verdict = judged(Client(rated(Sexual=4, SelfHarm=6)), Content("x"))

    assert ("selfharm", "sexual") == verdict.categories
    assert "Azure AI Content Safety rates it SelfHarm 6, Sexual 4." == verdict.reason


def test_the_negative_prompt_is_judged_too_and_no_text_after_a_refusal():
    client = Client(rated(), rated(Hate=6), rated())

    assert not judged(client, Content("good", "bad")).allow
    assert ["good", "bad"] == [body["text"] for _, body, _ in client.sent]
    client = Client(rated(Hate=6))
    judged(client, Content("a " * 20_000))
    assert 1 == len(client.sent)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(401, {"error": {"code": "401"}}, None),
        Answer(500, None, None),
        Answer(200, None, None),
        Answer(200, {"categoriesAnalysis": []}, None),
        Answer(200, {"categoriesAnalysis": {"Hate": 0}}, None),
        Answer(
            200, {"categoriesAnalysis": [{"category": each, "severity": "0"} for each in CATEGORIES]}, None
        ),
        Answer(200, {"categoriesAnalysis": [{"category": "Hate", "severity": 0}]}, None),
    ],
)
def test_any_other_answer_is_a_failure(answer):
    with pytest.raises(CheckFailed):
        judged(Client(answer), Content("x"))


@in_virtual_time
async def test_a_piece_that_was_too_many_is_sent_again_until_the_timeout():
    client = Client(Answer(429, None, 2.0), Answer(429, None, None), rated())
    judge = Judge(azure(client), timeout=5, allows_failed=False)

    assert Verdict(True) == await judge.verdict(Content("x"), turn="a")
    assert 3.0 == now()
    at_once = Judge(azure(Client(Answer(429, None, 0.0), rated())), timeout=5, allows_failed=False)
    assert Verdict(True) == await at_once.verdict(Content("x"), turn="a")
    assert 4.0 == now()
    never = Judge(azure(Client(Answer(429, None, 2.0))), timeout=5, allows_failed=False)
    assert (await never.verdict(Content("x"), turn="a")).failed
    assert 9.0 == now()


@in_virtual_time
async def test_a_replaced_key_is_used_for_the_next_text():
    client, key = Client(rated()), RotatingSecret("old")
    service = AzureContentSafety("https://x.example", key, client, threshold=4)
    await service.judge(Content("a"))
    key.replace("new", grace=0)
    await service.judge(Content("b"))

    assert ["old", "new"] == [headers["Ocp-Apim-Subscription-Key"] for _, _, headers in client.sent]


@settings(max_examples=30)
@given(
    st.lists(
        st.sampled_from(["a" * 7000, "b" * 10_001, "😀" * 6000, " ", "\n", "é😀", "x" * 999]), max_size=8
    )
)
def test_the_pieces_of_any_text_are_short_enough_and_make_the_text(parts):
    text = "".join(parts)
    found = [*pieces(text)]

    assert text == "".join(found)
    assert all(0 < len(each.encode("utf-16-le")) // 2 <= LONGEST for each in found)


def test_a_text_is_cut_at_a_blank_if_there_is_one_near():
    assert [10_000, 1] == [len(each) for each in pieces("a" * 10_001)]
    assert ["a" * 9990 + " sword ", "sword " * 2] == [*pieces("a" * 9990 + " " + "sword " * 3)]
    assert [5000, 1] == [len(each) for each in pieces("😀" * 5001)]
