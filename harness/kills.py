"""A service that is killed again and again, and callers who do not give up: what became of all they asked for.

The simulator lives here, so it remembers whoever died. `test_kills.py` and `bench/kills.py` tell what must hold.
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

import requests

from harness.service_process import Served, launched, served, until
from simulator import Simulator

ADMIN = {"X-Admin-API-Key": "the-admin-key"}

LONGEST = 1.5
"""Seconds that a process lives at the most where it serves after 0.6; longer where starting takes longer."""

_SERVES_AFTER = 0.4
"""The part of the longest life in which it should have begun to serve, so that deaths are before and after that."""

_CALLERS = 8
_PATIENT = 3
"""So many of them wait for their results, and ask for nothing else meanwhile."""

_PATIENCE = 120.0
"""Seconds. It only bounds a failing run."""


@dataclass(eq=False)
class Errand:
    """What one caller asked for, and the ids that they were told."""

    path: str
    body: dict[str, Any]
    headers: dict[str, str]
    size: int
    key: str | None
    told: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of it all. Every list should be empty."""

    generations: int
    predictions: int
    found_serving: int
    """How many of the deaths came upon a process that served, and not one that was about to."""
    peak_per_minute: int
    wrong: Sequence[str]
    """What a caller was told that should not be."""
    lost: Sequence[str]
    """Generations and batches that somebody was told of, or that are on record, without their result."""
    twice: Sequence[str]
    """Predictions that are nobody's, and generations without one of their own."""
    refusals: dict[int, int]


class Story:
    """The service on `data`, and who asks it: in each of its lives a few errands more, whatever becomes of the others.
    `prompt` gives each picture's."""

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
        self._may_ask = threading.Semaphore(0)
        self._enough = threading.Event()
        self._errands: list[Errand] = []
        self._found_serving = 0
        self._longest = LONGEST

    def told(self, deaths: Sequence[Callable[[Served], None]], *, errands: int) -> Outcome:
        """Let it live through these deaths, with so many errands before each, and then to the end of everything."""
        callers = [threading.Thread(target=self._call, args=(number,)) for number in range(_CALLERS)]
        for caller in callers:
            caller.start()
        try:
            self._see_how_long_it_takes_to_serve()
            for death in deaths:
                self._may_ask.release(errands)
                with launched(**self._settings) as service:
                    death(service)
                    self._url = None
            with served(**self._settings) as service:
                self._url = service.url
                self._enough.set()
                for caller in callers:
                    caller.join(_PATIENCE)
                until(lambda: not self._unfinished(), patience=_PATIENCE)
                return self._outcome(service.url)
        finally:
            self._url = None
            self._enough.set()
            for caller in callers:
                caller.join(_PATIENCE)

    def killed(self, seed: int) -> Callable[[Served], None]:
        """A death at a moment that the seed draws, from the first moment of the process on."""

        def death(service: Served) -> None:
            dies_at = time.monotonic() + random.Random(seed).uniform(0, self._longest)
            if service.is_serving(within=dies_at - time.monotonic()):
                self._url = service.url
                self._found_serving += 1
                time.sleep(max(0.0, dies_at - time.monotonic()))
            service.kill()

        return death

    def stopped(self, seed: int) -> Callable[[Served], None]:
        """An end in order, in the middle of work."""

        def death(service: Served) -> None:
            assert service.is_serving(within=_PATIENCE)
            self._url = service.url
            self._found_serving += 1
            time.sleep(random.Random(seed).uniform(0, LONGEST))
            service.signal(signal.SIGTERM)
            assert service.ended() == 0

        return death

    def _see_how_long_it_takes_to_serve(self) -> None:
        began = time.monotonic()
        with launched(**self._settings) as service:
            assert service.is_serving(within=_PATIENCE)
            self._longest = max(LONGEST, (time.monotonic() - began) / _SERVES_AFTER)
            service.kill()

    # ── Callers

    def _call(self, number: int) -> None:
        chance = random.Random(f"{self._seed} {number}")
        with requests.Session() as session:
            session.headers.update(ADMIN)
            waits = number < _PATIENT
            while not self._enough.is_set():
                if waits or self._may_ask.acquire(timeout=0.1):
                    errand = self._errand(chance, waits=waits)
                    self._errands.append(errand)
                    self._see_to(errand, session)

    def _errand(self, chance: random.Random, *, waits: bool) -> Errand:
        is_batch, has_key = chance.random() < 0.3, chance.random() < 0.8
        prompts = [self._prompt(next(self._numbers)) for _ in range(chance.randint(2, 4) if is_batch else 1)]
        wanted = {"prompts": prompts} if is_batch else {"prompt": prompts[0]}
        key = f"key-{next(self._numbers)}" if has_key else None
        headers = {"Idempotency-Key": key} if key else {}
        return Errand(
            path="/generate-batch" if is_batch else "/generate",
            body={"model_name": "flux-dev", **wanted},
            headers=headers if waits else {**headers, "Prefer": "respond-async"},
            size=len(prompts),
            key=key,
        )

    def _see_to(self, errand: Errand, session: requests.Session) -> None:
        """Ask for it, again as often as the line is lost if it has a key, and then once how it stands."""
        while self._answered(errand.path, session, errand) is None:
            if errand.key is None:
                return  # nobody can tell whether it was taken
        if errand.told and not errand.wrong:
            kind = "batches" if errand.path == "/generate-batch" else "generations"
            self._answered(f"/{kind}/{min(errand.told)}", session, errand, method="GET")

    def _answered(self, path: str, session: requests.Session, errand: Errand, *, method: str = "POST") -> Any:
        """What was answered; None if the line was lost."""
        while (url := self._url) is None:
            if self._enough.is_set():
                return {"status": "given up"}
            time.sleep(0.01)
        try:
            answer = session.request(
                method,
                url + path,
                json=errand.body if method == "POST" else None,
                headers=errand.headers if method == "POST" else None,
                timeout=_PATIENCE,
            )
            told = answer.json()
        except (requests.RequestException, ValueError):
            return None
        if answer.status_code == 503 and told["code"] == "shutting_down":
            # It stops. What it has taken is the next one's.
            errand.told |= {told["id"]} if "id" in told else set()
            time.sleep(0.05)
            return None
        if not answer.ok:
            errand.wrong.append(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
            return {"status": "refused"}
        errand.told.add(told["id"])
        return told

    # ── What became of it

    def _rows(self, asked: str) -> list[sqlite3.Row]:
        with closing(sqlite3.connect(f"file:{self._data}/ledger.db?mode=ro", uri=True)) as ledger:
            ledger.row_factory = sqlite3.Row
            return ledger.execute(asked).fetchall()

    def _unfinished(self) -> int:
        return sum(
            int(self._rows(f"SELECT count(*) AS n FROM {table} WHERE ended_at IS NULL")[0]["n"])
            for table in ("generations", "batches")
        )

    def _outcome(self, url: str) -> Outcome:
        counts, made = self._simulator.counts(), {each.id: each for each in self._simulator.predictions()}
        targets = [row["id"] for row in self._rows("SELECT id FROM generations")]
        with requests.Session() as session:
            session.headers.update(ADMIN)
            told = {
                target: session.get(f"{url}/generations/{target}", timeout=30).json() for target in targets
            }
            lost = [f"{target}: {each}" for target, each in told.items() if not _is_there(url, session, each)]
        batches = {row["id"] for row in self._rows("SELECT id FROM batches")}
        known = batches | set(told)
        lost += [f"{target} was told, and is not on record" for target in self._told() if target not in known]
        owners = Counter(each.get("prediction_id") for each in told.values())
        twice = [f"prediction {target} is nobody's" for target in made if target not in owners]
        twice += [f"{number} have prediction {target}" for target, number in owners.items() if number > 1]
        twice += [
            f"{target} has a prediction of {made[mine].input['prompt']!r}"
            for target, each in told.items()
            if (mine := each.get("prediction_id")) in made and made[mine].input["prompt"] != each["prompt"]
        ]
        twice += list(self._misunderstood(len(told)))
        return Outcome(
            generations=len(told),
            predictions=counts.creations_accepted,
            found_serving=self._found_serving,
            peak_per_minute=counts.creations_peak_per_minute,
            wrong=[sentence for errand in self._errands for sentence in errand.wrong],
            lost=lost,
            twice=twice,
            refusals=dict(counts.refusals),
        )

    def _told(self) -> Iterator[str]:
        for errand in self._errands:
            yield from errand.told

    def _misunderstood(self, generations: int) -> Iterator[str]:
        """A key is one generation or one batch, and without one an errand is at most one."""
        keys = {row["key"]: row["work_id"] for row in self._rows("SELECT key, work_id FROM idempotency_keys")}
        certain, perhaps = 0, 0
        for errand in self._errands:
            if errand.key is not None and errand.told and errand.told != {keys.get(errand.key)}:
                yield f"{errand.key} is {keys.get(errand.key)}, and was told as {errand.told}"
            if errand.told:
                certain += errand.size
            else:
                perhaps += errand.size
        if not certain <= generations <= certain + perhaps:
            yield f"{generations} generations of {certain} to {certain + perhaps} that were asked for"


def _is_there(url: str, session: requests.Session, told: dict[str, Any]) -> bool:
    """Whether a generation has its result, and its file can be had."""
    if told.get("status") != "succeeded" or len(told["files"]) != 1:
        return False
    path = "/" + told["files"][0].split("/", 3)[3]
    picture = session.get(url + path, timeout=30)
    return picture.ok and len(picture.content) > 0
