"""This service beside other ways to do the same, with more work than one window holds and a few faults.

The ideal respects the window: as many creations as it holds at once, the rest after a minute, and no other delay.
"""

import math
from functools import partial
from typing import Any

from bench.background import in_background
from bench.contender_run import (
    COSTS,
    IN_VAIN,
    OURS,
    THROTTLED,
    Column,
    ContenderRun,
    Scenario,
    none_of,
    requests_a_picture,
    run_contender,
    table,
)
from bench.report import Section

_SECONDS, _A_MINUTE = 2, 100
_FAULTS: tuple[dict[str, Any], ...] = (
    {"on": "create", "after": 70, "times": 3, "reset": "after"},
    {"on": "create", "after": 80, "times": 2, "status": 503},
    {"on": "get", "after": 10, "times": 2, "status": 500},
    {"on": "list", "after": 3, "times": 2, "status": 500},
)
_SCENARIO = Scenario(
    pictures=150,
    slots=60,
    simulator=(
        *("--seconds", str(_SECONDS), "--jitter", "0", "--seed", "1", "--delay", "0.025", "0.15"),
        *("--creations-per-minute", str(_A_MINUTE), "--others-per-minute", "3000"),
    ),
    service={"REPLICATE_REQUESTS_PER_MINUTE": _A_MINUTE},
    faults=_FAULTS,
    failing=3,
    bound=120,
)
_IDEAL = 60 + _SECONDS
_CONTENDERS = (OURS, "async_run", "polling", "retrying", "batch_process")


def comparison_with_faults() -> Section:
    """All contenders in parallel, since they mostly wait. Takes two minutes at the most."""
    started = {name: in_background(partial(run_contender, name, _SCENARIO)) for name in _CONTENDERS}
    runs = {name: run.result() for name, run in started.items()}
    title = f"What users meet: {_SCENARIO.pictures} pictures, {_A_MINUTE} creations a minute, and a bad day"
    return table(title, _COLUMNS, runs, note=_NOTE)


def _ratio(it: ContenderRun) -> float:
    return it.result["seconds"] / _IDEAL if it.result else math.inf


def _makespan_cell(it: ContenderRun) -> str:
    if it.undone:
        return it.undone
    return f"{_ratio(it):.2f}" + ", incomplete" * (it.got < it.scenario.pictures)


_COLUMNS = (
    Column(
        "pictures got",
        lambda it: f"{it.got} of {it.scenario.pictures}",
        f"{_SCENARIO.pictures}",
        lambda it: it.got == it.scenario.pictures,
    ),
    none_of("another model's, or black", lambda it: int(it.result["substitutes"]) if it.result else 0),
    IN_VAIN,
    THROTTLED,
    requests_a_picture(most=6),
    Column("makespan / ideal", _makespan_cell, "≤ 1.1", lambda it: _ratio(it) <= 1.1),
    *COSTS,
)

_NOTE = f"""\
Each contender has a fresh simulator with `{" ".join(_SCENARIO.simulator)}` and {_SCENARIO.slots} slots, and is ended
after {_SCENARIO.bound} s. The first three predictions fail with an error that recommends a retry. The responses to the
71st to 73rd creation are lost, though the predictions are made, and the 84th and 85th get a 503. Two polls of a
prediction and two of a list get a 500; contenders that hold creations open do not poll. Ideal is {_IDEAL} s:
{_A_MINUTE} pictures at once, the others after a minute, and {_SECONDS} s for the last. A contender that gives up
pictures finishes sooner. Pictures got are those that were requested; another model's, or black, are substitutes
returned as a success. Paid in vain are predictions that did not fail, beyond one for each picture got: made twice, or
never seen by the user. Retries come after pauses of 1, 2, 4, … 32 s, after every error."""
