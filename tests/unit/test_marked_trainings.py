"""A training that a claim has marked as being created, and that was not sent before a stop of the service, is
free."""

import pytest

from contract.trainings import TRAINING
from errors import Interrupted
from generations import training_views
from generations.endings import cancelled, ended_record, expired
from ledger.records import AttemptRecord
from tests.support.records import generation


def attempt(**facts):
    return AttemptRecord(generation_id="trn_1", number=1, model="a/b", **{"open": True} | facts)


def training(*attempts, state="submitting"):
    return generation("trn_1", door=TRAINING, state=state, reserved_usd=0.75, attempts=attempts)


SENT = attempt(submitted_at=5.0)


@pytest.mark.parametrize(
    ("record", "has_begun"),
    [
        (training(), False),
        (training(attempt()), False),
        (training(attempt(submitted_at=5.0, open=False)), False),
        (training(SENT), True),
        (training(attempt(submitted_at=5.0, prediction_id="t"), state="running"), True),
        (training(state="queued"), False),
        (generation("gen_1", state="submitting"), True),
    ],
)
def test_a_training_has_begun_once_it_was_sent(record, has_begun):
    assert has_begun is record.has_begun


def test_what_was_not_sent_is_not_billed():
    marked = training()

    assert 0.0 == ended_record(marked, Interrupted()).cost_usd
    assert ("interrupted", 0.0) == (expired(marked).error.code, expired(marked).cost_usd)
    assert ("canceled", 0.0, "The generation was cancelled.") == (
        cancelled(marked).state,
        cancelled(marked).cost_usd,
        cancelled(marked).error.detail,
    )


def test_what_was_sent_may_be_billed():
    assert ("outcome_unknown", 0.75) == (expired(training(SENT)).error.code, expired(training(SENT)).cost_usd)
    assert "may be billed" in cancelled(training(SENT)).error.detail


def test_a_training_that_runs_without_a_watching_process_has_no_deadline():
    running = training(attempt(submitted_at=5.0, prediction_id="t1"), state="running")
    assert "Its training t1 may run to its end, and be billed." in cancelled(running).error.detail


def test_a_suspended_training_shows_a_creation_in_doubt():
    suspended = generation(
        "trn_1", door=TRAINING, door_facts="{}", state="submitting", suspended_at=7.0, attempts=(SENT,)
    )
    shown = training_views.training(suspended, "http://here")

    assert shown["creation_in_doubt"] is True
    assert shown["waiting_for_owner_since"] == "1970-01-01T00:00:07.000Z"
