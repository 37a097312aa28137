"""Trainings by the door for Replicate's clients, with the official client over real sockets."""

import io
from contextlib import ExitStack

import pytest
import replicate
import requests
from replicate.exceptions import ReplicateError

from doors.replicate import pages
from harness.service_process import until
from tests.support.callers import ADMIN, ADMIN_KEY, SERVER_TOKEN, USER_TOKEN
from tests.support.served_in_process import online, receiving
from tests.support.training_calls import zip_of
from tests.support.zips import image

TRAINER = "ostris/flux-dev-lora-trainer"
BEARER = {"Authorization": f"Bearer {USER_TOKEN}"}


@pytest.fixture
def serve(make_app):
    """Serves the application with these settings, and returns its URL."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(online(make_app(**settings)))


@pytest.fixture
def url(serve):
    return serve()


@pytest.fixture
def connect():
    """Makes official clients of a service."""
    made = []

    def client(url, token=USER_TOKEN, **options):
        made.append(replicate.Client(api_token=token, base_url=f"{url}/replicate", **options))
        return made[-1]

    yield client
    for each in made:
        each._client.close()  # noqa: SLF001 - the official client has no close


@pytest.fixture
def client(url, connect):
    return connect(url)


@pytest.fixture
def owner(client):
    return client.accounts.current().username


@pytest.fixture
def destination(client, owner):
    """A model of the account that trainings make versions of."""
    made = client.models.create(owner, "dog", visibility="private", hardware="cpu")
    return f"{made.owner}/{made.name}"


def a_zip(*names):
    """A zip with these files, or with six pictures and two captions."""
    names = names or (*(f"dog{number}.jpg" for number in range(6)), "dog0.txt", "dog1.txt")
    packed = io.BytesIO(
        zip_of({name: image() if name.endswith("jpg") else b"a photo of TOK" for name in names})
    )
    packed.name = "dogs.zip"
    return packed


def train(client, destination, simulator, **changes):
    options = {"model": TRAINER, "version": simulator.latest_version(TRAINER), "destination": destination}
    inputs = {"input_images": a_zip(), "trigger_word": "TOK", "steps": 200, **changes.pop("input", {})}
    return client.trainings.create(
        **options | changes, input={name: each for name, each in inputs.items() if each is not None}
    )


def ended(client, training):
    until(lambda: client.trainings.get(training.id).completed_at)
    return client.trainings.get(training.id)


def test_the_client_trains_from_files_to_a_version_that_runs(client, url, destination, simulator):
    made = train(client, destination, simulator)

    assert made.id.startswith("trn_")
    assert ("starting", TRAINER, simulator.latest_version(TRAINER)) == (made.status, made.model, made.version)
    assert f"{url}/replicate/v1/trainings/{made.id}" == made.urls["get"]
    done = ended(client, made)
    assert ("succeeded", None, destination) == (done.status, done.error, done.destination)
    assert {"TOK", 200} <= set(done.input.values())
    assert done.output["version"].startswith(f"{destination}:")
    weights = requests.get(done.output["weights"], headers=BEARER, timeout=30)
    assert 200 == weights.status_code
    assert done.output["weights"].startswith(f"{url}/trainings/{made.id}/weights/")
    assert "flux_train_replicate" in done.logs
    [at_replicate] = simulator.trainings()
    assert ("TOK", 200) == (at_replicate.input["trigger_word"], at_replicate.input["steps"])
    assert url not in at_replicate.input["input_images"]
    [picture] = client.run(done.output["version"], input={"prompt": "a photo of TOK"})
    assert picture.read()


def test_a_trainer_has_its_own_names_for_the_zip_and_the_word(client, destination, simulator):
    trainer = "stability-ai/sdxl"
    made = client.trainings.create(
        f"{trainer}:{simulator.latest_version(trainer)}",
        {"input_images": a_zip(), "token_string": "DOG", "max_train_steps": 100},
        destination,
    )

    assert "succeeded" == ended(client, made).status
    [at_replicate] = simulator.trainings()
    assert ("DOG", 100) == (at_replicate.input["token_string"], at_replicate.input["max_train_steps"])


def test_the_latest_version_may_be_hidden(client, destination, simulator):
    made = train(client, destination, simulator, version="hidden")

    assert simulator.latest_version(TRAINER) == made.version


@pytest.mark.every_database
def test_a_training_is_the_same_at_both_doors(client, url, destination, simulator):
    made = train(client, destination, simulator)
    shown = requests.get(f"{url}/trainings/{made.id}", headers=BEARER, timeout=30).json()
    assert (destination, "TOK", 6, 2) == tuple(
        shown[name] for name in ("destination", "trigger_word", "images", "captions")
    )
    form = {"trainer": TRAINER, "destination": destination, "trigger_word": "TOK", "input.steps": "150"}
    files = {"images": ("dogs.zip", a_zip())}
    other = requests.post(f"{url}/trainings", data=form, files=files, headers=BEARER, timeout=30).json()

    found = ended(client, client.trainings.get(other["id"]))
    assert ("succeeded", {"steps": 150}) == (found.status, found.input)
    assert [other["id"], made.id] == [each.id for each in client.trainings.list()]
    assert [] == client.predictions.list().results
    with pytest.raises(ReplicateError) as missing:
        client.predictions.get(made.id)
    assert 404 == missing.value.status


@pytest.mark.every_database
def test_the_list_links_its_pages(client, url, destination, simulator, monkeypatch):
    monkeypatch.setattr(pages, "PAGE", 2)
    made = [train(client, destination, simulator).id for _ in range(3)]

    def page(link):  # which begins with PUBLIC_URL
        root, path, query = link.partition("/replicate/v1/trainings?")
        assert root in {url, "http://localhost"}
        return client.trainings.list(f"{url}{path}{query}")

    first = client.trainings.list()
    second = page(first.next)

    assert made[::-1] == [each.id for each in (*first, *second)]
    assert [each.id for each in first] == [each.id for each in page(second.previous)]


def test_the_client_cancels(client, destination, simulator):
    made = train(client, destination, simulator, input={"autocaption_prefix": "[[hang]]"})
    until(lambda: client.trainings.get(made.id).status == "processing")

    made.cancel()

    assert "canceled" == client.trainings.get(made.id).status
    assert "canceled" == simulator.trainings()[0].status


def test_a_failed_training_has_its_error(client, destination, simulator):
    made = train(client, destination, simulator, input={"autocaption_prefix": "[[fail=out of memory]]"})

    done = ended(client, made)
    assert ("failed", None) == (done.status, done.output)
    assert "out of memory" in done.error


def test_logs_are_shown_while_it_runs_but_not_in_lists(client, destination, simulator):
    made = train(client, destination, simulator, input={"autocaption_prefix": "[[hang]]"})

    until(lambda: "Extracted" in client.trainings.get(made.id).logs)
    assert [None] == [each.logs for each in client.trainings.list()]
    simulator.finish()
    assert "succeeded" == ended(client, made).status


def test_another_callers_training_is_not_found(client, url, connect, destination, simulator):
    made = train(client, destination, simulator)
    other = connect(url, "r8_other")

    for act in (other.trainings.get, other.trainings.cancel):
        with pytest.raises(ReplicateError) as refused:
            act(made.id)
        assert 404 == refused.value.status
    assert [] == other.trainings.list().results
    assert made.id == connect(url, ADMIN_KEY).trainings.get(made.id).id


# ── Refusals


def test_a_missing_destination_is_replicates_404(client, owner, simulator):
    with pytest.raises(ReplicateError) as refused:
        train(client, f"{owner}/nowhere", simulator)

    assert (404, "The specified training destination does not exist") == (
        refused.value.status,
        refused.value.detail,
    )
    assert [] == simulator.trainings()


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (f"{TRAINER}/versions/{'0' * 64}", "no model at Replicate"),
        (f"{TRAINER}/versions/c6b5d2b7", "64 hexadecimal digits"),
        ("black-forest-labs/flux-dev/versions/hidden", "without a training"),
        ("acme/unknown/versions/hidden", "no model at Replicate"),
    ],
)
def test_an_unknown_trainer_or_version_is_not_found(url, simulator, path, words):
    body = {"destination": "a/b", "input": {}}
    address = f"{url}/replicate/v1/models/{path}/trainings"

    answer = requests.post(address, json=body, headers=BEARER, timeout=30)

    assert (404, 404) == (answer.status_code, answer.json()["status"])
    assert words in answer.json()["detail"]
    assert [] == simulator.trainings()


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"input_images": None}, "input", "input_images is required"),
        ({"input_images": 7}, "input.input_images", "address of a zip"),
        ({"input_images": "http://127.0.0.1:1/a.zip"}, "input.input_images", "ttps"),
        ({"input_images": "data:application/zip;base64,UEsDBA=="}, "input.input_images", "ttps"),
        ({"trigger_word": "T" * 101}, "input.trigger_word", "at most 100"),
        ({"steps": 9000}, "input.steps", "Must be at most 6000"),
        ({"training_steps": 500}, "input.training_steps", "steps"),
    ],
)
def test_an_input_that_cannot_be_used_is_a_422_with_its_field(
    url, destination, simulator, changes, field, words
):
    inputs = {"input_images": "https://a.example/dogs.zip", "steps": 100, **changes}
    answer = created(url, simulator, {"destination": destination, "input": inputs})

    assert 422 == answer.status_code
    [problem] = answer.json()["invalid_fields"]
    assert field == problem["field"]
    assert words in problem["description"]
    assert [] == simulator.trainings()


def created(url, simulator, body, **headers):
    path = f"/replicate/v1/models/{TRAINER}/versions/{simulator.latest_version(TRAINER)}/trainings"
    return requests.post(f"{url}{path}", json=body, headers=BEARER | headers, timeout=30)


def test_the_problems_of_a_zip_are_named_by_its_files(client, url, destination, simulator):
    with pytest.raises(ReplicateError) as refused:
        train(client, destination, simulator, input={"input_images": a_zip("a.txt")})

    assert 422 == refused.value.status
    assert "input.input_images" in refused.value.detail
    assert [] == simulator.trainings()


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {""}),
        ({"destination": 7, "input": []}, {"destination", "input"}),
        ({"destination": "a b", "input": {"input_images": "https://a.com/b"}}, {"destination"}),
        ({"destination": "a/b", "input": {}, "version": "x", "stream": True}, {"version", "stream"}),
        ({"destination": "a/b", "input": {}, "webhook_events_filter": ["end"]}, {"webhook_events_filter"}),
        (
            {
                "destination": "a/b",
                "input": {"input_images": "https://a.com/b"},
                "webhook": "https://10.0.0.1",
            },
            {"webhook"},
        ),
        ([], {"body"}),
    ],
)
def test_a_body_that_cannot_be_used_is_refused_by_field(url, simulator, body, fields):
    answer = created(url, simulator, body)

    assert 422 == answer.status_code
    assert fields == {each["field"] for each in answer.json()["invalid_fields"]}
    assert [] == simulator.trainings()


def test_the_budget_of_a_key_bounds_trainings(url, connect, simulator):
    key = {"name": "shop", "role": "caller", "budget_usd": 1, "budget_period": "day"}
    text = requests.post(f"{url}/keys", json=key, headers=ADMIN, timeout=30).json()["key"]
    client = connect(url, text)
    simulator.account(SERVER_TOKEN, username="team")
    client.models.create("team", "dog", visibility="private", hardware="cpu")

    with pytest.raises(ReplicateError) as refused:
        train(client, "team/dog", simulator)

    assert 402 == refused.value.status
    assert [] == simulator.trainings()
    short = connect(url, text, headers={"Cancel-After": "5m"})
    assert "succeeded" == ended(client, train(short, "team/dog", simulator)).status


@pytest.mark.parametrize("header", ["59s", "25h", "soon"])
def test_a_time_that_no_training_may_have_is_refused(url, destination, simulator, header):
    body = {"destination": destination, "input": {"input_images": "https://a.example/dogs.zip"}}

    answer = created(url, simulator, body, **{"Cancel-After": header})

    assert (422, ["Cancel-After"]) == (
        answer.status_code,
        [each["field"] for each in answer.json()["invalid_fields"]],
    )


# ── Kept facts


def test_secrets_are_sent_and_never_shown_or_kept(client, url, destination, simulator, kept):
    secrets = {"hf_token": "hf_verysecret", "hf_repo_id": "a/b"}
    made = train(client, destination, simulator, input=secrets)

    assert ("[REDACTED]", "a/b") == (made.input["hf_token"], made.input["hf_repo_id"])
    done = ended(client, made)
    assert "succeeded" == done.status
    assert "hf_verysecret" == simulator.trainings()[0].input["hf_token"]
    assert "hf_verysecret" not in str(done.dict()) + kept()


@pytest.mark.every_database
def test_a_training_goes_on_after_a_restart_with_its_input(restarted, simulator):
    simulator.account(SERVER_TOKEN, username="team")
    first = restarted()
    model = {"owner": "team", "name": "dog", "visibility": "private", "hardware": "cpu"}
    assert 201 == first.post("/replicate/v1/models", json=model, headers=ADMIN).status_code
    file = {"content": (a_zip(), "dogs.zip")}
    upload = first.post("/replicate/v1/files", data=file, headers=ADMIN).json["urls"]["get"]
    inputs = {"input_images": upload, "trigger_word": "TOK", "autocaption_prefix": "[[hang]]"}
    path = f"/replicate/v1/models/{TRAINER}/versions/{simulator.latest_version(TRAINER)}/trainings"
    made = first.post(path, json={"destination": "team/dog", "input": inputs}, headers=ADMIN).json
    until(lambda: simulator.trainings())
    second = restarted()
    until(lambda: simulator.trainings()[0].status == "processing")
    simulator.finish()

    def found():
        return second.get(f"/replicate/v1/trainings/{made['id']}", headers=ADMIN).json

    until(lambda: found()["status"] == "succeeded")
    assert inputs == found()["input"]
    assert 1 == len(simulator.trainings())


# ── Webhooks


@pytest.mark.parametrize(
    ("events", "statuses"),
    [
        (None, ["succeeded"]),
        (["completed"], ["succeeded"]),
        (["start", "output"], ["processing", "succeeded"]),
        (["start"], ["processing"]),
        (["logs"], []),
    ],
)
def test_webhooks_get_the_events_of_their_filter_as_trainings(serve, connect, simulator, events, statuses):
    with receiving() as receiver:
        url = serve(WEBHOOK_HOSTS="127.0.0.1")
        client = connect(url)
        owner = client.accounts.current().username
        client.models.create(owner, "dog", visibility="private", hardware="cpu")
        chosen = {} if events is None else {"webhook_events_filter": events}
        made = train(client, f"{owner}/dog", simulator, webhook=f"{receiver.url}/hook", **chosen)
        done = ended(client, made)
        until(lambda: len(receiver.received) == len(statuses))

        assert statuses == sorted(each.json["status"] for each in receiver.received)
        for each in receiver.received:
            assert (made.id, f"{url}/replicate/v1/trainings/{made.id}") == (
                each.json["id"],
                each.json["urls"]["get"],
            )
        if "succeeded" in statuses:
            [last] = [each.json for each in receiver.received if each.json["status"] == "succeeded"]
            assert done.output == last["output"]


def test_a_webhook_for_outputs_only_gets_no_failure(serve, connect, simulator):
    with receiving() as receiver:
        client = connect(serve(WEBHOOK_HOSTS="127.0.0.1"))
        owner = client.accounts.current().username
        client.models.create(owner, "dog", visibility="private", hardware="cpu")
        hook = {"webhook": receiver.url, "webhook_events_filter": ["output"]}
        ended(
            client,
            train(client, f"{owner}/dog", simulator, input={"autocaption_prefix": "[[fail=no]]"}, **hook),
        )
        ended(client, train(client, f"{owner}/dog", simulator, **hook))
        until(lambda: receiver.received)

        assert ["succeeded"] == [each.json["status"] for each in receiver.received]


# ── Destinations


def test_the_client_creates_a_destination_once(client, owner, simulator):
    made = client.models.create(owner, "cat", visibility="private", hardware="cpu")

    assert (owner, "cat", "private", None) == (made.owner, made.name, made.visibility, made.latest_version)
    with pytest.raises(ReplicateError) as again:
        client.models.create(owner, "cat", visibility="private", hardware="cpu")
    assert 409 == again.value.status


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"owner": "another"}, "name"),
        ({"name": "no name"}, "name"),
        ({"visibility": "secret"}, "visibility"),
        ({"hardware": None}, "hardware"),
        ({"hardware": 7}, "hardware"),
        ({"description": "a cat"}, "description"),
    ],
)
def test_a_destination_that_cannot_be_is_refused_by_field(url, owner, changes, field):
    body = {"owner": owner, "name": "cat", "visibility": "private", "hardware": "cpu", **changes}
    answer = requests.post(f"{url}/replicate/v1/models", json=body, headers=BEARER, timeout=30)

    assert 422 == answer.status_code
    assert [field] == [each["field"] for each in answer.json()["invalid_fields"]]


def test_a_key_that_is_bound_to_models_trains_by_those_only(url, connect, simulator):
    simulator.account(SERVER_TOKEN, username="team")
    admin = connect(url, ADMIN_KEY)
    admin.models.create("team", "dog", visibility="private", hardware="cpu")
    key = {"name": "shop", "role": "caller", "models": ["flux-dev"]}
    text = requests.post(f"{url}/keys", json=key, headers=ADMIN, timeout=30).json()["key"]

    with pytest.raises(ReplicateError) as refused:
        train(connect(url, text), "team/dog", simulator)

    assert 403 == refused.value.status
    assert [] == simulator.trainings()
