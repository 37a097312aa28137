"""Trainings at Replicate: created once, recognized by their uploaded zip, followed by their logs, and cancelled.

In virtual time, before the simulator.
"""

import asyncio
import json
import time
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import replace
from io import BytesIO
from itertools import count, pairwise

import httpx
import pytest

from catalog.outputs import OutputForm, Url
from catalog.references import Upload
from concurrency import Gate
from errors import (
    InvalidRequest,
    OutcomeUnknown,
    PayloadTooLarge,
    Problem,
    ServerOutOfCredit,
    ServiceError,
    UpstreamError,
)
from generations.creations import LatestVersions
from providers import LogTail, Prediction, TryAgain
from providers.fingerprints import fingerprint
from providers.outcomes import without_texts
from providers.redaction import REDACTED
from providers.replicate.absence import SearchTiming
from providers.replicate.access import Access
from providers.replicate.trainings import ReplicateTrainings
from simulator import Options
from tests.support.callers import SERVER_TOKEN
from tests.support.connections import FakeConnections
from tests.support.virtual_replicate import replicate
from tests.support.virtual_time import now, run
from tests.support.wiring import ADMIN
from tests.unit.simulator.creations import IMAGES, OSTRIS

URL = "http://replicate.test"
FORM = OutputForm(streams=True)
SECRET = "hf_marked_secret"


class Line(FakeConnections):
    """A line to the simulator that keeps what it carries, and when."""

    def __init__(self, inner: FakeConnections) -> None:
        self._inner = inner
        self.sent: list[tuple[float, httpx.Request]] = []

    async def respond(self, request: httpx.Request) -> httpx.Response:
        self.sent.append((now(), request))
        return await self._inner.respond(request)

    def requests(self, method: str, part: str) -> list[httpx.Request]:
        return [each for _, each in self.sent if each.method == method and part in each.url.path]

    def times(self, method: str, part: str) -> list[float]:
        return [at for at, each in self.sent if each.method == method and part in each.url.path]


class Scene:
    """Trainings of the admin's account, and the simulator that they are made at."""

    def __init__(self, service, world, line) -> None:
        self.service, self.world, self.line = service, world, line
        self.gate = Gate(concurrent_limit=9, requests_per_minute=600)
        self.provider = ReplicateTrainings(service.provider.access)
        self.trainer = f"{OSTRIS}:{world.models.find(OSTRIS, token=SERVER_TOKEN).version}"
        self.numbers = count(1)

    async def open(self) -> None:
        self.username = await self.provider.account_of(ADMIN)
        self.destination = f"{self.username}/fox"
        await self.provider.create_destination(ADMIN, self.destination, visibility="private", hardware="cpu")

    async def uploaded(self) -> str:
        return await self.provider.upload(ADMIN, Upload(BytesIO(IMAGES)))

    async def sent(self, **more) -> dict:
        return {"input_images": await self.uploaded(), "steps": 1000, **more}

    async def create(self, sent=None, *, target=None, destination=None, **more) -> Prediction:
        sent = await self.sent() if sent is None else sent
        with await self.gate.acquire("admin") as lease:
            created = await self.provider.create(
                ADMIN,
                target or self.trainer,
                sent,
                content=self.provider.content_of(sent),
                lease=lease,
                cancel_after=7200,
                reference=f"trn_{next(self.numbers)}.1",
                destination=destination or self.destination,
                **more,
            )
        return created.prediction

    async def recover(self, sent, *, since, provider=None, **more) -> Prediction:
        provider = provider or self.provider
        found = await provider.recover(
            ADMIN,
            self.trainer,
            content=provider.content_of(sent),
            since=since,
            reference=f"trn_{next(self.numbers)}.1",
            **more,
        )
        return found.prediction

    async def wait(self, created: Prediction, *, announced=False, **more) -> Prediction:
        formed = replace(created, form=FORM, is_announced=announced)
        return await self.provider.wait(ADMIN, formed, model="a training", **more)

    @property
    def made(self) -> list:
        return list(self.world.trainings)


@asynccontextmanager
async def opened(**options):
    lines = []

    def line(loopback):
        lines.append(Line(loopback))
        return lines[0]

    options = {"training_seconds": 600, "jitter": 0, "answer_delay": (0.25, 0.25)} | options
    async with replicate(Options(**options), line, search=SearchTiming()) as (service, world):
        scene = Scene(service, world, lines[0])
        await scene.open()
        yield scene
        await scene.provider.aclose()
        assert 0 == service.others.statistics().current_concurrent
        assert 0 == scene.gate.statistics().current_concurrent


def played(act, **options):
    async def whole():
        async with opened(**options) as scene:
            return await act(scene)

    return run(whole())


def test_a_creation_has_the_body_of_a_training_and_neither_deadline_nor_wait():
    async def act(scene):
        sent = await scene.sent()
        await scene.create(sent, callback="https://here.test/hook")
        await scene.create(sent, secrets={"hf_token": SECRET}, callback="https://here.test/hook")
        return scene.line.requests("POST", "/trainings"), sent, scene.trainer, scene.destination

    (hooked, secret), sent, trainer, destination = played(act)
    name, _, version = trainer.partition(":")

    assert f"/v1/models/{name}/versions/{version}/trainings" == hooked.url.path
    assert {"destination": destination, "input": sent} | {
        "webhook": "https://here.test/hook",
        "webhook_events_filter": ["completed"],
    } == json.loads(hooked.content)
    assert {"destination": destination, "input": {**sent, "hf_token": SECRET}} == json.loads(secret.content)
    assert not {"prefer", "cancel-after"} & {each.lower() for each in hooked.headers}


def test_a_creation_takes_a_place_of_both_leases_and_counts_as_no_prediction():
    async def act(scene):
        sent, before = await scene.sent(), scene.service.others.statistics().current_rate_per_minute
        await scene.create(sent)
        others = scene.service.others.statistics().current_rate_per_minute - before
        counts = scene.world.counters.snapshot()
        return others, scene.gate.statistics().current_rate_per_minute, counts.creations_accepted

    assert (1, 1, 0) == played(act)


def test_a_training_ends_with_its_version_and_its_weights():
    async def act(scene):
        ended = await scene.wait(await scene.create())
        return ended, scene.destination

    ended, destination = played(act)

    assert (True, "succeeded", None) == (ended.is_made, ended.status, ended.progress)
    assert {"version", "weights"} == ended.output.keys()
    assert ended.output["version"].startswith(f"{destination}:")
    assert isinstance(ended.output["weights"], Url)
    assert 600.0 == pytest.approx(ended.metrics["total_time"])
    assert "flux_train_replicate: 100%" in ended.logs.text


def test_the_answer_to_a_creation_leads_to_no_prediction():
    """Its `urls` are those of a prediction, which does not exist."""

    async def act(scene):
        created = await scene.create()
        await asyncio.sleep(1)
        stopped = await scene.provider.cancel(ADMIN, created)
        return stopped.status, [each for _, each in scene.line.sent if "/predictions" in each.url.path]

    assert ("canceled", []) == played(act)


def test_a_cancelled_training_ends_for_those_who_wait():
    async def act(scene):
        created = await scene.create()
        waiting = asyncio.create_task(scene.wait(created))
        await asyncio.sleep(100)
        stopped = await scene.provider.cancel(ADMIN, created)
        ended = await waiting
        return stopped.status, ended.status, ended.started, ended.may_be_billed

    assert ("canceled", "canceled", True, True) == played(act)


def test_a_cancel_is_tried_for_minutes_since_no_deadline_ends_a_training():
    async def act(scene):
        created = await scene.create()
        began = now()
        scene.world.faults.inject(on="train_cancel", times=200, status=503)
        asyncio.get_running_loop().call_later(120, scene.world.faults.clear)
        stopped = await scene.provider.cancel(ADMIN, created)
        return stopped.status, now() - began, [each.status for each in scene.made]

    status, took, states = played(act)
    assert ("canceled", ["canceled"]) == (status, states)
    assert 120 <= took < 130


def test_a_cancel_that_fails_for_all_that_time_is_unknown():
    async def act(scene):
        created = await scene.create()
        scene.world.faults.inject(on="train_cancel", times=9999, status=503)
        began = now()
        return await scene.provider.cancel(ADMIN, created), now() - began

    stopped, took = played(act)
    assert stopped is None
    assert 250 < took <= 305


@pytest.mark.parametrize("fault", [{"reset": "after"}, {"garbage": True}, {"status": 502}, {"hang": 60}])
def test_two_creations_with_lost_answers_are_each_adopted_by_their_zip(fault):
    """All of their input is equal but the address of the zip."""
    has_made = "status" not in fault

    async def act(scene):
        first, second = await scene.sent(), await scene.sent()
        await scene.create(second)  # one that is on record
        third = await scene.sent()
        scene.world.faults.inject(on="train", times=2, **fault)
        made = await asyncio.gather(scene.create(first), scene.create(third), return_exceptions=True)
        found = {each.record().url: each.id for each in scene.made}
        if not has_made:
            return [type(each) for each in made], len(found)
        expected = [found[each["input_images"]] for each in (first, third)]
        return [each.id for each in made] == expected, len(found)

    expected = (True, 3) if has_made else ([TryAgain, TryAgain], 1)
    assert expected == played(act)


def test_a_creation_that_never_arrived_may_be_sent_again_once_that_is_proven():
    async def act(scene):
        sent = await scene.sent()
        scene.world.faults.inject(on="train", reset="before")
        began = now()
        with pytest.raises(TryAgain):
            await scene.create(sent)
        waited = now() - began
        again = await scene.create(sent)
        return waited, [each.id for each in scene.made] == [again.id]

    waited, is_only = played(act)
    assert 90 <= waited < 120
    assert is_only


def test_the_next_process_finds_a_training_by_its_zip_among_others_with_secrets_and_without():
    async def act(scene):
        sent, other = await scene.sent(), await scene.sent()
        since = time.time()
        lost = await scene.create(sent, secrets={"hf_token": SECRET})
        await scene.create(other)
        access = Access(base_url=URL, others=scene.service.others, connections=scene.line)
        later = ReplicateTrainings(access)
        found = await scene.recover(sent, since=since, provider=later, hidden=["hf_token"])
        await later.aclose()
        return lost.id == found.id, found.status

    assert (True, "starting") == played(act)


def test_a_search_reads_the_list_without_dates_and_only_as_far_back_as_it_must():
    """The account has three hundred older trainings, on three pages."""

    async def act(scene):
        for _ in range(300):
            await scene.create({"input_images": "https://images.test/a.zip", "steps": 1000})
        await asyncio.sleep(4000)
        sent = await scene.sent()
        scene.world.faults.inject(on="train", reset="after")
        await scene.create(sent)
        return [each.url.query.decode() for each in scene.line.requests("GET", "/trainings")]

    assert {""} == set(played(act, training_seconds=1))


def test_a_training_with_a_deleted_input_is_in_doubt():
    async def act(scene):
        sent = await scene.sent()
        scene.world.faults.inject(on="train", reset="after")
        scene.world.faults.inject(on="trainings", times=1000, set={"input": {}, "data_removed": True})
        with pytest.raises(OutcomeUnknown):
            await scene.create(sent)
        return len(scene.made)

    assert 1 == played(act)


def test_an_equal_zip_of_another_version_is_no_match():
    async def act(scene):
        sent, since = await scene.sent(), time.time()
        scene.world.faults.inject(on="trainings", times=1000, set={"version": "0" * 64})
        await scene.create(sent)
        access = Access(base_url=URL, others=scene.service.others, connections=scene.line)
        later = ReplicateTrainings(access)
        with pytest.raises(TryAgain):
            await scene.recover(sent, since=since, provider=later)
        await later.aclose()

    played(act)


@pytest.mark.parametrize("changed", ["destination", "version", "trainer"])
def test_what_does_not_exist_is_refused_by_its_field_and_for_good(changed):
    async def act(scene):
        name, _, version = scene.trainer.partition(":")
        how = {
            "destination": {"destination": f"{scene.username}/not-there"},
            "version": {"target": f"{name}:{'0' * 64}"},
            "trainer": {"target": f"acme/unknown:{version}"},
        }[changed]
        with pytest.raises(InvalidRequest) as refused:
            await scene.create(**how)
        [problem] = refused.value.problems
        creations = len(scene.line.requests("POST", "/trainings"))
        return problem.field, "does not exist" in problem.message, creations, scene.gate.statistics().waiting

    field = "destination" if changed == "destination" else "trainer"
    assert (field, changed == "destination", 1, 0) == played(act)


def test_a_zip_is_uploaded_anew_each_time_and_can_be_deleted():
    async def act(scene):
        upload = Upload(BytesIO(IMAGES))
        first, second = [await scene.provider.upload(ADMIN, upload) for _ in range(2)]
        sent = scene.line.requests("POST", "/files")[0]
        await scene.provider.delete_upload(ADMIN, first)
        await scene.provider.delete_upload(ADMIN, first)
        await scene.provider.delete_upload(ADMIN, "https://images.test/v1/files/a.zip")
        left = len(scene.world.uploads.records())
        gone = len(scene.line.requests("DELETE", "/files/"))
        return first != second, sent.content.split(b"\r\n\r\n")[0], left, gone

    is_new, header, left, gone = played(act)
    assert (True, 1, 2) == (is_new, left, gone)
    assert b'filename="images.zip"' in header
    assert b"application/zip" in header


def test_a_deletion_is_tried_again_and_raises_no_error():
    async def act(scene):
        address = await scene.uploaded()
        scene.world.faults.inject(on="file_delete", status=503, times=2)
        await scene.provider.delete_upload(ADMIN, address)
        left = len(scene.world.uploads.records())
        another = await scene.uploaded()
        scene.world.faults.inject(on="file_delete", reset="before", times=9)
        await scene.provider.delete_upload(ADMIN, another)
        return left, Counter(each.method for _, each in scene.line.sent)["DELETE"]

    assert (0, 7) == played(act)


@pytest.mark.parametrize("after", [0.1, 0.3])
def test_a_file_that_arrives_although_its_upload_was_cancelled_is_deleted(after):
    async def act(scene):
        scene.world.faults.inject(on="file", delay=1.0)
        uploading = asyncio.create_task(scene.uploaded())
        await asyncio.sleep(after)
        began = now()
        uploading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await uploading
        return len(scene.line.requests("DELETE", "/files")), scene.world.uploads.records(), now() - began

    deleted, left, seconds = played(act)
    assert (1, ()) == (deleted, tuple(left))
    assert seconds < 5


def test_a_cancelled_upload_without_an_answer_is_abandoned():
    async def act(scene):
        scene.world.faults.inject(on="file", delay=60.0)
        uploading = asyncio.create_task(scene.uploaded())
        await asyncio.sleep(0.1)
        uploading.cancel()
        began = now()
        await asyncio.wait([uploading])
        return now() - began

    assert 5 == played(act)


def test_a_zip_that_is_too_large_for_replicate_is_not_sent_again():
    async def act(scene):
        scene.world.faults.inject(on="file", times=9, status=413, body={"detail": "too large", "status": 413})
        with pytest.raises(PayloadTooLarge):
            await scene.uploaded()
        return len(scene.line.requests("POST", "/files"))

    assert 1 == played(act)


def test_an_upload_that_fails_in_passing_is_tried_again():
    async def act(scene):
        scene.world.faults.inject(on="file", status=503)
        return await scene.uploaded()

    assert played(act).startswith(f"{URL}/v1/files/")


def test_a_destination_is_created_once_and_then_exists():
    async def act(scene):
        name = f"{scene.username}/hare"
        before = await scene.provider.has_destination(ADMIN, name)
        scene.world.faults.inject(on="model_create", reset="after")
        for _ in range(2):
            await scene.provider.create_destination(ADMIN, name, visibility="private", hardware="gpu-t4")
        after = await scene.provider.has_destination(ADMIN, name)
        shown = json.loads(scene.line.requests("POST", "/v1/models")[-1].content)
        return before, after, await scene.provider.has_destination(ADMIN, "no name"), shown

    before, after, odd, shown = played(act)
    assert (False, True, False) == (before, after, odd)
    assert {"visibility": "private", "hardware": "gpu-t4"} == {
        name: each for name, each in shown.items() if name not in ("owner", "name")
    }


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"status": 422, "body": {"title": "x", "detail": "- hardware: is unknown\n"}}, InvalidRequest),
        ({"status": 403, "body": {"detail": "You may not create it."}}, InvalidRequest),
        ({"status": 402, "body": {"detail": "No credit."}}, ServerOutOfCredit),
        ({"status": 500, "times": 9}, UpstreamError),
    ],
)
def test_a_refused_destination_has_its_reason(fault, error):
    async def act(scene):
        scene.world.faults.inject(on="model_create", **fault)
        with pytest.raises(ServiceError) as refused:
            await scene.provider.create_destination(ADMIN, "a/b", visibility="private", hardware="cpu")
        return refused.value

    raised = played(act)
    assert error is type(raised)
    if error is InvalidRequest:
        assert ["destination"] == [each.field for each in raised.problems]
        reason = fault["body"]["detail"].strip("- \n")
        assert f"Replicate did not create it: {reason}" == raised.problems[0].message


def test_a_destination_that_cannot_be_looked_up_is_an_error_and_not_missing():
    async def act(scene):
        scene.world.faults.inject(on="model", status=500)
        await scene.provider.has_destination(ADMIN, scene.destination)

    with pytest.raises(UpstreamError):
        played(act)


def test_only_its_own_bar_is_the_progress_and_the_logs_grow_to_their_end():
    async def act(scene):
        created = await scene.create()
        waiting = asyncio.create_task(scene.wait(created))
        await asyncio.sleep(0.5)
        seen = []
        scene.provider.follow(created.id, seen.append)
        ended = await waiting
        return seen, ended

    seen, ended = played(act)
    shares = [each.progress for each in seen]
    known = [each for each in shares if each is not None]
    unknown = shares.index(known[0])

    assert known == shares[unknown:] == sorted(known)
    assert 0.0 == known[0]
    assert 95 < known[-1] < 100
    assert any("Captioning images: 100%" in each.logs.text for each in seen[:unknown] if each.logs)
    ends = [each.logs.end for each in seen if each.logs]
    assert ends == sorted(ends)
    assert ends[-1] <= ended.logs.end
    assert all(len(each.logs.text) <= 20_000 for each in seen if each.logs)


def test_a_training_is_polled_every_ten_seconds_and_each_second_while_it_is_followed():
    async def act(scene):
        created = await scene.create()
        waiting = asyncio.create_task(scene.wait(created))
        await asyncio.sleep(200)
        leave = scene.provider.follow(created.id, lambda shown: None)
        await asyncio.sleep(100)
        leave()
        await waiting
        return [at - now() for at in scene.line.times("GET", f"/trainings/{created.id}")]

    times = played(act)
    began = -600.0
    followed = [each for each in times if began + 200 <= each < began + 300]
    alone = [each for each in times if each < began + 200]
    assert 90 <= len(followed) <= 112
    assert 20 <= len(alone) <= 30
    gaps = [later - earlier for earlier, later in pairwise(alone)]
    assert 10.0 == pytest.approx(max(gaps), abs=0.5)


def test_a_training_with_a_pushed_end_is_polled_as_often_for_its_progress():
    async def act(scene):
        for _ in range(4):
            await scene.wait(await scene.create())
        created = await scene.create()
        waiting = asyncio.create_task(scene.wait(created, announced=True))
        await asyncio.sleep(300)
        polls = scene.line.times("GET", f"/trainings/{created.id}")
        await waiting
        return len(polls)

    assert played(act) > 30


def test_a_training_that_took_long_before_is_not_left_alone_next_time():
    """Known durations would put off the first poll of a prediction."""

    async def act(scene):
        for _ in range(4):
            await scene.wait(await scene.create())
        began = now()
        created = await scene.create()
        waiting = asyncio.create_task(scene.wait(created))
        await asyncio.sleep(300)
        polls = [each - began for each in scene.line.times("GET", f"/trainings/{created.id}")]
        await waiting
        return polls

    assert len(played(act)) > 30


def test_many_trainings_are_polled_one_by_one_and_never_by_pages():
    async def act(scene):
        created = [await scene.create() for _ in range(8)]
        await asyncio.gather(*map(scene.wait, created))
        polls = scene.line.requests("GET", "/trainings")
        return len(polls), [each for each in polls if each.url.path.endswith("/trainings")]

    polls, pages = played(act)
    assert [] == pages
    assert polls > 8


def test_a_secret_is_in_no_text_even_when_the_training_took_hours():
    async def act(scene):
        sent = await scene.sent()
        created = await scene.create(sent, secrets={"hf_token": SECRET})
        waiting = asyncio.create_task(scene.wait(created))
        await asyncio.sleep(7000)
        scene.world.faults.inject(
            on="training",
            times=9,
            set={"status": "failed", "error": f"no {SECRET}", "logs": f"push by {SECRET} failed"},
        )
        ended = await waiting
        return repr(created), ended

    created, ended = played(act, training_seconds=7100)
    assert SECRET not in created + repr(ended)
    assert (f"no {REDACTED}", f"push by {REDACTED} failed") == (ended.error, ended.logs.text)


def test_a_failure_that_invites_to_try_again_is_final():
    """Each training has been paid for the time that it ran."""

    async def act(scene):
        ended = await scene.wait(await scene.create(await scene.sent(trigger_word="[[transient]]")))
        return ended.status, ended.cause

    assert ("failed", "model") == played(act)


def test_a_training_is_recognized_by_its_zip_alone_and_without_one_by_all_of_its_input():
    async def act(scene):
        address = await scene.uploaded()
        content = scene.provider.content_of
        other = {"input_images": "https://images.test/a.zip", "steps": 5}
        assert address == content({"steps": 1, "dataset": address}) == content({"dataset": address})
        assert fingerprint(other) == content(other)

    played(act)


def test_after_a_restart_all_that_may_repeat_a_lost_secret_is_withheld_but_not_the_new_version():
    version = f"admin/fox:{'ab' * 32}"
    ended = Prediction(
        "t1",
        "succeeded",
        {"version": version, "weights": Url("https://replicate.delivery/a.tar"), "said": SECRET},
        logs=LogTail(SECRET, 16),
        form=FORM,
    )

    shown = without_texts(ended)

    assert SECRET not in repr(shown)
    assert (version, "https://replicate.delivery/a.tar") == (shown.output["version"], shown.output["weights"])
    assert SECRET not in repr(without_texts(replace(ended, output=f"my {SECRET}/x:{'ab' * 32}")))


def test_the_refusal_of_a_trainers_version_names_the_latest():
    class Known:
        async def latest_known(self, caller, name):  # noqa: ARG002
            return "b" * 64

    async def refused():
        raise InvalidRequest([Problem("trainer", "No such version."), Problem("destination", "None.")])

    async def scenario():
        with pytest.raises(InvalidRequest) as raised:
            await LatestVersions(Known()).named(refused(), ADMIN, Trainer())
        return [each.message for each in raised.value.problems]

    class Trainer:
        target = f"{OSTRIS}:{'a' * 64}"

    assert [f"No such version. The latest of {OSTRIS} is {'b' * 64}.", "None."] == run(scenario())
