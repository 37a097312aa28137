"""A stalled Replicate before three processes, of which some are killed meanwhile."""

import time
from collections.abc import Iterator

from bench.report import Claim, Section, claimed
from bench.scale.stage import Scale, Stage, claims, staged
from harness.fleet import ADMIN
from harness.fleet_audit import audit
from harness.fleet_load import FleetLoad
from simulator import Options

SIZE = 3

_A_MINUTE = 60
_PICTURES = 120
_CALLERS = 40
_STALLS = ((35, True), (12, False), (50, True), (40, False), (65, True))
"""The seconds of each stall, and whether two processes are killed in its middle."""

_BETWEEN = 15
_OPTIONS = Options(
    prediction_seconds=5.0, jitter=0.5, answer_delay=(0.0, 2.0), creations_per_minute=_A_MINUTE, seed=1
)


def stalls(scale: Scale) -> Section:
    chosen = _STALLS[: scale.number(len(_STALLS), least=2)]
    note = f"""\
    {SIZE} processes at {_A_MINUTE} creations a minute and 60 slots; each way a message takes 0 to 2 s. The
    simulator answers nothing for {", ".join(f"{seconds}" for seconds, _ in chosen)} s, {_BETWEEN} s apart,
    and then serves the requests that arrived meanwhile. In the middle of every other stall the holder of
    the gate's role and another process are killed and started again. {_CALLERS} callers request {_PICTURES}
    pictures."""
    return claimed(
        f"{len(chosen)} stalls of Replicate before {SIZE} processes", _claims(scale, chosen), note=note
    )


def _claims(scale: Scale, chosen: tuple[tuple[int, bool], ...]) -> Iterator[Claim]:
    with staged(SIZE, _OPTIONS, REPLICATE_CONCURRENT_LIMIT=60) as stage:
        load = FleetLoad(stage.fleet, [ADMIN] * _CALLERS, pause=1.0, most=scale.number(_PICTURES, least=60))
        load.start()
        _stall(stage, chosen)
        load.join(timeout=900)
        load.finish(timeout=1)
        found = audit(stage.server, stage.simulator, load)
        yield from claims(f"{len(chosen)} stalls", found, stage.fleet.logs, slots=60, limit=_A_MINUTE)


def _stall(stage: Stage, chosen: tuple[tuple[int, bool], ...]) -> None:
    for seconds, kills in chosen:
        time.sleep(_BETWEEN)
        stage.simulator.stall(seconds)
        time.sleep(seconds / 2)
        if kills:
            holder = stage.fleet.holder() or stage.fleet.members[0]
            other = next(each for each in stage.fleet.members if each is not holder)
            for each in (holder, other):
                each.kill()
            stage.fleet.start()
        time.sleep(seconds / 2)
