"""What the receiving side saw.

The only witness of a claim like "never more than 600 a minute" is the server that got the requests,
so it counts here, whatever the caller believes it sent.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Counts:
    """Everything counted since the start or the last reset.

    Attributes:
        requests: Arrivals by kind: create, get, cancel, list, file, account, secret, model,
            delivery, unknown.
        refusals: Answers of 400 and above, by status, ordered faults included.
        creations_accepted: Predictions that came into being.
        creations_peak_per_minute: The most creations, accepted or refused, that one token sent in
            any 60 seconds.
        others_peak_per_minute: The same of all its other requests.
        in_flight: Predictions that have not ended.
        in_flight_peak: The most there were at once.
        finished: Predictions by the status they ended with; "processing" for `[[early]]` ones.
        answers_lost: Requests that were handled but whose answer could not be read: dropped, hung,
            truncated or garbled by a fault, or because the caller had gone.
        webhooks_delivered: Webhooks a receiver took.
        webhooks_refused: Attempts a receiver did not take.
        deliveries_with_token: Deliveries asked for with an `Authorization` header, a cookie, or a
            token in any other header or in the address. Outputs are anyone's hosts: none should be.
        billed_usd: What all predictions have cost so far, in USD, rounded to millionths (`billing`).
    """

    requests: Mapping[str, int]
    refusals: Mapping[int, int]
    creations_accepted: int
    creations_peak_per_minute: int
    others_peak_per_minute: int
    in_flight: int
    in_flight_peak: int
    finished: Mapping[str, int]
    answers_lost: int
    webhooks_delivered: int
    webhooks_refused: int
    deliveries_with_token: int
    billed_usd: float

    def as_json(self) -> dict[str, Any]:
        """The counts as a JSON object."""
        return asdict(self)


class Counters:
    """The counters behind `Counts`."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start again from nothing."""
        self._requests: Counter[str] = Counter()
        self._refusals: Counter[int] = Counter()
        self._finished: Counter[str] = Counter()
        self._accepted = 0
        self._peaks = {True: 0, False: 0}
        self._in_flight = 0
        self._in_flight_peak = 0
        self._lost = 0
        self._webhooks = {True: 0, False: 0}
        self._deliveries_with_token = 0
        self._billed_usd = 0.0

    def count_request(self, kind: str) -> None:
        """A request of this kind came in."""
        self._requests[kind] += 1

    def record_peak(self, arrivals: int, *, creation: bool) -> None:
        """A token's last minute held this many arrivals."""
        self._peaks[creation] = max(self._peaks[creation], arrivals)

    def count_response(self, status: int) -> None:
        """An answer left, or was about to."""
        if status >= 400:
            self._refusals[status] += 1

    def count_lost_response(self) -> None:
        """A handled request got no answer it could read."""
        self._lost += 1

    def count_creation(self) -> None:
        """A prediction came into being."""
        self._accepted += 1
        self._in_flight += 1
        self._in_flight_peak = max(self._in_flight_peak, self._in_flight)

    def settled(self, status: str, *, billed_usd: float) -> None:
        """A prediction ended with this status, and cost this much."""
        self._in_flight -= 1
        self._finished[status] += 1
        self._billed_usd += billed_usd

    def count_delivery_with_token(self) -> None:
        """Somebody who wanted an output gave away a secret."""
        self._deliveries_with_token += 1

    def webhook(self, *, delivered: bool) -> None:
        """A webhook was sent once."""
        self._webhooks[delivered] += 1

    def snapshot(self) -> Counts:
        """The counts as they are now."""
        return Counts(
            requests=dict(self._requests),
            refusals=dict(self._refusals),
            creations_accepted=self._accepted,
            creations_peak_per_minute=self._peaks[True],
            others_peak_per_minute=self._peaks[False],
            in_flight=self._in_flight,
            in_flight_peak=self._in_flight_peak,
            finished=dict(self._finished),
            answers_lost=self._lost,
            webhooks_delivered=self._webhooks[True],
            webhooks_refused=self._webhooks[False],
            deliveries_with_token=self._deliveries_with_token,
            billed_usd=round(self._billed_usd, 6),
        )
