"""A training after its attempt: its version, its weights, its logs, and the zip that it leaves."""

import asyncio
from dataclasses import dataclass, field

import pytest

from catalog.adaptation import Step
from errors import GenerationFailed, OutcomeUnknown
from files.weights import WeightsUnavailable
from generations.attempts import Attempt
from generations.trainings import TrainingRunner
from providers import LogTail, Prediction
from tests.support.trainers import trainer
from tests.support.wiring import on_a_loop

VERSION = f"me/dog:{'2' * 64}"
OUTPUT = {"version": VERSION, "weights": "https://replicate.delivery/w.tar"}


@dataclass
class Work:
    """The parts of a generation that a training needs."""

    attempts: list = field(default_factory=list)
    listeners: list = field(default_factory=list)
    notes: tuple = ()
    files: tuple = ()
    outputs: tuple = ()
    kinds: tuple = ()
    door_facts: str = '{"destination": "me/dog"}'
    logs: str | None = None
    secrets_lost: bool = False
    is_cancelled: bool = False
    id: str = "trn_1"
    state: str = "queued"
    caller: str = "admin"

    @property
    def last(self):
        return self.attempts[-1] if self.attempts else None


@dataclass
class Ending:
    """Makes an attempt that ends so."""

    prediction: Prediction | None = None
    error: Exception | None = None
    raised: BaseException | None = None

    async def make(self, work, step, _batch):
        attempt = Attempt(step.model, step.input)
        attempt.fingerprint = "https://api.replicate.com/v1/files/f1"
        attempt.prediction, attempt.error = self.prediction, self.error
        work.attempts.append(attempt)
        if self.raised is not None:
            raise self.raised


class Upstream:
    """Records which uploads are deleted."""

    def __init__(self):
        self.deleted = []

    def follow(self, *_, **__):
        return lambda: None

    async def delete_upload(self, _, address):
        self.deleted.append(address)


class Always:
    """Gives a turn to each training, and takes each version."""

    def __init__(self):
        self.versions = []

    async def take(self, work): ...

    async def add(self, _caller, version, _work):
        self.versions.append(str(version))


class Weights:
    def __init__(self, reason=None):
        self._reason = reason
        self.tokens = []

    async def keep(self, _training, _url, *, token=None):
        self.tokens.append(token)
        if self._reason is not None:
            raise WeightsUnavailable(self._reason)
        return self

    name = "w.tar"


async def ended(ending, weights=None, work=None, others=None):
    """A training that has ended so, with its upstream and what takes its version."""
    upstream, others, work = Upstream(), others or Always(), work or Work()
    runner = TrainingRunner(
        attempts=ending,
        provider=upstream,
        turns=others,
        trained=others,
        weights=weights,
        token_of=lambda caller: f"token of {caller}",
    )
    try:
        await runner.make(work, Step(trainer(), {}), None)
    except (GenerationFailed, OutcomeUnknown, asyncio.CancelledError) as error:
        work.raised = error
    return work, upstream, others


def succeeded(output=OUTPUT, **fields):
    return Ending(Prediction("t1", "succeeded", output=output, **fields))


@on_a_loop
async def test_the_version_is_taken_and_its_weights_are_kept():
    weights = Weights()
    work, upstream, others = await ended(succeeded(), weights)
    assert [VERSION] == others.versions
    assert ("w.tar",) == work.files
    assert ({"version": VERSION, "weights": OUTPUT["weights"]},) == work.outputs
    assert ["token of admin"] == weights.tokens
    assert 1 == len(upstream.deleted)


@on_a_loop
async def test_weights_that_cannot_be_had_are_a_warning():
    work, _, others = await ended(succeeded(), Weights("it is damaged"))
    assert () == work.files
    assert "it is damaged" in work.notes[0]
    assert [VERSION] == others.versions


class Interrupted:
    """Weights with a download that is cancelled."""

    async def keep(self, *_, **__):
        raise asyncio.CancelledError


@on_a_loop
async def test_a_training_that_was_done_before_it_was_cancelled_is_a_success_without_weights():
    work, _, others = await ended(succeeded(), Interrupted(), Work(is_cancelled=True))
    assert not hasattr(work, "raised")
    assert [VERSION] == others.versions
    assert ((), 1) == (work.files, len(work.notes))


@on_a_loop
async def test_a_stop_during_the_download_leaves_the_weights_to_the_next_process():
    work, _, _ = await ended(succeeded(), Interrupted())
    assert isinstance(work.raised, asyncio.CancelledError)


class Slow(Always):
    """Is cancelled while it takes a version."""

    async def add(self, _caller, version, _work):
        await super().add(_caller, version, _work)
        raise asyncio.CancelledError


@pytest.mark.parametrize("is_cancelled", [True, False])
@on_a_loop
async def test_a_training_that_is_cancelled_while_its_version_is_taken_is_a_success(is_cancelled):
    work, _, _ = await ended(succeeded(), Weights(), Work(is_cancelled=is_cancelled), others=Slow())
    assert is_cancelled != hasattr(work, "raised")


class Forgotten(Ending):
    """Is cancelled after its zip has arrived, and before it is sent."""

    async def make(self, work, step, _batch):
        attempt = Attempt(step.model, step.input)
        attempt.fingerprint = "https://api.replicate.com/v1/files/f1"
        work.attempts.append(attempt)
        work.state = "submitting"
        work.listeners[0](work)
        work.attempts.remove(attempt)
        raise asyncio.CancelledError


@on_a_loop
async def test_the_zip_of_a_training_that_was_never_sent_is_deleted():
    _, upstream, _ = await ended(Forgotten())
    assert ["https://api.replicate.com/v1/files/f1"] == upstream.deleted


@pytest.mark.parametrize(
    "output", [{"weights": "https://x/w.tar"}, {"version": "me/dog"}, {"version": 3}, None]
)
@on_a_loop
async def test_a_success_without_a_version_is_a_failure(output):
    work, upstream, others = await ended(succeeded(output), Weights())
    assert isinstance(work.raised, GenerationFailed)
    assert [] == others.versions
    assert 1 == len(upstream.deleted)


@on_a_loop
async def test_a_training_without_weights_is_a_success_with_a_warning():
    work, _, others = await ended(succeeded({"version": VERSION}), Weights())
    assert [VERSION] == others.versions
    assert () == work.files
    assert work.notes


@pytest.mark.parametrize(
    ("ending", "is_deleted"),
    [
        (Ending(Prediction("t1", "failed"), raised=GenerationFailed("no")), True),
        (Ending(Prediction("t1", "processing"), raised=asyncio.CancelledError()), False),
        (Ending(error=GenerationFailed("no"), raised=GenerationFailed("no")), True),
        (Ending(error=OutcomeUnknown("no"), raised=OutcomeUnknown("no")), False),
        (Ending(raised=asyncio.CancelledError()), False),
    ],
)
@on_a_loop
async def test_the_zip_is_deleted_only_when_no_training_reads_it_any_more(ending, is_deleted):
    _, upstream, _ = await ended(ending)
    assert is_deleted == bool(upstream.deleted)


@on_a_loop
async def test_the_end_of_the_logs_is_kept_unless_it_may_show_a_lost_secret():
    ending = succeeded(logs=LogTail("step 1\nstep 2\n", 14))
    work, _, _ = await ended(ending)
    assert "step 2" in work.door_facts
    work, _, _ = await ended(ending, work=Work(secrets_lost=True))
    assert "step 2" not in work.door_facts
