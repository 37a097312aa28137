"""Which file each row of a batch gets, and how a batch is cut into requests."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from replicate_concurrent import filenames
from replicate_concurrent.batches import planning
from replicate_concurrent.batches.naming import Names
from replicate_concurrent.batches.planning import Limits
from replicate_concurrent.batches.rows import Row

ROW = Row(1, "item 1", {"model_name": "m", "prompt": "A fox"}, "d", {"index": 1, "slug": "a-fox", "sku": "A"})


def row(sku):
    return replace(ROW, values={**ROW.values, "sku": sku})


def test_rows_with_the_same_name_get_different_ones(tmp_path):
    names = Names(tmp_path, "{sku}.{ext}", set())

    assert ["A.{ext}", "a_2.{ext}", "A_3.{ext}"] == [names.reserve(row(sku)) for sku in ("A", "a", "A")]


def test_rows_with_the_same_long_name_get_different_ones_when_they_are_saved(tmp_path):
    names = Names(tmp_path, "{sku}{sku}{index}.{ext}", set())
    reserved = [names.reserve(row("x" * 100)) for _ in range(12)]
    several = [names.of_outputs(name, 2) for name in reserved]

    for each in (reserved, several):
        assert each == [filenames.rendered(name, {}) for name in each]  # as `Generation.save` does
        assert 12 == len(set(each))


def test_no_row_gets_the_name_of_an_earlier_row_or_of_a_file_with_any_ending(tmp_path):
    (tmp_path / "shelf").mkdir()
    (tmp_path / "shelf" / "B.webp").touch()
    names = Names(tmp_path, "shelf/{sku}.{ext}", {"shelf/a.{ext}"})

    assert ["shelf/A_2.{ext}", "shelf/B_2.{ext}"] == [names.reserve(row(sku)) for sku in "AB"]


def test_a_name_with_the_id_of_the_generation_needs_no_other(tmp_path):
    (tmp_path / "{id}.jpg").touch()

    assert "{id}.{ext}" == Names(tmp_path, "{id}.{ext}", set()).reserve(ROW)


def test_the_second_output_of_a_row_does_not_get_the_name_of_another_row(tmp_path):
    names = Names(tmp_path, "{sku}.{ext}", set())
    first, _second = names.reserve(row("A")), names.reserve(row("A-2"))

    assert ["A.{ext}", "A_.{ext}"] == [names.of_outputs(first, 1), names.of_outputs(first, 2)]


@pytest.mark.parametrize(
    ("existing", "template", "name"),
    [
        ("1.jpg", "{number}.{ext}", "{number}_2.{ext}"),
        ("A-12.JPG", "{sku}-{number}.{ext}", "A-{number}_2.{ext}"),
        ("A-b.jpg", "{sku}-{number}.{ext}", "A-{number}.{ext}"),
        ("a-fox-2.jpg", "{slug}.{ext}", "a-fox_2.{ext}"),
        ("a-fox-2.jpg", "{slug}.jpg", "a-fox_2.jpg"),
        ("a-fox-b.jpg", "{slug}.{ext}", "a-fox.{ext}"),
        ("2/a-fox.jpg", "{number}/{slug}.{ext}", "{number}/a-fox_2.{ext}"),
        ("webp/a-fox.webp", "{ext}/{slug}.{ext}", "{ext}/a-fox_2.{ext}"),
    ],
)
def test_no_output_of_a_row_gets_the_name_of_a_file_of_the_user(tmp_path, existing, template, name):
    (tmp_path / existing).parent.mkdir(exist_ok=True)
    (tmp_path / existing).touch()

    assert name == Names(tmp_path, template, set()).reserve(row("A"))


def test_the_other_name_for_several_outputs_replaces_only_files_of_the_row_itself(tmp_path):
    (tmp_path / "A_.jpg").touch()
    taken = {"a.{ext}", "a-2.{ext}"}

    assert "A__.{ext}" == Names(tmp_path, "{sku}.{ext}", taken).of_outputs("A.{ext}", 2)
    assert "A_.{ext}" == Names(tmp_path, "{sku}.{ext}", taken).of_outputs("A.{ext}", 2, ["A_.jpg"])


@given(sizes=st.lists(st.integers(1, 2000), max_size=40))
def test_a_batch_is_cut_into_requests_in_order_that_the_service_accepts(sizes):
    rows = [replace(ROW, index=index, request={"prompt": "x" * size}) for index, size in enumerate(sizes)]
    chunks = list(planning.chunks(rows, Limits(rows=3, text=5000)))

    assert rows == [row for chunk in chunks for row in chunk]
    assert all(1 <= len(chunk) <= 3 for chunk in chunks)
    assert all(5000 > sum(len(row.request["prompt"]) for row in chunk) for chunk in chunks)


def test_local_files_are_counted_into_the_size_of_a_request(tmp_path):
    photo = tmp_path / "photo.png"
    photo.write_bytes(b"x" * 100)
    rows = [replace(ROW, index=index, request={"images": [photo, photo]}) for index in range(5)]

    def counts(limits):
        return [len(chunk) for chunk in planning.chunks(rows, limits)]

    assert [2, 2, 1] == counts(Limits(file_bytes=450))
    assert [1, 1, 1, 1, 1] == counts(Limits(files=3))
    assert [5] == counts(Limits())
