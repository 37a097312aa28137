"""A ledger that 0.4.0 wrote: every answer about it is the one that 0.4.0 gave.

The ledger is opened three times:
- At rest, by a service without a token of its own: no work runs, and every body can be compared.
- By a service that simulates. The unfinished work was not simulated, so it ends.
- By a service that resumes the unfinished work. Only the ends are compared: a body depends on when the work ends.
"""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from simulator import Options, running
from tests.support.kept_ledgers import (
    Copy,
    RecordedAnswers,
    RecordedRequest,
    headers_of,
    read_answers,
    resumed,
    send,
    service,
    unpacked,
    without_added,
    without_wording,
)
from tests.support.recording.normal import without_prose

IF_ADDED = "a field that a later version adds to answers is listed in `ledger_fixture.ADDED`"
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def kept() -> RecordedAnswers:
    return read_answers()


@pytest.fixture
def copy(kept: RecordedAnswers, tmp_path: Path) -> Copy:
    return unpacked(tmp_path, kept.written_at)


def differences(
    client, copy: Copy, answers, *, without=without_wording
) -> list[tuple[RecordedRequest, object, object]]:
    found = ((ask, expected, send(client, ask, copy.written_at)) for ask, expected in answers)
    return [
        (ask, expected, actual)
        for ask, expected, actual in found
        if without(expected) != without(without_added(actual, expected))
    ]


@pytest.mark.slow
def test_every_route_answers_as_0_4_0_did(kept, copy):
    with service(copy.directory, NOWHERE, simulate=False, REPLICATE_API_TOKEN="") as app:
        assert [] == differences(app.test_client(), copy, kept.at_rest), IF_ADDED


@pytest.mark.slow
def test_a_service_that_simulates_answers_as_0_4_0_did_about_real_generations(kept, copy):
    with service(copy.directory, NOWHERE) as app:
        assert [] == differences(app.test_client(), copy, kept.other_world, without=without_prose), (
            IF_ADDED
        )  # this version writes the sentences of the ends


@pytest.mark.slow
def test_unfinished_generations_end_as_with_0_4_0(kept, copy):
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("written", "kept_text"),
    [
        ("C:\\udd", "C:\\udd"),
        ("C:\\udata\\", "C:\\udata\\"),
        ("\\ud800", "\\ud800"),
        ("a picture of \U0001f600", "a picture of \U0001f600"),
        ("half \ud800", "half \ufffd"),
        ("\udc00\ud800 the wrong way round", "\ufffd\ufffd the wrong way round"),
        ("\ud83d\U0001f600\ude00", "\ufffd\U0001f600\ufffd"),
        ("before\0after", "before\ufffdafter"),
    ],
)
def test_a_migration_replaces_only_characters_that_a_text_column_cannot_hold(copy, written, kept_text):
    with closing(sqlite3.connect(copy.directory / "ledger.db")) as connection, connection:
        failed = connection.execute("SELECT id, facts FROM generations WHERE state = 'failed' LIMIT 1")
        target, text = failed.fetchone()
        facts = json.loads(text)
        facts["prompt"] = facts["error"]["detail"] = written
        connection.execute("UPDATE generations SET facts = ? WHERE id = ?", (json.dumps(facts), target))
    with service(copy.directory, NOWHERE) as app:
        body = app.test_client().get(f"/generations/{target}", headers=headers_of("admin")).json
    assert (kept_text, kept_text) == (body["prompt"], body["error"]["detail"])


def test_the_copy_is_of_the_ledger_that_is_migrated_and_not_of_one_that_was_before(copy):
    def opened_and_closed() -> str:
        with service(copy.directory, NOWHERE):
            pass
        with closing(sqlite3.connect(copied)) as connection:
            return connection.execute("SELECT value FROM meta WHERE name = 'note'").fetchone()[0]

    ledger, copied = copy.directory / "ledger.db", copy.directory / "ledger.db.version-1"
    older = ledger.read_bytes()
    for note in ("first", "after a while with 0.4.0 again"):
        ledger.write_bytes(older)
        with closing(sqlite3.connect(ledger)) as connection, connection:
            connection.execute("INSERT INTO meta VALUES ('note', ?)", (note,))
        assert note == opened_and_closed()
