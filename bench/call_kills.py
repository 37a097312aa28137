"""Kills the service a hundred times while it calls text models: no call is lost, and none is sent twice unrequested.

    python -m bench.call_kills    # about eight minutes

`tests/process/test_call_kills.py` asserts the same for fewer kills. The simulator runs in this process.
"""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from bench.report import Claim, Section, claimed, counted, run_alone
from harness.call_fleet import PROCESSES, FleetCallKills
from harness.call_kills import SLOTS, CallKills, CallReport
from harness.postgres import Server
from simulator import Options, Simulator, running
from simulator.gemini.options import Disconnect, GeminiOptions

_KILLS: Final = 100
_REQUESTS: Final = 3
"""New requests before each kill. A third of them are batches of three."""

_A_MINUTE: Final = 120
"""The limit of requests in 60 seconds of the processes on PostgreSQL."""

_BILLING: Final[tuple[Disconnect, ...]] = ("chunk", "whole")

_NOTE: Final = f"""\
Master and worker are killed together, {_KILLS} times, most of them up to 0.8 s after new calls came, and some during
their start. Calls run at {SLOTS} slots and take 0.4 s. A fifth of them has `"on_lost": "repeat"`. Half of the kills are
in front of a simulator that bills a call up to its last chunk if its connection ends, and half in front of one that
bills it whole. Each prompt has a length of its own, by which its bill is found. The processes on PostgreSQL share an
account with a limit, and the holder of the gate is killed as often as the others."""


def call_kills() -> Section:
    """The claims of one scenario for each way to bill."""
    return claimed(f"{_KILLS} kills during calls to text models", _claims(), note=_NOTE)


def _claims() -> Iterator[Claim]:
    for seed, disconnect in enumerate(_BILLING):
        kills = _KILLS // len(_BILLING)
        with _simulator(disconnect) as simulator, TemporaryDirectory() as data:
            report = CallKills(simulator, Path(data), seed=seed).run(kills, requests_each=_REQUESTS)
        yield from _of(report, f"{kills} kills, billed by the {disconnect}")
    server = Server()
    try:
        with _simulator("whole") as simulator, TemporaryDirectory() as data:
            fleet = FleetCallKills(simulator, Path(data), seed=11, server=server, rpm=_A_MINUTE)
            report = fleet.run_fleet(_KILLS)
            densest = simulator.gemini.counts().requests_peak_per_minute
    finally:
        server.close()
    yield from _of(report, f"{_KILLS} kills of {PROCESSES} processes on PostgreSQL")
    yield Claim("… sent in the densest 60 s", f"{densest}", f"≤ {_A_MINUTE}", densest <= _A_MINUTE)


def _simulator(disconnect: Disconnect) -> AbstractContextManager[Simulator]:
    gemini = GeminiOptions(
        first_seconds=0.1, seconds=0.3, chunks=4, disconnect=disconnect, rpm=10**6, tpm=10**8
    )
    return running(Options(gemini=gemini, seed=1))


def _of(report: CallReport, scenario: str) -> Iterator[Claim]:
    for sentence in (*report.lost, *report.sent_twice, *report.wrong_costs):
        print(f"     {sentence}", flush=True)
    calls, ended = report.calls, report.succeeded + report.unknown
    yield counted(f"{scenario}: calls that ended", ended, calls)
    most = report.kills * SLOTS
    yield Claim("… with an unknown outcome", f"{report.unknown}", f"≤ {most}", report.unknown <= most)
    yield Claim("… sent again as requested", f"{report.repeated}")
    yield counted("… sent again unrequested", len(report.sent_twice))
    yield counted("… lost", len(report.lost))
    yield counted("… with another cost than the bill, or less if it was lost", len(report.wrong_costs))


if __name__ == "__main__":
    sys.exit(run_alone(call_kills))
