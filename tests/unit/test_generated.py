"""The documents say of settings, models, fallbacks and errors what the code declares: `make generated` writes them."""

import pytest

from docs.generate import ROOT, documents

DOCUMENTS = documents()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_a_document_is_what_make_generated_would_write(path):
    assert DOCUMENTS[path] == path.read_text(), "run `make generated`"


def test_every_table_stands_in_exactly_one_document():
    text = "".join((ROOT / name).read_text() for name in ("README.md", "docs/errors.md"))

    assert [1, 1, 1, 1] == [
        text.count(f"<!-- {name}, by make generated -->")
        for name in ("models", "fallbacks", "settings", "errors")
    ]
