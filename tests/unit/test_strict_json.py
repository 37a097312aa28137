"""Strict JSON: only RFC 8259 is accepted. A refusal has a plain message and is never an error of Python."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errors import InvalidJSON, PayloadTooLarge
from parsing import strict_json

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_every_json_value_is_read_unchanged(value):
    assert value == strict_json.loads(json.dumps(value).encode())
    assert value == strict_json.loads(json.dumps(value, ensure_ascii=False).encode())


@given(st.binary(max_size=40))
def test_all_bytes_are_read_or_refused(body):
    with contextlib.suppress(InvalidJSON):
        strict_json.loads(body)


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"", "The body is empty; a JSON object is expected."),
        (b" \r\n\t", "The body is empty; a JSON object is expected."),
        (b"\xff", "The body is not UTF-8 (at byte 0)."),
        ('{"a":1}'.encode("utf-16"), "The body is not UTF-8 (at byte 0)."),
        (b'{"a":"\xed\xa0\x80"}', "The body is not UTF-8 (at byte 6)."),
        (b'{"a":NaN}', "NaN is not a JSON value."),
        (b'{"a":Infinity}', "Infinity is not a JSON value."),
        (b'{"a":-Infinity}', "-Infinity is not a JSON value."),
        (b'{"a":1e999}', "The number 1e999 is too large."),
        (b'{"a":-1e999}', "The number -1e999 is too large."),
        (b"1" * 5000, "An integer of 5000 digits is too large."),
        (b"[" * 100_000, "The body is nested too deeply."),
        (b'{"a":' * 100_000, "The body is nested too deeply."),
        (b'{"a":1,"a":2}', 'The key "a" is repeated in one object.'),
        (b'[{"b":{"it\'s":1,"it\'s":1}}]', 'The key "it\'s" is repeated in one object.'),
        (b'{"a":1,"\\u0061":2}', 'The key "a" is repeated in one object.'),
        (b'{"\\ud800":1,"\\ud800":2}', 'The key "\\ud800" is repeated in one object.'),
        (b'{"\\udfff":1}', "A key contains an unpaired surrogate."),
    ],
    ids=lambda value: str(value[:24]),
)
def test_a_refusal_names_the_fault_and_its_position(body, detail):
    with pytest.raises(InvalidJSON) as refused:
        strict_json.loads(body)

    assert detail == refused.value.detail


@pytest.mark.parametrize(
    "body",
    [
        b"{", b"}", b"{'a':1}", b'{"a":1,}', b"[1,]", b"nul", b"True", b"01", b"+1", b".5", b"1.", b'"a', b"\x00",
        b'{"a":"\x00"}', b'{"a":"\n"}', b"{} {}", b"// no\n{}", b'\xef\xbb\xbf', b'{a:1}', b'{"a"}', b'"\\x"',
    ],
)  # fmt: skip
def test_text_that_is_not_json_is_refused(body):
    with pytest.raises(InvalidJSON):
        strict_json.loads(body)


@pytest.mark.parametrize("text", ['{"a":1}', ' {"a":1}', '\r\n{"a":1}\n', '{"a":1,"\ufeff":"\ufeff"}'])
def test_one_byte_order_mark_before_json_is_skipped(text):
    assert json.loads(text) == strict_json.loads(b"\xef\xbb\xbf" + text.encode())
    with pytest.raises(InvalidJSON):
        strict_json.loads(b"\xef\xbb\xbf" * 2 + text.encode())


def test_a_surrogate_pair_in_a_key_is_one_character():
    assert {"\U0001f600": 1} == strict_json.loads(b'{"\\ud83d\\ude00":1}')


def values_in(value):
    """How many values a JSON value has, including itself."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(values_in, inner))


def empty_in(value):
    """How many empty lists and objects a JSON value has."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (value in ([], {})) + sum(map(empty_in, inner))


@given(VALUES, st.integers(1, 9))
def test_counting_finds_every_value_wherever_a_body_is_cut_into_pieces(value, size):
    for body in (json.dumps(value).encode(), json.dumps(value, ensure_ascii=False, indent=1).encode()):
        assert values_in(value) + empty_in(value) == strict_json.count_values(body, piece_size=size)


def test_a_body_with_the_most_values_is_read_and_one_value_more_is_refused():
    text = json.dumps('a, [b], {c} and "d" \\ ' * 1000)
    fitting = f"[{text}{',0' * (strict_json.MAX_VALUES - 2)}]".encode()

    assert strict_json.MAX_VALUES - 1 == len(strict_json.loads(fitting))
    with pytest.raises(PayloadTooLarge):
        strict_json.loads(fitting[:-1] + b",0]")


def test_the_largest_batch_stays_within_the_most_values():
    item = {"model_name": "m", "prompt": "p", **{f"parameter {n}": n for n in range(12)}}

    assert (
        strict_json.count_values(json.dumps({"requests": [item] * 10_000}).encode()) < strict_json.MAX_VALUES
    )
