"""The form of a training: fields, inputs of the trainer, and images with their names."""

from io import BytesIO

import pytest

from errors import InvalidRequest, PayloadTooLarge
from parsing.training_form import read_training_form

BOUNDARY = "limit"


def form(*parts):
    """The body of a form. A part is a name and a text, or a name, a file name and bytes."""
    lines = []
    for name, *rest in parts:
        file = f'; filename="{rest[0]}"' if len(rest) == 2 else ""
        content = rest[-1] if isinstance(rest[-1], bytes) else rest[-1].encode()
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        lines.append(head.encode() + content + b"\r\n")
    return BytesIO(b"".join(lines) + f"--{BOUNDARY}--\r\n".encode())


def read(directory, *parts):
    return read_training_form(form(*parts), options={"boundary": BOUNDARY}, directory=directory)


def test_fields_are_json_unless_they_hold_text(tmp_path):
    found = read(tmp_path, ("trigger_word", "123"), ("timeout", "600"), ("create_destination", "true"))
    assert found.fields == {"trigger_word": "123", "timeout": 600, "create_destination": True}


def test_inputs_may_be_json_or_fields_of_their_own(tmp_path):
    assert read(tmp_path, ("input", '{"steps": 10}')).fields == {"input": {"steps": 10}}
    assert read(tmp_path, ("input.steps", "10"), ("input.seed", "3")).fields == {
        "input": {"steps": "10", "seed": "3"}
    }


@pytest.mark.parametrize("parts", [[0, 1], [1, 0]])
def test_inputs_may_be_json_and_fields_in_any_order(tmp_path, parts):
    both = [("input", '{"steps": 10}'), ("input.seed", "3")]
    assert {"input": {"steps": 10, "seed": "3"}} == read(tmp_path, *[both[each] for each in parts]).fields
    with pytest.raises(InvalidRequest) as refused:
        read(tmp_path, *[both[each] for each in parts], ("input.steps", "20"))
    assert ["input.steps"] == [each.field for each in refused.value.problems]


def test_files_keep_their_names_and_contents(tmp_path):
    found = read(tmp_path, ("images", "dog.jpg", b"\xff\xd8"), ("images", "dog.txt", b"a dog"))
    assert [(each.name, each.path.read_bytes()) for each in found.files] == [
        ("dog.jpg", b"\xff\xd8"),
        ("dog.txt", b"a dog"),
    ]


def test_a_file_in_another_field_is_refused(tmp_path):
    with pytest.raises(InvalidRequest) as refused:
        read(tmp_path, ("zip", "a.zip", b"PK"))
    assert refused.value.problems[0].field == "zip"


def test_an_address_beside_files_is_refused(tmp_path):
    with pytest.raises(InvalidRequest):
        read(tmp_path, ("images", "https://example.com/a.zip"), ("images", "a.zip", b"PK"))


def test_a_repeated_field_is_refused(tmp_path):
    with pytest.raises(InvalidRequest):
        read(tmp_path, ("trainer", "a/b"), ("trainer", "c/d"))


def test_an_input_beside_the_object_of_inputs_is_refused(tmp_path):
    with pytest.raises(InvalidRequest):
        read(tmp_path, ("input", "[]"), ("input.steps", "10"))


def test_an_empty_file_field_of_a_browser_is_left_out(tmp_path):
    assert read(tmp_path, ("images", "", b"")).files == []


def test_a_text_that_is_too_long_is_refused(tmp_path):
    with pytest.raises(PayloadTooLarge):
        read(tmp_path, ("trigger_word", "x" * 1_000_001))


def test_a_body_that_is_no_form_is_refused(tmp_path):
    with pytest.raises(InvalidRequest):
        read_training_form(BytesIO(b"nonsense"), options={"boundary": BOUNDARY}, directory=tmp_path)
