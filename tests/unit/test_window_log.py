"""The window on file: a process that starts within a minute of another's death does not start with an empty one."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from admission.sliding_window import WINDOW
from concurrency import Gate
from tests.support.virtual_time import run
from window_log import WindowLog

ROOT = Path(__file__).parents[2]


class Machine:
    """A machine's clock and disk; each `log` is a process that begins."""

    def __init__(self, directory: Path) -> None:
        self.now = 1_800_000_000.25
        self.path = directory / "a" / "others.window"
        self.logs: list[WindowLog] = []

    def log(self, of: str = "replicate") -> WindowLog:
        self.logs.append(WindowLog(self.path, of=of, window=WINDOW, clock=lambda: self.now))
        return self.logs[-1]

    def left(self, **of) -> list[tuple[float, int]]:
        log = self.log(**of)
        try:
            return log.left(if_unknown=7)
        finally:
            log.close()


@pytest.fixture
def machine(tmp_path):
    machine = Machine(tmp_path)
    yield machine
    for log in machine.logs:
        log.close()


def spend(machine: Machine, *, answered: int = 0, unanswered: int = 0) -> None:
    """A process that dies."""
    log = machine.log()
    log.left(if_unknown=7)
    for _ in range(answered + unanswered):
        log.taken()
    for _ in range(answered):
        log.answered()
    log.close()


def test_the_first_process_finds_nothing_spent(machine):
    assert [] == machine.left()


def test_a_place_counts_until_a_window_after_its_answer_in_whole_seconds(machine):
    spend(machine, answered=3)
    machine.now += 10

    assert [(50.75, 3)] == machine.left()
    machine.now += 50.5
    assert [(0.25, 3)] == machine.left()
    machine.now += 0.5
    assert [] == machine.left()


def test_a_place_without_an_answer_counts_from_the_next_start(machine):
    spend(machine, answered=1, unanswered=2)
    machine.now += 30

    assert [(30.75, 1), (60.0, 2)] == machine.left()


def test_a_place_given_back_does_not_count(machine):
    log = machine.log()
    log.left(if_unknown=7)
    log.taken()
    log.given_back()
    log.close()

    assert [] == machine.left()


def test_what_was_spent_elsewhere_does_not_count(machine):
    spend(machine, answered=3)

    assert [] == machine.left(of="another upstream")


def test_a_clock_that_was_set_back_counts_places_once_more_and_not_at_every_start(machine):
    spend(machine, answered=3)
    machine.now -= 7200

    assert [(60.0, 3)] == machine.left()
    machine.now += 30
    assert [(30.75, 3)] == machine.left()
    machine.now += 31
    assert [] == machine.left()


@pytest.mark.parametrize("content", [b"", b"x", bytes(1048), b"x" * 1048, b"x" * 5000])
def test_a_file_that_cannot_be_read_is_a_window_that_was_spent_just_now(machine, content):
    """For the process after the next, too, if the next dies at once."""
    machine.path.parent.mkdir()
    machine.path.write_bytes(content)

    async def story():
        gate = Gate(concurrent_limit=2, requests_per_minute=3)
        gate.resume(machine.log())
        spent = gate.statistics().current_rate_per_minute
        with await gate.acquire("a"):
            return spent, asyncio.get_running_loop().time()

    assert (3, 60.0) == run(story())
    machine.logs[-1].close()
    machine.now += 20
    assert [(40.75, 3)] == machine.left()


def test_a_file_that_is_cut_while_it_is_kept_stops_nobody_and_is_unknown_to_the_next(machine):
    log = machine.log()
    log.left(if_unknown=7)
    log.taken()
    machine.path.write_bytes(b"")
    log.answered()
    log.close()

    assert [(60.0, 7)] == machine.left()


def test_a_disk_that_is_full_is_an_error_at_once():
    if not Path("/dev/full").exists():
        return
    with pytest.raises(OSError, match=r"No space left|Illegal seek|Invalid argument"):
        WindowLog(Path("/dev/full"), of="replicate", window=WINDOW)


def test_a_process_that_still_ends_beside_the_next_takes_none_of_its_places_away(machine):
    old = machine.log()
    old.left(if_unknown=7)
    for _ in range(3):
        old.taken()
    new = machine.log()
    assert [(60.0, 3)] == new.left(if_unknown=7)
    for _ in range(3):
        new.taken()
    for _ in range(3):
        old.answered()
    old.close()
    new.close()

    assert 6 <= sum(places for _, places in machine.left())


def test_a_second_process_is_noticed(machine):
    first = machine.log()
    first.left(if_unknown=7)
    second = machine.log()
    with pytest.raises(BlockingIOError):
        machine.log(of="another upstream")
    first.close()
    third = machine.log()
    second.close()
    third.close()
    fourth = machine.log()

    logs = (first, second, third, fourth)
    assert [False, True, True, False] == [log.is_shared for log in logs]


def test_a_path_through_a_file_is_an_error_at_once(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises((NotADirectoryError, FileExistsError)):
        WindowLog(tmp_path / "file" / "x.window", of="", window=WINDOW)


class Stamps:
    """What Replicate counts: when each creation may have arrived."""

    def __init__(self) -> None:
        self.arrivals: list[float] = []

    def most_in_a_window(self) -> int:
        times = sorted(self.arrivals)
        return max(
            (sum(1 for other in times if start <= other < start + WINDOW) for start in times), default=0
        )


@given(
    lives=st.lists(
        st.tuples(st.floats(0.1, 70), st.integers(1, 12), st.floats(0, 5)), min_size=2, max_size=6
    ),
    limit=st.integers(1, 8),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_no_window_is_over_the_limit_across_any_row_of_deaths(tmp_path_factory, lives, limit):
    """Each life sends what it may, answered after up to 5 s, and is killed; the next begins at once. What was on its
    way arrives at the death at the latest."""
    path, stamps = tmp_path_factory.mktemp("lives") / "w", Stamps()

    async def one(gate, round_trip):
        with await gate.acquire("a") as lease:
            lease.sent()
            try:
                await asyncio.sleep(round_trip / 2)
            finally:  # whoever is killed has sent it all the same
                stamps.arrivals.append(asyncio.get_running_loop().time())
            await asyncio.sleep(round_trip / 2)
            lease.answered()

    async def story():
        clock = asyncio.get_running_loop().time
        for seconds, wanted, round_trip in lives:
            log = WindowLog(path, of="replicate", window=WINDOW, clock=clock)
            gate = Gate(concurrent_limit=5, requests_per_minute=limit)
            gate.resume(log)
            tasks = [asyncio.create_task(one(gate, round_trip)) for _ in range(wanted)]
            await asyncio.sleep(seconds)
            frozen = path.read_bytes()  # what a process that is killed leaves; nothing it does now counts
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            log.close()
            path.write_bytes(frozen)
        return stamps.most_in_a_window()

    assert run(story()) <= limit


KILLED = """
import os, signal, sys
from pathlib import Path
from window_log import WindowLog
log = WindowLog(Path(sys.argv[1]), of="replicate", window=60)
log.left(if_unknown=7)
for _ in range(5):
    log.taken()
for _ in range(3):
    log.answered()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_written_survives_kill_9(tmp_path):
    path = tmp_path / "others.window"
    killed = subprocess.run([sys.executable, "-c", KILLED, path], cwd=ROOT, check=False)
    log = WindowLog(path, of="replicate", window=WINDOW)

    try:
        left = log.left(if_unknown=7)
    finally:
        log.close()

    assert -signal.SIGKILL == killed.returncode
    assert 5 == sum(places for _, places in left)
    assert path.stat().st_size < 2048
