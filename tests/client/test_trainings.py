"""Trainings on a scripted service: the images that are sent, the wait for the end, and the file of the weights."""

import io
import os
from pathlib import Path

import httpx
import pytest
from replicate_concurrent import (
    BadOutput,
    Canceled,
    ConnectionLost,
    GenerationFailed,
    NotFound,
    OutputLost,
    TimedOut,
    Upload,
    training_results,
)
from replicate_concurrent.cli.screen import TrainingBar
from replicate_concurrent.operations import following, trainings, weights
from replicate_concurrent.operations.training_images import sent_images
from rich.console import Console

from tests.client.test_batches import stream
from tests.client.test_references import form
from tests.support.scripted_service import ScriptedService, answer, problem

BEGUN = answer(202, {"id": "trn_1", "status": "queued"})
TRAINED = {
    "id": "trn_1", "status": "succeeded", "success": True, "destination": "me/dog", "model": "me/dog:0a",
    "weights": "http://elsewhere.test/trainings/trn_1/weights/flux-lora.tar",
}  # fmt: skip
WEIGHTS = b"the weights of a LoRA"
SIZE = len(WEIGHTS)


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def scripted(request):
    return lambda *answers, **settings: ScriptedService(answers, on_asyncio=request.param, **settings)


@pytest.fixture
def mixed(tmp_path):
    """A folder of two images, of which one has a caption, and files that are no part of them."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name in ("b.PNG", "a.jpg", "a.txt", "notes.txt", ".hidden.jpg", "film.mov", "more/c.jpg"):
        (folder / name).write_bytes(name.encode())
    return folder


def ordered(images, **fields):
    return trainings.order(images, "ostris/flux-dev-lora-trainer", "me/dog", **fields)


def begin(service, images, **fields):
    return service.run(trainings.begin(service.service, ordered(images, **fields)))


def names(images):
    return [part.filename for part in sent_images(images)]


def test_the_images_of_a_folder_are_sent_with_their_captions_and_no_other_files(scripted, mixed):
    service = scripted(BEGUN)
    made = begin(
        service, mixed, trigger_word="TOK", input={"steps": 500}, create_destination=True, timeout=None
    )

    assert ("trn_1", ["POST /trainings"]) == (made.id, service.paths())
    assert [
        ("trainer", None, b"ostris/flux-dev-lora-trainer"),
        ("destination", None, b"me/dog"),
        ("trigger_word", None, b"TOK"),
        ("input", None, b'{"steps": 500}'),
        ("create_destination", None, b"true"),
        ("images", "a.jpg", b"a.jpg"),
        ("images", "a.txt", b"a.txt"),
        ("images", "b.PNG", b"b.PNG"),
    ] == form(service.requests[0])


@pytest.mark.parametrize("address", ["https://example.com/dog.zip", "data:application/zip;base64,UEs="])
def test_an_address_is_sent_as_it_is(scripted, address):
    service = scripted(BEGUN)
    begin(service, address)

    assert [address] == [each["images"] for each in service.bodies()]


def test_a_zip_a_list_and_an_upload_are_sent_as_they_are(mixed, monkeypatch):
    monkeypatch.chdir(mixed)

    assert ["a.jpg"] == names("a.jpg") == names(Path("a.jpg")) == names(["a.jpg"])
    assert ["notes.txt", "film.mov"] == names(Path(each) for each in ("notes.txt", "film.mov"))
    assert "https://service.test/f/1" == sent_images(Upload("1", "https://service.test/f/1"))


@pytest.mark.parametrize(
    ("images", "error"),
    [
        ([], ValueError), ("none", FileNotFoundError), (["none.jpg"], FileNotFoundError), (b"PK", TypeError),
        (["https://example.com/a.jpg"], TypeError), ([b"jpg"], TypeError), (7, TypeError),
    ],
)  # fmt: skip
def test_other_values_than_images_are_refused_before_a_request(
    scripted, tmp_path, monkeypatch, images, error
):
    monkeypatch.chdir(tmp_path)
    service = scripted(BEGUN)

    with pytest.raises(error):
        begin(service, images)
    assert [] == service.requests


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("none")

    with pytest.raises(ValueError, match="has no images"):
        sent_images(tmp_path)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the open files are counted there")
def test_no_file_is_left_open_since_there_may_be_more_than_a_process_may_open(scripted, tmp_path):
    paths = [tmp_path / f"{number}.jpg" for number in range(60)]
    for path in paths:
        path.write_bytes(path.name.encode())

    def is_open(request):
        opened = {os.path.realpath(each) for each in Path("/proc/self/fd").iterdir()}
        assert opened.isdisjoint(map(str, paths))
        return httpx.Response(202, json={"id": "trn_1"})

    service = scripted(is_open)
    begin(service, paths)

    assert [path.name for path in paths] == [name for _, name, _ in form(service.requests[0]) if name]


def test_a_training_is_sent_again_with_its_key_and_all_its_files(scripted, mixed):
    service = scripted(httpx.ReadError("lost"), problem(503, "starting", retryable=True), BEGUN)
    begin(service, mixed)

    assert 1 == len({each.headers["idempotency-key"] for each in service.requests})
    assert 3 == len(service.requests)
    assert 1 == len({tuple(form(each)) for each in service.requests})


def test_a_training_that_the_next_process_continues_is_known_by_its_id(scripted, mixed):
    service = scripted(
        problem(503, "shutting_down", retryable=True, id="trn_1", headers={"x-should-retry": "false"})
    )

    assert ("trn_1", "queued") == (lambda made: (made.id, made.status))(begin(service, mixed))


def test_an_estimate_spends_no_money_and_has_the_cost(scripted, mixed):
    answered = {
        "dry_run": True, "destination_exists": False, "images": 2, "captions": 1, "estimated_seconds": 900,
        "estimated_cost_usd": 1.37, "cost_bound_usd": 10.98, "warnings": ["has 2 images"],
    }  # fmt: skip
    service = scripted(answer(200, answered))

    plan = service.run(trainings.estimate(service.service, ordered(mixed)))

    assert ("dry_run", None, b"true") in form(service.requests[0])
    assert (False, 2, 1, 900, 1.37, 10.98, ("has 2 images",)) == (
        plan.destination_exists, plan.images, plan.captions, plan.estimated_seconds, plan.estimated_cost_usd,
        plan.cost_bound_usd, plan.warnings,
    )  # fmt: skip


def test_it_is_looked_at_until_it_has_ended(scripted):
    running = {"id": "trn_1", "status": "running", "progress": 42.0, "logs": "42%"}
    service = scripted(BEGUN, *[answer(200, running)] * 12, answer(200, TRAINED))

    found = service.emitted(trainings.looks(service.service, "trn_1", timeout=None))

    assert [None, 42.0, "me/dog:0a"] == [found[0].progress, found[1].progress, found[-1].model]
    assert (0.5, 0.5) == (service.pauses[0], service.pauses[5])
    assert service.pauses[-1] > 0.5
    assert {"GET /trainings/trn_1"} == {*service.paths()}


def test_a_wait_ends_after_its_timeout(scripted):
    service = scripted(answer(200, {"id": "trn_1", "status": "running"}))

    with pytest.raises(TimedOut) as late:
        service.emitted(trainings.looks(service.service, "trn_1", timeout=7.0))
    assert ("trn_1", 7.0) == (late.value.id, round(sum(service.pauses), 6))


@pytest.mark.parametrize(("status", "kind"), [("failed", GenerationFailed), ("canceled", Canceled)])
def test_a_training_that_failed_raises_its_error(status, kind):
    error = {"code": "generation_failed", "detail": "CUDA"}
    made = training_results.training({"id": "trn_1", "status": status, "success": False, "error": error})

    with pytest.raises(GenerationFailed, match="CUDA") as failed:
        trainings.raise_if_failed(made)
    assert (kind, "trn_1") == (type(failed.value), failed.value.id)


def test_logs_come_once_over_streams_that_end_early(scripted):
    running = ("running", {"id": "trn_1"})
    service = scripted(
        stream(running, ("logs", {"text": "one\n", "end": 4}), ("logs", {"text": "one\n", "end": 8})),
        stream(running, ("logs", {"text": "one\none\ntwo\n", "end": 12}), ("done", {"id": "trn_1"})),
    )

    found = service.emitted(following.events(service.service, "trn_1", kind="trainings"))

    assert ["one\n", "one\n", "two\n"] == [each.data["text"] for each in found if each.name == "logs"]
    assert ["running", "done"] == [each.name for each in found if each.name != "logs"]
    assert {"GET /trainings/trn_1/events"} == {*service.paths()}


def test_a_list_has_the_filters_and_pages_of_the_service(scripted):
    service = scripted(answer(200, {"trainings": [TRAINED, TRAINED], "next_cursor": "next"}))

    found = service.emitted(
        trainings.every(service.service, limit=3, since=None, metadata={"project": "web"}, state="succeeded")
    )

    assert ["me/dog:0a"] * 3 == [each.model for each in found]
    assert [
        {"limit": "3", "state": "succeeded", "metadata.project": "web"},
        {"limit": "1", "state": "succeeded", "metadata.project": "web", "cursor": "next"},
    ] == [dict(each.url.params) for each in service.requests]


@pytest.mark.parametrize("view", [training_results.training, training_results.training_plan])
def test_results_take_what_other_versions_of_the_service_send(view):
    assert {} == view({}).raw
    assert {"new_field": [1]} == view({"new_field": [1]}).raw


class Body(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body for both drivers, which `breaks` after its content or not."""

    def __init__(self, content, *, breaks):
        self._content = content
        self._breaks = breaks

    def __iter__(self):
        yield self._content
        if self._breaks:
            raise httpx.ReadError("lost")

    async def __aiter__(self):
        for chunk in self:
            yield chunk


def file_of(content=WEIGHTS, status=200, whole=SIZE, etag='"one"', breaks=False):
    """Answers with a part of a file, which as a whole has the length `whole`."""
    headers = {"Content-Length": str(whole), "ETag": etag}
    return lambda request: httpx.Response(status, stream=Body(content, breaks=breaks), headers=headers)


@pytest.fixture
def save(scripted, tmp_path):
    def saved(*answers, name="{id}.{ext}", overwrite=False, made=TRAINED, **settings):
        saved.service = service = scripted(answer(200, made), *answers, **settings)
        path = service.run(weights.save(service.service, "trn_1", tmp_path, name, overwrite=overwrite))
        return path.relative_to(tmp_path).as_posix()

    return saved


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_weights_become_a_file_of_their_name_and_only_the_service_gets_the_key(save, tmp_path):
    assert "dog/trn_1.tar" == save(file_of(), name="{model}/{id}.{ext}")
    assert {"trn_1.tar": WEIGHTS} == contents(tmp_path)
    sent = save.service.requests[-1]
    assert "http://service.test/trainings/trn_1/weights/flux-lora.tar" == str(sent.url)
    assert "Bearer rcg_secret" == sent.headers["authorization"]


def test_a_download_that_breaks_off_goes_on_where_it_was(save, tmp_path):
    save(
        file_of(WEIGHTS[:4], breaks=True),
        problem(503, "starting", retryable=True),
        file_of(WEIGHTS[4:9], status=206, whole=len(WEIGHTS) - 4),
        file_of(WEIGHTS[9:], status=206, whole=len(WEIGHTS) - 9),
    )

    assert {"trn_1.tar": WEIGHTS} == contents(tmp_path)
    headers = [each.headers for each in save.service.requests[1:]]
    assert [None, "bytes=4-", "bytes=4-", "bytes=9-"] == [each.get("range") for each in headers]
    assert {'"one"'} == {each["if-range"] for each in headers[1:]}


def test_a_file_that_has_changed_meanwhile_is_fetched_from_its_start(save, tmp_path):
    save(file_of(b"older", breaks=True), file_of(etag='"two"'))

    assert {"trn_1.tar": WEIGHTS} == contents(tmp_path)


def test_a_download_without_bytes_ends_after_the_timeout_and_leaves_no_file(save, tmp_path):
    with pytest.raises(ConnectionLost):
        save(file_of(WEIGHTS[:4], breaks=True), file_of(b"", status=206, breaks=True), timeout=60)
    assert {} == contents(tmp_path)
    with pytest.raises(BadOutput):
        save(file_of(b"", whole=0))
    assert {} == contents(tmp_path)


def test_a_file_of_that_name_stays_unless_it_is_to_be_replaced(save, tmp_path):
    (tmp_path / "trn_1.tar").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        save(file_of())
    assert ["GET /trainings/trn_1"] == save.service.paths()

    save(file_of(), overwrite=True)

    assert {"trn_1.tar": WEIGHTS} == contents(tmp_path)


def test_weights_that_the_service_does_not_keep_are_lost_with_its_reason(save):
    lost = {**TRAINED, "weights": None, "warnings": ["The file of the weights could not be kept: torn."]}
    with pytest.raises(OutputLost, match="could not be kept: torn"):
        save(file_of(), made=lost)
    lost["warnings"] = ["Images without a caption: 2 of 12, such as a.jpg."]
    with pytest.raises(OutputLost, match="trn_1: they were deleted"):
        save(file_of(), made=lost)
    with pytest.raises(OutputLost, match="it is running"):
        save(file_of(), made={"id": "trn_1", "status": "running"})


def test_weights_that_are_deleted_stay_so_and_unknown_ones_are_not_found(scripted):
    def deleted(*answers):
        service = scripted(*answers)
        service.run(trainings.delete_weights(service.service, "trn_1"))
        return service.paths()

    gone = problem(404, "not_found")
    assert ["DELETE /trainings/trn_1/weights"] == deleted(httpx.Response(204))
    assert "GET /trainings/trn_1" == deleted(gone, answer(200, {**TRAINED, "weights": None}))[-1]
    for look in (answer(200, {"id": "trn_1", "status": "failed", "success": False}), gone):
        with pytest.raises(NotFound):
            deleted(gone, look)


def test_the_bar_has_the_time_that_is_left_and_the_last_line_of_the_logs():
    at, screen = [0.0], io.StringIO()
    console = Console(file=screen, force_terminal=True, width=60)
    bar = TrainingBar(console=console, clock=lambda: at[0])

    def shown(**fields):
        screen.truncate(0)
        raw = {"id": "trn_1", "status": "running", "estimated_seconds": 1000, **fields}
        bar.show(training_results.training(raw))
        return screen.getvalue()

    with bar:
        assert "ETA -" in shown(status="queued")
        assert "ETA 16:40" in shown()
        logs = "caching\ntrains: 9%\rtrains: 10% \x1b[31m and a line that is too long for the terminal"
        drawn = shown(progress=10.0, logs=logs)
        assert ("10 %" in drawn, "ETA 15:00" in drawn) == (True, True)
        assert ("trains: 10%" in drawn, "9%" in drawn, "terminal" in drawn, "\x1b[31m" in drawn) == (
            True, False, False, False,
        )  # fmt: skip
        at[0] = 60.0
        assert "ETA 8:00" in shown(progress=20.0)
