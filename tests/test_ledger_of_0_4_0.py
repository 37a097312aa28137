"""A ledger that 0.4.0 wrote: every answer about it is the one that 0.4.0 gave.

The ledger is opened three times:
- At rest, by a service without a token of its own: nothing goes on, and every body can be compared.
- By a service that simulates. The unfinished work was not simulated, so it ends.
- By a service that goes on with the unfinished. Its end is compared, since the body depends on when that comes.
"""

from pathlib import Path

import pytest

from simulator import Options, running
from tests.ledger_fixture import (
    Ask,
    Copy,
    Kept,
    asked,
    read_kept,
    resumed,
    service,
    unpacked,
    without_added,
)

IF_ADDED = "a field that a later version adds to answers is listed in `ledger_fixture.ADDED`"
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def kept() -> Kept:
    return read_kept()


@pytest.fixture
def copy(kept: Kept, tmp_path: Path) -> Copy:
    return unpacked(tmp_path, kept.written_at)


def differences(client, copy: Copy, answers) -> list[tuple[Ask, object, object]]:
    found = ((ask, expected, asked(client, ask, copy.written_at)) for ask, expected in answers)
    return [
        (ask, expected, actual)
        for ask, expected, actual in found
        if expected != without_added(actual, expected)
    ]


def test_every_route_answers_as_0_4_0_did(kept, copy):
    with service(copy.directory, NOWHERE, simulate=False, REPLICATE_API_TOKEN="") as app:
        assert [] == differences(app.test_client(), copy, kept.at_rest), IF_ADDED


def test_a_service_that_simulates_answers_as_0_4_0_did_of_what_was_not_simulated(kept, copy):
    with service(copy.directory, NOWHERE) as app:
        assert [] == differences(app.test_client(), copy, kept.other_world), IF_ADDED


def test_what_was_unfinished_ends_as_it_did_with_0_4_0(kept, copy):
    owners = {target: owner for target, (owner, _) in kept.resumed.items()}
    ends = {target: end for target, (_, end) in kept.resumed.items()}
    with running(Options(prediction_seconds=0.02)) as simulator:
        assert ends == resumed(copy, simulator.url, owners, ends)


def test_only_the_listed_fields_that_0_4_0_did_not_have_are_not_compared():
    then = [200, {"a": 1, "results": [{"b": 2}]}]
    added = frozenset({"new", "b"})

    assert then == without_added([200, {"a": 1, "new": 0, "results": [{"b": 2, "new": 0}]}], then, added)
    for other in ({"a": 1, "unlisted": 0}, {"new": 0}, {"a": 1, "results": [{"b": 3}]}):
        assert then != without_added([200, other], then, added)
