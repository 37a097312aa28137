"""What a process knows of those before it, when it begins: enough that nothing is taken for what it is not."""

import json
import time

from parts import USER

from intake.attachments import Attachments
from intake.parsing import Terms
from recovery import KNOWN_FOR, Recovery, inherit

NOW = time.time()
MODEL = "black-forest-labs/flux-dev"


def _row(name, *, submitted_at, ended_at=None, prediction_id=None):
    told = {"model_name": MODEL, "prediction_id": prediction_id, "error": None, "changes": []}
    attempt = {
        "told": told,
        "open": prediction_id is None,
        "submitted_at": submitted_at,
        "answered_at": submitted_at if prediction_id else None,
        "content": "the same",
    }
    return {
        "id": name, "caller": USER.id, "batch": None, "simulated": True, "ended_at": ended_at, "cost_usd": 0.0,
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

    def recent_tries(self, since):
        return [row["tries"] for row in self._rows if row["ended_at"] is None or row["ended_at"] >= since]


def test_predictions_of_others_stay_known_as_long_as_one_that_may_be_theirs_is_in_doubt():
    """Whoever is taken for its own must have been made since it was sent, however long ago that was. In 200 kills,
    eight generations were given up since others' predictions could have been theirs."""
    in_doubt = _row("gen_a", submitted_at=NOW - 1000)
    made = [
        _row(f"gen_{ago}", submitted_at=NOW - ago, ended_at=NOW - ago, prediction_id=f"p{ago}")
        for ago in (1000 + KNOWN_FOR - 1, 999, 500, 1)
    ]

    recovery = Recovery(attachments=Attachments(None), terms=Terms())
    inherited = inherit(Left(in_doubt, *made), recovery, None, simulated=True, now=NOW)

    assert {"p1119.0", "p999", "p500", "p1"} == set(inherited.prediction_ids)
