"""Callers that train, each training with a key of its own and a word of its own, and follow it to its end.

They repeat each request at any process until one answers it, as clients behind a load balancer do. Half of them poll,
and half read the stream of events. Each of them must see a progress that does not fall.
"""

import random
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import requests

from harness.fleet import ADMIN, Fleet
from harness.trainings import events_of, get_training, send_training

_PATIENCE = 150.0
"""Seconds for which a caller repeats a request before its error counts."""

_PAUSE = 0.2
"""Seconds before a repetition, and between two looks at a training."""

_DESTINATIONS = 5


@dataclass(eq=False)
class FollowedTraining:
    """A training with its `word`, as its caller sees it.

    `ids` are in the answers to its request. `highest` is the most progress that was seen, and `falls` are those below.
    `seen` counts the values. `body` is its end.
    """

    word: str
    destination: str
    key: str
    ids: set[str] = field(default_factory=set)
    highest: float = 0.0
    seen: int = 0
    falls: list[str] = field(default_factory=list)
    error: str | None = None
    body: Mapping[str, Any] | None = None

    def see(self, progress: float | None) -> None:
        """Note a progress that the caller was shown, None if there was none."""
        if progress is None:
            return
        self.seen += 1
        if progress < self.highest:
            self.falls.append(f"{self.word}: from {self.highest} to {progress}")
        self.highest = max(self.highest, progress)


class TrainingLoad:
    """So many `callers` of a fleet, each of which begins a training when its last one has ended. `word` makes a trigger
    word from a number."""

    def __init__(self, fleet: Fleet, callers: int, *, word: Callable[[int], str], seed: int = 1) -> None:
        self.trainings: list[FollowedTraining] = []
        self._fleet = fleet
        self._word = word
        self._numbers = count()
        self._stopped = threading.Event()
        self._given_up = threading.Event()
        self._threads = [
            threading.Thread(target=self._call, args=(random.Random(f"{seed} {number}"),), daemon=True)
            for number in range(callers)
        ]

    def start(self) -> None:
        for each in self._threads:
            each.start()

    def finish(self, *, timeout: float) -> None:
        """Begin no more, and wait until all have ended, or for `timeout` seconds."""
        self._stopped.set()
        deadline = time.monotonic() + timeout
        for each in self._threads:
            each.join(max(0.0, deadline - time.monotonic()))
        self._given_up.set()

    def errors(self) -> list[str]:
        """Requests that were refused, and trainings with an end that their callers did not see."""
        return [
            each.error or f"{each.word} {sorted(each.ids)} did not end"
            for each in self.trainings
            if each.error or each.body is None
        ]

    def _call(self, chance: random.Random) -> None:
        while not self._stopped.wait(chance.uniform(0, 0.5)):
            number = next(self._numbers)
            training = FollowedTraining(
                self._word(number), f"dog-{number % _DESTINATIONS}", f"training-{number}"
            )
            self.trainings.append(training)
            if self._submit(training, chance):
                self._follow(training, chance)

    def _submit(self, training: FollowedTraining, chance: random.Random) -> bool:
        """Whether it was accepted, after any repetitions."""
        deadline = time.monotonic() + _PATIENCE
        headers = {**ADMIN, "Idempotency-Key": training.key}
        while not self._given_up.is_set():
            refusal = "no process answers"
            with suppress(requests.RequestException, ValueError):
                url = self._url(chance)
                answer = send_training(url, headers, training.word, destination=training.destination)
                body = answer.json()
                if answer.status_code == 202:
                    training.ids.add(body["id"])
                    # A tenth repeat it nonetheless, as if the answer had been lost.
                    if chance.random() > 0.1:
                        return True
                elif not body.get("retryable"):
                    training.error = f"{training.word}: {answer.status_code} {answer.text[:300]}"
                    return False
                else:
                    refusal = answer.text[:300]
            if time.monotonic() > deadline:
                training.error = f"{training.word}: {refusal}"
                return False
            time.sleep(_PAUSE)
        return False

    def _follow(self, training: FollowedTraining, chance: random.Random) -> None:
        target = max(training.ids)  # several are a fault, which the report has
        look = self._look if chance.random() < 0.5 else self._read
        while training.body is None and not self._given_up.wait(_PAUSE):
            with suppress(requests.RequestException, ValueError):
                look(training, self._url(chance), target)

    @staticmethod
    def _look(training: FollowedTraining, url: str, target: str) -> None:
        body = get_training(url, ADMIN, target)
        training.see(body.get("progress"))
        if "success" in body:
            training.body = body

    @staticmethod
    def _read(training: FollowedTraining, url: str, target: str) -> None:
        for name, data in events_of(url, ADMIN, target, silent=10.0):
            training.see(data.get("progress"))
            if name == "done":
                training.body = data

    def _url(self, chance: random.Random) -> str:
        """A process that was started. Raises requests.RequestException if there is none."""
        urls = self._fleet.urls()
        if not urls:
            raise requests.ConnectionError
        return chance.choice(urls)
