"""Uploaded files are stored beside the ledger until their generation has ended, also across restarts."""

import base64
import hashlib
import itertools
import json
import math
import os
import time
from contextlib import closing, suppress
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs
from werkzeug.datastructures import MultiDict
from werkzeug.test import encode_multipart

from catalog.references import Upload
from errors import LedgerDown
from files.uploads import UploadDirectory
from harness import postgres
from harness.service_process import until
from parsing.attachments import LEFT_BEHIND, UPLOADED, Attachments, Gone
from service import build
from tests.api.test_forms import EDIT, INLINED, a_file
from tests.support.api_client import ended, meanwhile, state, submit
from tests.support.callers import ADMIN, PNG, USER
from tests.support.output_hosts import at
from tests.support.problem_documents import problem

IMAGE = PNG + os.urandom(300_000)
DIGEST = hashlib.sha256(IMAGE).hexdigest()


def upload(content: bytes = IMAGE) -> Upload:
    return Upload(BytesIO(content))


def content_of(kept: Upload) -> bytes:
    kept.file.seek(0)
    return kept.file.read()


def files_in(directory) -> list[str]:
    """The files below a directory. Unlike `rglob`, `walk` allows that another thread removes one meanwhile."""
    return sorted(
        str((Path(folder) / name).relative_to(directory))
        for folder, _, names in os.walk(directory)
        for name in names
    )


@pytest.fixture(params=["directory", "bucket"])
def attachments(request, tmp_path):
    if request.param == "directory":
        return Attachments(UploadDirectory(tmp_path))
    return Attachments(request.getfixturevalue("s3").new().uploads(tmp_path))


def test_a_stored_request_is_read_with_its_uploaded_files(attachments):
    given = {
        "prompt": "a",
        "image_input": [upload(b"one"), "https://example.com/a.png", upload(b"two")],
        "n": 1.5,
    }
    written = attachments.written("gen_1", given)

    found = attachments.read("gen_1", written)

    first, url, second = found.pop("image_input")
    with closing(first.file), closing(second.file):
        assert ("a", 1.5, url) == (found["prompt"], found["n"], given["image_input"][1])
        assert [b"one", b"two"] == [content_of(each) for each in (first, second)]
    assert UPLOADED in written


def test_an_upload_is_read_completely_before_and_after_it_is_stored(tmp_path):
    image = upload()
    image.file.seek(1000)

    Attachments(UploadDirectory(tmp_path)).written("gen_1", {"image": image})

    assert IMAGE == content_of(image) == (tmp_path / "gen_1" / "0").read_bytes()


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=4))
def test_a_request_without_files_is_read_unchanged_and_stores_none(given):
    nowhere = Attachments(None)

    written = nowhere.written("gen_1", given)

    assert given == nowhere.read("gen_1", written)


@pytest.mark.parametrize("prompt", [UPLOADED, '{"uploaded": 0}', '"uploaded"', "\\" + UPLOADED])
def test_a_prompt_that_looks_like_an_upload_is_a_prompt(tmp_path, prompt):
    attachments = Attachments(UploadDirectory(tmp_path))

    written = attachments.written("gen_1", {"prompt": prompt})

    assert {"prompt": prompt} == attachments.read("gen_1", written)
    assert UPLOADED not in written


@pytest.mark.parametrize("reference", ["../gen_2/0", "/etc/passwd", "0", None, 1.0, [0], 7, -1])
def test_only_files_of_the_same_request_are_read(tmp_path, reference):
    attachments = Attachments(UploadDirectory(tmp_path))
    attachments.written("gen_2", {"image": upload(b"another's")})

    with pytest.raises(Gone):
        attachments.read("gen_1", json.dumps({"image": {"uploaded": reference}}))


def test_without_a_storage_no_file_outlives_the_process():
    nowhere = Attachments(None)
    written = nowhere.written("gen_1", {"image": upload()})

    with pytest.raises(Gone):
        nowhere.read("gen_1", written)
    nowhere.remove("gen_1")
    nowhere.sweep(lambda _: False)


def test_the_parts_of_a_batch_share_the_numbers_of_its_files(attachments):
    numbers = itertools.count()
    parts = [{"image": upload(each)} for each in (b"one", b"two")]
    texts = [attachments.written("batch_1", part, numbers) for part in parts]

    found = [attachments.read("batch_1", text)["image"] for text in texts]

    assert [b"one", b"two"] == [content_of(each) for each in found]
    attachments.remove("batch_1")
    attachments.remove("batch_1")
    with pytest.raises(Gone):
        attachments.read("batch_1", texts[0])


def test_a_sweep_removes_only_old_files_that_no_unfinished_work_needs(attachments):
    texts = {owner: attachments.written(owner, {"image": upload(b"x")}) for owner in ("gen_1", "batch_1")}

    def kept() -> set[str]:
        found = set()
        for owner, text in texts.items():
            with suppress(Gone):
                attachments.read(owner, text)
                found.add(owner)
        return found

    attachments.sweep(lambda _: False)
    assert {"gen_1", "batch_1"} == kept()
    late = Attachments(attachments.storage, clock=lambda: time.time() + LEFT_BEHIND + 60)
    late.sweep(lambda owner: owner == "batch_1")
    assert {"batch_1"} == kept()


def test_a_sweep_removes_nothing_that_the_ledger_cannot_be_asked_about(tmp_path):
    attachments = Attachments(UploadDirectory(tmp_path), clock=lambda: time.time() + LEFT_BEHIND + 60)
    attachments.written("gen_1", {"image": upload(b"x")})

    def away(_: str) -> bool:
        raise LedgerDown("It is away.")

    with capture_logs() as logged:
        attachments.sweep(away)

    assert ["gen_1/0"] == files_in(tmp_path)
    assert ["uploads_sweep_failed"] == [each["event"] for each in logged]
    Attachments(UploadDirectory(tmp_path / "nowhere")).sweep(away)


def test_a_bucket_that_is_away_does_not_count_as_a_lost_file():
    attachments = Attachments(at("http://127.0.0.1:1", "bucket").uploads(None))

    with pytest.raises(LedgerDown, match="An uploaded image cannot be read"):
        attachments.read("gen_1", json.dumps({"image": {"uploaded": 0}}))
    with pytest.raises(OSError, match="uploads"):
        attachments.written("gen_1", {"image": upload(b"x")})


# ── Through the HTTP API


def post(client, image=IMAGE, path="/generate", *, by=ADMIN, **more):
    fields = EDIT | {"input_image": a_file(image)} if path == "/generate" else more
    boundary, body = encode_multipart(MultiDict(fields))
    headers = by | {"Prefer": "respond-async"}
    answer = client.post(
        path, data=body, content_type=f"multipart/form-data; boundary={boundary}", headers=headers
    )
    assert "id" in answer.json, answer.json
    return answer.json["id"]


@pytest.fixture
def interrupted(make_app, simulator):
    """A service whose one slot is taken, until it is closed."""
    app = make_app(REPLICATE_CONCURRENT_LIMIT=1)
    submit(app.test_client(), "[[hang]]")
    until(lambda: 1 == simulator.counts().in_flight)
    return app


@pytest.mark.parametrize("by", [ADMIN, USER], ids=["by itself", "when its owner returns"])
def test_a_large_image_reaches_replicate_unchanged_after_a_restart(interrupted, make_app, simulator, by):
    # The admin's image was uploaded before, and is uploaded again, since the uploaded file may be gone.
    target = post(interrupted.test_client(), by=by)
    interrupted.extensions["service"].close()

    app = make_app()
    assert "succeeded" == ended(app.test_client(), target, by=by)["status"]

    assert {(len(IMAGE), DIGEST)} == {(each.size, each.sha256) for each in simulator.uploads()}
    latest = simulator.uploads()[-1]
    assert f"{simulator.url}/v1/files/{latest.id}" == simulator.predictions()[-1].input["input_image"]
    until(lambda: [] == files_in(app.extensions["service"].uploads_dir))


def test_a_shared_image_of_a_batch_reaches_replicate_after_a_restart(interrupted, make_app, simulator):
    batch = {
        "model_name": "flux-kontext-max",
        "prompts": json.dumps(["a", "b", "c"]),
        "input_image": a_file(IMAGE),
    }
    target = post(interrupted.test_client(), path="/generate-batch", **batch)
    uploads = interrupted.extensions["service"].uploads_dir
    assert [f"{target}/0"] == files_in(uploads)
    interrupted.extensions["service"].close()

    client = make_app().test_client()

    assert 3 == ended(client, target, by=ADMIN)["succeeded"]
    assert {DIGEST} == {each.sha256 for each in simulator.uploads()}
    until(lambda: [] == files_in(uploads))


def test_a_large_image_in_json_is_stored_as_a_file_and_not_kept_in_memory(interrupted, make_app, simulator):
    inline = "data:image/png;base64," + base64.b64encode(IMAGE).decode()
    edit = EDIT | {"input_image": inline}
    key = ADMIN | {"Prefer": "respond-async", "Idempotency-Key": "edit"}
    client = interrupted.test_client()
    service = interrupted.extensions["service"]

    target = client.post("/generate", json=edit, headers=key).json["id"]
    assert target == client.post("/generate", json=edit, headers=key).json["id"]
    generation = service.loop.call(lambda: service.core.supervisor.find(target))
    assert 1000 > len(generation.request_json)
    until(lambda: [f"{target}/0"] == files_in(service.uploads_dir))
    service.close()

    client = make_app().test_client()
    assert target == client.post("/generate", json=edit, headers=key).json["id"]
    assert "succeeded" == ended(client, target, by=ADMIN)["status"]
    assert DIGEST == simulator.uploads()[-1].sha256


def test_a_small_image_is_sent_inline_after_a_restart_too(interrupted, make_app, simulator):
    target = post(interrupted.test_client(), PNG + b"small")
    interrupted.extensions["service"].close()

    assert "succeeded" == ended(make_app().test_client(), target, by=ADMIN)["status"]

    assert INLINED == simulator.predictions()[-1].input["input_image"]


def test_an_image_that_cannot_be_stored_refuses_its_request(app, client, simulator):
    a_file_in_its_place = app.extensions["service"].uploads_dir / "full"
    a_file_in_its_place.write_bytes(b"")
    app.extensions["service"].attachments.storage = UploadDirectory(a_file_in_its_place)

    boundary, body = encode_multipart(MultiDict(EDIT | {"input_image": a_file(PNG + b"small")}))
    kind = f"multipart/form-data; boundary={boundary}"
    refused = client.post("/generate", data=body, content_type=kind, headers=ADMIN)

    detail = problem(refused, 500, "internal", retryable=True)["detail"]
    assert "The uploaded images cannot be stored: Not a directory. Nothing was spent." == detail
    assert {} == dict(simulator.counts().requests)


def test_uploaded_files_are_removed_at_every_end(app, client, simulator):
    uploads = app.extensions["service"].uploads_dir
    simulator.inject(on="create", status=422, body={"detail": "no"}, times=1)

    post(client)
    until(lambda: [] == files_in(uploads))
    simulator.inject(on="create", delay=30)
    target = post(client)
    assert [f"{target}/0"] == files_in(uploads)
    meanwhile(simulator.respond, lambda: client.delete(f"/generations/{target}", headers=ADMIN))
    until(lambda: [] == files_in(uploads))


def test_uploaded_files_are_removed_when_the_admin_cancels(interrupted, make_app):
    target = post(interrupted.test_client(), by=USER)
    interrupted.extensions["service"].close()
    app = make_app()
    uploads = app.extensions["service"].uploads_dir
    assert ([f"{target}/0"], "queued") == (files_in(uploads), state(app.test_client(), target, by=ADMIN))

    app.test_client().delete(f"/generations/{target}", headers=ADMIN)

    until(lambda: [] == files_in(uploads))


@pytest.mark.every_database
def test_only_old_files_of_no_unfinished_work_are_removed_at_the_start(make_app, tmp_path, database_url):
    uploads = tmp_path / "files/uploads" if database_url else tmp_path / "uploads"
    for owner in ("gen_forgotten", "gen_new"):
        (uploads / owner).mkdir(parents=True)
        (uploads / owner / "0").write_bytes(IMAGE)
    os.utime(uploads / "gen_forgotten", (0, 0))

    make_app()

    until(lambda: ["gen_new/0"] == files_in(uploads))


class Away:
    """Uploads that cannot be read while they are away, as in a bucket."""

    def __init__(self, uploads):
        self._uploads = uploads
        self.is_away = True

    def open(self, owner, number):
        if self.is_away:
            raise OSError("it is away")
        return self._uploads.open(owner, number)

    def remove(self, owner):
        self._uploads.remove(owner)

    def owners(self, *, before):
        return self._uploads.owners(before=before)


def test_a_process_serves_while_uploads_of_left_work_cannot_be_read_and_resumes_it_later(make_app, simulator):
    with postgres.server().schema() as schema:
        shared = {"PUBLIC_URL": "http://localhost", "DATABASE_URL": postgres.server().url(schema=schema)}
        first = make_app(REPLICATE_CONCURRENT_LIMIT=1, **shared)
        submit(first.test_client(), "[[hang]]")
        until(lambda: 1 == simulator.counts().in_flight)
        target = post(first.test_client())
        first.extensions["service"].close()

        settings = first.extensions["service"].settings
        second = build(settings.model_copy(update={"REPLICATE_CONCURRENT_LIMIT": 2}))
        with closing(second):
            second.attachments.storage = uploads = Away(second.attachments.storage)
            with capture_logs() as logged:
                second.start()
            assert ["recovery_delayed"] == [
                each["event"] for each in logged if each["log_level"] in {"warning", "error"}
            ]
            assert "ready" == second.ready()["status"]
            assert "queued" == second.queries.generation(target).state

            uploads.is_away = False
            until(lambda: "succeeded" == second.queries.generation(target).state)


@pytest.mark.parametrize("kept_in", ["directory", "bucket"])
def test_another_host_continues_work_with_an_uploaded_image(make_app, simulator, tmp_path, request, kept_in):
    shared = {"PUBLIC_URL": "http://localhost", "FILES_DIR": tmp_path / "shared"}
    uploads = UploadDirectory(tmp_path / "shared/uploads")
    if kept_in == "bucket":
        s3 = request.getfixturevalue("s3")
        name = s3.make()
        uploads = at(s3.url, name).uploads(None)
        shared |= {
            "FILES_URL": f"s3://{name}/kept/here",
            "AWS_ENDPOINT_URL": s3.url,
            "AWS_ACCESS_KEY_ID": "id",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
        }
    with postgres.server().schema() as schema:
        shared |= {"DATABASE_URL": postgres.server().url(schema=schema)}
        first = make_app(DATA_DIR=tmp_path / "first", REPLICATE_CONCURRENT_LIMIT=1, **shared)
        submit(first.test_client(), "[[hang]]")
        until(lambda: 1 == simulator.counts().in_flight)
        target = post(first.test_client())
        assert [target] == uploads.owners(before=math.inf)
        first.extensions["service"].close()

        second = make_app(DATA_DIR=tmp_path / "second", **shared)
        assert "succeeded" == ended(second.test_client(), target, by=ADMIN)["status"]

        assert DIGEST == simulator.uploads()[-1].sha256
        until(lambda: [] == uploads.owners(before=math.inf))
        assert [] == files_in(tmp_path / "second/uploads")
        second.extensions["service"].close()
