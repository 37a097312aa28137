"""Counts of the requests that arrived, and of their outcomes.

Only the receiving server can confirm a claim such as "never more than 600 a minute". So the simulator counts,
independently of the caller.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

LOOKUPS = ("model", "version", "versions", "deployment", "search")
"""The kinds of requests that look up models: a model, one version, all versions, a deployment, a search."""


@dataclass(frozen=True, slots=True)
class TallyRecord:
    """The trainings since the start or the last reset.

    Attributes:
        created: Those that were created.
        in_flight: Those that have not ended.
        in_flight_peak: The most at any time.
        finished: Those that have ended, by their status.
        billed_usd: The cost of all, in USD, rounded to millionths.
    """

    created: int
    in_flight: int
    in_flight_peak: int
    finished: Mapping[str, int]
    billed_usd: float


@dataclass(frozen=True, slots=True)
class Counts:
    """The counts since the start or the last reset.

    Attributes:
        requests: Arrivals by kind: create, get, cancel, list, train, training, train_cancel, trainings, file,
            file_delete, account, secret, model, model_create, version, versions, deployment, search, delivery, weights,
            unknown.
        refusals: Responses of 400 and above, by status, injected faults included.
        creations_accepted: Predictions that were created.
        creations_peak_per_minute: The most creations, accepted or refused, that one token sent in
            any 60 seconds.
        others_peak_per_minute: The same for all its other requests.
        in_flight: Predictions that have not ended.
        in_flight_peak: The most at any time.
        finished: Predictions by the status they ended with; "processing" for `[[early]]` ones.
        answers_lost: Requests that were handled but whose response could not be read: a fault dropped, delayed,
            truncated or garbled it, or the caller had disconnected.
        webhooks_delivered: Webhooks that a receiver accepted.
        webhooks_refused: Attempts that a receiver did not accept.
        deliveries_with_token: Downloads of outputs with an `Authorization` header, a cookie, or a token in any other
            header or in the address. It should be 0, since an output's host may be any.
        billed_usd: The cost of all predictions so far, in USD, rounded to millionths (`billing`).
        trainings: The same of trainings, none of which are in the numbers of predictions.
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
    trainings: TallyRecord

    @property
    def lookups(self) -> int:
        """The requests that looked up what can be run."""
        return sum(self.requests.get(kind, 0) for kind in LOOKUPS)

    def as_json(self) -> dict[str, Any]:
        """The counts as a JSON object."""
        return asdict(self) | {"lookups": self.lookups}


class Tally:
    """Counts the predictions, or the trainings, of all accounts."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Set all numbers to zero."""
        self._created = 0
        self._in_flight = 0
        self._in_flight_peak = 0
        self._finished: Counter[str] = Counter()
        self._billed_usd = 0.0

    def count_creation(self) -> None:
        """Count a new one."""
        self._created += 1
        self._in_flight += 1
        self._in_flight_peak = max(self._in_flight_peak, self._in_flight)

    def count_end(self, status: str, *, billed_usd: float) -> None:
        """Count the end of one, and its cost."""
        self._in_flight -= 1
        self._finished[status] += 1
        self._billed_usd += billed_usd

    def record(self) -> TallyRecord:
        """The numbers at this moment."""
        return TallyRecord(
            created=self._created,
            in_flight=self._in_flight,
            in_flight_peak=self._in_flight_peak,
            finished=dict(self._finished),
            billed_usd=round(self._billed_usd, 6),
        )


class Counters:
    """The counters behind `Counts`."""

    def __init__(self) -> None:
        self.predictions = Tally()
        self.trainings = Tally()
        self.reset()

    def reset(self) -> None:
        """Set all counters to zero."""
        self.predictions.reset()
        self.trainings.reset()
        self._requests: Counter[str] = Counter()
        self._refusals: Counter[int] = Counter()
        self._peaks = {True: 0, False: 0}
        self._lost = 0
        self._webhooks = {True: 0, False: 0}
        self._deliveries_with_token = 0

    def count_request(self, kind: str) -> None:
        """Count a request of this kind."""
        self._requests[kind] += 1

    def record_peak(self, arrivals: int, *, creation: bool) -> None:
        """Record that a token's last minute had `arrivals` requests."""
        self._peaks[creation] = max(self._peaks[creation], arrivals)

    def count_response(self, status: int) -> None:
        """Count a response if its status is an error."""
        if status >= 400:
            self._refusals[status] += 1

    def count_lost_response(self) -> None:
        """Count a handled request whose response its caller could not read."""
        self._lost += 1

    def count_delivery_with_token(self) -> None:
        """Count a download that sent a secret."""
        self._deliveries_with_token += 1

    def count_webhook(self, *, delivered: bool) -> None:
        """Count one attempt to deliver a webhook."""
        self._webhooks[delivered] += 1

    def snapshot(self) -> Counts:
        """The counts at this moment."""
        predictions = self.predictions.record()
        return Counts(
            requests=dict(self._requests),
            refusals=dict(self._refusals),
            creations_accepted=predictions.created,
            creations_peak_per_minute=self._peaks[True],
            others_peak_per_minute=self._peaks[False],
            in_flight=predictions.in_flight,
            in_flight_peak=predictions.in_flight_peak,
            finished=predictions.finished,
            answers_lost=self._lost,
            webhooks_delivered=self._webhooks[True],
            webhooks_refused=self._webhooks[False],
            deliveries_with_token=self._deliveries_with_token,
            billed_usd=predictions.billed_usd,
            trainings=self.trainings.record(),
        )
