"""Fixtures of the tests of zips."""

import pytest

from datasets.examine import examine
from datasets.refusals import DatasetRefused
from tests.support.zips import zip_of


@pytest.fixture
def look(tmp_path):
    """Examine the bytes of a zip."""

    def look(content):
        path = tmp_path / "images.zip"
        path.write_bytes(content)
        return examine(path)

    return look


@pytest.fixture
def refusal(look):
    """The problems of a zip of these files, or of these bytes, as pairs of a name and a message."""

    def refusal(*members):
        with pytest.raises(DatasetRefused) as refused:
            look(members[0] if isinstance(next(iter(members), None), bytes) else zip_of(*members))
        return [(each.name, each.message) for each in refused.value.problems]

    return refusal
