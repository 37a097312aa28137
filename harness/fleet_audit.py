"""Compares what a fleet's callers got, what its ledger says, and what the simulator received."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from harness.fleet_load import FleetLoad
from harness.ledger_file import LedgerFile
from harness.postgres import Server
from simulator.predictions import PredictionRecord
from simulator.threaded import Simulator

MINUTE = 60.0

Ledger = Server | LedgerFile

_SECRET_LOST = "secret_lost"


@dataclass(frozen=True, slots=True)
class Audit:
    """The end of a run. Every list should be empty.

    Attributes:
        generations: Those in the ledger, without trainings.
        predictions: Those that the simulator made.
        densest: The most creations of all tokens, accepted or refused, in any 60 s.
        in_flight_peak: The most predictions in flight at once.
        throttled: Requests that the simulator refused with 429.
        secrets_lost: Generations that were not sent, since a kill made their secrets unknown. They are not lost.
        lost: Work without a result that is in the ledger or whose id a caller received.
        twice: Predictions without a generation of their own, generations with several, keys with several works.
        errors: Errors that a caller's repetition with the same key did not heal.
        healed: The errors that it did, by their text.
    """

    generations: int
    predictions: int
    densest: int
    in_flight_peak: int
    throttled: int
    secrets_lost: int
    lost: Sequence[str]
    twice: Sequence[str]
    errors: Sequence[str]
    healed: Counter[str]


def audit(server: Ledger, simulator: Simulator, load: FleetLoad) -> Audit:
    """Audit a run whose work has ended."""
    counts, made = simulator.counts(), simulator.predictions()
    refused = counts.requests.get("create", 0) - counts.creations_accepted
    generations = _accepted(server, load)
    return Audit(
        generations=len(generations),
        predictions=counts.creations_accepted,
        # A refused creation has no time here, so each could be in the densest minute.
        densest=densest(each.created_at.timestamp() for each in made) + refused,
        in_flight_peak=counts.in_flight_peak,
        throttled=counts.refusals.get(429, 0),
        secrets_lost=list(generations.values()).count(_SECRET_LOST),
        lost=list(_lost(server, load, generations)),
        twice=list(_twice(server, load, made, generations)),
        errors=load.errors(),
        healed=load.healed(),
    )


def _accepted(server: Ledger, load: FleetLoad) -> dict[str, str]:
    """The states of the accepted generations by their ids, or `secret_lost` for those with secrets that were never
    sent. The others were refused, since it was not certain that they were on disk: no caller has their ids, and they
    are cancelled without an attempt."""
    received = {each for work in load.works for each in work.ids}
    rows = server.execute(
        "SELECT id, batch_id, state, EXISTS (SELECT 1 FROM attempts WHERE generation_id = id), "
        f"has_secrets AND coalesce(error_code, '') = '{_SECRET_LOST}' AND NOT EXISTS "
        "(SELECT 1 FROM attempts WHERE generation_id = id AND prediction_id IS NOT NULL) FROM generations "
        "WHERE coalesce(door, '') <> 'training'"
    )
    return {
        generation: _SECRET_LOST if is_without_secrets else state
        for generation, batch, state, has_attempts, is_without_secrets in rows
        if state != "canceled" or has_attempts or received & {generation, batch}
    }


def densest(moments: Iterable[float], span: float = MINUTE) -> int:
    """The most moments in any half-open interval of `span` seconds."""
    stamps = sorted(moments)
    most, first = 0, 0
    for last, stamp in enumerate(stamps):
        while stamp - stamps[first] >= span:
            first += 1
        most = max(most, last - first + 1)
    return most


def _lost(server: Ledger, load: FleetLoad, generations: dict[str, str]) -> Iterator[str]:
    ends = {"succeeded", _SECRET_LOST}
    yield from (f"{each} is {state}" for each, state in generations.items() if state not in ends)
    batches = dict(server.execute("SELECT id, ended_at FROM batches"))
    yield from (f"{each} has not ended" for each, ended_at in batches.items() if ended_at is None)
    received = {each for work in load.works for each in work.ids}
    yield from (f"{each} is not in the ledger" for each in received - generations.keys() - batches.keys())


def _twice(
    server: Ledger, load: FleetLoad, made: list[PredictionRecord], generations: dict[str, str]
) -> Iterator[str]:
    attempts = server.execute(
        "SELECT prediction_id, generation_id FROM attempts WHERE prediction_id IS NOT NULL"
    )
    prompts = dict(server.execute("SELECT id, prompt FROM generations"))
    owners = Counter(prediction for prediction, _ in attempts)
    owned = Counter(generation for _, generation in attempts)
    generation_of = dict(attempts)
    yield from (f"prediction {each.id} has no generation" for each in made if each.id not in owners)
    yield from (
        f"prediction {each} has {number} generations" for each, number in owners.items() if number > 1
    )
    yield from (f"{each} has {number} predictions" for each, number in owned.items() if number > 1)
    yield from (
        f"{generation_of[each.id]} has a prediction of {each.input.get('prompt', '')!r}"
        for each in made
        if each.id in generation_of and prompts.get(generation_of[each.id]) != each.input.get("prompt", "")
    )
    keys = server.execute("SELECT key, work_id FROM idempotency_keys")
    yield from (
        f"{key} has several works" for key, number in Counter(key for key, _ in keys).items() if number > 1
    )
    work_of = dict(keys)
    for work in load.works:
        if work.ids and work.ids != {work_of.get(work.key)}:
            yield f"{work.key} is {work_of.get(work.key)}, and its responses had {work.ids}"
    certain = sum(work.size for work in load.works if work.ids)
    possible = sum(work.size for work in load.works)
    if not certain <= len(generations) <= possible:
        yield f"{len(generations)} generations of {certain} to {possible} requested"
