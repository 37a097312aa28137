"""Generations as predictions of Replicate: the shape of outputs, and which addresses leave the door."""

import json

import pytest

from contract.door_facts import KEPT, LARGE, LARGE_TEXT, REPLICATE, DoorFacts
from doors.replicate import predictions
from doors.replicate.creation import wait_seconds
from doors.replicate.states import shown_input
from ledger.records import Failure
from tests.support.records import generation as record_of

ID = "a" * 26


def record(output=None, *, files=1, **fields):
    names = tuple(f"{ID}{'' if number == 0 else f'-{number + 1}'}.png" for number in range(files))
    facts = DoorFacts("a/b", {"prompt": "a fox"}, output=output)
    usual = {"state": "succeeded", "files": names, "door": REPLICATE, "door_facts": facts.as_json()}
    return record_of(ID, **usual | fields)


def shown(*arguments, content=None, **fields):
    made = record(*arguments, **fields)
    body = predictions.prediction(
        made, "https://here", link=predictions.links(made, "https://here"), content=lambda _: content
    )
    return body["output"]


def file(number):
    end = "" if number == 0 else f"-{number + 1}"
    return f"https://here/files/{ID}/{ID}{end}.png"


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ({KEPT: 0}, file(0)),
        ([{KEPT: 0}, {KEPT: 1}], [file(0), file(1)]),
        ([{KEPT: None}, {KEPT: 1}], [file(1)]),
        ({"image": {KEPT: 1}, "seed": 3, "tags": ["a"]}, {"image": file(1), "seed": 3, "tags": ["a"]}),
        ("a fox", "a fox"),
        (["a ", "fox", ""], ["a ", "fox", ""]),
        ([0.5, None, 1], [0.5, None, 1]),
        ({"kept": 0}, {"kept": 0}),
    ],
)
def test_an_output_has_the_shape_that_the_model_returned_with_kept_files(output, expected):
    assert expected == shown(output, files=2)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("https://evil.example/a", " https://evil.example/a"),
        (["https:", "//evil.example/a"], [" https:", "//evil.example/a"]),
        ({"link": ["https://evil.example"]}, {"link": [" https://evil.example"]}),
        ("see https://a.example", "see https://a.example"),
    ],
)
def test_no_text_of_an_output_begins_like_an_address_of_another_host(output, expected):
    assert expected == shown(output)


def test_a_large_output_is_read_from_its_file_and_a_link_where_that_is_not_wanted():
    text = [{LARGE_TEXT: 0}]

    assert [1, [2]] == shown({LARGE: 0}, content=b"[1, [2]]")
    assert ["a fox"] == shown(text, content=b"a fox")
    assert "a fox" == shown(text[0], content=b"a fox")
    assert [file(0)] == shown(text)


def test_a_success_without_an_output_is_a_failure_with_the_reason():
    made = record({KEPT: None}, files=0, files_error="The disk is full.")
    body = predictions.pushed(made, "https://here")

    assert ("failed", None, True) == (body["status"], body["output"], body["data_removed"])
    assert body["error"].endswith("The disk is full.")


def test_states_are_in_replicates_words():
    states = {"queued": "starting", "submitting": "starting", "running": "processing", "canceled": "canceled"}
    for state, expected in states.items():
        made = record(state=state, error=Failure("generation_failed", "The generation was cancelled.", False))
        assert (expected, None) == tuple(predictions.pushed(made, "")[name] for name in ("status", "error"))
    failed = record(state="failed", error=Failure("content_refused", "NSFW content detected", False))
    assert "NSFW content detected" == predictions.pushed(failed, "")["error"]


@pytest.mark.parametrize(
    ("model", "version", "expected"),
    [
        ("a/b", None, {"model": "a/b", "version": "hidden"}),
        ("a/b", "1" * 64, {"model": "a/b", "version": "1" * 64}),
        ("1" * 64, None, {"model": "1" * 64, "version": "1" * 64}),
        ("deployments/a/b", "1" * 64, {"model": "a/b", "version": "1" * 64, "deployment": "a/b"}),
    ],
)
def test_what_ran_is_shown_as_at_replicate(model, version, expected):
    body = predictions.pushed(record(model=model, version=version), "")

    assert expected == {name: body[name] for name in ("model", "version", "deployment") if name in body}


def test_secrets_and_the_content_of_long_inline_files_are_not_shown():
    inline = f"data:image/png;base64,{'A' * 20_000}"
    sent = {"prompt": "a", "token": "hf_x", "image": inline, "images": [inline, "https://a.com/b"]}

    found = shown_input(sent, {"token"})

    short = "data:image/png;base64,…"
    assert {
        "prompt": "a",
        "token": "[REDACTED]",
        "image": short,
        "images": [short, "https://a.com/b"],
    } == found
    assert "hf_x" not in json.dumps(found)


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        (None, 0), ("", 0), ("respond-async", 0), ("wait", 59), ("wait=60", 59), ("wait=600", 59), ("wait=5", 4),
        ("wait=1", 1), ("wait=0", 1), ("respond-async, wait=10", 9), ("waiting=5", 0), ('wait="7"', 6),
    ],
)  # fmt: skip
def test_an_answer_is_held_a_little_less_than_the_client_reads(prefer, seconds):
    assert seconds == wait_seconds(prefer)
