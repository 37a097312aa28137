"""docs/migrate.md names only calls, commands and errors that the client has."""

import re

import pytest
import replicate_concurrent
from replicate_concurrent import Client, Handle
from replicate_concurrent.cli.app import app

from tests.unit.test_layout import ROOT

GUIDE = (ROOT / "docs" / "migrate.md").read_text()
COMMANDS = {each.callback.__name__.rstrip("_") for each in app.registered_commands} | {"keys"}


@pytest.mark.parametrize(
    ("pattern", "known"),
    [
        (r"\bclient\.([a-z_]+)\(", set(dir(Client))),
        (r"\bhandle\.([a-z_]+)\(", set(dir(Handle))),
        (r"`rcg ([a-z]+)", COMMANDS),
    ],
    ids=["client", "handle", "rcg"],
)
def test_each_call_of_the_guide_exists(pattern, known):
    named = set(re.findall(pattern, GUIDE))

    assert len(named) > 1
    assert named <= known


def test_each_error_of_the_guide_exists():
    table = GUIDE.partition("| an error of the class")[2].partition("\n\n")[0]
    named = {
        each for row in table.splitlines()[2:] for each in re.findall(r"`([A-Z]\w+)`", row.split("|")[2])
    }

    assert {"InvalidRequest", "BudgetExceeded", "TimedOut"} < named
    assert named - {"TimeoutError"} <= set(replicate_concurrent.__all__)
