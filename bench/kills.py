"""Two hundred deaths under load: what was accepted is made once and reaches its end.

Half of the pictures are asked for in the same words, so that only counting tells them apart. The simulator runs here,
and outlives every process. `tests/process/test_kills.py` asserts the same for fewer deaths. It takes four minutes at
the most.
"""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.report import Claim, Section, claimed
from harness.kills import LONGEST, Story
from simulator import Options, running

_KILLS = 200
_ERRANDS = 2
"""Before each death, beside those of callers who wait."""

_A_MINUTE = 300
_OPTIONS = Options(
    prediction_seconds=0.25, jitter=0.8, answer_delay=(0.0, 0.2), creations_per_minute=_A_MINUTE, seed=1
)

_NOTE = f"""\
Master and worker are killed at once, {_KILLS} times, each at a moment drawn from 0 to {LONGEST:g} s after their process
was started, and started again on what they left. Meanwhile the admin asks for pictures, singly and in batches, waiting
for them or not, most with an `Idempotency-Key` and then again after each lost connection. A prediction takes 0.05 to
0.45 s, a message up to 0.2 s each way. Then every generation that anybody was told of or that is on record is looked
up, and its file fetched. The counts are the simulator's."""


def kills() -> Section:
    """One service, killed again and again."""
    return claimed(f"{_KILLS} kills under load", _claims(), note=_NOTE)


def _claims() -> Iterator[Claim]:
    with running(_OPTIONS) as simulator, TemporaryDirectory() as data:
        story = Story(
            simulator,
            Path(data),
            prompt=lambda number: f"picture {number}" if number % 2 else "the same picture",
            seed=1,
            REPLICATE_CONCURRENT_LIMIT=12,
            REPLICATE_REQUESTS_PER_MINUTE=_A_MINUTE,
        )
        told = story.told([story.killed(seed) for seed in range(_KILLS)], errands=_ERRANDS)
    for sentence in (*told.lost, *told.twice, *told.wrong):
        print(f"     {sentence}", flush=True)
    yield Claim(
        f"{_KILLS} kills, {told.found_serving} of a process that served: generations accepted, predictions made",
        f"{told.generations}, {told.predictions}",
        "the same",
        told.generations == told.predictions,
    )
    yield Claim("… lost", f"{len(told.lost)}", "0", not told.lost)
    yield Claim("… paid twice, or for nobody", f"{len(told.twice)}", "0", not told.twice)
    yield Claim("… requests answered by an error", f"{len(told.wrong)}", "0", not told.wrong)
    peak, throttled = told.peak_per_minute, told.refusals.get(429, 0)
    yield Claim("… creations at the most in any 60 s", f"{peak}", f"≤ {_A_MINUTE}", peak <= _A_MINUTE)
    yield Claim("… refused with 429", f"{throttled}", "0", throttled == 0)
