"""This service beside other ways to do the same, without faults.

The ideal makespan is computed from the durations that the simulator drew in that run: each picture goes to the slot
that is free first, and only predictions take time. Only this service has targets.
"""

import heapq
import math
import os
import statistics
from collections.abc import Iterable, Mapping
from datetime import datetime
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
from harness.service_process import ROOT

_SECONDS = 12
_SCENARIO = Scenario(
    pictures=180,
    slots=60,
    simulator=(
        *("--seconds", str(_SECONDS), "--jitter", "0.2", "--seed", "1"),
        *("--delay", "0.025", "0.15"),  # each way: the response to a creation arrives after 50 to 300 ms
        *("--creations-per-minute", "600", "--others-per-minute", "3000"),
    ),
    bound=75,
)
_ALONE = (OURS, "async_run")
_TOGETHER = ("polling", "threads", "batch_process")


def comparison() -> Section:
    """The fast contenders one by one, then the others, which mostly wait, in parallel. Takes three minutes."""
    runs = {name: run_contender(name, _SCENARIO) for name in _ALONE}
    others = {name: in_background(partial(run_contender, name, _SCENARIO)) for name in _TOGETHER}
    runs |= {name: run.result() for name, run in others.items()}
    title = (
        f"{_SCENARIO.pictures} pictures of {_SECONDS} s at {_SCENARIO.slots} slots, and nothing goes wrong"
    )
    return table(title, _COLUMNS, runs, note=_note())


def _ratio(it: ContenderRun) -> float:
    """Its makespan as a multiple of the ideal one; infinite if it did not finish."""
    if it.result is None:
        return math.inf
    ideal = _ideal(
        (_ended(each) - _created(each) for each in it.made if each["completed_at"]), it.scenario.slots
    )
    return float(it.result["seconds"]) / ideal


def _ideal(durations: Iterable[float], slots: int) -> float:
    """Seconds of a list schedule: each duration in turn goes to the slot that is free first."""
    free = [0.0] * slots
    for duration in durations:
        heapq.heapreplace(free, free[0] + duration)
    return max(free)


def _delay(it: ContenderRun) -> float | None:
    """Median of the seconds from a prediction's end until the contender knew its link; None if it does not report
    that."""
    known = it.result["known"] if it.result else {}
    ended = {each["id"]: _ended(each) for each in it.made if each["completed_at"]}
    delays = [moment - ended[url.split("/")[-2]] for url, moment in known.items()]
    return statistics.median(delays) if delays else None


def _created(prediction: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(prediction["created_at"]).timestamp()


def _ended(prediction: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(prediction["completed_at"]).timestamp()


def _makespan_cell(it: ContenderRun) -> str:
    return f"{it.undone}: {it.got} of {it.scenario.pictures}" if it.undone else f"{_ratio(it):.2f}"


def _delay_cell(it: ContenderRun) -> str:
    delay = _delay(it)
    return "" if delay is None else f"{delay:.2f} s"


_COLUMNS = (
    Column("makespan / ideal", _makespan_cell, "≤ 1.06", lambda it: _ratio(it) <= 1.06),
    Column(
        "in flight at most",
        lambda it: str(it.seen["in_flight_peak"]),
        f"≤ {_SCENARIO.slots}",
        lambda it: it.seen["in_flight_peak"] <= _SCENARIO.slots,
    ),
    requests_a_picture(most=4),
    THROTTLED,
    none_of("lost", lambda it: it.scenario.pictures - it.got),
    IN_VAIN,
    *COSTS,
    Column("done to known, median", _delay_cell, "≤ 0.4 s", lambda it: (_delay(it) or math.inf) <= 0.4),
)


def _note() -> str:
    pinned = (ROOT / "requirements-bench.txt").read_text().splitlines()
    versions = ", ".join(line.split()[0] for line in pinned if line.startswith("replicate"))
    threads = min(32, (os.cpu_count() or 1) + 4)  # as concurrent.futures has it
    return f"""\
Each contender has a fresh simulator with `{" ".join(_SCENARIO.simulator)}` and is ended after {_SCENARIO.bound} s.
Ideal is the list schedule of the drawn durations, without gaps. `async_run` asks Replicate to hold each creation open
until the picture is ready, so it does not poll. After a minute Replicate returns the unfinished prediction, and it
polls every half second, as it does with `wait=False` from the start. `asyncio.to_thread` has {threads} threads on this
machine, four more than cores, and `replicate-batch-process` uses it. Requests are all but downloads, which only
`replicate-batch-process` makes, since the service stores no outputs here. Lost are the pictures that the user did not
get, substitutes included. Paid in vain are predictions that did not fail, beyond one for each picture got. CPU and
memory are the service's, or else the script's. Versions: {versions}."""
