"""Replaces the service's Replicate token again and again while processes are under load, and audits each call.

`tests/process/test_token_rotation.py` and `bench/rotations.py` check the report.
"""

import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import requests

from harness.fleet import ADMIN, Fleet
from harness.ledger_file import LedgerFile
from harness.postgres import Server
from simulator import Simulator

_FIRST: Final = "r8_first-server-token"
_USER: Final = "r8_token-of-a-user"
_CALLERS: Final = 8
_APART: Final = 0.3
"""Seconds between the replacements of the files of two processes, which differ so long."""

_PAUSE: Final = 1.2
"""Seconds between a rotation and the next one."""

_TIMEOUT: Final = 120.0
"""Seconds. It only bounds a failing run."""


@dataclass(frozen=True, slots=True)
class RotationReport:
    """The end of a scenario. The lists should be empty: calls that failed, prompts with predictions in the wrong
    account, and tokens that a log or `/status` shows. `densest_minute` counts creations."""

    rotations: int
    calls: int
    predictions: int
    failed: Sequence[str]
    wrong_account: Sequence[str]
    leaks: Sequence[str]
    densest_minute: int


@dataclass
class Rotations:
    """`size` processes of the service with `simulator`, each with a file of the token below `data`. A fifth of the
    calls are of a user with a token of another account."""

    simulator: Simulator
    data: Path
    server: Server | LedgerFile
    size: int
    seed: int = 1
    _failed: list[str] = field(default_factory=list)
    _calls: int = 0
    _over: threading.Event = field(default_factory=threading.Event)
    _counting: threading.Lock = field(default_factory=threading.Lock)

    def run(self, rotations: int) -> RotationReport:
        fleet = Fleet(
            self.size, self.server, REPLICATE_API_TOKEN="", REPLICATE_BASE_URL=self.simulator.url,
            REPLICATE_CONCURRENT_LIMIT=50, DATA_DIR=self.data, LOG_LEVEL="info",
        )  # fmt: skip
        files = [self.data / f"token-{each.number}" for each in fleet.members]
        for member, file in zip(fleet.members, files, strict=True):
            file.write_text(_FIRST)
            member.settings["REPLICATE_API_TOKEN_FILE"] = file
        try:
            fleet.start()
            with ThreadPoolExecutor(_CALLERS) as callers:
                loads = callers.map(self._load, [fleet.urls()] * _CALLERS, range(_CALLERS))
                try:
                    tokens = self._rotate(files, rotations)
                finally:
                    self._over.set()
                list(loads)  # raises what a caller has raised
            shown = [requests.get(f"{url}/status", headers=ADMIN, timeout=30).text for url in fleet.urls()]
        finally:
            fleet.close()
        logs = [each.log.read_text() for each in fleet.members]
        return self._report(rotations, [*tokens, _USER], [*shown, *logs])

    def _rotate(self, files: Sequence[Path], rotations: int) -> Sequence[str]:
        """Replace the token of all processes so often, and revoke the one before. Returns all tokens."""
        tokens = [_FIRST]
        for number in range(rotations):
            time.sleep(_PAUSE)
            tokens.append(f"r8_server-token-{number}-{random.getrandbits(64):x}")
            self.simulator.account(tokens[-1], same_as=_FIRST)
            for file in files:
                new = file.with_suffix(".new")  # a link is swapped, as Kubernetes does
                new.write_text(f"{tokens[-1]}\n")
                new.replace(file)
                time.sleep(_APART)
            self.simulator.account(tokens[-2], reject=True)
        time.sleep(_PAUSE)
        return tokens

    def _load(self, urls: Sequence[str], number: int) -> None:
        """Send calls one after the other until the rotations are over."""
        chance, count = random.Random(f"{self.seed} {number}"), 0
        while not self._over.is_set():
            count += 1
            is_user = number % 5 == 4
            seconds = chance.choice((0.1, 0.1, 0.1, 2.5))
            prompt = f"[[slow={seconds}]] {'user' if is_user else 'admin'} {number} {count}"
            try:
                answer = requests.post(
                    f"{chance.choice(urls)}/generate",
                    json={"model_name": "flux-dev", "prompt": prompt},
                    headers={"X-Replicate-API-Key": _USER} if is_user else ADMIN,
                    timeout=_TIMEOUT,
                )
                failure = None if answer.status_code == 200 else f"{answer.status_code} {answer.text}"
            except requests.RequestException as error:
                failure = repr(error)
            with self._counting:
                self._calls += 1
                if failure is not None:
                    self._failed.append(f"{prompt}: {failure}")

    def _report(self, rotations: int, tokens: Sequence[str], shown: Sequence[str]) -> RotationReport:
        made = self.simulator.predictions()
        accounts = {"admin": _FIRST, "user": _USER}  # each by its first token
        payers = [(each.input["prompt"], each.token) for each in made]
        wrong = [prompt for prompt, token in payers if accounts[prompt.split()[1]] != token]
        leaks = [each for each in tokens if any(each in text for text in shown)]
        counts = self.simulator.counts()
        return RotationReport(
            rotations,
            self._calls,
            len(made),
            self._failed,
            wrong,
            leaks,
            counts.creations_peak_per_minute,
        )
