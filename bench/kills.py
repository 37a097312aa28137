"""Kills the service two hundred times under load: no accepted work is lost, and none is paid for twice.

Half of the pictures have the same prompt, so that only their number shows a missing one. The simulator runs in this
process. `tests/process/test_kills.py` asserts the same for fewer kills. It takes four minutes at the most.
"""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.report import Claim, Section, claimed, counted
from harness.kills import LONGEST_RUN, KillScenario
from simulator import Options, running

_KILLS = 200
_REQUESTS = 2
"""New requests before each kill, besides those of callers that wait for results."""

_A_MINUTE = 300
_OPTIONS = Options(
    prediction_seconds=0.25, jitter=0.8, answer_delay=(0.0, 0.2), creations_per_minute=_A_MINUTE, seed=1
)

_NOTE = f"""\
Master and worker are killed together, {_KILLS} times, each time at a random moment from 0 to {LONGEST_RUN:g} s after
the start of their process. Then the service starts again on its ledger. Meanwhile the admin requests pictures, singly
and in batches, with and without waiting. Most requests have an `Idempotency-Key` and are repeated after each lost
connection. A prediction takes 0.05 to 0.45 s, a message up to 0.2 s each way. At the end every generation that is in
the ledger or was in a response is looked up, and its file fetched. The counts are the simulator's."""


def kills() -> Section:
    """The claims of one scenario."""
    return claimed(f"{_KILLS} kills under load", _claims(), note=_NOTE)


def _claims() -> Iterator[Claim]:
    with running(_OPTIONS) as simulator, TemporaryDirectory() as data:
        scenario = KillScenario(
            simulator,
            Path(data),
            prompt=lambda number: f"picture {number}" if number % 2 else "the same picture",
            seed=1,
            REPLICATE_CONCURRENT_LIMIT=12,
            REPLICATE_REQUESTS_PER_MINUTE=_A_MINUTE,
        )
        report = scenario.run(
            [scenario.kill_at_random(seed) for seed in range(_KILLS)], requests_each=_REQUESTS
        )
    for sentence in (*report.lost, *report.mismatched, *report.errors):
        print(f"     {sentence}", flush=True)
    yield Claim(
        f"{_KILLS} kills, {report.ended_while_serving} while it served: generations accepted, predictions made",
        f"{report.generations}, {report.predictions}",
        "the same",
        report.generations == report.predictions,
    )
    yield counted("… lost", len(report.lost))
    yield counted("… paid twice, or without a generation", len(report.mismatched))
    yield counted("… requests answered by an error", len(report.errors))
    peak = report.peak_per_minute
    yield Claim("… creations at the most in any 60 s", f"{peak}", f"≤ {_A_MINUTE}", peak <= _A_MINUTE)
    yield counted("… refused with 429", report.refusals.get(429, 0))
