"""Checks of prompts: what rules cost, and how much longer a batch takes with a service that judges each prompt.

python -m bench.safety    # a minute
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any, Final

import requests

from bench.processes import TOKEN, service_before, simulated
from bench.report import Claim, Section, claimed, counted, run_alone
from bench.rounds import BOUNDLESS
from harness.safety_service import Answer, answer, judging
from harness.service_process import ROOT
from safety.rules import Rules

_MOST_RULES: Final = 0.2
"""Target: milliseconds of a prompt."""

_MOST_LONGER: Final = 1.1
"""Target: the batch with the service over the batch without."""

_ITEMS: Final = 1000
_SLOTS: Final = 100
_ROUNDS: Final = 3

_NOTE: Final = f"""\
The prompts of the rules are those of `tests/data/safety/`: 200 ordinary ones and 100 evasions, compared with
`safety.example.toml`. The batch has {_ITEMS} distinct prompts, {_SLOTS} predictions of 0.5 s run at once, and the
service takes 100 ms for each prompt. Figures of the batch are medians of {_ROUNDS} rounds."""


def safety() -> Section:
    return claimed("Checks of prompts", _claims(), note=_NOTE)


def _claims() -> Iterator[Claim]:
    yield from _rules()
    yield from _service()


def _rules() -> Iterator[Claim]:
    data = ROOT / "tests" / "data" / "safety"
    ordinary = (data / "ordinary.txt").read_text(encoding="utf-8").splitlines()
    evasions = [json.loads(line)["prompt"] for line in (data / "evasions.jsonl").read_text().splitlines()]
    rules = Rules.read(ROOT / "safety.example.toml")
    yield counted("ordinary prompts refused", sum(bool(rules.find(each).blocked) for each in ordinary))
    yield counted("evasions that pass", sum(not rules.find(each).blocked for each in evasions))
    for name, prompts in (
        ("a prompt", ordinary + evasions),
        ("a prompt of 2,000 characters", _long(ordinary)),
    ):
        took = 1000 * median(_seconds(partial(rules.find, each)) for each in prompts for _ in range(5))
        yield Claim(f"rules: {name}", f"{took:.3f} ms", f"< {_MOST_RULES} ms", took < _MOST_RULES)


def _long(prompts: list[str]) -> list[str]:
    text = " ".join(prompts)
    return [text[begin : begin + 2000] for begin in range(0, len(text), 2000)]


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _service() -> Iterator[Claim]:
    def slowly(_: Any) -> Answer:
        time.sleep(0.1)
        return answer({"allow": True})

    with simulated(*BOUNDLESS, "--seconds", "0.5") as simulator, judging(slowly) as judge:
        limits = {
            "REPLICATE_CONCURRENT_LIMIT": _SLOTS,
            "REPLICATE_REQUESTS_PER_MINUTE": 60_000,
            "FILES_TTL": 0,
        }
        took: dict[str, list[float]] = {"": [], judge.url: []}
        for _ in range(_ROUNDS):
            for url, seconds in took.items():
                with service_before(simulator, SAFETY_URL=url, **limits) as service:
                    seconds.append(_seconds(partial(_batch, service.url)))
        ratio = median(took[judge.url]) / median(took[""])
        yield counted("prompts that were judged", len(judge.bodies), _ROUNDS * _ITEMS)
        yield Claim("a batch without a service", f"{median(took['']):.1f} s")
        yield Claim("… with one, as a multiple", f"{ratio:.2f}", f"≤ {_MOST_LONGER}", ratio <= _MOST_LONGER)


def _batch(url: str) -> None:
    body = {"model_name": "flux-schnell", "prompts": [f"Lighthouse {number}" for number in range(_ITEMS)]}
    made = requests.post(f"{url}/generate-batch", json=body, headers=TOKEN, timeout=120)
    assert made.json()["succeeded"] == _ITEMS, made.text[:500]


if __name__ == "__main__":
    sys.exit(run_alone(safety))
