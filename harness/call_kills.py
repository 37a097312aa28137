"""Kills the service again and again while it calls a text model, and compares how each call ended with the bill.

Each prompt has a number of tokens of its own, by which its bill is found. The simulator runs in this process, so its
bills survive the service. `tests/process/test_call_kills.py` and `bench/call_kills.py` check the report.
"""

import json
import random
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import requests

from harness.fleet_audit import Ledger
from harness.ledger_file import UNFINISHED, LedgerFile
from harness.service_process import launched_service, running_service, until
from simulator import Simulator
from simulator.gemini.books import Bill

ADMIN = {"Admin-API-Key": "the-admin-key"}
SLOTS = 6

_TIMEOUT = 120.0
"""Seconds. It only bounds a failing run."""

_LONGEST_RUN = 0.8
"""Seconds from the first request of a process to its kill, at most."""

_SHORTEST_PROMPT = 20
_MICRO = 1_000_000


@dataclass(frozen=True, slots=True)
class CallReport:
    """The end of a scenario. The lists should be empty. `repeated` counts the calls that were sent again, which all of
    them had requested."""

    calls: int
    kills: int
    succeeded: int
    unknown: int
    repeated: int
    lost: Sequence[str]
    sent_twice: Sequence[str]
    wrong_costs: Sequence[str]


class Service(Protocol):
    """Where requests are sent."""

    @property
    def url(self) -> str: ...


@dataclass
class CallKills:
    """A service on `data` that calls text models of `simulator`. `seed` draws the moments of the kills, and
    `rpm` limits the account."""

    simulator: Simulator
    data: Path
    seed: int
    rpm: int = 100_000
    _digits: int = _SHORTEST_PROMPT
    _accepted: dict[int, tuple[str, bool]] = field(default_factory=dict)
    """The id of each call, and whether it may be repeated, by the digits of its prompt. A batch has one id."""
    _bounds: dict[int, float] = field(default_factory=dict)
    """The most USD that a single call may cost, as its acceptance said."""

    def run(self, kills: int, *, requests_each: int) -> CallReport:
        """Start and kill the service so often, each time with new requests, then wait until all work has ended."""
        chance = random.Random(self.seed)
        with running_service(**self._settings) as service:
            more = self._calibrate(service)
        for number in range(kills):
            with launched_service(**self._settings) as service:
                if number % 8 == 7:  # during the start
                    time.sleep(chance.uniform(0, 0.5))
                else:
                    assert service.is_serving(within=_TIMEOUT)
                    kill_at = time.monotonic() + chance.uniform(0.05, _LONGEST_RUN)
                    for _ in range(requests_each):
                        self._send(service, chance)
                    time.sleep(max(0.0, kill_at - time.monotonic()))
                service.kill()
        with running_service(**self._settings) as service:
            self._wait_for_ends(_TIMEOUT)
            return self._report(service.url, kills, more)

    @property
    def _ledger(self) -> Ledger:
        return LedgerFile(self.data)

    @property
    def _settings(self) -> dict[str, Any]:
        limits = {"*": {"rpm": self.rpm, "tpm": 10**8, "rpd": None}, "account": {"usd_per_10_minutes": 1000}}
        return {
            "REPLICATE_BASE_URL": self.simulator.url,
            "GEMINI_BASE_URL": self.simulator.url,
            "GEMINI_API_KEY": "AQ.server",
            "GEMINI_CONCURRENCY_LIMIT": SLOTS,
            "GEMINI_LIMITS": json.dumps(limits),
            "CONCURRENT_DOCKER_ADMIN_API_KEY": ADMIN["Admin-API-Key"],
            "DATA_DIR": self.data,
        }

    def _calibrate(self, service: Service) -> int:
        """How many more tokens than digits a prompt has."""
        answer = self._post(service, "/chat", self._chat(), wait=True)
        return int(answer["usage"]["prompt_tokens"]) - self._digits

    def _chat(self) -> dict[str, Any]:
        self._digits += 1
        return {"prompt": "7" * self._digits}

    def _send(self, service: Service, chance: random.Random) -> None:
        """A chat or a batch, which does not wait for its end."""
        repeats = chance.random() < 0.2
        more = {"on_lost": "repeat"} if repeats else {}
        first = self._digits + 1
        if chance.random() < 0.3:
            body: dict[str, Any] = {"requests": [{**self._chat(), **more} for _ in range(3)]}
            answer = self._post(service, "/batch/chat", body)
        else:
            answer = self._post(service, "/chat", {**self._chat(), **more})
            self._bounds[first] = answer["cost_bound_usd"]
        for digits in range(first, self._digits + 1):
            self._accepted[digits] = answer["id"], repeats

    @staticmethod
    def _post(service: Service, path: str, body: Any, *, wait: bool = False) -> Mapping[str, Any]:
        headers = ADMIN if wait else {**ADMIN, "Prefer": "respond-async"}
        answer = requests.post(service.url + path, json=body, headers=headers, timeout=_TIMEOUT)
        answer.raise_for_status()
        found: Mapping[str, Any] = answer.json()
        return found

    def _wait_for_ends(self, timeout: float) -> None:
        until(lambda: self._ledger.execute(UNFINISHED) == [(0,)], timeout=timeout)

    def _report(self, url: str, kills: int, more: int) -> CallReport:
        bills: defaultdict[int, list[Bill]] = defaultdict(list)
        for bill in self.simulator.gemini.bills():
            bills[bill.usage.prompt - more].append(bill)
        ended = {
            len(prompt): _get(url, generation_id)
            for generation_id, prompt in self._ledger.execute(
                "SELECT id, prompt FROM generations ORDER BY seq"
            )
        }
        rows = self._ledger.execute("SELECT id FROM generations UNION ALL SELECT id FROM batches")
        ids = {row[0] for row in rows}
        repeating = {digits for digits, (_, repeats) in self._accepted.items() if repeats}
        codes = {digits: body.get("error", {}).get("code") for digits, body in ended.items()}
        return CallReport(
            calls=len(ended),
            kills=kills,
            succeeded=sum(bool(body["success"]) for body in ended.values()),
            unknown=list(codes.values()).count("outcome_unknown"),
            repeated=sum(len(found) > 1 for found in bills.values()),
            lost=[
                *(f"{digits} ended with {code}" for digits, code in codes.items() if code not in _ENDS),
                *(f"{each} is not in the ledger" for each, _ in self._accepted.values() if each not in ids),
                *(f"{digits} was not accepted" for digits in self._accepted if digits not in ended),
                *(f"{digits} was lost in spite of on_lost" for digits in repeating if codes.get(digits)),
            ],
            sent_twice=[
                f"{digits} was sent {len(found)} times"
                for digits, found in bills.items()
                if len(found) > 1 and digits not in repeating
            ],
            wrong_costs=[
                *_wrong_costs(ended, bills),
                *(
                    f"the cost of {digits} is {ended[digits]['cost_usd']} USD, above its bound of {bound}"
                    for digits, bound in self._bounds.items()
                    if ended[digits]["cost_usd"] > bound and ended[digits]["attempts"] == 1
                ),
            ],
        )


_ENDS = (None, "outcome_unknown")


def _get(url: str, generation_id: str) -> Any:
    return requests.get(f"{url}/generations/{generation_id}", headers=ADMIN, timeout=30).json()


def _wrong_costs(ended: Mapping[int, Any], bills: Mapping[int, Sequence[Bill]]) -> Iterator[str]:
    """Calls with another cost than their bill, or with less than it if they were lost."""
    for digits, body in ended.items():
        cost = round(body["cost_usd"] * _MICRO)
        billed = sum(each.micro_usd for each in bills.get(digits, ()))
        is_exact = body["success"] and body["attempts"] == 1
        if cost < billed or (is_exact and cost != billed):
            yield f"the cost of {digits} is {cost} micro-dollars, and its bill {billed}"
