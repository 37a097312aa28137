"""The promises of every provider, each kept by Replicate's two before the simulator and by the one in memory.

All in virtual time: a creation is answered after half a second, and a prediction takes eight.
"""

import asyncio
import importlib
import json
import pkgutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import pytest

import providers
from catalog.outputs import OutputForm, Url
from catalog.references import Upload
from concurrency import Gate
from errors import InvalidRequest, Problem, ServiceError, UpstreamError, UpstreamRateLimited
from providers import Prediction, Provider, TryAgain, UncertainCreation
from providers.fingerprints import fingerprint
from providers.memory import SUCCEEDED, MemoryProvider
from providers.models import ModelFacts
from providers.pushes import Untrusted
from providers.replicate.access import Access
from providers.replicate.provider import Replicate
from providers.replicate.trainings import ReplicateTrainings
from simulator import Options
from simulator.state import SimulatorState
from simulator.webhooks import signed
from tests.support.callers import SERVER_TOKEN
from tests.support.virtual_replicate import replicate
from tests.support.virtual_time import now, run
from tests.support.wiring import ADMIN, OTHER_USER, USER, Parts

MODEL = "black-forest-labs/flux-dev"
FOX = {"prompt": "a fox"}
TRAINER = "ostris/flux-dev-lora-trainer"
IMAGES = "https://images.test/fox.zip"
TAKES = 8.0
ENDS = {
    "succeeds": ("a fox", SUCCEEDED),
    "fails": ("[[fail]] a fox", Prediction("", "failed", error="CUDA out of memory")),
    "is refused": ("[[nsfw]] a fox", Prediction("", "failed", error="NSFW", cause="content")),
    "fails in passing": (
        "[[transient]] a fox",
        Prediction("", "failed", error="(code: PA)", cause="passing"),
    ),
    "hangs": ("[[hang]] a fox", None),
    "boots": ("[[boot=40]] a fox", SUCCEEDED),
}
"""How a prediction ends: by a prompt at the simulator, and in memory."""

SCHEMA = {"components": {"schemas": {"Input": {"properties": {"prompt": {"type": "string"}}}}}}
PAINTING = "acme/watercolor"
LATEST = "5766e5ce83be12035ddc4e4558c2093ff98632382b1ae204ab3ab036ca0b362b"
OLDER = "f3b507dfe625a7b19b2ed7b55513e8b8ba42502b6da407ab3103fcacd564d713"
SECRETIVE = "acme/hub-painter:0c88f476a5f34b2261f58c50e50dc685bf93c5a8ee400d3ccf5b5aff937e4c46"
DEPLOYMENT = "deployments/acme/fast-upscaler"
RELEASE = ("acme/upscaler", "cb72d9422e8e543af85e40d5dffa4bd6c11e1e6b3c4db97a0ca391019de77ac3")
MODELS = [
    ModelFacts(MODEL, None, SCHEMA, is_official=True),
    ModelFacts(PAINTING, LATEST, SCHEMA, is_official=False),
    ModelFacts(PAINTING, OLDER, SCHEMA, is_official=False),
    ModelFacts(DEPLOYMENT, RELEASE[1], is_private=True, release=RELEASE),
]
"""Of the provider in memory. The simulator has them as well."""

REFUSALS = {
    "throttled": (429, TryAgain(UpstreamRateLimited(), throttled=True)),
    "unavailable": (503, TryAgain(UpstreamError())),
    "invalid": (422, InvalidRequest([Problem("input", "Replicate refused the input")])),
}


@dataclass
class Subject:
    """A provider, the gate that its creations are admitted by, and what a test may ask of its upstream."""

    provider: Any
    gate: Gate
    window: Gate
    """For its requests that create nothing, if it makes any."""
    will: Callable[[str], dict]
    """The input of a prediction that ends so; the next creation is of it."""
    refuse: Callable[[str], object]
    """Have the next creation refused."""
    created: Callable[[], int]
    restarted: Callable[[], Any]
    """The provider of the next process."""
    allow: Callable[[bool], object]
    """Say whether creations may be sent from now on."""
    push: Callable[[str, str], tuple[dict[str, str], bytes]]
    """The signed message that this prediction has succeeded."""
    failures_pass: bool = True
    """Whether its failures may be temporary."""

    async def create(
        self,
        end: str = "succeeds",
        *,
        caller=ADMIN,
        reference: str = "gen_a.1",
        target: str = MODEL,
        sent: dict | None = None,
        secrets: dict | None = None,
    ) -> Prediction:
        sent = self.will(end) if sent is None else sent
        with await self.gate.acquire(caller.id) as lease:
            created = await self.provider.create(
                caller,
                target,
                sent,
                content=fingerprint(sent),
                lease=lease,
                cancel_after=600,
                reference=reference,
                secrets=secrets or {},
            )
        return created.prediction

    async def wait(self, prediction: Prediction, *, caller=ADMIN, **looks: Any) -> Prediction:
        return await self.provider.wait(caller, prediction, model=MODEL, **looks)

    def is_quiet(self) -> bool:
        """No lease is held and nothing waits for one."""
        held = [
            (each.current_concurrent, each.waiting)
            for each in (self.gate.statistics(), self.window.statistics())
        ]
        return held == [(0, 0), (0, 0)]


def new_gate() -> Gate:
    return Gate(concurrent_limit=50, requests_per_minute=600)


@asynccontextmanager
async def at_replicate() -> AsyncIterator[Subject]:
    def restarted() -> Replicate:
        return Replicate(
            Access(base_url="http://replicate.test", others=service.others, connections=service.connections)
        )

    def push(prediction_id: str, secret: str) -> tuple[dict[str, str], bytes]:
        document = {"id": prediction_id, "status": "succeeded", "output": ["https://a"]}
        body = json.dumps(document).encode()
        return signed(body, message="msg_1", secret=secret), body

    allowed = [True]
    options = Options(prediction_seconds=TAKES, jitter=0, answer_delay=(0.25, 0.25))
    service: Parts
    world: SimulatorState
    async with replicate(options, may_send=lambda: allowed[-1]) as (service, world):
        yield Subject(
            service.provider,
            service.gate,
            service.others,
            will=lambda end: {"prompt": ENDS[end][0]},
            refuse=lambda how: world.faults.inject(on="create", status=REFUSALS[how][0]),
            created=lambda: world.counters.snapshot().creations_accepted,
            restarted=restarted,
            allow=allowed.append,
            push=push,
        )


class Trained(ReplicateTrainings):
    """Trainings, for tests that name neither a trainer nor a destination."""

    trainer = destination = ""

    async def create(self, caller, model, sent, **how):  # noqa: ARG002
        return await super().create(caller, self.trainer, sent, destination=self.destination, **how)

    async def recover(self, caller, model, **how):  # noqa: ARG002
        return await super().recover(caller, self.trainer, **how)

    def register_uncertain(self, creation):
        super().register_uncertain(replace(creation, model=self.trainer))


@asynccontextmanager
async def at_trainings() -> AsyncIterator[Subject]:
    def trained(access: Access) -> Trained:
        made = Trained(access)
        made.trainer = f"{TRAINER}:{world.models.find(TRAINER, token=SERVER_TOKEN).version}"
        made.destination = destination
        return made

    def restarted() -> Trained:
        return trained(
            Access(base_url="http://replicate.test", others=service.others, connections=service.connections)
        )

    def push(prediction_id: str, secret: str) -> tuple[dict[str, str], bytes]:
        document = {"id": prediction_id, "status": "succeeded", "output": ["https://a"]}
        body = json.dumps(document).encode()
        return signed(body, message="msg_1", secret=secret), body

    allowed = [True]
    options = Options(training_seconds=TAKES, jitter=0, answer_delay=(0.25, 0.25))
    service: Parts
    world: SimulatorState
    async with replicate(options, may_send=lambda: allowed[-1]) as (service, world):
        destination = f"{await service.provider.account_of(ADMIN)}/fox"
        provider = trained(service.provider.access)
        await provider.create_destination(ADMIN, destination, visibility="private", hardware="cpu")
        yield Subject(
            provider,
            service.gate,
            service.others,
            will=lambda end: {"input_images": IMAGES, "trigger_word": ENDS[end][0]},
            refuse=lambda how: world.faults.inject(on="train", status=REFUSALS[how][0]),
            created=lambda: world.counters.snapshot().trainings.created,
            restarted=restarted,
            allow=allowed.append,
            push=push,
            failures_pass=False,
        )
        await provider.aclose()


@asynccontextmanager
async def in_memory(kind: type[MemoryProvider] = MemoryProvider) -> AsyncIterator[Subject]:
    def will(end: str) -> dict:
        provider.outcomes.append(ENDS[end][1])
        provider.starts_after = 40.0 if end == "boots" else 0.0
        return {"prompt": end}

    def push(prediction_id: str, secret: str) -> tuple[dict[str, str], bytes]:
        document = {"id": prediction_id, "status": "succeeded", "output": ["https://a"]}
        return {"webhook-signature": secret}, json.dumps(document).encode()

    allowed = [True]
    provider = kind(answer_after=0.5, ends_after=TAKES, may_send=lambda: allowed[-1], models=MODELS)
    yield Subject(
        provider,
        new_gate(),
        new_gate(),
        will=will,
        refuse=lambda how: provider.outcomes.append(REFUSALS[how][1]),
        created=lambda: len(provider.made),
        restarted=lambda: provider,
        allow=allowed.append,
        push=push,
    )
    await provider.aclose()


SUBJECTS = {
    Replicate: at_replicate,
    ReplicateTrainings: at_trainings,
    MemoryProvider: in_memory,
}
"""Every provider, and what makes a subject of it."""


def player(kind):
    """Runs a story of this provider, in virtual time."""

    def play(act):
        async def whole():
            async with SUBJECTS[kind]() as subject:
                outcome = await act(subject)
                await asyncio.sleep(1)  # what a cancelled request does at last
                assert subject.is_quiet()
                return outcome

        return run(whole())

    return play


@pytest.fixture(params=SUBJECTS)
def story(request):
    """Runs a story of one provider."""
    return player(request.param)


@pytest.fixture(params=[kind for kind in SUBJECTS if hasattr(kind, "find_model")])
def story_of_models(request):
    """Runs a story of one provider that looks models up, and runs them by any target."""
    return player(request.param)


def test_every_provider_is_held_to_the_contract():
    for module in pkgutil.walk_packages(providers.__path__, "providers."):
        importlib.import_module(module.name)

    def below(kind):
        return {kind, *(each for child in kind.__subclasses__() for each in below(child))}

    ours = {kind for kind in below(Provider) if kind.__module__.startswith("providers.")}
    assert SUBJECTS.keys() == {kind for kind in ours if not vars(kind)["_is_protocol"]}


def test_a_creation_is_answered_with_the_id_of_an_unfinished_prediction(story):
    async def act(subject):
        first, second = await asyncio.gather(subject.create(), subject.create(reference="gen_b.1"))
        return first.is_over, first.id != second.id, first.age, subject.created()

    assert (False, True, 0.0, 2) == story(act)


def test_a_prediction_that_may_boot_is_seen_to_start_and_looked_at_when_it_must_have_started(story):
    async def act(subject):
        created, began, seen = await subject.create("boots"), now(), []
        await subject.wait(created, start_by=25.0, on_look=lambda ran: seen.append((now() - began, ran)))
        return seen

    seen = story(act)
    waiting = [at for at, ran in seen if ran is None]
    (at, ran), *_ = [each for each in seen if each[1] is not None]
    assert [] != [each for each in waiting if 25.0 <= each < 26.0]
    assert 40.0 <= at < 48.0
    assert at - 42.0 <= ran <= at - 39.0


def test_a_wait_ends_with_the_prediction_and_its_outputs(story):
    async def act(subject):
        created = await subject.create()
        ended = await subject.wait(created)
        return created.id == ended.id, ended.is_made, ended.outputs, subject.provider

    is_same, is_made, outputs, _ = story(act)
    assert (True, True, 1) == (is_same, is_made, len(outputs))
    assert all(isinstance(each, Url) for each in outputs)


def test_the_states_of_a_prediction_keep_the_form_of_its_output(story):
    form = OutputForm(streams=True)

    async def act(subject):
        created = replace(await subject.create(), form=form)
        ended = await subject.wait(created)
        cancelled = await subject.provider.cancel(ADMIN, created)
        hangs = replace(await subject.create("hangs", reference="gen_b.1"), form=form)
        waiting = asyncio.create_task(subject.wait(hangs))
        await asyncio.sleep(1)
        stopped = await subject.provider.cancel(ADMIN, hangs)
        return [each.form for each in (ended, cancelled, stopped, await waiting)]

    assert [form] * 4 == story(act)


@pytest.mark.parametrize(
    ("end", "cause"), [("fails", "model"), ("is refused", "content"), ("fails in passing", "passing")]
)
def test_a_failure_is_a_prediction_that_says_why_and_not_an_exception(story, end, cause):
    async def act(subject):
        ended = await subject.wait(await subject.create(end))
        expected = "model" if cause == "passing" and not subject.failures_pass else cause
        return ended.status, bool(ended.error), ended.cause == expected, ended.is_over, ended.is_made

    assert ("failed", True, True, True, False) == story(act)


def test_several_can_wait_and_a_wait_for_an_ended_prediction_returns_it_at_once(story):
    async def act(subject):
        created = await subject.create()
        endings = await asyncio.gather(subject.wait(created), subject.wait(created))
        began = asyncio.get_running_loop().time()
        again = await subject.wait(endings[0])
        return {each.id for each in (*endings, again)} == {
            created.id
        }, asyncio.get_running_loop().time() - began

    assert (True, 0.0) == story(act)


def test_a_cancelled_wait_stops_neither_the_prediction_nor_the_other_waits(story):
    async def act(subject):
        created = await subject.create()
        gone, stays = (asyncio.create_task(subject.wait(created)) for _ in range(2))
        await asyncio.sleep(2)
        gone.cancel()
        return (await stays).is_made, gone.cancelled()

    assert (True, True) == story(act)


def test_a_creation_takes_one_place_and_a_lease_is_good_for_one(story):
    async def act(subject):
        with await subject.gate.acquire("admin") as lease:
            sent = subject.will("succeeds")
            how = {"content": fingerprint(sent), "lease": lease, "cancel_after": 600, "reference": "gen_a.1"}
            await subject.provider.create(ADMIN, MODEL, sent, **how)
            with pytest.raises(RuntimeError, match="a lease is for one request"):
                await subject.provider.create(ADMIN, MODEL, sent, **how)
        return subject.created(), subject.gate.statistics().current_rate_per_minute

    assert (1, 1) == story(act)


def test_the_place_of_a_creation_is_free_60_seconds_after_its_answer(story):
    """Its slot is the caller's to free, when the prediction is over."""

    async def act(subject):
        sent = subject.will("succeeds")
        with await subject.gate.acquire("admin") as lease:
            await subject.provider.create(
                ADMIN,
                MODEL,
                sent,
                content=fingerprint(sent),
                lease=lease,
                cancel_after=600,
                reference="gen_a.1",
            )
            answered = asyncio.get_running_loop().time()
            await asyncio.sleep(30)
        await asyncio.sleep(answered + 59.9 - asyncio.get_running_loop().time())
        before = subject.gate.statistics().current_rate_per_minute
        await asyncio.sleep(0.2)
        return before, subject.gate.statistics().current_rate_per_minute

    assert (1, 0) == story(act)


@pytest.mark.parametrize("how", ["throttled", "unavailable"])
def test_a_creation_that_was_not_taken_may_be_tried_again(story, how):
    async def act(subject):
        subject.refuse(how)
        with pytest.raises(TryAgain) as again, await subject.gate.acquire("admin") as lease:
            await subject.provider.create(
                ADMIN,
                MODEL,
                FOX,
                content=fingerprint(FOX),
                lease=lease,
                cancel_after=600,
                reference="gen_a.1",
            )
        return again.value.throttled, subject.created(), subject.gate.statistics().current_rate_per_minute

    assert (how == "throttled", 0, 1) == story(act)


def test_a_creation_that_is_held_back_is_not_sent_and_takes_no_place(story):
    async def act(subject):
        subject.allow(False)
        with pytest.raises(TryAgain) as again:
            await subject.create()
        rate = subject.gate.statistics().current_rate_per_minute
        subject.allow(True)
        await subject.create()
        return again.value.held_back, rate, subject.created()

    assert (True, 0, 1) == story(act)


def test_an_input_that_is_refused_is_not_tried_again(story):
    async def act(subject):
        subject.refuse("invalid")
        with pytest.raises(InvalidRequest), await subject.gate.acquire("admin") as lease:
            await subject.provider.create(
                ADMIN,
                MODEL,
                FOX,
                content=fingerprint(FOX),
                lease=lease,
                cancel_after=600,
                reference="gen_a.1",
            )
        return subject.created()

    assert 0 == story(act)


@pytest.mark.parametrize(("moment", "is_sent"), [(0.0, False), (0.1, True), (0.3, True), (0.49, True)])
def test_a_creation_that_is_cancelled_waits_for_its_answer_and_leaks_no_lease(story, moment, is_sent):
    async def act(subject):
        creation = asyncio.create_task(subject.create())
        await asyncio.sleep(moment)
        creation.cancel()
        await asyncio.wait([creation])
        await asyncio.sleep(61)
        return creation.cancelled(), subject.gate.statistics().current_rate_per_minute

    assert (not is_sent, 0) == story(act)


def test_a_prediction_that_is_cancelled_ends_for_all_who_wait(story):
    async def act(subject):
        created = await subject.create("hangs")
        waiting = asyncio.create_task(subject.wait(created))
        await asyncio.sleep(1)
        cancelled = await subject.provider.cancel(ADMIN, created)
        return cancelled.id == created.id, cancelled.status, (await waiting).status

    assert (True, "canceled", "canceled") == story(act)


def test_a_cancel_that_comes_too_late_returns_the_end(story):
    async def act(subject):
        ended = await subject.wait(await subject.create())
        twice = [await subject.provider.cancel(ADMIN, ended) for _ in range(2)]
        return [(each.id == ended.id, each.is_made) for each in twice]

    assert [(True, True)] * 2 == story(act)


def test_a_cancel_of_an_unknown_prediction_returns_nothing_and_raises_nothing(story):
    async def act(subject):
        return await subject.provider.cancel(ADMIN, Prediction("unknown", "starting"))

    assert story(act) is None


def test_the_next_process_recovers_a_creation_that_arrived_and_its_end(story):
    async def act(subject):
        since = time.time()
        lost = await subject.create()
        later = subject.restarted()
        found = await later.recover(
            ADMIN, MODEL, content=fingerprint(subject.will("succeeds")), since=since, reference="gen_a.1"
        )
        ended = await later.wait(ADMIN, found.prediction, model=MODEL)
        await later.aclose()
        return lost.id == found.prediction.id == ended.id, ended.is_made, subject.created()

    assert (True, True, 1) == story(act)


def test_a_creation_that_never_arrived_may_be_sent_again(story):
    async def act(subject):
        with pytest.raises(TryAgain):
            await subject.provider.recover(
                ADMIN,
                MODEL,
                content=fingerprint({"prompt": "a"}),
                since=time.time() - 100,
                reference="gen_b.1",
            )
        return subject.created()

    assert 0 == story(act)


def test_a_recovery_takes_no_prediction_that_another_attempt_made(story):
    """Two identical creations, of which one is on record and one may have been lost: it was not."""

    async def act(subject):
        since = time.time()
        known = await subject.create(reference="gen_a.1")
        later = subject.restarted()
        later.register_known([known.id])
        with pytest.raises(TryAgain):
            await later.recover(
                ADMIN, MODEL, content=fingerprint(subject.will("succeeds")), since=since, reference="gen_b.1"
            )
        await later.aclose()

    story(act)


def test_two_identical_creations_are_recovered_as_one_each(story):
    async def act(subject):
        since, content = time.time(), fingerprint(subject.will("succeeds"))
        made = {(await subject.create(reference=name)).id for name in ("gen_a.1", "gen_b.1")}
        later = subject.restarted()
        later.register_uncertain(UncertainCreation("gen_b.1", "admin", MODEL, content, since))
        first = await later.recover(ADMIN, MODEL, content=content, since=since, reference="gen_a.1")
        second = await later.recover(ADMIN, MODEL, content=content, since=since, reference="gen_b.1")
        await later.aclose()
        return made == {first.prediction.id, second.prediction.id}

    assert story(act)


def test_an_upload_has_an_address_for_each_caller(story):
    async def act(subject):
        first, second = (Upload(BytesIO(b"\x89PNG\r\n\x1a\n" + bytes(300_000))) for _ in range(2))
        return [await subject.provider.upload(ADMIN, first), await subject.provider.upload(USER, second)]

    addresses = story(act)
    assert [True, True] == [each.startswith("http") for each in addresses]
    assert 2 == len(set(addresses))


def test_an_upload_that_is_cancelled_leaks_no_lease(story):
    async def act(subject):
        image = Upload(BytesIO(b"\x89PNG\r\n\x1a\n" + bytes(300_000)))
        upload = asyncio.create_task(subject.provider.upload(ADMIN, image))
        await asyncio.sleep(0.1)
        upload.cancel()
        await asyncio.wait([upload])
        return upload.cancelled()

    assert story(act)


def test_limits_are_the_providers_own(story):
    async def act(subject):
        return subject.provider.limits

    limits = story(act)
    assert 0 < limits.answer_timeout
    assert 0 <= limits.clock_skew


def test_a_provider_that_answers_does_not_fail(story):
    async def act(subject):
        await subject.create()
        return subject.provider.upstream

    upstream = story(act)
    assert (None, None) == (upstream.failing_since, upstream.throttled_until)


def test_a_signed_message_ends_a_wait_at_once(story):
    async def act(subject):
        created = await subject.create("hangs")
        waiting = asyncio.create_task(subject.wait(created))
        await asyncio.sleep(1)
        headers, body = subject.push(created.id, await subject.provider.webhook_secret(ADMIN))
        pushed = subject.provider.read_push(headers, body, await subject.provider.webhook_secret(ADMIN))
        began = asyncio.get_running_loop().time()
        subject.provider.receive_push("gen_a.1", pushed)
        ended = await waiting
        return ended.id == created.id, ended.outputs, asyncio.get_running_loop().time() - began

    assert (True, (Url("https://a"),), 0.0) == story(act)


def test_a_message_about_another_attempts_prediction_ends_no_wait(story):
    async def act(subject):
        created = await subject.create()
        waiting = asyncio.create_task(subject.wait(created))
        secret = await subject.provider.webhook_secret(ADMIN)
        pushed = subject.provider.read_push(*subject.push(created.id, secret), secret)
        subject.provider.receive_push("gen_b.1", pushed)
        await asyncio.sleep(1)
        return waiting.done(), (await waiting).outputs == pushed.prediction.outputs

    assert (False, False) == story(act)


def test_a_message_signed_for_another_caller_is_not_trusted(story):
    async def act(subject):
        mine, theirs = [await subject.provider.webhook_secret(caller) for caller in (ADMIN, USER)]
        with pytest.raises(Untrusted):
            subject.provider.read_push(*subject.push("p1", theirs), mine)
        with pytest.raises(Untrusted):
            subject.provider.read_push({}, b"", mine)

    story(act)


def test_progress_is_shown_while_a_prediction_runs_and_until_the_listener_leaves(story):
    async def act(subject):
        created = await subject.create()
        waiting = asyncio.create_task(subject.wait(created))
        await asyncio.sleep(1)
        seen, left = [], []
        subject.provider.follow(created.id, seen.append)
        leave = subject.provider.follow(created.id, left.append)
        await asyncio.sleep(2.5)
        leave()
        before = len(left)
        await waiting
        return (
            [each.progress or 0.0 for each in seen],
            {each.id for each in seen} == {created.id},
            before,
            len(left),
        )

    shares, is_same, before, after = story(act)
    assert sorted(shares) == shares
    assert is_same
    assert 5 <= len(shares) <= 9
    assert 0 < before == after


def test_following_an_unknown_prediction_does_nothing(story):
    async def act(subject):
        seen = []
        subject.provider.follow("unknown", seen.append)()
        return seen

    assert [] == story(act)


def test_a_wait_for_an_unknown_prediction_is_a_service_error(story):
    async def act(subject):
        with pytest.raises(ServiceError):
            await subject.wait(Prediction("unknown", "starting"))

    story(act)


def test_a_model_is_found_with_its_schema_and_takes_no_place_of_a_creation(story_of_models):
    async def act(subject):
        found = await subject.provider.find_model(ADMIN, MODEL)
        return found, subject.gate.statistics().current_rate_per_minute

    found, creations = story_of_models(act)
    assert (MODEL, 0) == (found.name, creations)
    assert "prompt" in found.schema["components"]["schemas"]["Input"]["properties"]


def test_what_a_provider_does_not_have_is_none(story_of_models):
    async def act(subject):
        return [
            await subject.provider.find_model(ADMIN, "nobody/nothing"),
            await subject.provider.find_version(ADMIN, PAINTING, "0" * 64),
            await subject.provider.find_versions(ADMIN, "nobody/nothing"),
            await subject.provider.find_versions(ADMIN, MODEL),
            await subject.provider.find_deployment(ADMIN, "nobody/nothing"),
        ]

    assert [None] * 5 == story_of_models(act)


def test_versions_and_deployments_are_found_and_models_by_words_of_their_name(story_of_models):
    async def act(subject):
        provider = subject.provider
        version = await provider.find_version(ADMIN, PAINTING, OLDER)
        deployment = await provider.find_deployment(ADMIN, DEPLOYMENT.removeprefix("deployments/"))
        versions = await provider.find_versions(ADMIN, PAINTING)
        return version, versions, deployment, await provider.search_models(ADMIN, "watercolor")

    version, versions, deployment, found = story_of_models(act)
    assert OLDER in [each.id for each in versions]
    assert (PAINTING, OLDER, True) == (version.name, version.version, bool(version.schema))
    assert (DEPLOYMENT, RELEASE) == (deployment.name, deployment.release)
    assert [(PAINTING, None)] == [(each.name, each.schema) for each in found]


@pytest.mark.parametrize("target", [MODEL, f"{PAINTING}:{OLDER}", DEPLOYMENT])
def test_a_prediction_of_any_target_runs_and_is_recovered(story_of_models, target):
    sent = {"img": "https://pictures.test/a.png"} if target == DEPLOYMENT else FOX

    async def act(subject):
        since, content = time.time(), fingerprint(sent)
        created = await subject.create(target=target, sent=sent)
        later = subject.restarted()
        found = await later.recover(ADMIN, target, content=content, since=since, reference="gen_a.1")
        ended = await later.wait(ADMIN, found.prediction, model=target)
        await later.aclose()
        return created.id == found.prediction.id, ended.is_made, subject.created()

    assert (True, True, 1) == story_of_models(act)


def test_versions_of_one_model_with_the_same_input_are_recovered_as_one_each(story_of_models):
    targets = {"gen_a.1": f"{PAINTING}:{OLDER}", "gen_b.1": f"{PAINTING}:{LATEST}"}

    async def act(subject):
        since, content = time.time(), fingerprint(FOX)
        made = [
            (await subject.create(target=target, sent=FOX, reference=name)).id
            for name, target in targets.items()
        ]
        later = subject.restarted()
        found = await asyncio.gather(
            *(
                later.recover(ADMIN, target, content=content, since=since, reference=name)
                for name, target in targets.items()
            )
        )
        await later.aclose()
        return made == [each.prediction.id for each in found]

    assert story_of_models(act)


def test_a_creation_with_a_secret_input_is_recovered_without_it(story_of_models):
    async def act(subject):
        since = time.time()
        how = {"target": SECRETIVE, "sent": FOX, "secrets": {"hf_token": "hf_marked_secret"}}
        created = await subject.create(**how)
        later = subject.restarted()
        found = await later.recover(
            ADMIN,
            SECRETIVE,
            content=fingerprint(FOX),
            since=since,
            reference="gen_a.1",
            hidden=["hf_token"],
        )
        ended = await later.wait(ADMIN, found.prediction, model=SECRETIVE)
        await later.aclose()
        return created.id == found.prediction.id, ended.is_made, "hf_marked_secret" in repr((created, ended))

    assert (True, True, False) == story_of_models(act)


def test_closing_twice_is_no_error(story):
    async def act(subject):
        await subject.provider.aclose()
        await subject.provider.aclose()

    story(act)


def test_each_token_has_an_account_and_asking_for_it_leaves_nothing_held(story):
    async def accounts(at):
        found = [await at.provider.account_of(caller) for caller in (USER, USER, OTHER_USER)]
        assert at.is_quiet()
        return found

    mine, again, other = story(accounts)

    assert mine == again != other
    assert mine
    assert other
