"""Kills processes again and again while they train and make pictures, and compares how all ended with the simulator's
record.

Each training has a trigger word of its own, by which its training there is found. The simulator runs in this process,
so its record survives the service. `tests/process/test_training_kills.py` and `bench/trainings.py` check the report.
"""

import os
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import requests

from harness.fleet import ADMIN, Fleet, running_fleet
from harness.fleet_audit import Audit, audit
from harness.fleet_load import FleetLoad, Request
from harness.ledger_file import UNFINISHED, LedgerFile
from harness.postgres import Server
from harness.service_process import until
from harness.training_load import FollowedTraining, TrainingLoad
from harness.trainings import get_training, get_weights
from parsing.attachments import LEFT_BEHIND
from simulator import Options, Simulator

AT_ONCE = 4
"""TRAININGS_AT_ONCE."""

OPTIONS = Options(
    prediction_seconds=0.4, training_seconds=2.0, jitter=0.5, answer_delay=(0.0, 0.2), seed=1
)  # fmt: skip

_TRAINING_CALLERS = 8
_PICTURE_CALLERS = 3

_LONGEST = 240.0
"""Seconds in which all work must end after the last kill. It only bounds a failing run."""

_MOMENTS = (None, None, "file", "train", "training", "weights", "file_delete")
"""The requests during which processes are killed; None is any moment."""

_AWAITED = 6.0
"""Seconds after which a request is no longer waited for."""

_TOGETHER = (1, 1, 1, 2, 2, 3)
"""How many processes are killed together, as often as each number is here."""

_TOLERANCE = 1e-5
"""USD by which the cost of a training may differ from its bill, since both are rounded."""


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """The end of a scenario. The lists should be empty.

    Attributes:
        moments: The processes that were killed, by the request during which that was.
        trainings: Those in the ledger.
        made: Those at the simulator.
        peak: The most that ran there at once.
        looks: The values of progress that callers saw.
        lost_answers: The creations with lost or unreadable answers.
        unknown_uploads: Those at the simulator with an address that no process has learned.
        uploads: The others that are left there, and local directories that are left an hour later.
        directories: The local directories of uploads that kills left.
    """

    moments: Mapping[str, int]
    trainings: int
    made: int
    peak: int
    looks: int
    lost_answers: int
    unknown_uploads: int
    pictures: Audit
    lost: Sequence[str]
    twice: Sequence[str]
    falls: Sequence[str]
    uploads: Sequence[str]
    weights: Sequence[str]
    costs: Sequence[str]
    errors: Sequence[str]
    kills: int = 0
    directories: int = 0

    @property
    def faults(self) -> list[str]:
        """All that should not be."""
        pictures = self.pictures
        own = [*self.lost, *self.twice, *self.falls, *self.uploads, *self.weights, *self.costs, *self.errors]
        return [*own, *pictures.lost, *pictures.twice, *pictures.errors]


@dataclass
class TrainingKills:
    """One process on the ledger of a file, or three on the database of a `Server`, which keep what they make below
    `data`. `seed` draws the moments of the kills. `apart` has the least and the most seconds before a process is
    killed, or before a certain request is awaited. A start takes about two."""

    simulator: Simulator
    data: Path
    server: Server | LedgerFile
    seed: int = 1
    apart: tuple[float, float] = (0.0, 2.0)
    _moments: Counter[str] = field(default_factory=Counter)
    _lost_answers: int = 0

    def run(self, kills: int) -> TrainingReport:
        """Kill so many processes while requests come, then wait until all work has ended."""
        size = 1 if isinstance(self.server, LedgerFile) else 3
        settings: dict[str, Any] = {
            "REPLICATE_BASE_URL": self.simulator.url,
            "REPLICATE_CONCURRENT_LIMIT": 8,
            "TRAININGS_AT_ONCE": AT_ONCE,
            "DATA_DIR": self.data,
            "PROCESS_TTL": 2,
            "FILES_TTL": 600,
        }
        with running_fleet(size, self.server, **settings) as fleet:
            trainings = TrainingLoad(fleet, _TRAINING_CALLERS, word="TOK{}".format, seed=self.seed)
            pictures = FleetLoad(fleet, [ADMIN] * _PICTURE_CALLERS, request=_picture, seed=self.seed)
            trainings.start()
            pictures.start()
            self._kill(fleet, kills)
            fleet.start()
            trainings.finish(timeout=_LONGEST)
            pictures.finish(timeout=_LONGEST)
            until(lambda: self.server.execute(UNFINISHED) == [(0,)], timeout=_LONGEST)
            directories = self._directories()
            report = self._report(fleet.urls()[0], trainings, audit(self.server, self.simulator, pictures))
            left = self._left_after_an_hour(fleet, directories)
        return replace(report, kills=kills, directories=len(directories), uploads=[*report.uploads, *left])

    def _kill(self, fleet: Fleet, kills: int) -> None:
        """Kill one or several processes at a time, and start them again. Some are killed before they serve."""
        chance, killed = random.Random(self.seed), 0
        while killed < kills:
            time.sleep(chance.uniform(*self.apart))
            if chance.random() < 0.3:
                self._lost_answers += 1
                self.simulator.inject(on="train", **chance.choice(({"reset": "after"}, {"garbage": True})))
            moment = chance.choice(_MOMENTS)
            if moment is not None and self._came(moment):
                time.sleep(chance.uniform(0.0, 0.3))
            else:
                moment = "any"
            most = min(len(fleet.members), kills - killed)
            victims = chance.sample(fleet.members, min(most, chance.choice(_TOGETHER)))
            for each in victims:
                each.kill()
            for each in victims:
                each.launch()
            self._moments[moment] += len(victims)
            killed += len(victims)

    def _came(self, kind: str) -> bool:
        """Wait until the next request of a kind has arrived at the simulator, but not for long. Returns whether it
        has."""
        before = self._arrived(kind)
        with suppress(AssertionError):
            until(lambda: self._arrived(kind) > before, timeout=_AWAITED)
        return self._arrived(kind) > before

    def _arrived(self, kind: str) -> int:
        return self.simulator.counts().requests.get(kind, 0)

    # ── The report

    def _report(self, url: str, load: TrainingLoad, pictures: Audit) -> TrainingReport:
        rows = self.server.execute("SELECT id FROM generations WHERE door = 'training'")
        bodies = {training_id: get_training(url, ADMIN, training_id) for (training_id,) in rows}
        uploads, unknown = self._uploads()
        return TrainingReport(
            moments=self._moments,
            trainings=len(bodies),
            made=len(self.simulator.trainings()),
            peak=self.simulator.counts().trainings.in_flight_peak,
            looks=sum(each.seen for each in load.trainings),
            lost_answers=self._lost_answers,
            unknown_uploads=unknown,
            pictures=pictures,
            lost=list(_lost(load.trainings, bodies)),
            twice=list(self._twice(load.trainings, bodies)),
            falls=[fall for each in load.trainings for fall in each.falls],
            uploads=uploads,
            weights=[each for each, body in bodies.items() if not _has_weights(url, body)],
            costs=list(self._wrong_costs(bodies)),
            errors=load.errors(),
        )

    def _uploads(self) -> tuple[list[str], int]:
        """The uploads that are still there although their addresses are in the ledger, and the number of the others."""
        rows = self.server.execute("SELECT fingerprint FROM attempts WHERE submitted_at IS NOT NULL")
        known = {str(address).rpartition("/")[2] for (address,) in rows}
        left = [each.id for each in self.simulator.uploads()]
        return [f"upload {each} is left" for each in left if each in known], len({*left} - known)

    def _directories(self) -> list[Path]:
        """The local directories of uploads, once those that are being deleted are gone."""
        places = [self.data / "uploads", self.data / "files" / "uploads"]

        def found() -> list[Path]:
            return [each for place in places if place.exists() for each in place.iterdir()]

        with suppress(AssertionError):
            until(lambda: not found(), timeout=3)
        return found()

    def _left_after_an_hour(self, fleet: Fleet, directories: Sequence[Path]) -> list[str]:
        """Which of these directories a process that starts an hour later does not delete."""
        then = time.time() - LEFT_BEHIND - 60
        for each in directories:
            os.utime(each, (then, then))
        fleet.members[0].kill()
        fleet.start()
        with suppress(AssertionError):
            until(lambda: not any(each.exists() for each in directories), timeout=10)
        return [f"{each.name} is left" for each in directories if each.exists()]

    def _twice(
        self, followed: Sequence[FollowedTraining], bodies: Mapping[str, Mapping[str, Any]]
    ) -> Iterator[str]:
        made = self.simulator.trainings()
        words = Counter(each.input["trigger_word"] for each in made)
        yield from (f"{word} was trained {number} times" for word, number in words.items() if number > 1)
        yield from (f"{each.word} has ids {each.ids}" for each in followed if len(each.ids) > 1)
        by_url = self.simulator.trainings_by_url()
        yield from (f"{url} has {number} trainings" for url, number in by_url.items() if number > 1)
        by_id = {each.id: each for each in made}
        for training_id, body in bodies.items():
            its = by_id.pop(str(body["training_id"]), None)
            if its is not None and (its.input["trigger_word"], its.output["version"]) != (
                body["trigger_word"],
                body["model"],
            ):
                yield f"{training_id} has the training of {its.input['trigger_word']}"
        yield from (f"training {each} is not of the ledger" for each in by_id)

    def _wrong_costs(self, bodies: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
        bills = {each.id: each.billed_usd for each in self.simulator.trainings()}
        for training_id, body in bodies.items():
            billed = bills.get(str(body["training_id"]), 0.0)
            if abs(billed - body["cost_usd"]) > _TOLERANCE:
                yield f"{training_id} costs {body['cost_usd']} USD, and its bill is {billed}"


def _picture(chance: random.Random, numbers: Iterator[int]) -> Request:  # noqa: ARG001
    return Request("/generate", {"model_name": "flux-dev", "prompt": f"picture {next(numbers)}"})


def _lost(followed: Sequence[FollowedTraining], bodies: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield from (
        f"{training_id} is {body['status']}: {body.get('error')}"
        for training_id, body in bodies.items()
        if body["status"] != "succeeded"
    )
    accepted = {training_id for each in followed for training_id in each.ids}
    yield from (f"{each} is not in the ledger" for each in accepted - bodies.keys())


def _has_weights(url: str, body: Mapping[str, Any]) -> bool:
    try:
        return b"safetensors" in get_weights(url, ADMIN, body)
    except requests.RequestException:
        return False
