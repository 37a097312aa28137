"""Processes of the service on one ledger in PostgreSQL: another one continues the work of a dead one."""

import signal
from contextlib import ExitStack

import psycopg
import pytest

import service
from errors import ShuttingDown
from harness.postgres import server
from harness.service_process import until
from ledger import Profile
from ledger.postgres import PostgresBackend
from settings import Settings
from tests.support.callers import SERVER_TOKEN
from tests.support.wiring import ADMIN, USER, a_picture, pictures, submission

TTL = 1.0


class Mortal(PostgresBackend):
    """A database to which its process writes nothing any more after it has died."""

    is_dead = False

    def write(self, changes, claims=()):
        if self.is_dead:
            raise ConnectionError("dead")
        return super().write(changes, claims)

    def close(self):
        if not self.is_dead:
            super().close()
        self.disconnect()


class Process:
    """A process of the service within that of the test."""

    def __init__(self, simulator, url, tmp_path):
        self.url = url
        environ = {
            "REPLICATE_API_TOKEN": SERVER_TOKEN,
            "REPLICATE_BASE_URL": simulator.url,
            "REPLICATE_SIMULATE": "1",
            "DATA_DIR": str(tmp_path),
            "DATABASE_URL": url,
            "PROCESS_TTL": str(TTL),
            "FILES_TTL": "0",
        }
        profile = Profile(upstream=simulator.url, simulated=True, token=SERVER_TOKEN)
        self.database = Mortal(url, ttl=TTL, alone=False, profile=profile)
        self.service = service.build(Settings.from_env(environ), database=self.database)
        self.service.start()

    def submit(self, request, *, by=ADMIN):
        """Returns the id of the accepted work."""
        accepted = self.service.generations.submit(submission(request, by, wait_seconds=0))
        return self.service.loop.run(accepted).id

    def states(self, *ids):
        found = map(self.service.queries.generation, ids)
        return [record.state for record in found]

    def die(self):
        """End without a trace in the ledger."""
        self.database.is_dead = True
        self.service.close()

    def close(self):
        self.service.close()


@pytest.fixture
def processes(simulator, tmp_path):
    """Starts processes on one ledger."""
    with ExitStack() as stack:
        url = server().url(schema=stack.enter_context(server().schema()))

        def start(number):
            started = []
            for _ in range(number):
                started.append(Process(simulator, url, tmp_path))
                stack.callback(started[-1].close)
            return started

        yield start


@pytest.mark.slow
def test_work_of_a_dead_process_goes_on_in_one_of_the_others_and_users_work_waits(processes, simulator):
    first, second, third = processes(3)
    running = [first.submit(a_picture(f"[[hang]] {number}")) for number in range(3)]
    batch = first.submit(pictures(["[[hang]] a", "[[hang]] b"]))
    of_user = first.submit(a_picture("[[hang]] c"), by=USER)
    until(lambda: simulator.counts().in_flight == 6)
    until(lambda: first.states(*running, of_user) == ["running"] * 4)
    first.die()
    find = third.service.queries.generation
    until(lambda: first.database.process not in {find(each).process for each in running})
    simulator.finish()

    until(lambda: third.states(*running) == ["succeeded"] * 3)
    until(lambda: third.service.queries.batch(batch).ended_at)

    assert ["succeeded"] * 2 == [each.state for each in third.service.queries.batch_items(batch)]
    assert 6 == simulator.counts().creations_accepted
    waiting = third.service.queries.generation(of_user)
    assert (None, "running") == (waiting.process, waiting.state)
    assert waiting.suspended_at is not None
    heirs = {second.service.queries.generation(each).process for each in running}
    assert 1 == len(heirs)
    assert heirs < {second.service.ledger.process, third.service.ledger.process}


def test_work_of_a_process_that_ends_goes_on_at_once_in_another(processes, simulator):
    first, second = processes(2)
    target = first.submit(a_picture("[[hang]] a"))
    until(lambda: first.states(target) == ["running"])

    first.close()
    simulator.finish()

    until(lambda: second.states(target) == ["succeeded"])
    assert 1 == simulator.counts().creations_accepted


def test_a_process_that_was_taken_over_is_not_ready_and_ends(processes):
    first, second = processes(2)
    signals = []
    before = signal.signal(signal.SIGQUIT, lambda *_: signals.append("quit"))
    try:
        with psycopg.connect(first.url) as connection:
            connection.execute(
                "UPDATE processes SET dead_at = now() WHERE id = %s", (first.database.process,)
            )
        until(lambda: signals)
    finally:
        signal.signal(signal.SIGQUIT, before)

    with pytest.raises(ShuttingDown):
        first.service.ready()
    assert "ready" == second.service.ready()["status"]
