"""Kills or stops the service again and again under load, and reports how all accepted work ended.

The simulator runs in this process, so its counts survive the service. `tests/process/test_kills.py` and
`bench/kills.py` check the report.
"""

import random
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import requests
from psycopg.rows import dict_row

from harness.ledger_file import UNFINISHED
from harness.service_process import ServiceProcess, launched_service, running_service, until
from simulator import Simulator

ADMIN = {"X-Admin-API-Key": "the-admin-key"}

LONGEST_RUN = 1.5
"""Upper bound in seconds for the life of a process that starts to serve after 0.6 s. A slower start raises it."""

_SERVES_AFTER = 0.4
"""The share of the longest run at which a process should serve, so that kills come both before and after."""

_CALLERS = 8
_WAITING_CALLERS = 3
"""Callers that wait for their results and send nothing else meanwhile."""

_TIMEOUT = 120.0
"""Seconds. It only bounds a failing run."""


@dataclass(eq=False)
class SentRequest:
    """A caller's request, the ids in its responses, and the error responses."""

    path: str
    body: dict[str, Any]
    headers: dict[str, str]
    size: int
    key: str | None
    ids: set[str] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Report:
    """The end of a scenario. Every list should be empty."""

    generations: int
    predictions: int
    ended_while_serving: int
    """Kills or stops of a process that served already."""
    peak_per_minute: int
    errors: Sequence[str]
    """Error responses that no caller should get."""
    lost: Sequence[str]
    """Generations and batches without a result that are in the ledger or whose id a caller received."""
    mismatched: Sequence[str]
    """Predictions without a generation, and generations without a prediction of their own."""
    refusals: dict[int, int]


class KillScenario:
    """A service that keeps its data in `data`, and callers that keep sending requests while it is ended and restarted.

    `prompt` makes the prompt of each picture from its number.
    """

    def __init__(
        self, simulator: Simulator, data: Path, *, prompt: Callable[[int], str], seed: int, **settings: object
    ) -> None:
        self._simulator = simulator
        self._data = data
        self._prompt = prompt
        self._seed = seed
        self._settings: dict[str, Any] = {
            "REPLICATE_BASE_URL": simulator.url,
            "REPLICATE_API_TOKEN": "r8_server",
            "CONCURRENT_DOCKER_ADMIN_API_KEY": ADMIN["X-Admin-API-Key"],
            "DATA_DIR": data,
            **settings,
        }
        self._numbers = count()
        self._url: str | None = None
        self._allowed_requests = threading.Semaphore(0)
        self._finished = threading.Event()
        self._requests: list[SentRequest] = []
        self._ended_while_serving = 0
        self._longest_run = LONGEST_RUN

    def run(self, endings: Sequence[Callable[[ServiceProcess], None]], *, requests_each: int) -> Report:
        """Run the service once for each ending, with `requests_each` new requests, then until all work has ended."""
        callers = [threading.Thread(target=self._call, args=(number,)) for number in range(_CALLERS)]
        for caller in callers:
            caller.start()
        try:
            self._measure_start()
            for end in endings:
                self._allowed_requests.release(requests_each)
                with launched_service(**self._settings) as service:
                    end(service)
                    self._url = None
            with running_service(**self._settings) as service:
                self._url = service.url
                self._finished.set()
                for caller in callers:
                    caller.join(_TIMEOUT)
                until(lambda: not self._unfinished(), timeout=_TIMEOUT)
                return self._report(service.url)
        finally:
            self._url = None
            self._finished.set()
            for caller in callers:
                caller.join(_TIMEOUT)

    def kill_at_random(self, seed: int) -> Callable[[ServiceProcess], None]:
        """An ending: SIGKILL at a moment drawn by `seed`, from the start of the process on."""

        def kill(service: ServiceProcess) -> None:
            kill_at = time.monotonic() + random.Random(seed).uniform(0, self._longest_run)
            if service.is_serving(within=kill_at - time.monotonic()):
                self._url = service.url
                self._ended_while_serving += 1
                time.sleep(max(0.0, kill_at - time.monotonic()))
            service.kill()

        return kill

    def stop_at_random(self, seed: int) -> Callable[[ServiceProcess], None]:
        """An ending: SIGTERM under load, at a moment drawn by `seed`."""

        def stop(service: ServiceProcess) -> None:
            assert service.is_serving(within=_TIMEOUT)
            self._url = service.url
            self._ended_while_serving += 1
            time.sleep(random.Random(seed).uniform(0, LONGEST_RUN))
            service.signal(signal.SIGTERM)
            assert service.ended() == 0

        return stop

    def _measure_start(self) -> None:
        began = time.monotonic()
        with launched_service(**self._settings) as service:
            assert service.is_serving(within=_TIMEOUT)
            self._longest_run = max(LONGEST_RUN, (time.monotonic() - began) / _SERVES_AFTER)
            service.kill()

    # ── Callers

    def _call(self, number: int) -> None:
        chance = random.Random(f"{self._seed} {number}")
        with requests.Session() as session:
            session.headers.update(ADMIN)
            waits = number < _WAITING_CALLERS
            while not self._finished.is_set():
                if waits or self._allowed_requests.acquire(timeout=0.1):
                    request = self._new_request(chance, waits=waits)
                    self._requests.append(request)
                    self._send(request, session)

    def _new_request(self, chance: random.Random, *, waits: bool) -> SentRequest:
        is_batch, has_key = chance.random() < 0.3, chance.random() < 0.8
        prompts = [self._prompt(next(self._numbers)) for _ in range(chance.randint(2, 4) if is_batch else 1)]
        prompt_field = {"prompts": prompts} if is_batch else {"prompt": prompts[0]}
        key = f"key-{next(self._numbers)}" if has_key else None
        headers = {"Idempotency-Key": key} if key else {}
        return SentRequest(
            path="/generate-batch" if is_batch else "/generate",
            body={"model_name": "flux-dev", **prompt_field},
            headers=headers if waits else {**headers, "Prefer": "respond-async"},
            size=len(prompts),
            key=key,
        )

    def _send(self, request: SentRequest, session: requests.Session) -> None:
        """Send `request`, again after each lost connection if it has a key. Then get the state of its work once."""
        while not self._exchange(request.path, session, request):
            if request.key is None:
                return  # without a key, a repetition could be a second generation
        if request.ids and not request.errors:
            kind = "batches" if request.path == "/generate-batch" else "generations"
            self._exchange(f"/{kind}/{min(request.ids)}", session, request, method="GET")

    def _exchange(
        self, path: str, session: requests.Session, request: SentRequest, *, method: str = "POST"
    ) -> bool:
        """Whether a response arrived, or the scenario is over. Records its id or its error in `request`."""
        while (url := self._url) is None:
            if self._finished.is_set():
                return True
            time.sleep(0.01)
        try:
            response = session.request(
                method,
                url + path,
                json=request.body if method == "POST" else None,
                headers=request.headers if method == "POST" else None,
                timeout=_TIMEOUT,
            )
            body = response.json()
        except (requests.RequestException, ValueError):
            return False
        if response.status_code == 500 and "another process has it" in body["detail"]:
            time.sleep(0.05)  # the killed one, for some seconds
            return False
        if response.status_code == 503 and body["code"] == "shutting_down":
            # The next process continues the work that this one accepted.
            request.ids |= {body["id"]} if "id" in body else set()
            time.sleep(0.05)
            return False
        if response.ok:
            request.ids.add(body["id"])
        else:
            request.errors.append(f"{method} {path}: {response.status_code} {response.text[:300]}")
        return True

    # ── The report

    def _rows(self, query: str) -> list[Any]:
        if url := self._settings.get("DATABASE_URL"):
            with psycopg.connect(str(url), row_factory=dict_row) as connection:
                return connection.execute(query.encode()).fetchall()
        with closing(sqlite3.connect(f"file:{self._data}/ledger.db?mode=ro", uri=True)) as ledger:
            ledger.row_factory = sqlite3.Row
            return ledger.execute(query).fetchall()

    def _unfinished(self) -> int:
        return int(self._rows(UNFINISHED)[0]["n"])

    def _report(self, url: str) -> Report:
        counts, made = self._simulator.counts(), {each.id: each for each in self._simulator.predictions()}
        ids = [row["id"] for row in self._rows("SELECT id FROM generations")]
        with requests.Session() as session:
            session.headers.update(ADMIN)
            bodies = {each: session.get(f"{url}/generations/{each}", timeout=30).json() for each in ids}
            lost = [f"{each}: {body}" for each, body in bodies.items() if not _has_file(url, session, body)]
        in_ledger = {row["id"] for row in self._rows("SELECT id FROM batches")} | set(bodies)
        received = {each for request in self._requests for each in request.ids}
        lost += [f"{each} was in a response and is not in the ledger" for each in received - in_ledger]
        owners = Counter(body.get("prediction_id") for body in bodies.values())
        mismatched = [f"prediction {each} has no generation" for each in made if each not in owners]
        mismatched += [
            f"{number} generations have prediction {each}" for each, number in owners.items() if number > 1
        ]
        mismatched += [
            f"{each} has a prediction of {made[its_id].input['prompt']!r}"
            for each, body in bodies.items()
            if (its_id := body.get("prediction_id")) in made
            and made[its_id].input["prompt"] != body["prompt"]
        ]
        mismatched += self._wrong_numbers(len(bodies))
        return Report(
            generations=len(bodies),
            predictions=counts.creations_accepted,
            ended_while_serving=self._ended_while_serving,
            peak_per_minute=counts.creations_peak_per_minute,
            errors=[sentence for request in self._requests for sentence in request.errors],
            lost=lost,
            mismatched=mismatched,
            refusals=dict(counts.refusals),
        )

    def _wrong_numbers(self, generations: int) -> Iterator[str]:
        """Each key must be one generation or one batch; a request without a key must be one at most."""
        keys = {row["key"]: row["work_id"] for row in self._rows("SELECT key, work_id FROM idempotency_keys")}
        certain, possible = 0, 0
        for request in self._requests:
            if request.key is not None and request.ids and request.ids != {keys.get(request.key)}:
                yield f"{request.key} is {keys.get(request.key)}, and its responses had {request.ids}"
            if request.ids:
                certain += request.size
            else:
                possible += request.size
        if not certain <= generations <= certain + possible:
            yield f"{generations} generations of {certain} to {certain + possible} requested"


def _has_file(url: str, session: requests.Session, generation: dict[str, Any]) -> bool:
    """Whether a generation succeeded and its file can be downloaded."""
    if generation.get("status") != "succeeded" or len(generation["files"]) != 1:
        return False
    path = "/" + generation["files"][0].split("/", 3)[3]
    picture = session.get(url + path, timeout=30)
    return picture.ok and len(picture.content) > 0
