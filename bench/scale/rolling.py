"""A rolling restart under load, beside the same load undisturbed."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager

from bench.report import Claim, Section, claimed
from bench.scale.stage import Scale, Stage, claims, staged
from harness.fleet import ADMIN
from harness.fleet_audit import audit
from harness.fleet_load import FleetLoad
from simulator import Options

SIZE = 3
SLOTS = 24
A_MINUTE = 3000
PICTURES = 1200
_SECONDS = 2.0
_OPTIONS = Options(prediction_seconds=_SECONDS, jitter=0.2, creations_per_minute=A_MINUTE, seed=1)

_NOTE = f"""\
{SIZE} processes, {SLOTS} slots, predictions of {_SECONDS:g} s. Callers request pictures one after another,
and repeat a request with the same key at any process. Each process is ended by SIGTERM and started again,
one after the other. The same load runs undisturbed before."""


def rolling(scale: Scale) -> Section:
    return claimed("A rolling restart", _claims(scale), note=_NOTE)


def _claims(scale: Scale) -> Iterator[Claim]:
    pictures = scale.number(PICTURES, least=400)
    with _stage() as stage:
        undisturbed, load = _makespan(stage, pictures, restarts=False)
        yield from claims(
            "undisturbed",
            audit(stage.server, stage.simulator, load),
            stage.fleet.logs,
            slots=SLOTS,
            limit=A_MINUTE,
        )
    with _stage() as stage:
        disturbed, load = _makespan(stage, pictures, restarts=True)
        yield from claims(
            f"{SIZE} restarts",
            audit(stage.server, stage.simulator, load),
            stage.fleet.logs,
            slots=SLOTS,
            limit=A_MINUTE,
        )
    ratio = disturbed / undisturbed
    yield Claim(
        f"… makespan over undisturbed ({disturbed:.1f} s, {undisturbed:.1f} s)",
        f"{ratio:.3f}",
        "≤ 1.05",
        ratio <= 1.05,
    )


def _stage() -> AbstractContextManager[Stage]:
    return staged(SIZE, _OPTIONS, REPLICATE_CONCURRENT_LIMIT=SLOTS)


def _makespan(stage: Stage, pictures: int, *, restarts: bool) -> tuple[float, FleetLoad]:
    load = FleetLoad(stage.fleet, [ADMIN] * 40, pause=0.01, most=pictures)
    began = time.monotonic()
    load.start()
    if restarts:
        for each in stage.fleet.members:
            time.sleep(2)
            each.terminate()
            each.launch()
            stage.fleet.start()
    load.join(timeout=600)
    seconds = time.monotonic() - began
    load.finish(timeout=60)
    return seconds, load
