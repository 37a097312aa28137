"""Outputs that count as pictures or films, and the cost of a prediction that made only text."""

import asyncio
import base64
import json
from dataclasses import replace
from urllib.parse import quote

import pytest
from yarl import URL

from catalog.outputs import Url
from files import StoredOutputs
from generations.attempt import OUTPUTS_LAST
from harness.service_process import until
from providers import Prediction
from providers.memory import SUCCEEDED, MemoryProvider
from providers.redaction import REDACTED, Redaction
from providers.replicate.answers import NOTHING_SECRET, read_prediction
from providers.replicate.outputs import with_addresses_checked
from tests.support import virtual_time
from tests.support.api_client import PICTURE, ended, look_up, submit, submit_batch
from tests.support.callers import ADMIN, USER
from tests.support.disconnect import QuickStore, SlowStore, a_service, next_service, on_record
from tests.support.ndjson import lines, stream
from tests.support.output_hosts import MP4, PAGE, PNG
from tests.support.problem_documents import problem
from tests.support.served_in_process import receiving
from tests.support.wiring import ADMIN as ADMIN_CALLER
from tests.support.wiring import TransitionLedger, a_picture, result, run, submission

UPSTREAM = URL("http://127.0.0.1:8000/prefix")
A = "https://replicate.delivery/a.png"


def checked(output, redact=NOTHING_SECRET, **fields):
    """A prediction that succeeded with this output, as the service returns it."""
    answer = {"id": "p", "status": "succeeded", "output": output, **fields}
    return with_addresses_checked(read_prediction(answer, redact), upstream=UPSTREAM, redact=redact)


def data(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


WRAPPED = "data:image/png;base64,\n" + base64.encodebytes(PNG * 3).decode()


@pytest.mark.parametrize(
    "output",
    [
        A,
        "HTTPS://Replicate.Delivery/a.png",
        "https://example.com",
        "https://example.com:8443/a?b=c#d",
        "https://user@example.com/a.png",
        "https://[2606:4700::1111]/a.png",
        "http://127.0.0.1:8000/delivery/a.png",
        "HTTP://127.0.0.1:8000/delivery/a.png",
        data(PNG),
        data(MP4, "video/mp4"),
        data(PNG, ""),
        data(PNG, "application/octet-stream"),
        data(b"\0\0\0\x20ftypavif" + bytes(20), "image/avif"),
        data(PNG).replace("data:image/png;base64", "DATA:IMAGE/PNG;charset=x;BASE64"),
        data(PNG).rstrip("="),
        WRAPPED,
        "data:image/png," + quote(PNG),
        "data:image/svg+xml," + quote("<svg xmlns='http://www.w3.org/2000/svg'/>"),
    ],
)
def test_an_address_and_a_data_uri_of_a_picture_or_film_are_outputs(output):
    prediction = checked(output)

    assert (Url(output.strip()),) == prediction.produced.files
    assert (True, None) == (prediction.is_made, prediction.error)


def test_spaces_around_an_address_are_left_out():
    assert (Url(A), Url(A)) == checked([f" {A}", f"{A}\r\n"]).produced.files


@pytest.mark.parametrize(
    "output",
    [
        "I cannot draw that.",
        "https://",
        "https:///a.png",
        "https://?a",
        "https://:443/a.png",
        "https://user@/a.png",
        "https://…",
        "https://example.com:port/",
        "https://[::1",
        f"{A} is what you asked for",
        "http://example.com/a.png",
        "http://127.0.0.1:8001/delivery/a.png",
        "http://127.0.0.1/delivery/a.png",
        "ftp://example.com/a.png",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "blob:https://example.com/a",
        "//replicate.delivery/a.png",
        "replicate.delivery/a.png",
        "data:",
        "data: I have none",
        "data:image/png;base64,",
        "data:image/avif;base64,",
        "data:image/png;base64,not base64!",
        "data:image/png,",
        "data:text/html," + quote(PAGE.decode()),
        "data:text/plain;base64,SSBjYW5ub3QgZHJhdyB0aGF0Lg==",
        "data:image/png;base64,SSBjYW5ub3QgZHJhdyB0aGF0Lg==",
        data(PAGE, "text/html"),
        data(PAGE, "image/avif"),
        data(b"I cannot draw that.", "image/avif"),
        data(b'{"detail": "no"}', "video/x-matroska"),
        data(b"<!-- no --><!doctype html>", "image/jxl"),
        data(b"I cannot draw that.", "image/svg+xml"),
        data(PAGE, "image/svg+xml"),
        "data:image/avif,I%20cannot",
        base64.b64encode(PNG).decode(),
    ],
)
def test_any_other_output_is_text_and_becomes_the_error(output):
    prediction = checked(output)

    assert ((output,), False) == (prediction.outputs, prediction.is_made)
    assert " ".join(output.split())[:2_000] == prediction.error


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (["I cannot ", "draw that."], "I cannot draw that."),
        (["", "no"], "no"),
        (["Sorry.\n\n", "I cannot draw that."], "Sorry. I cannot draw that."),
        ({"error": "no"}, '{"error": "no"}'),
        ([["no"], "!"], '["no"]!'),
        (17, "17"),
        (None, None),
        ([], None),
        ("", None),
        ([None, "", {}], None),
        (" \n", None),
    ],
)
def test_pieces_of_text_are_joined(output, said):
    prediction = checked(output)

    assert (said, False) == (prediction.error, prediction.is_made)


B = "https://replicate.delivery/b.png"


@pytest.mark.parametrize(
    ("output", "made"),
    [
        ({"image": A, "seed": 5}, [A]),
        ({"images": [A, B], "caption": "a fox", "has_nsfw": [False, None]}, [A, B]),
        ([[A], [B]], [A, B]),
        ([{"url": A}, {"file": {"url": B}}], [A, B]),
        (["Here: ", {"url": f" {A}\n"}], [A]),
        ({"image": A, "url": A, "first": B}, [A, B]),
        ({"video": {"uri": data(MP4, "video/mp4")}}, [data(MP4, "video/mp4")]),
        ({"image": A, "preview": data(b"no", "text/plain")}, [A]),
        ([[[[[[[[A]]]]]]]], [A]),
        ([[[[[[[[[[[A]]]]]]]]]]], [A]),
        (
            {"images": [f"{A}?{number}" for number in range(1_500)]},
            [f"{A}?{number}" for number in range(1_000)],
        ),
        ([f"{A}?{number}" for number in range(1_500)], [f"{A}?{number}" for number in range(1_500)]),
        ([A, A], [A, A]),
        ({"caption": f"it is at {A}"}, []),
        ({A: 1}, []),
    ],
)
def test_addresses_in_lists_and_objects_are_outputs(output, made):
    assert tuple(map(Url, made)) == checked(output).produced.files


def test_an_address_with_a_credential_is_left_out_and_the_error_states_so():
    redact = Redaction("r8_marked_token")
    for output in (f"{A}?r8_marked_token", [f"{A}?r8_marked_token"], {"image": f"{A}?r8_marked_token"}):
        prediction = checked(output, redact)

        assert ((), "model") == (prediction.produced.files, prediction.cause)
        assert "An output was left out, since its address holds a credential." == prediction.error
    beside = checked([f"{A}?r8_marked_token", B], redact)
    assert ((Url(B),), True) == (beside.produced.values, beside.is_made)


def test_text_beside_a_picture_is_ignored():
    prediction = checked(["Here it is: ", A, "https://", data(PNG)])

    assert (Url(A), Url(data(PNG))) == prediction.produced.files


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("I cannot draw that.", "model"),
        ("NSFW content detected.", "content"),
        (
            "Prediction interrupted; please retry (code: PA)",
            "model",
        ),  # the prediction succeeded and may be billed
    ],
)
def test_a_text_may_be_a_refusal_and_is_never_retried(text, cause):
    assert cause == checked(text).cause


def test_a_failure_keeps_its_own_error():
    prediction = checked("I cannot", status="failed", error="CUDA out of memory")

    assert "CUDA out of memory" == prediction.error


def test_a_credential_spread_over_pieces_is_removed():
    prediction = checked(["for r8_mark", "ed_token"], Redaction("r8_marked_token"))

    assert f"for {REDACTED}" == prediction.error


# Through the whole service.

REFUSED = "All generated images contained NSFW content."


@pytest.mark.parametrize("files_ttl", [0, 3600], ids=["not kept", "kept"])
def test_text_in_place_of_a_picture_is_a_failure_with_the_text_as_its_detail(make_app, simulator, files_ttl):
    client = make_app(FILES_TTL=files_ttl).test_client()
    for output, code, detail in [
        ("I cannot draw that.", "generation_failed", "I cannot draw that."),
        (["I cannot ", "draw that."], "generation_failed", "I cannot draw that."),
        ("https://", "generation_failed", "https://"),
        (["", "no"], "generation_failed", "no"),
        (["http://example.com/a.png"], "generation_failed", "http://example.com/a.png"),
        ("x" * 1_000, "generation_failed", "x" * 300),
        (REFUSED, "content_refused", REFUSED),
        ([], "generation_failed", "The model reported success without an output."),
        ({"seed": 5}, "generation_failed", '{"seed": 5}'),
    ]:
        simulator.inject(on="create", set={"output": output})
        answer = client.post("/generate", json=PICTURE, headers=ADMIN)
        status = 422 if code == "content_refused" else 500
        body = problem(answer, status, code)
        assert (detail, 0.0) == (body["detail"], body["cost_usd"])
        assert ([], 1) == (body["files"], body["attempts"])


def test_only_the_pictures_among_text_count_and_are_billed(client, simulator):
    answer = client.post(
        "/generate", json=PICTURE | {"prompt": "[[fewer]] [[text]]", "num_outputs": 3}, headers=ADMIN
    ).json

    (made,) = simulator.predictions()
    assert "I cannot draw that." == made.output[2]
    assert (made.output[:2], 2, 2) == (answer["output"], answer["count"], len(answer["files"]))
    assert 0.05 == answer["cost_usd"] == made.billed_usd
    assert "files_error" not in answer
    usage = client.get("/usage", headers=ADMIN).json["total"]
    assert (2, 0.05) == (usage["images"], usage["usd"])


@pytest.mark.parametrize("shape", ["object", "lists"])
def test_pictures_in_an_object_or_in_lists_are_kept_and_counted(client, simulator, shape):
    first, second = client.post("/generate", json=PICTURE | {"num_outputs": 2}, headers=ADMIN).json["output"]
    output = {"images": [first, second], "seed": 5} if shape == "object" else [[first], [second]]
    simulator.inject(on="create", set={"status": "succeeded", "output": output})

    answer = client.post("/generate", json=PICTURE | {"num_outputs": 2}, headers=ADMIN).json

    assert ([first, second], 2, 0.05) == (answer["output"], len(answer["files"]), answer["cost_usd"])


@pytest.mark.parametrize(
    ("model", "given", "usd"),
    [
        ("flux-dev", {"num_outputs": 4}, 0.0),
        ("nano-banana", {}, 0.0),
        ("veo-3-fast", {}, 3.32),
        ("kling-v2.1-master", {"duration": 10, "start_image": "https://example.com/a.png"}, 2.8),
    ],
)
def test_without_a_picture_a_price_per_image_is_not_due_but_a_price_per_call_is(
    client, simulator, model, given, usd
):
    body = {"model_name": model, "prompt": "[[text]]"} | given
    answer = client.post("/generate", json=body, headers=ADMIN)

    assert "I cannot draw that." == problem(answer, 500, "generation_failed")["detail"]
    assert usd == answer.json["cost_usd"] == simulator.counts().billed_usd
    usage = client.get("/usage", headers=ADMIN).json["total"]
    assert (usd, 0, 0) == (usage["usd"], usage["images"], usage["video_seconds"])


@pytest.mark.slow
@pytest.mark.parametrize("directive", ["gone", "blank", "page"])
def test_the_fallback_is_used_if_a_picture_is_missing_when_it_is_fetched(client, simulator, directive):
    prompt = f"[[only=flux-dev]] [[{directive}]] a"
    body = PICTURE | {"prompt": prompt, "num_outputs": 1, "fallback": ["qwen-image"]}
    answer = client.post("/generate", json=body, headers=ADMIN).json

    first, last = answer["attempts"]
    assert (True, 1, 1) == (answer["success"], answer["count"], len(answer["files"]))
    assert ("generation_failed", None) == (first["error"]["code"], last["error"])
    assert first["error"]["detail"].startswith(
        "The model reported success without an output. The output could"
    )
    assert 0.025 == answer["cost_usd"] == simulator.counts().billed_usd


def test_the_fallback_is_used_if_a_model_makes_text(client, simulator):
    prompt = f"[[only=flux-dev]] [[text={REFUSED}]] a"
    answer = client.post("/generate", json=PICTURE | {"prompt": prompt, "fallback": True}, headers=ADMIN).json

    assert ["content_refused", None] == [
        each["error"] and each["error"]["code"] for each in answer["attempts"]
    ]
    assert 0.025 == answer["cost_usd"] == simulator.counts().billed_usd


def test_a_success_without_outputs_is_not_retried_whatever_its_error(client, simulator):
    passing = "Prediction interrupted; please retry (code: PA)"
    for output in (passing, None):
        simulator.inject(on="create", set={"output": output, "error": None if output else passing})
        answer = client.post("/generate", json=PICTURE, headers=ADMIN)
        assert passing == problem(answer, 500, "generation_failed")["detail"]
    assert 2 == simulator.counts().creations_accepted


def test_a_placeholder_replaces_text(client):
    body = PICTURE | {"prompt": "[[text]]", "placeholder": True}
    answer = client.post("/generate", json=body, headers=ADMIN).json

    assert (True, 1) == (answer["placeholder"], len(answer["files"]))


def test_without_file_storage_no_output_is_fetched(make_app, simulator):
    client = make_app(FILES_TTL=0).test_client()
    answer = client.post("/generate", json=PICTURE | {"prompt": "[[gone]]"}, headers=ADMIN).json

    assert (True, 1, []) == (answer["success"], answer["count"], answer["files"])
    assert "delivery" not in simulator.counts().requests


def test_batches_lookups_events_and_webhooks_show_the_same_outputs(make_app):
    client = make_app(REPLICATE_SIMULATE=1, WEBHOOK_SECRET="whsec_" + "A" * 32).test_client()
    wrong = {"code": "generation_failed", "detail": "I cannot draw that.", "retryable": False}
    with receiving() as receiver:
        single = ended(client, submit(client, "[[text]]", webhook=receiver.url))
        until(lambda: receiver.received)
    batch = ended(client, submit_batch(client, "[[text]]", "a"))
    streamed = [each for each in lines(stream(client, USER, "[[text]]", "a")) if each.get("index") == 0]
    with client.get(f"/generations/{single['id']}/events", headers=USER) as answer:
        event = answer.get_data(as_text=True)

    assert (wrong, 0.0) == (single["error"], single["cost_usd"])
    posted, last = receiver.received[0].json, json.loads(event.rpartition("data: ")[2])
    assert posted == {each: single[each] for each in posted} == {each: last[each] for each in posted}
    assert (1, 1, wrong) == (batch["succeeded"], batch["failed"], batch["results"][0]["error"])
    assert wrong == look_up(client, batch["results"][0]["id"])["error"]
    assert [wrong] == [each["error"] for each in streamed]


# When outputs turn out not to exist, in virtual time.


class IncompleteStore(QuickStore):
    """A file store that finds nothing at the addresses with these numbers, and stores no other output."""

    def __init__(self, *missing: int) -> None:
        self._missing = frozenset(missing)

    async def keep(self, generation_id, outputs, *, any_type=False):  # noqa: ARG002
        names = (None,) * len(outputs)
        return StoredOutputs(
            names, "Some outputs could not be kept.", self._missing & set(range(len(outputs)))
        )


TWO = replace(SUCCEEDED, output=[Url(A), "and", Url("https://replicate.delivery/b.png")])


def outcome(made: Prediction, *missing: int, **fields):
    """The end of a generation whose outputs with these numbers do not exist."""

    async def scenario():
        _, inside = a_service(MemoryProvider(made), outputs=IncompleteStore(*missing))
        return result(await run(inside, a_picture(num_outputs=2, **fields)))

    return virtual_time.run(scenario())


def test_an_output_that_exists_but_could_not_be_stored_counts():
    body = outcome(TWO, 0)

    assert (True, ["https://replicate.delivery/b.png"], 1) == (body["success"], body["output"], body["count"])
    assert (0.025, "Some outputs could not be kept.") == (body["cost_usd"], body["files_error"])
    assert 0.05 == outcome(TWO)["cost_usd"]


def test_a_generation_whose_outputs_are_all_missing_fails_with_the_reason():
    body = outcome(TWO, 0, 1)

    error = {
        "code": "generation_failed",
        "detail": "The model reported success without an output. Some outputs could not be kept.",
        "retryable": False,
    }
    assert (error, 0.0, []) == (body["error"], body["cost_usd"], body["files"])
    assert "files_error" not in body
    assert "no, I cannot" == outcome(replace(TWO, error="no, I cannot"), 0, 1)["error"]["detail"]


@pytest.mark.parametrize(
    ("late", "code", "usd"), [(60.0, "generation_failed", 0.0), (OUTPUTS_LAST, "interrupted", 0.025)]
)
def test_missing_outputs_after_a_restart_count_as_interrupted_if_replicate_may_have_deleted_them(
    late, code, usd
):
    async def scenario():
        fake, ledger = MemoryProvider(), TransitionLedger()
        _, inside = a_service(fake, ledger=ledger, outputs=SlowStore())
        generation = inside.supervisor.accept(submission(a_picture(), ADMIN_CALLER))
        await asyncio.sleep(5)
        await inside.supervisor.drain(0)
        assert [("running", "p1", False)] == on_record(ledger)
        record = generation.record()
        (attempt,) = record.attempts
        earlier = replace(attempt, submitted_at=attempt.submitted_at - late)
        ledger.upsert(replace(record, attempts=(earlier,)))
        await ledger.flush()
        _, later, (again,) = next_service(fake, ledger, outputs=IncompleteStore(0))
        await later.supervisor.wait(again)
        return result(again), len(fake.sent)

    body, sent = virtual_time.run(scenario())

    assert (code, usd, 1) == (body["error"]["code"], body["cost_usd"], sent)
