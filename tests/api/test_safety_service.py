"""A service that judges prompts, over HTTP: its requests, its refusals, and its failures."""

from base64 import b64encode
from io import BytesIO

import pytest

from harness.safety_service import answer, by_words, judging
from harness.service_process import until
from settings import Settings, SettingsError
from tests.support.callers import ADMIN, PNG, USER
from tests.support.named_keys import change_key, make_key
from tests.support.text_calls import GEMINI_KEY

every_database = pytest.mark.every_database

WORDS = {"sword": "weapons", "gore": "violence"}


@pytest.fixture
def judge():
    with judging(by_words(WORDS)) as service:
        yield service


@pytest.fixture
def client_of(make_app, judge, simulator):
    simulator.gemini.configure(first_seconds=0, seconds=0)
    own = {
        "SAFETY_URL": f"{judge.url}/judge?v=1",
        "GEMINI_API_KEY": GEMINI_KEY,
        "GEMINI_BASE_URL": simulator.url,
    }
    return lambda **settings: make_app(**own | settings).test_client()


@pytest.fixture
def client(client_of):
    return client_of()


def image(prompt, **fields):
    return {"model_name": "flux-dev", "prompt": prompt, **fields}


def post(client, body, path="/generate", headers=ADMIN):
    return client.post(path, json=body, headers=headers)


def creations(simulator):
    return len(simulator.predictions())


@every_database
def test_a_refused_prompt_fails_before_a_model_is_called_and_frees_its_reservation(
    client_of, simulator, judge
):
    client = client_of(BUDGET_USD_PER_DAY=0.03)
    for _ in range(3):
        refused = post(client, image("a sword", fallback=True, placeholder=True))
        assert (422, "content_refused", "before", "weapons", "It has a word.", False) == (
            refused.status_code,
            *(refused.json[name] for name in ("code", "stage", "category", "detail", "retryable")),
        )
    body = client.get(f"/generations/{refused.json['id']}", headers=ADMIN).json

    assert {"code": "content_refused", "detail": "It has a word.", "retryable": False, "stage": "before",
            "category": "weapons"} == body["error"]  # fmt: skip
    assert (0, []) == (body["cost_usd"], body["attempts"])
    assert ["a sword"] == judge.prompts
    assert 200 == post(client, image("a cat")).status_code
    assert 1 == creations(simulator)


@every_database
def test_in_a_batch_a_refused_item_fails_alone_and_each_distinct_prompt_is_judged_once(
    client, simulator, judge
):
    prompts = ["a cat", "a sword", "a cat", "gore", "a cat", "a dog"]
    body = post(client, {"model_name": "flux-dev", "prompts": prompts}, "/generate-batch").json

    assert [True, False, True, False, True, True] == [each["success"] for each in body["results"]]
    assert [("before", "weapons"), ("before", "violence")] == [
        (body["results"][index]["error"]["stage"], body["results"][index]["error"]["category"])
        for index in (1, 3)
    ]
    assert sorted({*prompts}) == sorted(judge.prompts)
    assert 4 == creations(simulator)


def test_the_service_gets_the_texts_the_model_the_caller_and_the_images(client, judge):
    address = "https://images.example/cat.png"
    post(client, {"model_name": "qwen-image", "prompt": "a cat", "negative_prompt": "blurry"})
    post(client, image("a dog", image=address, dry_run=False))
    key_id, key = make_key(client)
    post(client, image("a bird"), headers=key)

    first, second, third = judge.bodies
    assert {
        "prompt": "a cat",
        "negative_prompt": "blurry",
        "model": "qwen/qwen-image",
        "key": "admin",
    } == first
    assert [address] == second["images"]
    assert ("a bird", key_id) == (third["prompt"], third["key"])
    assert {"/judge?v=1"} == {*judge.paths}


def test_uploaded_images_are_sent_as_data_uris(client, judge):
    client.post(
        "/generate",
        data={"model_name": "flux-dev", "prompt": "a cat", "image": (BytesIO(PNG), "cat.png")},
        headers=ADMIN,
    )

    [[sent]] = [each["images"] for each in judge.bodies]
    assert sent.startswith("data:image/png;base64,")


def test_items_that_share_a_large_image_are_judged_with_it_and_their_models_get_it_whole(
    client, judge, simulator
):
    picture = PNG + bytes(600_000)
    address = f"data:image/png;base64,{b64encode(picture).decode()}"
    body = {"model_name": "flux-dev", "prompts": [f"cat {n}" for n in range(10)], "image": address}

    assert 10 == post(client, body, "/generate-batch").json["succeeded"]
    assert [[address]] * 10 == [each["images"] for each in judge.bodies]
    assert {len(picture)} == {each.size for each in simulator.uploads()}


def test_conversations_and_schemas_are_judged_whole(client, judge):
    chat = {
        "prompt": "And a sword?",
        "system_prompt": "Be brief.",
        "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
    }
    refused = post(client, chat, "/chat")
    schema = {"type": "object", "properties": {"a": {"type": "string", "description": "Some gore"}}}
    other = post(
        client, {"system_prompt": "A", "user_content": "B", "json_schema": schema}, "/structured-output"
    )

    assert [(422, "weapons"), (422, "violence")] == [
        (each.status_code, each.json["category"]) for each in (refused, other)
    ]
    first, second = judge.prompts
    assert ["And a sword?", "Be brief.", "Hello", "Hi"] == sorted(first.split("\n\n"))
    assert ["A", "B", "Some gore", "a"] == sorted(second.split("\n\n"))


@pytest.mark.parametrize(
    "lie",
    [
        answer({"allow": "yes"}),
        answer({"allow": 1}),
        answer({"allowed": True}),
        answer([True]),
        answer(b"<html>"),
        answer(b"[" * 60_000),
        answer({"allow": True, "reason": "x" * 100_000}),
        answer({"allow": True, "categories": "x"}),
        answer({"allow": True}, 500),
        answer({"allow": True}, 201),
        answer({"allow": True}, 302, Location="/elsewhere"),
        answer(b"{}", **{"Content-Length": "100"}),
    ],
    ids=range(12),
)
def test_a_service_that_does_not_answer_as_it_should_has_failed(client_of, judge, simulator, lie):
    judge.judge = lambda body: lie
    refused = post(client_of(SAFETY_TIMEOUT=0.5), image("a cat"))

    assert (422, "before", "unchecked", True) == (
        refused.status_code, *(refused.json[name] for name in ("stage", "category", "retryable"))
    )  # fmt: skip
    assert 1 == len(judge.bodies)
    assert 0 == creations(simulator)


@pytest.mark.parametrize(
    "beside",
    [{"categories": "weapons"}, {"categories": [1]}, {"reason": 5}, {"categories": {}, "reason": []}],
)
def test_a_refusal_with_unreadable_categories_or_reason_is_one_also_with_allow(
    client_of, judge, simulator, beside
):
    judge.judge = lambda body: answer({"allow": False, **beside})
    refused = post(client_of(SAFETY_ON_ERROR="allow"), image("a sword"))

    assert (422, "content_refused", "before", False) == (
        refused.status_code, *(refused.json[name] for name in ("code", "stage", "retryable"))
    )  # fmt: skip
    assert 0 == creations(simulator)


def test_with_allow_a_prompt_that_was_not_judged_is_sent(client_of, judge, simulator):
    judge.judge = lambda body: answer({}, 503)

    assert 200 == post(client_of(SAFETY_ON_ERROR="allow"), image("a cat")).status_code
    assert 1 == creations(simulator)


def test_a_host_that_is_not_there_has_failed(client_of):
    refused = post(client_of(SAFETY_URL="http://127.0.0.1:1/judge"), image("a cat"))

    assert "its host could not be reached" in refused.json["detail"]


@every_database
def test_a_key_with_safety_off_is_checked_neither_by_rules_nor_by_the_service(client_of, judge, tmp_path):
    rules = tmp_path / "rules.toml"
    rules.write_text("[[rules]]\ncategory = 'x'\nwords = ['axe']")
    client = client_of(SAFETY_FILE=rules)
    key_id, key = make_key(client, safety="off")

    assert 200 == post(client, image("an axe and a sword"), headers=key).status_code
    assert 200 == post(client, {"prompt": "an axe"}, "/chat", headers=key).status_code
    assert [] == judge.bodies
    assert "off" == client.get("/keys/self", headers=key).json["safety"]
    assert 403 == client.patch(f"/keys/{key_id}", json={"safety": "on"}, headers=key).status_code
    assert "on" == change_key(client, key_id, safety="on").json["safety"]
    assert 422 == post(client, image("an axe"), headers=key).status_code
    assert 422 == post(client, image("a sword"), headers=key).status_code
    assert 422 == post(client, image("a sword"), headers=USER).status_code


@every_database
def test_a_generation_that_is_cancelled_during_its_check_is_not_sent(client, judge, simulator):
    judge.open.clear()
    made = client.post("/generate", json=image("a cat"), headers=ADMIN | {"Prefer": "respond-async"}).json
    until(lambda: judge.bodies)

    assert "queued" == client.get(f"/generations/{made['id']}", headers=ADMIN).json["status"]
    assert "canceled" == client.delete(f"/generations/{made['id']}", headers=ADMIN).json["status"]
    judge.open.set()
    assert 0 == creations(simulator)


@every_database
def test_a_check_that_a_restart_interrupts_is_made_again_and_a_verdict_is_kept(restarted, judge, simulator):
    settings = {"SAFETY_URL": judge.url, "REPLICATE_CONCURRENT_LIMIT": 1, "DRAIN_SECONDS": 0}
    client = restarted(**settings)

    def submit(prompt):
        headers = ADMIN | {"Prefer": "respond-async"}
        return client.post("/generate", json=image(prompt), headers=headers).json["id"]

    sent = [submit("[[hang]] first")]
    until(lambda: creations(simulator) == 1)
    sent.append(submit("second"))
    until(lambda: 'outcome="allowed"} 2.0' in client.get("/metrics", headers=ADMIN).text)
    judge.open.clear()
    sent.append(submit("third sword"))
    until(lambda: len(judge.prompts) == 3)

    again = restarted(**settings)
    judge.open.set()
    simulator.finish()

    def states():
        return [again.get(f"/generations/{each}", headers=ADMIN).json["status"] for each in sent]

    until(lambda: states() == ["succeeded", "succeeded", "failed"])
    assert ["[[hang]] first", "second", "third sword", "third sword"] == judge.prompts


def test_metrics_count_the_outcomes(client):
    post(client, image("a cat"))
    post(client, image("a sword"))

    text = client.get("/metrics", headers=ADMIN).text
    assert 'rcg_safety_checks_total{outcome="allowed"} 1.0' in text
    assert 'rcg_safety_checks_total{outcome="refused"} 1.0' in text


def test_a_dry_run_is_judged_by_no_service(client, judge):
    assert 200 == post(client, image("a sword", dry_run=True)).status_code
    assert [] == judge.bodies


@every_database
def test_azure_judges_in_place_of_an_own_service(make_app, simulator):
    def rate(body):
        severity = 4 if "sword" in body["text"] else 2
        return answer(
            {"categoriesAnalysis": [{"category": each, "severity": severity} for each in body["categories"]]}
        )

    with judging(rate) as azure:
        client = make_app(
            SAFETY_SERVICE="azure",
            AZURE_CONTENT_SAFETY_ENDPOINT=azure.url,
            AZURE_CONTENT_SAFETY_KEY="the-key-of-azure",
        ).test_client()
        refused = post(client, image("a sword"))
        made = post(client, image("a cat"))

    assert (422, "before", "hate") == (refused.status_code, refused.json["stage"], refused.json["category"])
    assert 200 == made.status_code
    assert {"the-key-of-azure"} == {each["ocp-apim-subscription-key"] for each in azure.headers}
    assert 1 == creations(simulator)


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"SAFETY_SERVICE": "azure"}, "SAFETY_SERVICE: azure needs AZURE_CONTENT_SAFETY_ENDPOINT."),
        ({"SAFETY_SERVICE": "azure"}, "SAFETY_SERVICE: azure needs AZURE_CONTENT_SAFETY_KEY."),
        (
            {"SAFETY_SERVICE": "azure", "SAFETY_URL": "http://x"},
            "SAFETY_SERVICE: SAFETY_URL is set, too; set one",
        ),
        ({"SAFETY_URL": "x"}, "SAFETY_URL: must be an address"),
        ({"SAFETY_ON_ERROR": "ask"}, "SAFETY_ON_ERROR: "),
        ({"SAFETY_THRESHOLD": "7"}, "SAFETY_THRESHOLD: "),
    ],
)
def test_settings_that_cannot_hold_together_are_named(variables, sentence):
    with pytest.raises(SettingsError) as caught:
        Settings.from_env(variables)

    assert sentence in str(caught.value)
