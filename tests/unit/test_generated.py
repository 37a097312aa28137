"""The generated tables of settings, models, fallbacks and errors match the code (`make generated`)."""

import pytest

from bench.plots import charts
from docs.generate import ROOT, documents

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
