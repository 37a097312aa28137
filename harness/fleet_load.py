"""Callers that use a fleet as clients behind a load balancer do: any process, and the same key again after an error."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import requests

from harness.fleet import Fleet

_PATIENCE = 150.0
"""Seconds for which a caller repeats a request before its error counts."""

_PAUSE = 0.2
"""Seconds before a repetition, and between two looks at the state of the work."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a caller requests: `size` generations. `names` tell the inputs of its items apart, in their order, if the
    inputs have them."""

    path: str
    body: Mapping[str, Any] = field(repr=False)
    size: int = 1
    names: Sequence[str] = ()


NewRequest = Callable[[random.Random, Iterator[int]], Request]
"""Makes a request from a source of chance, and of numbers that no other request has."""


@dataclass(eq=False)
class Work:
    """One request of a caller with an idempotency key, and its responses.

    `healed` counts the errors after which the caller tried again, `error` is the one that remained.
    """

    request: Request
    headers: Mapping[str, str]
    key: str
    waits: bool
    ids: set[str] = field(default_factory=set)
    healed: Counter[str] = field(default_factory=Counter)
    error: str | None = None
    ended: bool = False
    began: float = 0.0
    seconds: float = 0.0

    @property
    def size(self) -> int:
        return self.request.size


class FleetLoad:
    """Callers, one for each of `callers` (their headers), that request pictures and look at them until they end.

    `pause` is the mean of seconds between the end of a request and the next one. `most` is the number of requests after
    which they stop by themselves; then all are for one picture. `prompt` makes the prompt of each picture from its
    number, and `request` replaces these requests by others. `hidden` is a text that no response may contain; the
    responses that do are in `shown`.
    """

    def __init__(
        self,
        fleet: Fleet,
        callers: Sequence[Mapping[str, str]],
        *,
        prompt: Callable[[int], str] = "picture {}".format,
        request: NewRequest | None = None,
        pause: float = 1.0,
        most: int | None = None,
        seed: int = 1,
        hidden: str | None = None,
    ) -> None:
        self.works: list[Work] = []
        self.shown: list[str] = []
        self._request = request or self._pictures
        self._hidden = hidden
        self._fleet = fleet
        self._prompt = prompt
        self._pause = pause
        self._most = most
        self._turns = count()
        self._numbers = count()
        self._stopped = threading.Event()
        self._given_up = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._call, args=(random.Random(f"{seed} {number}"), headers), daemon=True
            )
            for number, headers in enumerate(callers)
        ]

    def start(self) -> None:
        for each in self._threads:
            each.start()

    def join(self, *, timeout: float) -> None:
        """Wait until all work has ended, or for `timeout` seconds."""
        deadline = time.monotonic() + timeout
        for each in self._threads:
            each.join(max(0.0, deadline - time.monotonic()))

    def finish(self, *, timeout: float) -> None:
        """Stop requesting, and wait until all work has ended, or for `timeout` seconds."""
        self._stopped.set()
        self.join(timeout=timeout)
        self._given_up.set()

    def errors(self) -> list[str]:
        """The errors that no repetition healed, and the work whose end no caller saw."""
        return [f"{each.key}: {each.error}" for each in self.works if each.error] + [
            f"{each.key} {sorted(each.ids)} did not end"
            for each in self.works
            if not each.ended and not each.error
        ]

    def healed(self) -> Counter[str]:
        return sum((each.healed for each in self.works), Counter())

    def _call(self, chance: random.Random, headers: Mapping[str, str]) -> None:
        while not self._stopped.wait(chance.expovariate(1 / self._pause)):
            if self._most is not None and next(self._turns) >= self._most:
                return
            work = self._new_work(chance, headers)
            self.works.append(work)
            work.began = time.monotonic()
            if self._submit(work, chance):
                self._follow(work, chance)
            work.seconds = time.monotonic() - work.began

    def _new_work(self, chance: random.Random, headers: Mapping[str, str]) -> Work:
        request = self._request(chance, self._numbers)
        return Work(request, headers, key=f"key-{next(self._numbers)}", waits=chance.random() < 0.3)

    def _pictures(self, chance: random.Random, numbers: Iterator[int]) -> Request:
        is_batch = self._most is None and chance.random() < 0.25
        prompts = [self._prompt(next(numbers)) for _ in range(chance.randint(2, 5) if is_batch else 1)]
        return Request(
            path="/generate-batch" if is_batch else "/generate",
            body={"model_name": "flux-dev", **({"prompts": prompts} if is_batch else {"prompt": prompts[0]})},
            size=len(prompts),
        )

    def _submit(self, work: Work, chance: random.Random) -> bool:
        headers = {**work.headers, "Idempotency-Key": work.key}
        if not work.waits:
            headers["Prefer"] = "respond-async"
        path, body = work.request.path, work.request.body
        return self._until_answered(work, chance, "POST", path, json=body, headers=headers) is not None

    def _follow(self, work: Work, chance: random.Random) -> None:
        kind = "batches" if work.request.path == "/generate-batch" else "generations"
        path = f"/{kind}/{min(work.ids)}"
        while not work.ended and not self._given_up.wait(_PAUSE):
            if self._until_answered(work, chance, "GET", path, headers=work.headers) is None:
                return

    def _until_answered(
        self, work: Work, chance: random.Random, method: str, path: str, **request: Any
    ) -> dict[str, Any] | None:
        """The body of a response of 200 or 202, after any repetitions. None if there is none."""
        deadline = time.monotonic() + _PATIENCE
        while not self._given_up.is_set():
            body, error, may_repeat = self._exchange(chance, method, path, **request)
            if error is None:
                work.ids.add(body["id"])
                work.ended = "success" in body
                return body
            if not may_repeat or time.monotonic() > deadline:
                work.error = f"{method} {path}: {error}"
                return None
            work.healed[f"{method} {error[:90]}"] += 1
            time.sleep(_PAUSE)
        return None

    def _exchange(
        self, chance: random.Random, method: str, path: str, **request: Any
    ) -> tuple[dict[str, Any], str | None, bool]:
        """The body, the error, and whether the request may be repeated."""
        urls = self._fleet.urls()
        if not urls:
            return {}, "no process", True
        try:
            response = requests.request(method, chance.choice(urls) + path, timeout=10, **request)
            body: dict[str, Any] = response.json()
        except (requests.RequestException, ValueError) as reason:
            return {}, type(reason).__name__, True
        if self._hidden is not None and self._hidden in response.text:
            self.shown.append(f"{response.status_code} of {method} {path}")
        if response.ok:
            return body, None, False
        if method == "GET" and "success" in body:  # the end of a failed generation
            return body, None, False
        if body.get("code") == "secret_lost":  # likewise; the repetition of its key would get the same
            return body, None, False
        # Whatever `x-should-retry` says: the same key is never a second generation.
        error = f"{response.status_code} {body.get('code')}: {body.get('detail')}"
        return body, error, bool(body.get("retryable"))
