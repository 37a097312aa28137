"""What is generated matches the code: tables of the documents, charts, and the layout of the ledger in PostgreSQL."""

import pytest

from bench.plots import charts
from docs.generate import ROOT, documents
from ledger.migrations import PRESENT
from tests.support.postgres_layout import KEPT, statements

DOCUMENTS = documents()
CHARTS = charts((ROOT / "bench" / "results.md").read_text())


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_a_document_is_what_make_generated_would_write(path):
    assert DOCUMENTS[path] == path.read_text(), "run `make generated`"


def test_every_table_is_in_exactly_one_document():
    text = "".join(
        (ROOT / name).read_text() for name in ("docs/models.md", "docs/settings.md", "docs/errors.md")
    )

    assert [1, 1, 1, 1] == [
        text.count(f"<!-- {name}, by make generated -->")
        for name in ("models", "fallbacks", "settings", "errors")
    ]


@pytest.mark.parametrize("path", CHARTS, ids=lambda path: path.name)
def test_a_chart_shows_the_figures_of_the_last_bench(path):
    assert CHARTS[path] == path.read_text(), "run `python -m bench.plots`"


@pytest.mark.parametrize("path", [path for version, path in KEPT.items() if version == PRESENT])
def test_the_kept_layout_of_the_present_version_is_that_of_a_new_ledger(path):
    assert statements() == path.read_text(), (
        "run `python -m tests.support.postgres_layout`, or write a step if this version is released"
    )
