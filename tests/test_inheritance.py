"""What a process knows of those before it, when it begins: enough that nothing is taken for what it is not."""

import json
import time

import pytest
from parts import USER

from intake.attachments import Attachments
from intake.parsing import Terms
from recovery import KNOWN_FOR, Recovery, inherit

NOW = time.time()
MODEL = "black-forest-labs/flux-dev"


def _row(name, *, submitted_at, changed_at, prediction_id=None):
    told = {"model_name": MODEL, "prediction_id": prediction_id, "error": None, "changes": []}
    attempt = {
        "told": told,
        "open": prediction_id is None,
        "submitted_at": submitted_at,
        "answered_at": submitted_at if prediction_id else None,
        "content": "the same",
    }
    return {
        "id": name, "caller": USER.id, "batch": None, "simulated": True, "changed_at": changed_at,
        "state": "submitting" if prediction_id is None else "succeeded", "tries": json.dumps([attempt]),
    }  # fmt: skip


class Left:
    """A ledger with these rows."""

    def __init__(self, *rows):
        self._rows = rows

    def unfinished(self):
        return [row for row in self._rows if row["state"] == "submitting"]

    def unfinished_batches(self):
        return []

    def pending_deliveries(self):
        return []

    def changed_since(self, since):
        return [row["tries"] for row in self._rows if row["changed_at"] >= since]


@pytest.mark.parametrize("taken_up_ago", [0, 100, 1000])
def test_predictions_of_others_stay_known_however_often_what_is_in_doubt_was_taken_up_again(taken_up_ago):
    """Each process that takes it up writes its row anew; whoever is taken for its own must have been made since it was
    sent. In 200 kills, eight generations were given up since others' predictions could have been theirs."""
    in_doubt = _row("gen_a", submitted_at=NOW - 1000, changed_at=NOW - taken_up_ago)
    made = [
        _row(f"gen_{ago}", submitted_at=NOW - ago, changed_at=NOW - ago, prediction_id=f"p{ago}")
        for ago in (1000 + KNOWN_FOR - 1, 999, 500, 1)
    ]

    recovery = Recovery(attachments=Attachments(None), terms=Terms())
    inherited = inherit(Left(in_doubt, *made), recovery, None, simulated=True, now=NOW)

    assert {"p1119.0", "p999", "p500", "p1"} == set(inherited.prediction_ids)
