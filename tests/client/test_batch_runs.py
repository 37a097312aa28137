"""Batches of the library, on a real service before the simulator: what a run knows of the runs before it."""

import json
import os
import queue
import time
from dataclasses import replace

import httpx
import pytest
from replicate_concurrent import Client, InvalidRequest, OutputLost
from replicate_concurrent.batches.following import Arrived, Follower, NoItemKeys, Over
from replicate_concurrent.batches.inputs import rows_of
from replicate_concurrent.batches.manifest import Line, Manifest
from replicate_concurrent.batches.rows import Row
from replicate_concurrent.batches.runner import BatchRun
from replicate_concurrent.batches.saving import saved
from replicate_concurrent.results import Generation

from tests.client.conftest import ADMIN

HOUR = 3600.0
PROMPTS = ["A fox", "A hare", "A fox"]


class Sent(list):
    """The requests of a client that may make something."""

    def note(self, request):
        if request.method == "POST" and b"dry_run" not in request.content:
            self.append(request.url.path)


@pytest.fixture
def sent():
    return Sent()


@pytest.fixture
def client(service, sent):
    with (
        httpx.Client(event_hooks={"request": [sent.note]}) as http,
        Client(service.url, ADMIN, http=http) as made,
    ):
        yield made


def run(client, directory, *, at=None):
    """Run the batch to its end. Returns the status and the files of its rows."""
    rows = rows_of(client, PROMPTS, {"model": "flux-dev", "go_fast": True})
    with BatchRun(client, rows, directory, at=at) as batch:
        for _ in batch.results():
            pass
        return [(each.line.status, each.line.files) for each in batch.outcomes()]


def forget(directory, *kinds):
    """Drop these lines of the manifest, as if the client had been killed before it wrote them."""
    path = directory / "manifest.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if json.loads(line)["type"] not in kinds))


@pytest.mark.slow
def test_rows_are_on_the_disk_before_they_are_sent(service, tmp_path, monkeypatch):
    path, synced, found = tmp_path / "manifest.jsonl", {}, []
    fsync = os.fsync

    def note_sync(descriptor):
        fsync(descriptor)
        file = os.fstat(descriptor)
        synced[file.st_ino] = file.st_size

    def note_request(request):
        if request.method == "POST" and b"dry_run" not in request.content:
            on_disk = path.read_bytes()[: synced.get(path.stat().st_ino, 0)].splitlines()
            rows = {line.get("key") for line in map(json.loads, on_disk) if line["type"] == "row"}
            sent = {each["idempotency_key"] for each in json.loads(request.content)["requests"]}
            found.append((len(sent), sent - rows, tmp_path.stat().st_ino in synced))

    monkeypatch.setattr("os.fsync", note_sync)
    with (
        httpx.Client(event_hooks={"request": [note_request]}) as http,
        Client(service.url, ADMIN, http=http) as client,
    ):
        run(client, tmp_path)

    assert [(len(PROMPTS), set(), True)] == found


@pytest.mark.slow
@pytest.mark.parametrize("hours", [0, 30])
@pytest.mark.parametrize(
    ("forgotten", "posts"),
    [(["result"], 0), (["result", "batch"], 1)],
    ids=["the results", "the answer to the batch"],
)
def test_a_later_run_knows_what_became_of_its_rows(
    client, sent, simulator, tmp_path, hours, forgotten, posts
):
    done = run(client, tmp_path)
    files = sorted(path.name for path in tmp_path.iterdir())
    before = simulator.counts().creations_accepted
    sent.clear()
    forget(tmp_path, *forgotten)

    assert done == run(client, tmp_path, at=time.time() + hours * HOUR)
    assert ["/generate-batch"] * (0 if hours else posts) == sent
    assert before == simulator.counts().creations_accepted
    assert files == sorted(path.name for path in tmp_path.iterdir())


@pytest.mark.slow
def test_rows_that_never_reached_the_service_are_sent_also_days_later(client, tmp_path):
    rows = rows_of(client, PROMPTS, {"model": "flux-dev", "go_fast": True})
    with Manifest(tmp_path) as manifest:
        at = time.time() - 48 * HOUR
        manifest.begin(
            [
                Line(manifest.key(row.digest, 0), row.digest, row.index, f"{row.index}.{{ext}}", at)
                for row in rows
            ],
            "{index}.{ext}",
        )

    assert ["succeeded"] * 3 == [status for status, _ in run(client, tmp_path)]


@pytest.mark.slow
def test_rows_that_the_service_does_not_know_any_more_have_failed_and_are_not_made_again(
    client, simulator, tmp_path
):
    run(client, tmp_path)
    forget(tmp_path, "result")
    path = tmp_path / "manifest.jsonl"
    path.write_text(path.read_text().replace('"id": "batch_', '"id": "batch_0'))
    before = simulator.counts().creations_accepted

    assert [("unknown", ())] * 3 == run(client, tmp_path)
    assert before == simulator.counts().creations_accepted


def test_an_output_that_no_place_keeps_is_lost_and_one_that_cannot_be_written_is_tried_again(tmp_path):
    def facts_after(error):
        made = Generation(
            "gen_1", "succeeded", True, files=("a",), cost_usd=0.5, seed=7, saver=Failing(error)
        )
        return saved(Arrived("k", made), "a.{ext}", tmp_path)

    lost = facts_after(OutputLost("2 is gone", "3 is gone", saved=[tmp_path / "a.jpg"]))
    unsaved = facts_after(OSError(28, "No space left on device"))
    line = Line("k", "d", 1, "a.{ext}", 0.0)

    sentences = ("2 is gone", "3 is gone")
    facts = {
        "generation": "gen_1", "cost_usd": 0.5, "seed": 7, "status": "succeeded", "lost": sentences,
        "files": ("a.jpg",),
    }  # fmt: skip
    assert (facts, "") == (lost.facts, lost.trouble)
    assert ({"generation": "gen_1"}, "OSError: [Errno 28] No space left on device") == (
        unsaved.facts, unsaved.trouble,
    )  # fmt: skip
    assert line.status is None


def test_an_output_that_is_found_again_is_lost_no_more(tmp_path):
    made = Generation("gen_1", "succeeded", True, files=("a",), saver=lambda *_, **__: [tmp_path / "a.jpg"])
    line = Line("k", "d", 1, "a.{ext}", 0.0, status="succeeded", lost=("gone",))

    assert not line.is_done
    assert replace(line, **saved(Arrived("k", made), "a.{ext}", tmp_path).facts).is_done


class Failing:
    """Saves nothing."""

    def __init__(self, error):
        self.error = error

    def __call__(self, *_, **__):
        raise self.error


class OlderService:
    """A client of a service that knows no keys of items."""

    def submit_batch(self, **_):
        field = "requests[0].idempotency_key"
        raise InvalidRequest(
            {"code": "invalid_request", "errors": [{"field": field, "message": "is not a known field"}]}
        )


def test_a_service_without_keys_of_items_is_a_sentence():
    news = queue.SimpleQueue()
    row = Row(1, "item 1", {"model_name": "m", "prompt": "A"}, "d")
    Follower(OlderService(), news, {}, at=0.0).start([], [Line("k", "d", 1, "a.{ext}", 0.0)], {"d": row})
    over = news.get(timeout=30)

    assert (Over, NoItemKeys) == (type(over), type(over.error))
    assert "older than this client" in str(over.error)
