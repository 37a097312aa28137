"""Names of downloads: which names are refused, and that no two files of a batch are saved under one name."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from files.names import (
    MAX_LENGTH,
    comparison_keys,
    content_disposition,
    distinct_names,
    link_name,
    saved_name,
    stored_name,
)
from tests.support.callers import PICTURE
from tests.support.declarations import parse_batch, parse_generation
from tests.support.problem_documents import messages

ID = "gen_" + "0a" * 16


DEVICES = [
    "CON", "con", "Con", "PRN", "aux", "NUL", "nul.png", "NUL.tar.gz", "COM1", "com9.jpg", "LPT1", "LPT9", "lpt5.webp",
    "COM¹", "LPT³.png", "CONIN$", "conout$", "CON ", "nul .png", "aux.", "CON.a.b",
]  # fmt: skip

NO_DEVICES = [
    "CONSOLE", "console.png", "my CON", "nul-2", "null", "nula.png", "COM", "COM0", "COM10", "LPT", "LPT10", "a.CON",
    "con_1", "CON-2", "prn2", "auxiliary", "xcon", " con", ".con", "conin", "COM1a", "COM⁴",
]  # fmt: skip


@pytest.mark.parametrize("name", DEVICES)
def test_the_name_of_a_device_is_refused(name):
    batch = {"model_name": "flux-dev", "prompts": ["a"], "file_names": [name]}

    assert "device" in messages(parse_generation, PICTURE | {"file_name": name})["file_name"]
    assert ["file_names[0]"] == list(messages(parse_batch, batch))
    assert ["requests[0].file_name"] == list(
        messages(parse_batch, {"requests": [PICTURE | {"file_name": name}]})
    )
    assert {"filename": "x.jpg"} == content_disposition(name, "x.jpg")


@pytest.mark.parametrize("name", NO_DEVICES)
def test_a_name_that_only_resembles_a_device_is_accepted(name):
    assert {} == messages(parse_generation, PICTURE | {"file_name": name})


MEETING = [
    (["a", "a"], 1), (["a", "A"], 1), (["a.jpg", "a.png"], 1), (["a", "a.JPEG"], 1), (["é", "e\u0301"], 1),
    (["É", "e\u0301"], 1), (["straße", "STRASSE"], 1), (["ﬁ", "FI"], 1), (["Å", "\u212b"], 1),
    (["x", "b", "c", "B"], 1),
    (["fox", "fox-2"], 2), (["fox-2", "fox"], 2), (["fox", "fox-3"], 3), (["fox", "hare", "FOX-4.png"], 4),
    (["fox.png", "fox-2.webp"], 2), (["a-2", "a-2-2"], 2), (["x" * MAX_LENGTH, "x" * (MAX_LENGTH - 2) + "-2"], 2),
]  # fmt: skip

APART = [
    (["a", "b"], 4), (["a", "a-2"], 1), (["fox", "fox-3"], 2), (["fox", "fox-1"], 4), (["fox", "fox2"], 4),
    (["fox", "fox-02"], 4), (["e", "é"], 1), (["a.b", "a"], 1), (["a.tar", "a"], 1), (["fox", "fox-5"], 4),
    (["fox ", "fox"], 1), (["fox.jpg.jpg", "fox"], 1), (["1", "2", "3"], 4), (["狐", "犬"], 4),
]  # fmt: skip


@pytest.mark.parametrize(
    "names", [["Fäx", "Fax"], ["é", "e"], ["\uff46ox", "fox"], ["a\u00a0b", "a b"], ["狐", "犬"]]
)
def test_distinct_names_have_distinct_ascii_fallbacks(names):
    plain = {content_disposition(name, f"{number}.jpg")["filename"] for number, name in enumerate(names)}

    assert {} == messages(parse_batch, of_prompts(names, 1))
    assert len(names) == len(plain)


def of_prompts(names, outputs):
    return {
        "model_name": "flux-dev",
        "prompts": ["a"] * len(names),
        "file_names": names,
        "num_outputs": outputs,
    }


@pytest.mark.parametrize(("names", "outputs"), MEETING)
def test_names_that_would_be_saved_as_one_are_refused(names, outputs):
    found = messages(parse_batch, of_prompts(names, outputs))

    assert ["file_names"] == list(found)
    assert "must be distinct as they are saved" in found["file_names"]


@pytest.mark.parametrize(("names", "outputs"), APART)
def test_names_that_are_saved_apart_are_accepted(names, outputs):
    assert {} == messages(parse_batch, of_prompts(names, outputs))


DISTINCT = [
    (["fox", "fox"], 1, ["fox", "fox-2"]),
    (["fox", "fox", "fox"], 1, ["fox", "fox-2", "fox-3"]),
    (["fox.jpg", "FOX.png"], 1, ["fox.jpg", "FOX-2"]),
    (["fox", None, "fox"], 1, ["fox", None, "fox-2"]),
    (["fox", "fox", "fox-2"], 1, ["fox", "fox-3", "fox-2"]),
    (["fox-2", "fox", "fox"], 1, ["fox-2", "fox", "fox-3"]),
    (["fox", "fox"], 2, ["fox", "fox-3"]),
    (["fox", "fox-2"], 2, ["fox", "fox-2-2"]),
    (["é", "e\u0301"], 1, ["é", "e\u0301-2"]),
    (["a", "b", "c"], 4, ["a", "b", "c"]),
    (["x" * MAX_LENGTH] * 2, 4, ["x" * MAX_LENGTH, "x" * (MAX_LENGTH - 12) + "-2"]),
]


@pytest.mark.parametrize(("names", "outputs", "expected"), DISTINCT)
def test_repeated_names_of_requests_are_numbered(names, outputs, expected):
    requests = [
        PICTURE | {"num_outputs": outputs} | ({} if name is None else {"file_name": name}) for name in names
    ]
    batch = parse_batch({"requests": requests})

    assert expected == [each.file_name for each in batch.requests]
    assert expected == [each.given.get("file_name") for each in batch.requests], (
        "a restart would choose other names"
    )


NAMES = st.sampled_from(
    ["fox", "Fox", "fox-2", "fox-3", "fox.png", "fox-2-2", "é", "e\u0301", "x" * 150, "x" * 149]
)


@given(st.lists(st.none() | st.tuples(NAMES, st.integers(1, 4)), max_size=12))
def test_no_two_requests_are_saved_under_one_name_whatever_names_they_ask_for(wishes):
    names = distinct_names(wishes)

    keys = [
        comparison_keys(name, wish[1])
        for name, wish in zip(names, wishes, strict=True)
        if name is not None and wish is not None
    ]
    assert [wish is None for wish in wishes] == [name is None for name in names]
    assert all(one.isdisjoint(other) for one, other in itertools.combinations(keys, 2))
    assert all(len(name) <= MAX_LENGTH for name in names if name is not None)


def test_ten_thousand_requests_with_few_names_get_distinct_names():
    tried = ["fox", "FOX", "fox.png"] + ["x" * 144 + f"{number % 50:06}" for number in range(100)]
    names = distinct_names([(tried[number % len(tried)], 4) for number in range(10_000)])

    assert 10_000 == len(set(names))


@pytest.mark.parametrize(
    ("kept", "linked"), [("0.webp", ""), ("1.jpg", "-2"), ("9.png", "-10"), ("999.mp4", "-1000")]
)
def test_a_link_ends_in_a_name_with_the_generations_id(kept, linked):
    name = f"{ID}{linked}.{kept.partition('.')[2]}"

    assert (name, kept, kept) == (link_name(ID, kept), stored_name(ID, name), stored_name(ID, kept))


OTHER_ID = "gen_" + "1" * 32


@pytest.mark.parametrize(
    "end", ["-1.jpg", "-0.jpg", "-02.jpg", ".", "-2", "-10000.jpg", "--2.jpg", "-2.jpg.jpg"]
)
def test_only_valid_link_names_of_the_generation_become_stored_names(end):
    assert ID + end == stored_name(ID, ID + end)
    assert f"{OTHER_ID}.jpg" == stored_name(ID, f"{OTHER_ID}.jpg")


def test_a_name_of_the_greatest_length_is_shortened_for_its_number():
    assert "x" * (MAX_LENGTH - 3) + "-10" == saved_name("x" * MAX_LENGTH, 9)
