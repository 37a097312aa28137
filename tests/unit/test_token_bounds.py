"""The upper bound of the tokens of a prompt."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media.formats import black_png
from providers.calls import Call, Message, Picture
from providers.gemini.estimates import SMALLEST_PICTURE, UNKNOWN_TILES, picture_bound, tiles_of, tokens_bound
from providers.gemini.schemas import sent_schema

TEXTS = st.one_of(
    st.text(max_size=60),
    st.text(alphabet="0123456789 ", max_size=60),
    st.text(alphabet="汉字かな한글", max_size=60),
    st.text(alphabet="😀👩‍👩‍👧‍👦é", max_size=60),
)
MESSAGES = st.lists(st.builds(Message, st.sampled_from(["user", "assistant"]), TEXTS), min_size=1, max_size=4)


def of_letters(text):
    return len(text)


def of_bytes(text):
    return len(text.encode())


def of_words_with_single_digits(text):
    return len(re.findall(r"\d|[^\W\d]+|[^\w\s]|\s", text))


def of_pairs_of_bytes(text):
    return (len(text.encode()) + 1) // 2


TOKENIZERS = [of_letters, of_bytes, of_words_with_single_digits, of_pairs_of_bytes]


def call(messages, **more):
    return Call(model="m", messages=tuple(messages), max_output_tokens=1, **more)


@given(MESSAGES, TEXTS, st.sampled_from(TOKENIZERS))
def test_no_tokenizer_counts_more_than_the_bound(messages, system, count):
    turns = sum(count(each.text) + 4 for each in messages)

    assert turns + count(system) <= tokens_bound(call(messages, system=system))


@given(TEXTS, TEXTS)
def test_a_longer_prompt_has_no_lower_bound(text, more):
    assert tokens_bound(call([Message("user", text)])) <= tokens_bound(call([Message("user", text + more)]))


@pytest.mark.parametrize("count", TOKENIZERS)
def test_the_schema_counts_as_it_is_sent(count):
    schema = {
        "properties": {"größe": {"type": "string", "minLength": 3, "description": "長さ"}},
        "required": ["größe"],
    }
    sent = json.dumps(sent_schema(schema), ensure_ascii=False, indent=0)
    added = tokens_bound(call([], schema=schema)) - tokens_bound(call([]))

    assert count(sent) <= added


def test_a_text_with_a_lone_surrogate_has_a_bound():
    assert 3 <= tokens_bound(call([Message("user", "\ud800")])) - tokens_bound(call([Message("user", "")]))


@pytest.mark.parametrize(
    ("width", "height", "tiles"),
    [
        (1, 1, 1),
        (384, 384, 1),
        (385, 300, 5),
        (960, 540, 7),
        (1980, 1380, 7),
        (3072, 3072, 17),
        (3072, 100, 13),
    ],
)
def test_a_large_image_counts_by_its_tiles_and_once_as_a_whole(width, height, tiles):
    assert tiles == tiles_of(width, height) == tiles_of(height, width)


@given(st.integers(1, 20_000), st.integers(1, 20_000))
def test_no_image_has_fewer_tiles_than_the_largest_tiles_would_cover_it_with(width, height):
    assert tiles_of(width, height) >= -(-width // 768) * -(-height // 768)


def test_an_image_costs_at_least_what_the_models_without_tiles_take():
    small, large = (Picture("image/png", black_png(side, side)) for side in (64, 3072))

    assert (SMALLEST_PICTURE, 17 * 258) == (picture_bound(small), picture_bound(large))
    one = tokens_bound(call([Message("user", "Hi", (small, small))]))
    assert 2 * SMALLEST_PICTURE == one - tokens_bound(call([Message("user", "Hi")]))


@pytest.mark.parametrize("picture", [Picture("image/heic", b"x"), Picture("image/png", b"\x89PNG cut")])
def test_an_image_of_unknown_size_counts_as_a_very_large_one(picture):
    assert UNKNOWN_TILES * 258 == picture_bound(picture)
