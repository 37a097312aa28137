"""Several processes of the service on one PostgreSQL, which tests and benchmarks kill, freeze and restart.

Processes end with the thread that started them, so one thread makes all calls of a fleet but `urls`.
"""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import psycopg
import requests

from harness.ledger_file import LedgerFile
from harness.postgres import Server
from harness.service_process import ROOT, ServiceProcess, launched_service, until

ADMIN = {"X-Admin-API-Key": "the-admin-key"}

_STARTED = 120.0
"""Seconds until a process serves. It only bounds a failing run."""


class Member:
    """A place of a fleet: a process of the service, or none after its end."""

    def __init__(self, number: int, settings: dict[str, Any], log: Path) -> None:
        self.number = number
        self.settings = settings
        self.log = log
        self.tree = ROOT
        """The directory of the source that `launch` starts."""
        self.service: ServiceProcess | None = None
        self._stack = ExitStack()

    @property
    def running(self) -> ServiceProcess:
        """Its process, which must run."""
        assert self.service is not None
        return self.service

    def launch(self) -> None:
        """Start a process. It does not serve yet."""
        assert self.service is None
        self.service = self._stack.enter_context(
            launched_service(_command=[str(self.tree / "app.py")], _log=self.log, **self.settings)
        )

    def is_ready(self) -> bool:
        """Whether a load balancer would send requests to it."""
        with suppress(requests.RequestException):
            return (
                self.service is not None
                and requests.get(f"{self.service.url}/health/ready", timeout=5).status_code == 200
            )
        return False

    def worker(self) -> int:
        """The id of the process that has the ledger."""
        return self.running.worker()

    def kill(self) -> None:
        """SIGKILL to all of it. `launch` starts another process."""
        service = self.running
        self.service = None
        service.kill()
        self._stack.close()

    def freeze(self) -> None:
        """SIGSTOP to all of it, as when a virtual machine is paused."""
        os.killpg(self.running.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.killpg(self.running.process.pid, signal.SIGCONT)

    def terminate(self) -> int:
        """SIGTERM, and wait for its end. Requests may still arrive meanwhile. Returns the exit status."""
        service = self.running
        service.signal(signal.SIGTERM)
        status = service.process.wait(timeout=180)
        self.service = None
        self._stack.close()
        return status


class Fleet:
    """`size` processes with the same settings, or one with a ledger of its own. `database` makes the URL of the
    database for each member."""

    def __init__(
        self,
        size: int,
        server: Server | LedgerFile,
        *,
        database: Callable[[int], str] | None = None,
        **settings: object,
    ) -> None:
        self.server = server
        self.logs = Path(mkdtemp(prefix="fleet-"))
        self.members = [
            Member(
                number,
                {
                    "DATABASE_URL": database(number) if database else server.url(),
                    "CONCURRENT_DOCKER_ADMIN_API_KEY": ADMIN["X-Admin-API-Key"],
                    "REPLICATE_API_TOKEN": "r8_server",
                    "FILES_TTL": 0,
                    "LOG_LEVEL": "info",
                    **settings,
                },
                self.logs / f"{number}.log",
            )
            for number in range(size)
        ]

    def urls(self) -> list[str]:
        """The addresses of all processes that run, whether they serve or not. Any thread may call it."""
        return [service.url for each in self.members if (service := each.service) is not None]

    def start(self) -> None:
        """Start all processes that do not run, and wait until all serve."""
        for each in self.members:
            if each.service is None:
                each.launch()
        for each in self.members:
            until(each.is_ready, timeout=_STARTED)

    def close(self) -> None:
        for each in self.members:
            if each.service is not None:
                with suppress(ProcessLookupError):
                    each.kill()

    def holder(self) -> Member | None:
        """The member that holds the role of the gate, or None if none of them does."""
        try:
            rows = self.server.execute("SELECT holder FROM roles WHERE name = 'gate' AND holder IS NOT NULL")
        except psycopg.errors.UndefinedTable:
            return None
        pids = {int(holder.split(":")[-2]) for (holder,) in rows}
        return next(
            (each for each in self.members if each.service and pids & {*each.service.workers()}), None
        )

    def kill_at_random(self, number: int, *, interval: tuple[float, float], seed: int = 1) -> None:
        """Kill so many processes and start them again: the holder of the gate's role, another one, or both at once.
        `interval` has the least and the most seconds before a kill."""
        chance = random.Random(seed)
        while number > 0:
            time.sleep(chance.uniform(*interval))
            holder = self.holder()
            others = [each for each in self.members if each is not holder]
            ways = [[chance.choice(others)]]
            if holder is not None:
                ways += [[holder], [holder, chance.choice(others)]]
            victims = chance.choice(ways)
            for each in victims:
                each.kill()
            for each in victims:
                each.launch()
            number -= len(victims)


@contextmanager
def running_fleet(size: int, server: Server | LedgerFile, **options: Any) -> Iterator[Fleet]:
    """A fleet whose processes serve. They are killed at the end of the block. The arguments are those of `Fleet`."""
    fleet = Fleet(size, server, **options)
    try:
        fleet.start()
        yield fleet
    finally:
        fleet.close()
