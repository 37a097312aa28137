"""How much of the window and of the slots eight processes use, and how evenly their callers share it."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import mean

import requests

from bench.report import Claim, Section, claimed, counted
from bench.scale.stage import Scale, Stage, staged
from harness.fleet_audit import MINUTE, densest
from simulator import Options
from simulator.predictions import PredictionRecord

SIZE = 8

_A_MINUTE = 600
_JITTERY = Options(
    prediction_seconds=0.2, jitter=0.0, answer_delay=(0.0, 0.8), creations_per_minute=_A_MINUTE, seed=1
)

_SLOTS = 60
_PREDICTION = 5.0
_WIDE = Options(prediction_seconds=_PREDICTION, jitter=0.0, creations_per_minute=3000, seed=1)

_UNKNOWN = 3
"""Predictions after one another until their duration is known, so that polls come in time."""

_FULL = 300.0
"""Seconds of each measurement."""


def window(scale: Scale) -> Section:
    note = f"""\
    {SIZE} processes at {_A_MINUTE} creations a minute. Each has one caller with a token of its own and a
    batch. Each way a message takes 0 to 800 ms. Use is 60 s over the mean time between a creation and the
    {_A_MINUTE}th after it. Shares are counted over whole windows after the first."""
    return claimed(
        f"The window over {SIZE} processes", _window_claims(scale.seconds(_FULL, least=125)), note=note
    )


def slots(scale: Scale) -> Section:
    note = f"""\
    {SIZE} processes at {_SLOTS} slots and 3,000 creations a minute. Predictions take {_PREDICTION:g} s.
    Each process has one caller with a batch. Use is the time of all predictions over that of all slots,
    after three predictions in each slot."""
    return claimed(f"Slots over {SIZE} processes", _slot_claims(scale.seconds(_FULL, least=40)), note=note)


def _window_claims(seconds: float) -> Iterator[Claim]:
    with staged(SIZE, _JITTERY, REPLICATE_CONCURRENT_LIMIT=200) as stage:
        made, refused = _observed(
            stage, seconds, a_caller=_A_MINUTE + int(_A_MINUTE * (seconds / MINUTE + 1) / SIZE)
        )
    peak = densest(each.created_at.timestamp() for each in made) + refused
    yield Claim("Creations at the most in any 60 s", f"{peak}", f"≤ {_A_MINUTE}", peak <= _A_MINUTE)
    yield counted("… refused", refused)
    used = _use([each.created_at.timestamp() for each in made])
    yield Claim("… use of the window", f"{used:.1%}", "≥ 97 %", used >= 0.97)
    away, share = max(_distances(made)), _A_MINUTE // SIZE
    yield Claim(
        f"… a caller's creations in a window, beside its share of {share}", f"± {away}", "± 1", away <= 1
    )


def _slot_claims(seconds: float) -> Iterator[Claim]:
    with staged(SIZE, _WIDE, REPLICATE_CONCURRENT_LIMIT=_SLOTS) as stage:
        made, _ = _observed(stage, seconds, a_caller=int(1.5 * _SLOTS * seconds / _PREDICTION / SIZE))
        peak = stage.simulator.counts().in_flight_peak
    began = made[0].created_at.timestamp()
    since, until = began + _UNKNOWN * _PREDICTION, began + seconds
    busy = sum(_overlap(each, since, until) for each in made)
    used = busy / (_SLOTS * (until - since))
    yield Claim("Predictions in flight at the most", f"{peak}", f"≤ {_SLOTS}", peak <= _SLOTS)
    yield Claim("… use of the slots' time", f"{used:.1%}", "≥ 97 %", used >= 0.97)


def _observed(stage: Stage, seconds: float, *, a_caller: int) -> tuple[list[PredictionRecord], int]:
    """Submit a batch to each process, and wait so long. Returns the predictions by their time,
    and the number of refused creations."""
    for number, member in enumerate(stage.fleet.members):
        requests.post(
            f"{member.running.url}/generate-batch",
            json={"model_name": "flux-dev", "prompts": [f"{number}: {n}" for n in range(a_caller)]},
            headers={"X-Replicate-API-Key": f"r8_user_{number}", "Prefer": "respond-async"},
            timeout=60,
        ).raise_for_status()
    time.sleep(seconds)
    counts, made = stage.simulator.counts(), stage.simulator.predictions()
    return sorted(made, key=lambda each: each.created_at), counts.requests[
        "create"
    ] - counts.creations_accepted


def _use(stamps: Sequence[float]) -> float:
    """The part of the window that was used: one window after another, from each of the first window's creations."""
    windows = (len(stamps) - 1) // _A_MINUTE
    firsts = range(min(_A_MINUTE, len(stamps) - windows * _A_MINUTE))
    return mean(windows * MINUTE / (stamps[first + windows * _A_MINUTE] - stamps[first]) for first in firsts)


def _distances(made: Sequence[PredictionRecord]) -> Iterator[int]:
    """For each whole window after the first and each caller: its creations beside its share."""
    for first in range(_A_MINUTE, len(made) - _A_MINUTE + 1, _A_MINUTE):
        counts = Counter(each.token for each in made[first : first + _A_MINUTE])
        yield from (abs(counts[f"r8_user_{number}"] - _A_MINUTE // SIZE) for number in range(SIZE))


def _overlap(prediction: PredictionRecord, since: float, until: float) -> float:
    """Seconds of a prediction within a period."""
    began = prediction.created_at.timestamp()
    return max(0.0, min(began + _PREDICTION, until) - max(began, since))
