"""Kills the service a hundred times while it calls text models: no call is lost, and none is sent twice unasked.

    python -m bench.call_kills    # about five minutes

`tests/process/test_call_kills.py` asserts the same for fewer kills. The simulator runs in this process.
"""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from bench.report import Claim, Section, claimed, recorded
from harness.call_kills import SLOTS, CallKills
from harness.service_process import ROOT
from simulator import Options, running
from simulator.gemini.options import Disconnect, GeminiOptions

RESULTS: Final = ROOT / "bench" / "results.md"

_KILLS: Final = 100
_REQUESTS: Final = 3
"""New requests before each kill. A third of them are batches of three."""

_BILLING: Final[tuple[Disconnect, ...]] = ("chunk", "whole")

_NOTE: Final = f"""\
Master and worker are killed together, {_KILLS} times, most of them up to 0.8 s after new calls came, and some during
their start. Calls run at {SLOTS} slots and take 0.4 s. A fifth of them has `"on_lost": "repeat"`. Half of the kills are
in front of a simulator that bills a call whose connection ends as far as it came, and half in front of one that bills
it whole. Each prompt has a length of its own, by which its bill is found."""


def call_kills() -> Section:
    """The claims of one scenario for each way to bill."""
    return claimed(f"{_KILLS} kills during calls to text models", _claims(), note=_NOTE)


def _claims() -> Iterator[Claim]:
    for seed, disconnect in enumerate(_BILLING):
        kills = _KILLS // len(_BILLING)
        gemini = GeminiOptions(
            first_seconds=0.1, seconds=0.3, chunks=4, disconnect=disconnect, rpm=10**6, tpm=10**8
        )
        with running(Options(gemini=gemini, seed=1)) as simulator, TemporaryDirectory() as data:
            report = CallKills(simulator, Path(data), seed=seed).run(kills, requests_each=_REQUESTS)
        for sentence in (*report.lost, *report.sent_twice, *report.wrong_costs):
            print(f"     {sentence}", flush=True)
        calls, ended = report.calls, report.succeeded + report.unknown
        yield Claim(
            f"{kills} kills, billed by the {disconnect}: calls that ended",
            f"{ended}",
            f"{calls}",
            calls == ended,
        )
        most = kills * SLOTS
        yield Claim("… with an unknown outcome", f"{report.unknown}", f"≤ {most}", report.unknown <= most)
        yield Claim("… sent again as requested", f"{report.repeated}")
        yield _none("… sent again unasked", len(report.sent_twice))
        yield _none("… lost", len(report.lost))
        yield _none("… with another cost than the bill, or less if it was lost", len(report.wrong_costs))


def _none(what: str, found: int) -> Claim:
    return Claim(what, f"{found}", "0", found == 0)


def main() -> int:
    """Print the section and put it into the report. Returns the exit status: 1 if a count is off."""
    # Unwinds the stack, so that all processes started here end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return 1 if recorded(call_kills, RESULTS).missed else 0


if __name__ == "__main__":
    sys.exit(main())
