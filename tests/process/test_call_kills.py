"""No kill loses a call to a text model, or pays for it twice unless its caller sends it again. The bills are those of
the simulator."""

import pytest

from harness.call_fleet import FleetCallKills
from harness.call_kills import SLOTS, CallKills
from simulator import Options, running
from simulator.gemini.options import GeminiOptions

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("disconnect", ["chunk", "whole"])
def test_a_kill_loses_at_most_the_calls_in_flight(tmp_path, disconnect):
    gemini = GeminiOptions(first_seconds=0.1, seconds=0.3, chunks=4, disconnect=disconnect)
    with running(Options(gemini=gemini, seed=1)) as simulator:
        report = CallKills(simulator, tmp_path, seed=3).run(3, requests_each=6)

    assert ([], [], []) == (report.lost, report.sent_twice, report.wrong_costs)
    assert report.calls == report.succeeded + report.unknown
    assert 0 < report.unknown <= report.kills * SLOTS


def test_kills_of_three_processes_lose_at_most_the_calls_in_flight(own_server, tmp_path):
    gemini = GeminiOptions(first_seconds=0.1, seconds=0.3, chunks=4, disconnect="whole", rpm=10**6, tpm=10**8)
    with running(Options(gemini=gemini, seed=1)) as simulator:
        report = FleetCallKills(simulator, tmp_path, seed=3, server=own_server, rpm=60).run_fleet(4)
        counts = simulator.gemini.counts()

    assert ([], [], []) == (report.lost, report.sent_twice, report.wrong_costs)
    assert report.calls == report.succeeded + report.unknown
    assert report.unknown <= report.kills * SLOTS
    assert counts.requests_peak_per_minute <= 60
