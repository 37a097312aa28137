"""The table of failures and the page of pictures."""

import csv
import io
from html.parser import HTMLParser

from replicate_concurrent.batches.manifest import Line
from replicate_concurrent.batches.rows import Row
from replicate_concurrent.batches.summary import (
    Outcome,
    contact_sheet,
    failures,
    keep_contact_sheet,
    keep_failures,
)

LOST = "No place keeps this output any more: http://service.test/1.png"
EVIL = '"><script>alert(1)</script>'


def outcome(index=1, *, prompt="A fox", **line):
    row = Row(index, f"a.csv line {index + 1}", {"model_name": "m", "prompt": prompt, "seed": 7}, f"d{index}")
    facts = {
        "generation": "gen_1",
        "status": "succeeded",
        "files": ("0001-a.png",),
        "cost_usd": 0.025,
        **line,
    }
    return Outcome(row, Line(f"k{index}", row.digest, index, "n.{ext}", 0.0, **facts))


def failed(index=1, *, detail="It is too dark", **changes):
    return outcome(
        index, status="failed", files=(), error={"code": "generation_failed", "detail": detail}, **changes
    )


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)


def test_the_failures_are_a_table_and_rows_that_are_done_are_not_in_it():
    table = list(
        csv.DictReader(io.StringIO(failures([outcome(1), failed(2), outcome(3, lost=(LOST, LOST))])))
    )

    assert [("2", "a.csv line 3", "generation_failed"), ("3", "a.csv line 4", "output_lost")] == [
        (row["index"], row["row"], row["code"]) for row in table
    ]
    assert f"{LOST}; {LOST}" == table[1]["detail"]


def test_a_page_of_an_earlier_run_is_replaced_and_one_of_the_user_is_not(tmp_path):
    path, other = tmp_path / "contact-sheet.html", tmp_path / "contact-sheet_2.html"

    assert [path] * 2 == [keep_contact_sheet([outcome(prompt=each)], tmp_path, "a.csv") for each in "AB"]
    assert "<p>B</p>" in path.read_text()

    path.write_text("<!doctype html>\n<p>My own</p>\n")
    assert [other] * 2 == [keep_contact_sheet([outcome(prompt=each)], tmp_path, "a.csv") for each in "CD"]
    assert ("<p>My own</p>" in path.read_text(), "<p>D</p>" in other.read_text()) == (True, True)


def test_the_table_of_an_earlier_run_is_replaced_and_removed(tmp_path):
    path = tmp_path / "failures.csv"

    assert [path] * 2 == [keep_failures([failed(number)], tmp_path, "a.csv") for number in (1, 2)]
    assert failures([failed(2)]) == path.read_text()
    assert path == keep_failures([outcome()], tmp_path, "a.csv")
    assert not path.exists()


def test_neither_the_input_nor_a_file_of_the_user_is_replaced_or_removed(tmp_path):
    rows, own = tmp_path / "failures.csv", tmp_path / "failures_2.csv"
    rows.write_text(failures([failed()]))
    own.write_text("prompt\nA fox\n")
    before = [rows.read_bytes(), own.read_bytes()]
    keep_failures([outcome()], tmp_path, str(rows))

    assert {rows, own} == set(tmp_path.iterdir())
    assert tmp_path / "failures_3.csv" == keep_failures([failed(2)], tmp_path, str(rows))
    assert failures([failed(2)]) == (tmp_path / "failures_3.csv").read_text()
    assert before == [rows.read_bytes(), own.read_bytes()]


def test_no_cell_of_the_failures_is_a_formula():
    (row,) = csv.DictReader(io.StringIO(failures([failed(prompt="=1+1", detail="@SUM(A1)")])))

    assert ("'=1+1", "'@SUM(A1)") == (row["prompt"], row["detail"])


def test_the_contact_sheet_shows_each_output_with_its_prompt_seed_and_cost():
    page = Page(contact_sheet([outcome(files=("a b/0001#?.png", "0001-2.png"))], title="foxes"))

    assert ["a%20b/0001%23%3F.png", "0001-2.png"] == [
        facts["src"] for tag, facts in page.tags if tag == "img"
    ]
    assert {"A fox", "1 · m · seed 7 · 0.025 USD"} <= set(page.texts)


def test_the_contact_sheet_shows_the_seed_that_the_service_knows():
    page = Page(contact_sheet([outcome(seed=18446744073709551615)], title="foxes"))

    assert "1 · m · seed 18446744073709551615 · 0.025 USD" in page.texts


def test_no_prompt_error_or_file_name_becomes_markup():
    text = contact_sheet(
        [failed(prompt=EVIL, detail=EVIL), outcome(prompt=EVIL, files=(f"{EVIL}.zip",))], title=EVIL
    )

    assert "script" not in {tag for tag, _ in Page(text).tags}
    assert {EVIL, f"{EVIL}.zip"} <= set(Page(text).texts)


def test_films_and_sound_can_be_played_and_other_files_are_links():
    page = Page(contact_sheet([outcome(files=("a.mp4", "b.MP3", "c.glb"))], title="all"))

    assert [("video", "a.mp4"), ("audio", "b.MP3")] == [
        (tag, facts["src"]) for tag, facts in page.tags if "src" in facts
    ]
    assert ["c.glb"] == [facts["href"] for tag, facts in page.tags if tag == "a"]
