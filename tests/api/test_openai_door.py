"""The door for OpenAI's clients, with their own package and with what Open WebUI sends, over real sockets."""

import asyncio
import json
from base64 import b64decode
from io import BytesIO

import openai
import pytest
import requests

from media.formats import black_png
from tests.support.callers import ADMIN, ADMIN_KEY, USER_TOKEN
from tests.support.served_in_process import online

PROMPT = "[[slow=0]] A lighthouse at dusk"
BEARER = {"Authorization": f"Bearer {USER_TOKEN}"}


@pytest.fixture
def url(app):
    with online(app) as served:
        yield served


@pytest.fixture
def client(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key=USER_TOKEN, max_retries=0) as made:
        yield made


@pytest.fixture(autouse=True)
def _token_is_known(simulator):
    simulator.account(USER_TOKEN)


def inputs(simulator):
    """The inputs of all predictions that the simulator has made, the oldest first."""
    return [each.input for each in simulator.predictions()]


def test_a_picture_is_a_kept_file_with_our_facts_beside_it(client, simulator):
    made = client.images.generate(model="flux-dev", prompt=PROMPT, size="1024x1536")

    [picture] = made.data
    assert picture.b64_json is None
    assert made.created > 0
    assert made.id.startswith("gen_")
    assert (0.025, "black-forest-labs/flux-dev") == (made.cost_usd, made.model_name)
    assert [("size", "mapped", "1024x1536", "aspect_ratio", "2:3")] == [
        tuple(each.values()) for each in made.changes
    ]
    assert "2:3" == inputs(simulator)[-1]["aspect_ratio"]
    assert f"/files/{made.id}/" in picture.url
    for headers in ({}, BEARER):
        kept = requests.get(picture.url, headers=headers)
        assert (200, "image") == (kept.status_code, kept.headers["Content-Type"].partition("/")[0])


def test_the_asynchronous_client_gets_the_same(url):
    async def call():
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=USER_TOKEN) as client:
            return await asyncio.gather(
                *(client.images.generate(model="flux-dev", prompt=f"{PROMPT} {n}") for n in range(3))
            )

    made = asyncio.run(call())

    assert 3 == len({each.data[0].url for each in made})


@pytest.mark.parametrize(("model", "predictions"), [("flux-schnell", 1), ("qwen-image", 3)])
def test_several_pictures_are_one_prediction_where_the_model_makes_several(
    client, simulator, model, predictions
):
    made = client.images.generate(
        model=model, prompt=PROMPT, n=3, extra_body={"seed": 7, "max_cost_usd": 0.1}
    )

    assert 3 == len({each.url for each in made.data})
    sent = inputs(simulator)
    assert predictions == len(sent)
    assert [7, 8, 9][:predictions] == sorted(each["seed"] for each in sent)
    assert ("gen_" if predictions == 1 else "batch_") == made.id[: made.id.index("_") + 1]
    assert pytest.approx({"flux-schnell": 0.009, "qwen-image": 0.075}[model]) == made.cost_usd


def test_a_budget_of_one_call_holds_for_all_its_pictures(client, simulator):
    with pytest.raises(openai.APIStatusError) as refused:
        client.images.generate(model="qwen-image", prompt=PROMPT, n=3, extra_body={"max_cost_usd": 0.06})

    assert (402, "budget_exceeded") == (refused.value.status_code, refused.value.code)
    assert [] == inputs(simulator)


def test_the_content_is_in_the_answer_if_the_call_requests_it(client):
    made = client.images.generate(model="flux-dev", prompt=PROMPT, response_format="b64_json")

    [picture] = made.data
    assert picture.url is None
    assert b64decode(picture.b64_json)[:4] in {b"\xff\xd8\xff\xe0", b"RIFF", b"\x89PNG"}


def test_a_setting_decides_the_format_of_a_call_without_one(make_app):
    with online(make_app(OPENAI_RESPONSE_FORMAT="b64_json")) as url:
        answer = requests.post(
            f"{url}/v1/images/generations", json={"model": "flux-dev", "prompt": PROMPT}, headers=BEARER
        )

    [picture] = answer.json()["data"]
    assert {"b64_json"} == picture.keys()


@pytest.mark.parametrize("size", ["1:" + "9" * 400, "9" * 400 + "x1", "1" * 5000 + ":1", [1], {"a": 1}, ""])
def test_no_size_is_refused(url, size):
    body = {"model": "flux-dev", "prompt": PROMPT, "size": size}
    answer = requests.post(f"{url}/v1/images/generations", json=body, headers=BEARER)

    assert (200, ["dropped"]) == (
        answer.status_code,
        [each["change"] for each in answer.json()["changes"]],
    )


@pytest.mark.parametrize("response_format", [None, "b64_json"])
@pytest.mark.parametrize("size", ["512x512", "1792x1024", None])
def test_what_open_webui_sends_is_answered_with_pictures_it_can_load(url, response_format, size):
    body = {"model": "flux-schnell", "prompt": PROMPT, "n": 2}
    body |= {"size": size} if size else {}
    body |= {"response_format": response_format} if response_format else {}
    answer = requests.post(f"{url}/v1/images/generations?api-version=2025-04-01", json=body, headers=BEARER)

    assert 200 == answer.status_code
    for picture in answer.json()["data"]:
        if found := picture.get("url"):
            loaded = requests.get(found, headers=BEARER)
            assert "image" == loaded.headers["content-type"].split("/")[0]
        else:
            assert b64decode(picture["b64_json"])
    assert 2 == len(answer.json()["data"])


def test_what_a_model_does_not_take_is_left_out_and_among_the_changes(client, simulator):
    made = client.images.generate(
        model="flux-dev", prompt=PROMPT, size="huge", quality="hd", style="vivid", background="transparent",
        moderation="low", output_format="jpeg", output_compression=60, user="me",
    )  # fmt: skip

    changes = {each["field"]: each["change"] for each in made.changes}
    assert {
        "size": "dropped",
        "quality": "dropped",
        "background": "dropped",
        "style": "dropped",
        "moderation": "dropped",
        "output_compression": "mapped",
    } == changes
    [sent] = inputs(simulator)
    assert ("jpg", 60) == (sent["output_format"], sent["output_quality"])
    assert not {"size", "quality", "style", "user"} & sent.keys()


def test_the_user_of_a_call_is_kept_as_metadata(client, url):
    fields = {
        "model": "qwen-image",
        "prompt": PROMPT,
        "user": "u-1",
        "extra_body": {"metadata": {"job": "7"}},
    }
    one, two = client.images.generate(**fields), client.images.generate(**fields, n=2)

    for made, kind in ((one, "generations"), (two, "batches")):
        kept = requests.get(f"{url}/{kind}/{made.id}", headers=BEARER).json()
        kept = kept["results"][0] if kind == "batches" else kept
        assert {"user": "u-1", "job": "7"} == kept["metadata"]


def test_a_named_key_is_a_bearer_and_runs_only_its_models(url):
    made = requests.post(
        f"{url}/keys", json={"name": "ui", "role": "caller", "models": ["flux-dev"]}, headers=ADMIN
    ).json()
    with openai.OpenAI(base_url=f"{url}/v1", api_key=made["key"], max_retries=0) as client:
        listed = [each.id for each in client.models.list()]
        picture = client.images.generate(model="flux-dev", prompt=PROMPT)
        for refused in (
            {"model": "qwen-image"},
            {"model": "flux-dev", "extra_body": {"fallback": ["qwen-image"]}},
        ):
            with pytest.raises(openai.PermissionDeniedError) as error:
                client.images.generate(prompt=PROMPT, **refused)
            assert "model_not_allowed" == error.value.code

    assert ["black-forest-labs/flux-dev"] == listed
    kept = requests.get(f"{url}/generations/{picture.id}", headers={"Authorization": f"Bearer {made['key']}"})
    assert 200 == kept.status_code


def test_the_admin_key_is_a_bearer_too(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key=ADMIN_KEY, max_retries=0) as client:
        assert client.images.generate(model="flux-dev", prompt=PROMPT).data


def test_neutral_values_are_no_changes(client):
    made = client.images.generate(
        model="flux-dev",
        prompt=PROMPT,
        size="auto",
        quality="auto",
        background="auto",
        moderation="auto",
        n=1,
    )

    assert [] == made.changes


def test_own_parameters_and_fields_of_this_service_stand_at_the_top_level(client, simulator):
    made = client.images.generate(
        model="flux-dev",
        prompt=PROMPT,
        size="1024x1024",
        extra_body={"go_fast": False, "aspect_ratio": "21:9", "fallback": ["qwen-image"]},
    )

    assert "21:9" == inputs(simulator)[0]["aspect_ratio"]
    assert {
        "field": "size",
        "change": "dropped",
        "given": "1024x1024",
        "sent_as": None,
        "sent": None,
    } in made.changes


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": PROMPT}, "model"),
        ({"model": "no-such/model-at-all", "prompt": PROMPT}, "model"),
        ({"model": "flux-dev"}, "prompt"),
        ({"model": "flux-dev", "prompt": PROMPT, "n": 11}, "n"),
        ({"model": "flux-dev", "prompt": PROMPT, "n": "2"}, "n"),
        ({"model": "qwen-image", "prompt": PROMPT, "n": 2, "guidance": "much"}, "guidance"),
        ({"model": "flux-dev", "prompt": PROMPT, "response_format": "png"}, "response_format"),
        ({"model": "flux-dev", "prompt": PROMPT, "response_format": ["url"]}, "response_format"),
        ({"model": "flux-dev", "prompt": PROMPT, "input": "much"}, "input"),
        ({"model": "flux-dev", "prompt": PROMPT, "input": []}, "input"),
        ({"model": "flux-dev", "prompt": PROMPT, "max_cost": 1}, "max_cost"),
        ({"model": "flux-dev", "prompt": PROMPT, "dry_run": True}, "dry_run"),
    ],
)
def test_an_invalid_request_names_the_field_and_is_not_paid(url, simulator, body, param):
    answer = requests.post(f"{url}/v1/images/generations", json=body, headers=BEARER)

    assert (400, "invalid_request", param) == (
        answer.status_code,
        answer.json()["error"]["code"],
        answer.json()["error"]["param"],
    )
    assert [] == inputs(simulator)


@pytest.mark.parametrize("more", [{}, {"fallback": True}, {"fallback": ["flux-dev"]}])
@pytest.mark.parametrize("model", ["veo-3.1-fast", "acme/storyteller"])
@pytest.mark.parametrize("route", ["generations", "edits"])
def test_a_model_of_another_kind_is_refused_and_is_not_paid(url, simulator, route, model, more):
    body = {"model": model, "prompt": PROMPT, "image": "https://example.com/a.png", **more}
    answer = requests.post(f"{url}/v1/images/{route}", json=body, headers=BEARER)

    assert (400, "invalid_request", "model") == (
        answer.status_code,
        answer.json()["error"]["code"],
        answer.json()["error"]["param"],
    )
    assert [] == inputs(simulator)


@pytest.mark.parametrize("model", ["flux-dev", "acme/watercolor"])
def test_a_fallback_of_another_kind_is_refused_and_is_not_paid(url, simulator, model):
    body = {"model": model, "prompt": PROMPT, "fallback": ["qwen-image", "veo-3.1-fast"]}
    answer = requests.post(f"{url}/v1/images/generations", json=body, headers=BEARER)

    assert (400, "fallback[1]") == (answer.status_code, answer.json()["error"]["param"])
    assert [] == inputs(simulator)


def test_a_published_model_whose_schema_names_no_kind_makes_images(client):
    made = client.images.generate(model="acme/watercolor", prompt=PROMPT)

    assert "acme/watercolor" == made.model_name


@pytest.mark.parametrize(
    ("prompt", "code"), [("[[fail]]", "generation_failed"), ("[[nsfw]]", "content_refused")]
)
def test_a_paid_failure_is_not_repeated_by_the_client(url, simulator, prompt, code):
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key=USER_TOKEN, max_retries=5) as client,
        pytest.raises(openai.APIStatusError) as failed,
    ):
        client.images.generate(model="flux-dev", prompt=prompt)

    assert code == failed.value.code
    assert "false" == failed.value.response.headers["x-should-retry"]
    assert failed.value.request_id.startswith("req_")
    assert 1 == len(inputs(simulator))


def test_a_call_without_a_key_is_refused_in_openais_shape(url):
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="sk-nothing", max_retries=0)

    for call in (lambda: client.images.generate(model="flux-dev", prompt=PROMPT), client.models.list):
        with pytest.raises(openai.AuthenticationError) as refused:
            call()
        assert ("unauthenticated", "authentication_error") == (refused.value.code, refused.value.type)
    client.close()


def test_a_stream_has_one_event_for_the_picture(client):
    with client.images.generate(model="flux-dev", prompt=PROMPT, stream=True, size="1024x1024") as stream:
        [event] = list(stream)

    assert ("image_generation.completed", "1024x1024") == (event.type, event.size)
    assert b64decode(event.b64_json)
    assert 0 == event.usage.total_tokens
    assert event.id.startswith("gen_")


def test_a_failure_before_a_stream_is_an_error_with_its_status(client):
    with pytest.raises(openai.UnprocessableEntityError):
        client.images.generate(model="flux-dev", prompt="[[nsfw]]", stream=True)


@pytest.mark.parametrize(
    ("model", "name", "is_list"),
    [
        ("flux-kontext-max", "input_image", False),
        ("nano-banana", "image_input", True),
        ("flux-2-klein-9b", "images", True),
    ],
)
def test_a_picture_to_edit_goes_into_the_models_own_input(client, simulator, model, name, is_list):
    made = client.images.edit(
        model=model,
        prompt=PROMPT,
        image=("a.png", BytesIO(black_png(8, 8)), "image/png"),
        size="1024x1024",
        n=1,
    )

    assert 1 == len(made.data)
    [sent] = inputs(simulator)
    assert is_list == isinstance(sent[name], list)
    assert "1:1" == sent["aspect_ratio"]


def test_several_pictures_to_edit_keep_their_order(client, simulator):
    files = [(f"{side}.png", black_png(side, 8), "image/png") for side in (8, 16)]
    client.images.edit(model="nano-banana", prompt=PROMPT, image=files, response_format="b64_json")

    [sent] = inputs(simulator)
    assert 2 == len(sent["image_input"])
    assert sent["image_input"][0] != sent["image_input"][1]


@pytest.mark.parametrize(
    "image",
    [
        "https://example.com/a.png",
        ["https://example.com/a.png"],
        [{"image_url": "https://example.com/a.png"}],
        {"image_url": {"url": "https://example.com/a.png"}},
    ],
)
def test_pictures_to_edit_may_be_addresses_in_json(url, simulator, image):
    body = {"model": "flux-kontext-max", "prompt": PROMPT, "image": image}
    answer = requests.post(f"{url}/v1/images/edits", json=body, headers=BEARER)

    assert 200 == answer.status_code, answer.text
    assert "https://example.com/a.png" == inputs(simulator)[0]["input_image"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": "flux-schnell"}, "image"),
        ({"model": "flux-kontext-max", "mask": "https://example.com/m.png"}, "mask"),
        ({"model": "nano-banana", "image": ["https://example.com/a.png"] * 4}, "image"),
        ({"model": "nano-banana", "image": None}, "image"),
        ({"model": "flux-kontext-max", "image": "a.png"}, "image"),
        ({"model": "flux-kontext-max", "input_image": "a.png", "image": None}, "input_image"),
        ({"model": "nano-banana", "image": ["https://example.com/a.png", "b.png"]}, "image[1]"),
    ],
)
def test_pictures_that_a_model_does_not_take_are_refused(url, simulator, fields, param):
    body = {"prompt": PROMPT, "image": "https://example.com/a.png"} | fields
    answer = requests.post(f"{url}/v1/images/edits", json=body, headers=BEARER)

    assert (400, param) == (answer.status_code, answer.json()["error"]["param"])
    assert [] == inputs(simulator)


def test_a_stream_of_an_edit_has_its_own_event(client):
    with client.images.edit(
        model="nano-banana", prompt=PROMPT, image=("a.png", black_png(8, 8)), stream=True
    ) as stream:
        assert ["image_edit.completed"] == [event.type for event in stream]


def test_the_models_that_make_pictures_are_listed_and_found_by_name_and_alias(client):
    listed = {each.id: each for each in client.models.list()}

    assert ("model", "black-forest-labs") == (
        listed["black-forest-labs/flux-dev"].object,
        listed["black-forest-labs/flux-dev"].owned_by,
    )
    assert not any("veo" in name or "seedance" in name for name in listed)
    for name in ("flux-dev", "black-forest-labs/flux-dev"):
        assert "black-forest-labs/flux-dev" == client.models.retrieve(name).id
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nothing-like-it")


def test_a_call_with_an_idempotency_key_is_made_once(url, simulator):
    body = json.dumps({"model": "flux-dev", "prompt": PROMPT})
    headers = BEARER | {"Idempotency-Key": "once", "Content-Type": "application/json"}
    answers = [requests.post(f"{url}/v1/images/generations", data=body, headers=headers) for _ in range(2)]

    assert 1 == len({each.json()["id"] for each in answers})
    assert 1 == len(inputs(simulator))


@pytest.mark.parametrize("name", ["image", "image[]"])
def test_an_edit_as_open_webui_sends_it_is_answered(url, simulator, name):
    files = [(name, ("a.png", black_png(8, 8), "image/png"))] * (2 if name == "image[]" else 1)
    fields = {
        "model": "nano-banana", "prompt": PROMPT, "n": "1", "size": "1024x1024", "background": "opaque",
        "response_format": "b64_json",
    }  # fmt: skip
    answer = requests.post(f"{url}/v1/images/edits", data=fields, files=files, headers=BEARER)

    assert 200 == answer.status_code, answer.text
    assert b64decode(answer.json()["data"][0]["b64_json"])
    assert len(files) == len(inputs(simulator)[0]["image_input"])
    assert {"background"} == {each["field"] for each in answer.json()["changes"]} - {"size"}


@pytest.mark.parametrize("name", ["model", "prompt", "n", "response_format", "stream"])
def test_a_field_of_an_edit_that_a_form_repeats_is_refused_by_name_and_is_not_paid(url, simulator, name):
    fields = [("model", "nano-banana"), ("prompt", PROMPT), (name, "1"), (name, "1")]
    files = [("image", ("a.png", black_png(8, 8), "image/png"))]
    answer = requests.post(f"{url}/v1/images/edits", data=fields, files=files, headers=BEARER)

    error = answer.json()["error"]
    assert (400, name, f"{name}: is there more than once") == (
        answer.status_code,
        error["param"],
        error["message"],
    )
    assert [] == inputs(simulator)


def test_a_form_may_repeat_the_pictures_of_an_edit(url, simulator):
    images = [("image", f"https://example.com/{each}.png") for each in "ab"]
    fields = [("model", "nano-banana"), ("prompt", PROMPT), *images]
    form = [(name, (None, text)) for name, text in fields]
    answer = requests.post(f"{url}/v1/images/edits", files=form, headers=BEARER)

    assert 200 == answer.status_code, answer.text
    assert [address for _, address in images] == inputs(simulator)[0]["image_input"]
