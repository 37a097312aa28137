"""How a run of `rcg batch` ends: its exit status, and what it says of rows whose files are lost."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from replicate_concurrent.batches.manifest import Line
from replicate_concurrent.batches.rows import Row
from replicate_concurrent.batches.summary import Outcome
from replicate_concurrent.cli.batch_run import BatchCommand, finish

DONE = Line("k", "d", 1, "a.{ext}", 0.0, status="succeeded", files=("a.jpg",), cost_usd=0.5)
LOST = replace(DONE, lost=("No place keeps this output any more: http://service.test/a-2.jpg",))


@dataclass
class Run:
    """A batch of one row that has ended."""

    line: Line

    def outcomes(self):
        return [Outcome(Row(1, "a.csv line 2", {"model_name": "m", "prompt": "A fox"}, "d"), self.line)]


def ended(line, out: Path):
    """The exit status of a run with contact sheet."""
    command = BatchCommand(
        "a.csv", None, {}, None, out, "a.{ext}", retry_failed=False, options={}, ask_above=None, dry_run=False,
        contact_sheet=True,
    )  # fmt: skip
    return finish(Run(line), command, 0)


@pytest.mark.parametrize(("line", "status", "names"), [(DONE, 0, set()), (LOST, 1, {"failures.csv"})])
def test_lost_files_are_a_failure(tmp_path, line, status, names):
    assert status == ended(line, tmp_path)
    assert names | {"contact-sheet.html"} == {path.name for path in tmp_path.iterdir()}


def test_a_row_with_a_lost_file_is_in_the_table_and_on_the_page_with_its_other_files(tmp_path, capsys):
    ended(LOST, tmp_path)

    assert f"output_lost,{LOST.lost[0]}," in (tmp_path / "failures.csv").read_text()
    page = (tmp_path / "contact-sheet.html").read_text()
    assert LOST.lost[0] in page
    assert 'src="a.jpg"' in page
    assert "0 of 1 rows done, 1 failed, 0.5 USD" in capsys.readouterr().err
