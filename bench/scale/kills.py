"""SIGKILL to processes under load, the holder of the gate's role and members apart, and how soon another process looks
after the work of a killed one."""

import time
from collections.abc import Iterator
from functools import partial
from statistics import median, quantiles

import requests

from bench.report import Claim, Section, claimed
from bench.scale.stage import Scale, Stage, audited, staged
from harness.fleet import ADMIN
from harness.service_process import until
from simulator import Options
from simulator.threaded import Simulator

SIZE = 3
KILLS = 200
LOOKS = 30
TTL = 5.0
"""Seconds; the default of PROCESS_TTL."""

_NOTE = f"""\
{SIZE} processes. {KILLS} times, 1 to 9 s apart, a process is killed: a third of the times the holder of the
gate's role, a third another one, a third both at once. Each is started again at once. Then {LOOKS} times
the only process with running work is killed while the others are idle; the figure is the time until the
simulator receives the next request."""


def kills(scale: Scale) -> Section:
    number = scale.number(KILLS)
    return claimed(f"{number} kills over {SIZE} processes", _claims(scale), note=_NOTE)


def _claims(scale: Scale) -> Iterator[Claim]:
    number = scale.number(KILLS)
    with staged(SIZE) as stage:
        yield from audited(
            stage, f"{number} kills", partial(stage.fleet.kill_at_random, number, interval=(1.0, 9.0))
        )
    with staged(SIZE, Options(prediction_seconds=40.0, jitter=0.0)) as stage:
        looks = sorted(_first_looks(stage, scale.number(LOOKS, least=3)))
    p99 = quantiles(looks, n=100, method="inclusive")[98]
    print(f"     seconds to the first look: {', '.join(f'{each:.1f}' for each in looks)}", flush=True)
    target = TTL + 2
    what = f"{len(looks)} kills of the only busy process: first look by another at p99 (p50 {median(looks):.1f} s)"
    yield Claim(what, f"{p99:.1f} s", f"≤ {target:g} s", p99 <= target)


def _first_looks(stage: Stage, number: int) -> Iterator[float]:
    """Seconds from a SIGKILL to the next request that the simulator receives."""
    fleet, simulator = stage.fleet, stage.simulator
    for turn in range(number):
        busy = fleet.members[turn % SIZE]
        accepted = requests.post(
            f"{busy.running.url}/generate",
            json={"model_name": "flux-dev", "prompt": f"look {turn}"},
            headers={**ADMIN, "Prefer": "respond-async"},
            timeout=30,
        ).json()
        path = f"/generations/{accepted['id']}"
        until(lambda: simulator.counts().in_flight == 1)
        time.sleep(1)
        busy.kill()
        killed_at = time.monotonic()
        time.sleep(0.2)  # what it sent has arrived
        until(partial(_has_received_more, simulator, sum(simulator.counts().requests.values())), timeout=60)
        yield time.monotonic() - killed_at
        fleet.start()
        other = fleet.members[(turn + 1) % SIZE].running
        requests.delete(other.url + path, headers=ADMIN, timeout=30)
        until(lambda: simulator.counts().in_flight == 0, timeout=120)
        time.sleep(1)


def _has_received_more(simulator: Simulator, number: int) -> bool:
    return sum(simulator.counts().requests.values()) > number
