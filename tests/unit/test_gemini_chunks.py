"""Google's answers: chunks of any form, cut anywhere, become one text with its usage and its end."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.calls import Usage
from providers.connections import Lost, TooLarge
from providers.gemini import chunks
from providers.gemini.chunks import AnswerReader
from providers.gemini.refusals import Refusal
from tests.support.fake_google import chunk, error, sse, usage

STORY = [
    chunk("Once ", **usage(60, 2, thoughts=385, cached=40)),
    chunk("upon", " a 🦊", **usage(60, 8, thoughts=385, cached=40)),
    chunk("", finish="STOP", **usage(60, 11, thoughts=385, cached=40)),
]


def read(*parts):
    """The answer, the pieces of its text, and the tokens of its prompt as they were passed on."""
    pieces, measured = [], []
    reader = AnswerReader(pieces.append, measured.append)
    for part in parts:
        reader.feed(part)
    return reader.answer(), pieces, measured


FORMS = {
    "events": sse(*STORY),
    "events with one newline": sse(*STORY).replace(b"\r\n", b"\n"),
    "events with comments and names": b": ping\n\nevent: message\nid: 1\n"
    + sse(*STORY)
    + b"data: [DONE]\n\n",
    "events without a last newline": sse(*STORY).rstrip(),
    "an event of several lines": sse(STORY[0]) + b'data: {"usageMetadata":\ndata: {}}\n\n' + sse(*STORY[1:]),
    "an array": json.dumps(STORY, indent=1).encode(),
    "after a byte order mark": b"\xef\xbb\xbf\n" + sse(*STORY),
}


@pytest.mark.parametrize("body", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("length", [1, 7, 100_000])
def test_an_answer_of_each_form_is_read_the_same_however_it_is_cut(body, length):
    answer, pieces, measured = read(*(body[at : at + length] for at in range(0, len(body), length)))

    assert ("Once upon a 🦊", "STOP", "complete") == (answer.text, answer.finish_reason, answer.end)
    assert Usage(60, 40, 11, 385) == answer.usage
    assert ("gemini-3.8-flash", "resp-1") == (answer.model_version, answer.response_id)
    assert (["Once ", "upon", " a 🦊"], [60]) == (pieces, measured)


def test_an_answer_that_is_one_object_is_read():
    answer, _, _ = read(json.dumps(chunk("Hi", finish="STOP", **usage(1, 1))).encode())

    assert ("Hi", "complete", Usage(1, 0, 1, 0)) == (answer.text, answer.end, answer.usage)


@given(st.lists(st.text(max_size=8), max_size=8), st.lists(st.integers(0, 600), max_size=8))
def test_the_pieces_are_the_text_wherever_the_bytes_are_cut(texts, cuts):
    body = sse(*(chunk(text, **usage(3)) for text in texts), chunk(finish="STOP"))
    places = [0, *sorted(min(each, len(body)) for each in cuts), len(body)]
    answer, pieces, _ = read(*(body[a:b] for a, b in pairwise(places)))

    assert answer.text == "".join(pieces) == "".join(texts).replace("\0", "\ufffd")


def test_a_pair_of_surrogates_in_two_chunks_is_one_character_and_a_single_half_is_replaced():
    pair, pieces, _ = read(sse(chunk("a\ud83e"), chunk("\udd8a"), chunk(finish="STOP")))
    half, _, _ = read(sse(chunk("a\ud83e", finish="STOP")))

    assert ("a🦊", ["a", "🦊"], "a\ufffd") == (pair.text, pieces, half.text)


def test_thoughts_are_no_part_of_the_text():
    parts = [{"text": "Let me think", "thought": True}, {"text": "42"}, {"thoughtSignature": "abc"}]
    answer, _, _ = read(sse({"candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}]}))

    assert "42" == answer.text


ENDS = {
    "STOP": "complete",
    "MAX_TOKENS": "length",
    "CONTINUATION": "length",
    "SAFETY": "refused",
    "PROHIBITED_CONTENT": "refused",
    "NO_IMAGE": "failed",
    "MALFORMED_RESPONSE": "failed",
    "A_REASON_OF_2027": "failed",
}


@pytest.mark.parametrize(("reason", "end"), ENDS.items(), ids=ENDS)
def test_only_stop_completes_an_answer_and_each_reason_is_kept_as_it_is_spelled(reason, end):
    answer, _, _ = read(sse(chunk("text", finish=reason)))

    assert (reason, end) == (answer.finish_reason, answer.end)


def test_a_blocked_prompt_is_a_refusal_with_its_reason_and_its_usage():
    answer, _, _ = read(sse({"promptFeedback": {"blockReason": "JAILBREAK"}, **usage(12)}))

    assert ("refused", "JAILBREAK", None, 12) == (
        answer.end,
        answer.block_reason,
        answer.finish_reason,
        answer.usage.prompt_tokens,
    )


def test_an_answer_without_candidates_is_a_failure_without_a_reason():
    answer, _, _ = read(sse({**usage(12), "modelVersion": "gemini-3.8-flash"}))

    assert ("failed", None, "", 12) == (
        answer.end,
        answer.finish_reason,
        answer.text,
        answer.usage.prompt_tokens,
    )


CUT = {
    "an empty body": b"",
    "a blank line": b"\r\n",
    "text without an end": sse(*STORY[:2]),
    "an unspecified reason": sse(chunk("text", finish="FINISH_REASON_UNSPECIFIED")),
    "half of the last chunk": sse(*STORY)[:-40],
    "half of a document": json.dumps(STORY).encode()[:-1],
    "no JSON": b"data: <html>\n\n",
    "no object": b"data: 42\n\n",
    "too deep": b"data: " + b"[" * 100_000 + b"\n\n",
}


@pytest.mark.parametrize("body", CUT.values(), ids=CUT)
def test_an_answer_without_an_end_is_lost(body):
    with pytest.raises(Lost):
        read(body)


def test_an_answer_that_is_cut_after_the_reason_of_its_end_is_whole():
    reader = AnswerReader(lambda text: None, lambda tokens: None)
    reader.feed(sse(*STORY) + b'data: {"cand')

    assert reader.is_finished
    assert "Once upon a 🦊" == reader.answer().text


def test_the_partial_answer_is_known_at_any_time():
    reader = AnswerReader(lambda text: None, lambda tokens: None)
    assert not reader.has_text
    reader.feed(sse(*STORY[:2]))

    partial = reader.partial
    assert ("Once upon a 🦊", Usage(60, 40, 8, 385), "gemini-3.8-flash") == (
        partial.text,
        partial.usage,
        partial.model_version,
    )


@pytest.mark.parametrize("wrap", [lambda each: sse(each), lambda each: json.dumps([each]).encode()])
def test_an_error_in_the_answer_is_an_error_of_its_code(wrap):
    with pytest.raises(Refusal) as caught:
        read(wrap(error(503, "UNAVAILABLE", "The model is overloaded.")))

    assert (503, "The model is overloaded.") == (caught.value.status, caught.value.message)


ODD = {
    "no candidate is an object": {"candidates": ["x"]},
    "no content": {"candidates": [{"content": None}]},
    "no parts": {"candidates": [{"content": {"parts": None}}]},
    "a text that is a number": {"candidates": [{"content": {"parts": [{"text": 4}, "x"]}}]},
    "usage of other kinds": {"usageMetadata": {"promptTokenCount": -1, "candidatesTokenCount": True}},
    "names of other kinds": {"modelVersion": 4, "responseId": "a\nb", "promptFeedback": []},
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_odd_fields_are_left_out(odd):
    answer, _, _ = read(sse(odd, chunk("Hi", finish="STOP")))

    assert ("Hi", Usage()) == (answer.text, answer.usage)


def test_an_answer_is_read_up_to_its_greatest_size(monkeypatch):
    monkeypatch.setattr(chunks, "LONGEST_CHUNK", 10_000)
    monkeypatch.setattr(chunks, "MAX_ANSWER", 50_000)
    for body in (
        b"data: " + b"x" * 20_000,
        b"data: x\n" * 6_000,
        b'{"a": "' + b"x" * 20_000,
        sse(chunk("x" * 5_000)) * 11,
    ):
        with pytest.raises(TooLarge):
            read(*(body[at : at + 1_000] for at in range(0, len(body), 1_000)))
    assert "x" * 45_000 == read(sse(*[chunk("x" * 5_000)] * 9, chunk(finish="STOP")))[0].text
