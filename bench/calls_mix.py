"""Calls at the limits, in real time: a batch of chats of 1 to 3 s, and short ones of another caller beside it.

Prompts have 20 to 20,000 tokens, most of them few. `tests/unit/test_metered_load.py` has the same in virtual time. The
simulator counts by windows of its own, and its bills have the arrival of each call.
"""

import random
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import requests

from bench.background import in_background
from bench.processes import service_before, simulated
from bench.report import Claim, counted
from harness.service_process import ServiceProcess

RPM: Final = 300
TPM: Final = 200_000
SLOTS: Final = 15
LEAST_USE: Final = 0.95
MOST_PASSING: Final = 2

_LARGE: Final = 0.05
_WINDOW: Final = 60.0
_SINGLE_TOKENS: Final = 7
"""The length of the answers to single chats, by which their bills are found."""
_SINGLES_EVERY: Final = 2.0
_ADMIN: Final = {"X-Admin-API-Key": "bench-admin-key"}
_SETTINGS: Final = {
    "GEMINI_API_KEY": "AQ.bench",
    "GEMINI_LIMITS": f'{{"*": {{"rpm": {RPM}, "tpm": {TPM}}}, "account": {{"usd_per_10_minutes": 1000}}}}',
    "GEMINI_CONCURRENCY_LIMIT": SLOTS,
    "CONCURRENT_DOCKER_ADMIN_API_KEY": _ADMIN["X-Admin-API-Key"],
}


@dataclass(frozen=True, slots=True)
class Arrival:
    """A call at the simulator: its Unix time, and the tokens of its prompt."""

    at: float
    tokens: int
    is_single: bool


@dataclass(slots=True)
class Mix:
    """So many minutes of the mix."""

    minutes: float
    _chance: random.Random = field(default_factory=lambda: random.Random(1))
    _sent: list[float] = field(default_factory=list)
    """When each single chat was sent."""
    _failed: int = 0

    @property
    def number(self) -> int:
        """The chats of the batch: as many as one minute allows, for each minute."""
        return round(RPM * self.minutes)

    @property
    def note(self) -> str:
        return f"""\
{self.number:,} chats of 1 to 3 s through one batch at {RPM} requests and {TPM:,} tokens a minute and {SLOTS} slots.
About every {_SINGLES_EVERY:g} s another caller sends a short chat, and waits for it. Of the prompts {_LARGE:.0%} have
400 to 20,000 tokens, the others 20 to 400. Peaks are the simulator's counts in any 60 s. The use is that of the limit
that is used more, in each whole minute. What passes a short chat are the arrivals of the batch between its start and
its own."""

    def claims(self) -> Iterator[Claim]:
        """Run the mix."""
        with (
            simulated("--gemini-rpm", str(RPM), "--gemini-tpm", str(TPM)) as simulator,
            service_before(simulator, GEMINI_BASE_URL=simulator, **_SETTINGS) as service,
        ):
            answer, took = self._run(service)
            counts = _seen(simulator, "counts")
            arrivals = _arrivals(simulator)
        for what, peak, most in (
            ("requests", counts["requests_peak_per_minute"], RPM),
            ("tokens of prompts", counts["tokens_peak_per_minute"], TPM),
        ):
            yield Claim(f"{what} at the most in any 60 s", f"{peak:,}", f"≤ {most:,}", peak <= most)
        yield counted("… refused with 429", sum(counts["limits_hit"].values()))
        in_flight = counts["in_flight_peak"]
        yield Claim("calls at once", f"{in_flight}", f"≤ {SLOTS}", in_flight <= SLOTS)
        got = sum(each["success"] for each in answer["results"])
        made = len(arrivals) - len(self._sent)
        yield Claim("answers got, calls made", f"{got}, {made}", f"{self.number}, {self.number}",
                    got == made == self.number)  # fmt: skip
        yield from self._use(arrivals)
        passing = _most_passing(arrivals, self._sent)
        what = f"passed a short chat of another caller at the most, of {len(self._sent)}"
        is_met = passing <= MOST_PASSING and not self._failed
        yield Claim(what, f"{passing}", f"≤ {MOST_PASSING}", is_met)
        yield Claim("seconds of the batch", f"{took:.0f} s")

    def _use(self, arrivals: Sequence[Arrival]) -> Iterator[Claim]:
        """The least use of the limit that binds in a minute."""
        used = use(arrivals)
        if not used:
            yield Claim("use of the limit that binds", "less than a minute")
            return
        shown = ", ".join(f"{calls:.1%} / {tokens:.1%}" for calls, tokens in used)
        least = min(map(max, used))
        yield Claim("use of the limit that binds, in the worst minute", f"{least:.1%}", f"≥ {LEAST_USE:.0%}",
                    least >= LEAST_USE)  # fmt: skip
        yield Claim("… requests / tokens in each", shown)

    def _run(self, service: ServiceProcess) -> tuple[Any, float]:
        """The answer to the batch, and its seconds."""
        made = requests.post(f"{service.url}/keys", json={"name": "single"}, headers=_ADMIN, timeout=60)
        made.raise_for_status()
        over = threading.Event()
        chance = random.Random(2)
        singles = in_background(
            lambda: self._singles(service, {"X-API-Key": made.json()["key"]}, over, chance)
        )
        body = {"requests": [self._chat() for _ in range(self.number)]}
        began = time.monotonic()
        try:
            answer = requests.post(f"{service.url}/batch/chat", json=body, headers=_ADMIN, timeout=3600)
        finally:
            over.set()
        took = time.monotonic() - began
        answer.raise_for_status()
        singles.result()
        return answer.json(), took

    def _chat(self) -> dict[str, Any]:
        """A chat of the batch."""
        large = self._chance.random() < _LARGE
        tokens = self._chance.randint(400, 20_000) if large else self._chance.randint(20, 400)
        first = self._chance.uniform(0.1, 0.7)
        slow = self._chance.uniform(1.0, 3.0) - first
        marks = f"[[first={first:.1f}]] [[slow={slow:.1f}]]"
        return {"prompt": marks + " fox" * (tokens - len(marks) // 2), "max_output_tokens": 1000}

    def _singles(
        self, service: ServiceProcess, key: dict[str, str], over: threading.Event, chance: random.Random
    ) -> None:
        """Short chats, one after another."""
        body = {"prompt": f"a fox [[out={_SINGLE_TOKENS}]]", "max_output_tokens": 1000}
        while not over.wait(chance.expovariate(1 / _SINGLES_EVERY)):
            self._sent.append(time.time())
            answer = requests.post(f"{service.url}/chat", json=body, headers=key, timeout=300)
            self._failed += not answer.ok


def use(arrivals: Sequence[Arrival]) -> list[tuple[float, float]]:
    """The parts of both limits that were used in each whole minute since the first arrival."""
    begin = arrivals[0].at
    used = [[0, 0] for _ in range(int((arrivals[-1].at - begin) // _WINDOW))]
    for each in arrivals:
        if (minute := int((each.at - begin) // _WINDOW)) < len(used):
            used[minute][0] += 1
            used[minute][1] += each.tokens
    return [(calls / RPM, tokens / TPM) for calls, tokens in used]


def _most_passing(arrivals: Sequence[Arrival], sent: Sequence[float]) -> int:
    """The most calls of the batch that arrived between the start of a single chat and its arrival."""
    came = [each.at for each in arrivals if each.is_single]
    batch = [each.at for each in arrivals if not each.is_single]
    return max(
        (sum(start < at < end for at in batch) for start, end in zip(sent, came, strict=True)), default=0
    )


def _arrivals(simulator: str) -> list[Arrival]:
    """All calls, in the order of their arrival."""
    bills = _seen(simulator, "bills?limit=100000")["bills"]
    found = [
        Arrival(each["arrived"], each["usage"]["prompt"], each["usage"]["output"] == _SINGLE_TOKENS)
        for each in bills
    ]
    return sorted(found, key=lambda each: each.at)


def _seen(simulator: str, name: str) -> Any:
    answer = requests.get(f"{simulator}/simulator/gemini/{name}", timeout=60)
    answer.raise_for_status()
    return answer.json()
