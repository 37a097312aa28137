"""What every part needs: a simulator in this process, a server of PostgreSQL, a fleet, and the claims of its audit."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.report import Claim, counted
from harness.fleet import ADMIN, Fleet, running_fleet
from harness.fleet_audit import Audit, audit
from harness.fleet_load import FleetLoad
from harness.postgres import Server
from harness.service_process import until
from simulator import Options, running
from simulator.threaded import Simulator

SLOTS = 12
A_MINUTE = 300

JITTERY = Options(
    prediction_seconds=1.0, jitter=0.8, answer_delay=(0.0, 0.2), creations_per_minute=A_MINUTE, seed=1
)
"""The upstream of all parts that break something. Its limit is the service's, so that an excess is refused."""

SETTLED = 400.0
"""Seconds until all work has ended after the last fault. It only bounds a failing run."""

CALLERS: Sequence[dict[str, str]] = [
    *([ADMIN] * 8),
    *({"X-Replicate-API-Key": f"r8_user_{number}"} for number in range(4)),
]


@dataclass(frozen=True, slots=True)
class Scale:
    """The part of the full size to run, 1 for all of it."""

    factor: float = 1.0

    def number(self, full: int, *, least: int = 1) -> int:
        return max(least, round(full * self.factor))

    def seconds(self, full: float, *, least: float = 0.0) -> float:
        return max(least, full * self.factor)


@dataclass(frozen=True, slots=True)
class Stage:
    simulator: Simulator
    server: Server
    fleet: Fleet


@contextmanager
def staged(
    size: int,
    options: Options = JITTERY,
    *,
    server: Server | None = None,
    database: Callable[[int], str] | None = None,
    **settings: Any,
) -> Iterator[Stage]:
    """A fleet of `size` that serves. `server` may run already; else one is started for the block."""
    limits = {
        "REPLICATE_CONCURRENT_LIMIT": SLOTS,
        "REPLICATE_REQUESTS_PER_MINUTE": options.creations_per_minute,
    }
    own = None if server else Server(max_connections="200")
    used = server or own
    assert used is not None
    try:
        with (
            running(options) as simulator,
            running_fleet(
                size, used, database=database, **{"REPLICATE_BASE_URL": simulator.url, **limits, **settings}
            ) as fleet,
        ):
            print(f"     logs of the processes: {fleet.logs}", flush=True)
            yield Stage(simulator, used, fleet)
    finally:
        if own:
            own.close()


def audited(
    stage: Stage,
    what: str,
    disturb: Callable[[], None],
    *,
    pause: float = 3.0,
    load: FleetLoad | None = None,
    slots: int = SLOTS,
) -> Iterator[Claim]:
    """Run `disturb` under load, by default of pictures, then wait until all work has ended. Yields the claims of what
    must hold."""
    load = load or FleetLoad(stage.fleet, CALLERS, pause=pause)
    load.start()
    try:
        disturb()
        stage.fleet.start()
    finally:
        load.finish(timeout=SETTLED)
    # A caller may have given up before the end of work whose creation is still searched for.
    unfinished = "SELECT count(*) FROM generations WHERE ended_at IS NULL"
    with suppress(AssertionError):  # the audit says what has not ended
        until(lambda: stage.server.execute(unfinished) == [(0,)], timeout=SETTLED)
    yield from claims(what, audit(stage.server, stage.simulator, load), stage.fleet.logs, slots=slots)


def claims(
    what: str, found: Audit, logs: Path, *, slots: int = SLOTS, limit: int = A_MINUTE
) -> Iterator[Claim]:
    for kind in ("lost", "twice", "errors"):
        for sentence in getattr(found, kind)[:20]:
            print(f"     {kind}: {sentence}", flush=True)
    for text, number in found.healed.most_common(12):
        print(f"     healed by a repetition, {number} times: {text}", flush=True)
    print(f"     logs: {logs}", flush=True)
    sent = found.generations - found.secrets_lost
    without = ", without those that lost their secrets" if found.secrets_lost else ""
    yield Claim(
        f"{what}: generations accepted{without}, predictions made",
        f"{sent}, {found.predictions}",
        "the same",
        sent == found.predictions,
    )
    yield counted("… lost", len(found.lost))
    yield counted("… paid twice, or without a generation", len(found.twice))
    yield counted("… errors that no repetition healed", len(found.errors))
    yield Claim(
        "… creations at the most in any 60 s", f"{found.densest}", f"≤ {limit}", found.densest <= limit
    )
    yield counted("… refused with 429", found.throttled)
    peak = found.in_flight_peak
    yield Claim("… predictions in flight at the most", f"{peak}", f"≤ {slots}", peak <= slots)
