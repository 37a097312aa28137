"""The books: the arrivals, the ends of calls, and the bill.

A call is billed at its end, by the model that answered, the date, the size of the prompt and its cached share
(`models.cost`). Refused calls, and errors in a stream before any text, are free. An answer that was made and lost is
billed whole. A call that ended early, since its caller disconnected or its stream was cut, is billed by
the option `disconnect`.
"""

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from simulator.gemini.models import Usage

Outcome = Literal["finished", "disconnected", "cut", "lost", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """A call that was admitted, at its end. `asked` is the model of the request, `answered` the one that is billed.

    `usage` is the billed usage: for a call that ended early, by the option `disconnect`.
    """

    response_id: str
    project: str
    kind: str
    asked: str
    answered: str
    outcome: Outcome
    finish_reason: str | None
    usage: Usage
    micro_usd: int
    arrived: float
    ended: float

    def as_json(self) -> dict[str, Any]:
        """The bill as a JSON object."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneCounts:
    """The peaks of one model in one project: of what arrived in any 60 seconds, and of admitted requests in a day."""

    project: str
    model: str
    requests_peak_per_minute: int
    tokens_peak_per_minute: int
    requests_peak_per_day: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GeminiCounts:
    """The counts since the start or the last reset.

    Attributes:
        requests: Arrivals by kind: generate, stream, count, models, unknown.
        refusals: Errors by status, those of marks and faults included.
        limits_hit: Requests that a window refused, by its name, such as "rpm" or "rpd+rpm". Not those of marks.
        outcomes: Ends of admitted calls: finished, disconnected, cut, lost, failed.
        finish_reasons: The finish reasons of finished calls.
        in_flight: Calls that have not ended.
        in_flight_peak: The most at any time, of one project.
        lanes: The peaks of each model in each project.
        requests_peak_per_minute: The most requests that arrived at one model of one project in any 60 seconds.
        tokens_peak_per_minute: The most tokens of prompts, likewise.
        requests_peak_per_day: The most admitted requests to one model of one project in a day.
        micro_usd_peak_per_10_minutes: The largest bill of one project in any 600 seconds.
        keys_in_urls: Requests with a key in their address. It should be 0, since addresses are logged.
        tokens: The billed tokens: prompt, cached, output, thoughts.
        billed_micro_usd: The bill, in millionths of a dollar.
        billed_by_model: The same by the model that answered.
    """

    requests: Mapping[str, int]
    refusals: Mapping[int, int]
    limits_hit: Mapping[str, int]
    outcomes: Mapping[str, int]
    finish_reasons: Mapping[str, int]
    in_flight: int
    in_flight_peak: int
    lanes: tuple[LaneCounts, ...]
    requests_peak_per_minute: int
    tokens_peak_per_minute: int
    requests_peak_per_day: int
    micro_usd_peak_per_10_minutes: int
    keys_in_urls: int
    tokens: Mapping[str, int]
    billed_micro_usd: int
    billed_by_model: Mapping[str, int]

    def as_json(self) -> dict[str, Any]:
        """The counts as a JSON object."""
        return asdict(self)


class Books:
    """The counters, and the latest bills."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self.in_flight: Counter[str] = Counter()
        self.reset()

    def reset(self) -> None:
        """Forget everything but the calls in flight."""
        self.requests: Counter[str] = Counter()
        self.refusals: Counter[int] = Counter()
        self.limits_hit: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.finish_reasons: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self.by_model: Counter[str] = Counter()
        self.in_flight_peak = max(self.in_flight.values(), default=0)
        self.keys_in_urls = 0
        self.bills: deque[Bill] = deque(maxlen=self._keep)

    def begin(self, project: str) -> None:
        """Count an admitted call."""
        self.in_flight[project] += 1
        self.in_flight_peak = max(self.in_flight_peak, self.in_flight[project])

    def end(self, bill: Bill) -> None:
        """Count the end of a call, and bill it."""
        self.in_flight[bill.project] -= 1
        self.outcomes[bill.outcome] += 1
        if bill.finish_reason is not None:
            self.finish_reasons[bill.finish_reason] += 1
        usage = asdict(bill.usage)
        self.tokens.update(usage)
        self.by_model[bill.answered] += bill.micro_usd
        self.bills.append(bill)
