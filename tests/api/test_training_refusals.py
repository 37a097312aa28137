"""Refusals before a training: by the bill of the simulator they cost no money, and make no file and no model."""

import pytest

from datasets.refusals import LARGEST
from tests.support.callers import ADMIN, USER
from tests.support.named_keys import make_key
from tests.support.training_calls import NAMED, OSTRIS, train, zip_of
from tests.support.zips import image

SIMULATED = {"REPLICATE_SIMULATE": "1"}
SPENDING = {"train", "file", "model_create", "create"}


@pytest.fixture
def client(make_app):
    return make_app(**SIMULATED).test_client()


@pytest.fixture(autouse=True)
def _nothing_is_spent(simulator):
    yield
    counts = simulator.counts()
    assert SPENDING.isdisjoint(counts.requests), "a refusal is free"
    assert 0 == counts.trainings.billed_usd == counts.billed_usd


def refused(answer, status=400, code="invalid_request"):
    """The messages of a refusal by field."""
    assert (status, code) == (answer.status_code, answer.json["code"]), answer.text
    return {each["field"]: each["message"] for each in answer.json.get("errors", ())}


@pytest.mark.parametrize(
    ("trainer", "part"),
    [
        ("acme/upscaler", "/generate"),
        ("acme/unknown", "no model"),
        ("flux-dev", "owner/name"),
        ("ostris/flux-dev-lora-trainer:abc", "64 hexadecimal"),
    ],
)
def test_a_model_that_is_no_trainer(client, trainer, part):
    assert part in refused(train(client, trainer=trainer))["trainer"]


def test_a_misspelt_input(client):
    assert "steps" in refused(train(client, **{"input.training_steps": "100"}))["input.training_steps"]


def test_a_destination_that_does_not_exist_never_reads_like_an_outage(client):
    message = refused(train(client, create_destination=None, destination="acme/missing"))["destination"]
    assert "does not exist" in message
    assert "create_destination" in message


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_destination_of_another_account_cannot_be_made(client, dry_run):
    answer = train(client, ("a.zip", zip_of({"a.gif": b"GIF89a"})), destination="acme/dog", dry_run=dry_run)
    reasons = refused(answer)
    assert "only acme can make it" in reasons["destination"]
    assert "images[a.gif]" in reasons


@pytest.mark.parametrize(
    ("files", "field"),
    [
        ({"a.jpg": b"no image"}, "images[a.jpg]"),
        ({"a.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"}, "images[a.heic]"),
        ({"../a.jpg": image()}, "images[../a.jpg]"),
        ({"a.jpg": image(), "notes.pdf": b"%PDF-1.7"}, "images[notes.pdf]"),
        ({"x/y/a.jpg": image()}, "images[x/y/]"),
        ({"a.jpg": image(), "inner.zip": zip_of(images=1)}, "images[inner.zip]"),
        ({"a.txt": b"a dog"}, "images"),
    ],
)
def test_a_zip_that_trainers_cannot_use(client, files, field):
    assert field in refused(train(client, ("a.zip", zip_of(files))))


def test_a_zip_that_is_none(client):
    assert "images" in refused(train(client, ("a.zip", b"PK\x03\x04 nonsense")))


def test_a_heic_photo_as_a_part_of_a_form(client):
    photo = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    assert "images[b.heic]" in refused(train(client, ("a.jpg", image()), ("b.heic", photo)))


def test_a_zip_above_100_mib(client):
    refused(train(client, ("a.zip", b"PK" + bytes(LARGEST))), 413, "payload_too_large")


def test_a_training_that_may_cost_more_than_it_should(client):
    answer = train(client, max_cost_usd=10.97)
    refused(answer, 402, "budget_exceeded")
    assert 402 == train(client, max_cost_usd=1.5, timeout=1000).status_code


def test_a_training_that_the_budget_of_the_day_does_not_hold(make_app, simulator):
    client = make_app(**SIMULATED, BUDGET_USD_PER_DAY=10).test_client()
    refused(train(client, create_destination=None, destination="acme/destination"), 402, "budget_exceeded")


def test_images_that_cannot_be_zipped_are_reported_beside_the_rest(client):
    photo = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    answer = train(client, ("a.heic", photo), ("b.jpg", image()), create_destination=None, destination="a/b")
    assert {"destination", "images[a.heic]"} <= refused(answer).keys()
    answer = train(client, ("a.heic", photo), ("b.jpg", image()), **{"input.step": "3"})
    assert {"input.step", "images[a.heic]"} <= refused(answer).keys()


def test_no_images(client):
    answer = client.post("/trainings", json=NAMED, headers=ADMIN)
    assert "images" in refused(answer)


def test_all_problems_are_reported_together(client):
    answer = train(
        client, ("a.zip", zip_of({"a.gif": b"GIF89a"})), create_destination=None, destination="a/b"
    )
    assert {"destination", "images[a.gif]"} <= refused(answer).keys()


def test_a_token_that_replicate_refuses(client, simulator):
    simulator.account("r8_user", reject=True)
    assert 401 == train(client, by=USER).status_code


def test_an_outage_is_no_missing_destination(client, simulator):
    simulator.inject(on="model", times=1000, status=503)
    answer = train(client, trainer=OSTRIS)
    assert 500 == answer.status_code
    assert answer.json["retryable"]


def test_a_training_that_the_budget_does_not_hold_makes_no_destination(make_app):
    client = make_app(**SIMULATED, BUDGET_USD_PER_DAY=10).test_client()
    answer = train(client)
    refused(answer, 402, "budget_exceeded")
    assert "10.98" in answer.json["detail"]
    _, key = make_key(client, budget_usd=5, budget_period="day")
    assert "shop" == train(client, by=key).json["budget"]


def test_a_training_that_is_refused_while_the_service_stops_makes_nothing(make_app, simulator):
    app = make_app(**SIMULATED)
    app.extensions["service"].core.supervisor.refuse_work()
    answer = train(app.test_client(), headers={"Idempotency-Key": "late"})
    assert (503, "shutting_down") == (answer.status_code, answer.json["code"])
    assert "account" not in simulator.counts().requests


def test_an_input_that_is_null_is_none(client):
    answer = client.post(
        "/trainings", json={**NAMED, "input": None, "images": "https://10.0.0.1/a.zip"}, headers=ADMIN
    )
    assert {"images"} == refused(answer).keys()


def test_a_destination_to_make_with_fields_that_it_has_not(client):
    for new in ({"visibility": "secret"}, {"owner": "me"}, 3):
        body = {**NAMED, "create_destination": new, "images": "https://10.0.0.1/a.zip"}
        message = refused(client.post("/trainings", json=body, headers=ADMIN))
        [text] = message.values()
        assert "private" in text or "visibility and hardware" in text


def test_a_word_that_is_too_long(client):
    assert "characters" in refused(train(client, trigger_word="a" * 101))["trigger_word"]


def test_a_secret_that_is_sent_twice_is_not_shown(client):
    files = ("dogs.zip", zip_of())
    answer = train(client, files, **{"input": '{"hf_token": "hf_twice"}', "input.hf_token": "hf_twice"})
    assert "input.hf_token" in refused(answer)
    assert "hf_twice" not in answer.text


def test_a_disk_that_cannot_hold_the_images(make_app, tmp_path):
    client = make_app(**SIMULATED).test_client()
    (tmp_path / "uploads").rmdir()
    (tmp_path / "uploads").write_bytes(b"")
    answer = train(client)
    assert 500 == answer.status_code
    assert "cannot be stored: File exists. Nothing was spent" in answer.json["detail"]
