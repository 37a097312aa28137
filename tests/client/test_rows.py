"""From files and lists to the items of a batch."""

import io

import pytest
from replicate_concurrent.batches import rows, tables
from replicate_concurrent.batches.tables import TableError

SCHEMA = {
    "properties": {
        "prompt": {"type": "string"},
        "seed": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "guidance": {"anyOf": [{"type": "number"}, {"type": "null"}]},
        "go_fast": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
        "megapixels": {"anyOf": [{"type": "string", "enum": ["1", "0.25"]}, {"type": "null"}]},
        "image": {"anyOf": [{"type": "string", "format": "uri"}, {"type": "null"}]},
        "images": {"type": "array", "items": {"type": "string", "format": "uri"}},
        "words": {"type": ["array", "null"], "items": {"type": "string"}},
    }
}


def shape(directory, **changes):
    fields = {"common": {"model": "m"}, "name": "{index:04d}-{slug}.{ext}", "schemas": {"m": SCHEMA}}
    return rows.Shape(**{**fields, "directory": directory, **changes})


def written(directory, name, text):
    path = directory / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def requests_of(entries, of_shape):
    return [dict(row.request) for row in rows.made(entries, of_shape)]


@pytest.mark.parametrize(
    ("name", "text", "values"),
    [
        ("a.txt", "A fox, {wild}\r\n\n  # two \n", [{"prompt": "A fox, {wild}"}, {"prompt": "# two"}]),
        ("a.txt", "\ufeffFüchse", [{"prompt": "Füchse"}]),
        ("a.csv", 'prompt,seed\n"A ""red""\nfox",7\n\n,8\n', [{"prompt": 'A "red"\nfox', "seed": "7"}, {"seed": "8"}]),
        ("a.csv", "\ufeffprompt,seed\r\nA fox,7\r\n", [{"prompt": "A fox", "seed": "7"}]),
        ("a.csv", '\ufeff"prompt","seed"\nA fox,7\n', [{"prompt": "A fox", "seed": "7"}]),
        ("a.tsv", "\ufeffprompt\tseed\nA fox\t7\n", [{"prompt": "A fox", "seed": "7"}]),
        ("a.tsv", "prompt\tseed\nA fox\t7\n".encode("utf-16"), [{"prompt": "A fox", "seed": "7"}]),
        ("a.jsonl", '\ufeff{"prompt": "A"}\n', [{"prompt": "A"}]),
        ("a.csv", "prompt;seed\nA fox, red;7", [{"prompt": "A fox, red", "seed": "7"}]),
        ("a.TSV", "prompt\tseed\nA, b\t\n", [{"prompt": "A, b"}]),
        ("a.jsonl", '{"prompt": "A", "seed": 7}\n\n"B"\n', [{"prompt": "A", "seed": 7}, {"prompt": "B"}]),
        ("a.txt", "A fox".encode("utf-16"), [{"prompt": "A fox"}]),
    ],
)  # fmt: skip
def test_a_file_has_the_rows_that_its_ending_says(tmp_path, name, text, values):
    assert values == [dict(entry.values) for entry in tables.read(written(tmp_path, name, text))]


@pytest.mark.parametrize(
    ("text", "values"),
    [("A\nB\n", [{"prompt": "A"}, {"prompt": "B"}]), (' {"prompt": "A"}\n', [{"prompt": "A"}])],
)
def test_standard_input_is_read_as_prompts_or_as_json_lines(text, values):
    assert values == [dict(entry.values) for entry in tables.read("-", stdin=io.StringIO(text))]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", " \n", "a.txt has no rows"),
        ("a.csv", "prompt,seed\n", "a.csv has no rows"),
        ("a.csv", "prompt,prompt\na,b\n", "line 1: each column needs a name"),
        ("a.csv", "prompt,\na,b\n", "line 1: each column needs a name"),
        ("a.csv", "prompt\na\nb,c\n", "line 3: has 2 cells for 1 columns"),
        ("a.csv", 'prompt\n"a', "line 2: unexpected end"),
        ("a.jsonl", '{"prompt": "A"}\n{"prompt": \n', "line 2: is not JSON"),
        ("a.csv", 'prompt\n"a\nb",c\n', "line 2: has 2 cells"),
        ("a.jsonl", '{"prompt": "A"}\n{"seed": NaN}\n', "line 2: is not JSON .NaN is no number"),
        ("a.jsonl", "[" * 100_000, "line 1: is not JSON"),
        ("a.jsonl", "[1]\n", "line 1: must be a text or an object"),
        (
            "a.jsonl",
            '{"prompt": "A"}\n{"prompt": "\\ud83d"}\n',
            r"line 2: has '.ud83d', which is half a character",
        ),
        ("a.jsonl", '{"\\ude00": 1}\n', "line 1: has"),
        ("a.txt", b"good\nf\xfcchse\n", "line 2: is not UTF-8"),
        ("a.xlsx", "PK", r"^a\.xlsx: its ending must be one of"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_its_line(tmp_path, name, text, message):
    with pytest.raises(TableError, match=message):
        tables.read(written(tmp_path, name, text))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(TableError, match=r"none\.txt: No such file"):
        tables.read(tmp_path / "none.txt")


def test_cells_get_the_types_of_the_models_schema(tmp_path):
    table = "prompt,seed,guidance,go_fast,megapixels,words\n12,7,2.5,no,1,a|b\n1e3,seven,3,True,0.25,\n"

    assert [
        {"model_name": "m", "prompt": "12", "seed": 7, "guidance": 2.5, "go_fast": False, "megapixels": "1",
         "words": ["a", "b"]},
        {"model_name": "m", "prompt": "1e3", "seed": "seven", "guidance": 3, "go_fast": True, "megapixels": "0.25"},
    ] == requests_of(tables.read(written(tmp_path, "a.csv", table)), shape(tmp_path))  # fmt: skip


def test_values_of_json_keep_their_types(tmp_path):
    entries = tables.of([{"prompt": "A", "seed": "7", "go_fast": 1}])

    assert [{"model_name": "m", "prompt": "A", "seed": "7", "go_fast": 1}] == requests_of(
        entries, shape(tmp_path)
    )


def test_a_row_wins_over_what_is_common_to_all(tmp_path):
    common = {"model": "m", "seed": "1", "guidance": "2"}
    entries = tables.of([{"prompt": "A", "seed": 7, "model_name": "other"}])
    both = {"m": SCHEMA, "other": SCHEMA}

    assert ["other"] == rows.models(entries, common)
    assert [{"model_name": "other", "prompt": "A", "seed": 7, "guidance": 2}] == requests_of(
        entries, shape(tmp_path, common=common, typed=False, schemas=both)
    )


def test_columns_in_the_prompt_are_filled_and_sent_only_if_the_model_has_them(tmp_path):
    table = "animal,seed,sku\nfox,7,A-1\n"
    of_shape = shape(tmp_path, prompt="A {animal} of {{sku}} {seed} {not json: 1}", name="{sku}.{ext}")
    (row,) = rows.made(tables.read(written(tmp_path, "a.csv", table)), of_shape)

    assert {"model_name": "m", "prompt": "A fox of {sku} 7 {not json: 1}", "seed": 7} == row.request
    assert "A-1" == row.values["sku"]


def test_a_common_prompt_may_have_that_of_the_row(tmp_path):
    entries = tables.read(written(tmp_path, "a.txt", "A {wild} fox\n"))

    assert (
        "A {wild} fox, in oil"
        == requests_of(entries, shape(tmp_path, prompt="{prompt}, in oil"))[0]["prompt"]
    )


def test_a_field_in_the_prompt_that_is_no_column_is_a_mistake_before_anything_is_spent(tmp_path):
    entries = tables.read(written(tmp_path, "a.csv", "prompt,colour\nA {color} fox,red\n"))

    with pytest.raises(
        TableError, match=r"a.csv line 2: the prompt has \{color\}, which is no column \(of: colour\)"
    ):
        rows.made(entries, shape(tmp_path))


def test_a_row_without_a_model_is_named(tmp_path):
    with pytest.raises(TableError, match="item 2: no model"):
        rows.models(tables.of([{"model": "m", "prompt": "A"}, "B"]), {})


def test_paths_of_local_files_are_files_and_missing_ones_are_mistakes(tmp_path):
    photo = written(tmp_path, "photo.png", "one")
    entries = tables.of([
        {"prompt": "A", "image": "photo.png", "images": ["https://example.com/a.png", str(photo)]},
        {"prompt": "A", "image": "data:image/png;base64,AAAA"},
    ])  # fmt: skip

    assert [
        {"model_name": "m", "prompt": "A", "image": photo, "images": ["https://example.com/a.png", photo]},
        {"model_name": "m", "prompt": "A", "image": "data:image/png;base64,AAAA"},
    ] == requests_of(entries, shape(tmp_path))
    with pytest.raises(TableError, match=r"item 1: 'none\.png' is neither a URL nor a file"):
        rows.made(tables.of([{"prompt": "A", "image": "none.png"}]), shape(tmp_path))


def test_a_row_is_recognised_by_all_that_is_sent_and_by_how_often_it_came(tmp_path):
    photo = written(tmp_path, "photo.png", "one")
    items = [
        {"prompt": "A"},
        {"prompt": "A"},
        {"prompt": "A", "seed": 1},
        {"prompt": "A", "image": "photo.png"},
    ]

    def digests(of_items):
        return [row.digest for row in rows.made(tables.of(of_items), shape(tmp_path))]

    before = digests(items)
    assert 4 == len(set(before))
    assert before == digests(items)
    assert digests([items[2], items[0]]) == [before[2], before[0]]

    photo.write_bytes(b"another one")
    assert before[:3] == digests(items)[:3]
    assert before[3] != digests(items)[3]


def test_all_mistakes_are_reported_at_once(tmp_path):
    entries = tables.of([{"prompt": "A", "image": f"{number}.png"} for number in range(7)])

    with pytest.raises(TableError, match=r"item 1: (.|\n)*item 5: (.|\n)*\(and 2 more\)"):
        rows.made(entries, shape(tmp_path))


@pytest.mark.parametrize(
    ("kinds", "text", "value"),
    [
        ("boolean", "TRUE", True), ("boolean", "False", False), ("boolean", "1", True), ("boolean", "0", False),
        ("boolean", "2", "2"), (["boolean", "integer"], "1", 1), (["boolean", "string"], "0", "0"),
    ],
)  # fmt: skip
def test_a_boolean_may_be_written_as_1_or_0_where_nothing_else_is_meant(kinds, text, value):
    found = rows.from_text(text, {"type": kinds})

    assert (type(value), value) == (type(found), found)
