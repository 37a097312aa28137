"""Kills processes of a fleet on one ledger again and again while they call a text model, as `call_kills.py` does with
one process. Each request has an idempotency key, and is repeated at another process until one accepts it.
"""

import random
import threading
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import requests

from harness.call_kills import ADMIN, CallKills, CallReport, Service
from harness.fleet import Fleet, running_fleet
from harness.fleet_audit import Ledger
from harness.postgres import Server

PROCESSES = 3

_REFUSED = {429, 502, 503, 504}
_LONGEST = 150.0
"""Seconds for which a request is repeated, and for which the work may take to end."""


@dataclass(frozen=True, slots=True)
class _Anywhere:
    """A process of the fleet, chosen anew for each try of a request."""

    fleet: Fleet
    chance: random.Random

    @property
    def url(self) -> str:
        return self.chance.choice(self.fleet.urls() or ["http://127.0.0.1:9"])


@dataclass
class FleetCallKills(CallKills):
    """A fleet on the database of `server`, which calls text models of `simulator`."""

    server: Server = field(kw_only=True)
    rpm: int = 300

    def run_fleet(self, kills: int, *, interval: tuple[float, float] = (0.5, 2.0)) -> CallReport:
        """Kill so many processes while requests come, then wait until all work has ended."""
        chance, stop = random.Random(self.seed), threading.Event()
        with running_fleet(PROCESSES, self.server, PROCESS_TTL=2, **self._settings) as fleet:
            anywhere = _Anywhere(fleet, random.Random(self.seed + 1))
            more = self._calibrate(anywhere)

            def send() -> None:
                while not stop.is_set():
                    self._send(anywhere, chance)
                    time.sleep(chance.uniform(0.0, 0.3))

            with ThreadPoolExecutor(1) as thread:
                sending = thread.submit(send)
                try:
                    fleet.kill_at_random(kills, interval=interval, seed=self.seed)
                finally:
                    stop.set()
                sending.result(_LONGEST)
            fleet.start()
            self._wait_for_ends(_LONGEST)
            return self._report(fleet.urls()[0], kills, more)

    @property
    def _ledger(self) -> Ledger:
        return self.server

    @staticmethod
    def _post(service: Service, path: str, body: Any, *, wait: bool = False) -> Mapping[str, Any]:
        headers = {**ADMIN, "Idempotency-Key": uuid.uuid4().hex}
        headers |= {} if wait else {"Prefer": "respond-async"}
        until_then = time.monotonic() + _LONGEST
        while True:
            found: Mapping[str, Any] = {}
            with suppress(requests.RequestException):  # its process was killed
                answer = requests.post(service.url + path, json=body, headers=headers, timeout=30)
                found = answer.json()
            if found and answer.status_code not in _REFUSED and found.get("code") != "internal":
                answer.raise_for_status()
                return found
            if time.monotonic() > until_then:
                raise TimeoutError(f"{path} was accepted by no process")
            time.sleep(0.2)
