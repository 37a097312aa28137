"""`fallback` and `placeholder`: every attempt is listed, and billed as it was made."""

from io import BytesIO

import pytest
from PIL import Image

from catalog.adaptation import makes_enough
from simulator import Options, running
from tests.support.callers import ADMIN, USER
from tests.support.declarations import MODELS, find
from tests.support.problem_documents import fields, problem
from tests.support.virtual_replicate import replicate
from tests.support.virtual_time import run

PICTURE = "https://example.com/a.png"


def generate(client, model, prompt="a", headers=ADMIN, **given):
    return client.post("/generate", json={"model_name": model, "prompt": prompt, **given}, headers=headers)


def tried(answered):
    return [
        (each["model_name"].split("/")[1], each["error"] and each["error"]["code"])
        for each in answered["attempts"]
    ]


def test_the_next_model_makes_a_refused_prompt_and_every_attempt_is_listed(client, simulator):
    answered = generate(
        client, "flux-dev", "[[only=flux-dev]] [[nsfw]] a", fallback=True, guidance=3, megapixels="0.25"
    ).json

    first, second = simulator.predictions()
    assert (True, "flux-dev", "qwen/qwen-image") == (
        answered["success"],
        answered["requested_model"],
        answered["model_name"],
    )
    assert second.id == answered["prediction_id"]
    assert [
        {
            "model_name": "black-forest-labs/flux-dev",
            "prediction_id": first.id,
            "error": answered["attempts"][0]["error"],
            "changes": [],
        },
        {
            "model_name": "qwen/qwen-image",
            "prediction_id": second.id,
            "error": None,
            "changes": [
                {"field": "megapixels", "change": "dropped", "given": "0.25", "sent_as": None, "sent": None},
            ],
        },
    ] == answered["attempts"]
    assert "content_refused" == answered["attempts"][0]["error"]["code"]
    assert {"prompt": first.input["prompt"], "guidance": 3} == second.input
    assert 0.025 == answered["cost_usd"] == simulator.counts().billed_usd


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "given", "prompt", "expected"),
    [
        ("nano-banana", {"image_input": [PICTURE]}, "[[only=nano-banana]] [[fail]]",
         [("nano-banana", "generation_failed"), ("nano-banana-2", None)]),
        ("flux-dev", {"image": PICTURE}, "[[only=flux-dev]] [[fail]]",
         [("flux-dev", "generation_failed"), ("flux-kontext-max", None)]),
        ("kontext-max", {}, "[[only=flux-kontext-max]] [[nsfw]]",
         [("flux-kontext-max", "content_refused"), ("qwen-image", None)]),
        ("qwen-image", {}, "[[only=qwen-image]] [[empty]]", [("qwen-image", "generation_failed"), ("flux-dev", None)]),
        ("flux-schnell", {"fallback": ["imagen-4-ultra", "nano-banana"]},
         "[[only=flux-schnell,imagen-4-ultra]] [[nsfw]]",
         [("flux-schnell", "content_refused"), ("imagen-4-ultra", "content_refused"), ("nano-banana", None)]),
        ("flux-dev", {}, "[[transient]]", [("flux-dev", "generation_failed"), ("flux-dev", None)]),
    ],
)  # fmt: skip
def test_fallbacks_follow_the_documented_order(client, simulator, model, given, prompt, expected):
    answered = generate(client, model, prompt, **{"fallback": True, **given}).json

    assert expected == tried(answered), answered
    assert answered["success"]
    assert [each.id for each in simulator.predictions()] == [
        each["prediction_id"] for each in answered["attempts"]
    ]


def test_the_fallback_of_a_request_with_references_accepts_references(client, simulator):
    answered = generate(client, "flux-schnell", image=PICTURE, num_outputs=1, fallback=True).json

    assert ("flux-schnell", "black-forest-labs/flux-kontext-max") == (
        answered["requested_model"],
        answered["model_name"],
    )
    assert [{"prompt": "a", "input_image": PICTURE}] == [each.input for each in simulator.predictions()]
    assert ["image", "num_outputs"] == [each["field"] for each in answered["attempts"][0]["changes"]]


def test_a_model_that_makes_fewer_outputs_is_passed_over_for_one_that_makes_as_many(client, simulator):
    order = ["qwen-image", "nano-banana", "flux-schnell"]
    answered = generate(client, "flux-dev", "[[only=flux-dev]] [[fail]]", fallback=order, num_outputs=3).json

    over = [("qwen-image", "invalid_request"), ("nano-banana", "invalid_request")]
    assert [("flux-dev", "generation_failed"), *over, ("flux-schnell", None)] == tried(answered)
    assert (3, 3) == (answered["count"], len(answered["files"]))
    assert "qwen-image does not make 3 outputs at once." in str(answered["attempts"][1]["error"])
    assert 2 == simulator.counts().creations_accepted


@pytest.mark.parametrize("fallback", [True, ["qwen-image"], ["qwen-image", "imagen-4-ultra"]])
@pytest.mark.parametrize(
    ("prompt", "code"), [("[[nsfw]]", "content_refused"), ("[[fail]]", "generation_failed")]
)
def test_if_no_model_makes_as_many_outputs_the_first_failure_is_returned(
    client, simulator, fallback, prompt, code
):
    answer = generate(client, "flux-dev", prompt, fallback=fallback, num_outputs=2)

    assert (code, []) == (answer.json["code"], answer.json["files"])
    assert 1 == simulator.counts().creations_accepted


@pytest.mark.parametrize(
    ("model", "prompt", "expected"),
    [
        ("kontext-max", "[[fail]]", ["generation_failed"]),
        ("qwen-image", "[[nsfw]]", ["content_refused", "content_refused"]),
        ("flux-schnell", "[[nsfw]]", ["content_refused"]),
    ],
)
def test_when_all_models_fail_the_last_failure_is_returned(client, simulator, model, prompt, expected):
    answer = generate(client, model, prompt, fallback=True)

    assert expected[-1] == answer.json["code"]
    assert expected == [error for _, error in tried(answer.json)]
    assert (0.0, []) == (answer.json["cost_usd"], answer.json["files"])
    assert "placeholder" not in answer.json
    assert len(expected) == simulator.counts().creations_accepted


@pytest.mark.parametrize("fallback", [False, None])
def test_without_a_fallback_no_other_model_is_tried(client, simulator, fallback):
    given = {} if fallback is None else {"fallback": fallback}

    answer = generate(client, "flux-dev", "[[only=flux-dev]] [[nsfw]]", **given)

    assert 1 == problem(answer, 422, "content_refused")["attempts"]
    assert 1 == simulator.counts().creations_accepted


@pytest.mark.parametrize(
    ("account", "status", "code"),
    [({"reject": True}, 401, "replicate_token_rejected"), ({"credit": "empty"}, 402, "insufficient_credit")],
)
def test_a_refused_account_tries_no_other_model(client, simulator, account, status, code):
    assert 200 == generate(client, "flux-dev", headers=USER).status_code  # the check of its token
    simulator.account("r8_user", **account)
    before = simulator.counts().requests["create"]

    answer = generate(client, "flux-dev", headers=USER, fallback=True)

    problem(answer, status, code)
    assert 1 == simulator.counts().requests["create"] - before


def test_a_timed_out_prediction_is_billed_beside_the_successful_one(client, simulator):
    answered = generate(
        client, "flux-dev", "[[only=flux-dev]] [[hang]]", fallback=["flux-schnell"], timeout=1, num_outputs=2
    ).json

    assert [("flux-dev", "generation_timeout"), ("flux-schnell", None)] == tried(answered)
    assert 0.056 == answered["cost_usd"] == simulator.counts().billed_usd


def test_replicate_gets_no_attempt_with_a_weaker_safety_setting(client, simulator):
    generate(client, "flux-dev", "[[nsfw]]", fallback=["qwen-image", "flux-kontext-max", "imagen-4-ultra"],
             disable_safety_checker=True)  # fmt: skip
    generate(client, "kontext-max", "[[nsfw]]", fallback=["flux-1.1-pro", "qwen-image"], safety_tolerance=0)

    sent = [(each.model.split("/")[1], each.input) for each in simulator.predictions()]
    assert [
        "flux-dev",
        "qwen-image",
        "flux-kontext-max",
        "imagen-4-ultra",
        "flux-kontext-max",
        "qwen-image",
    ] == [model for model, _ in sent]
    assert [True, False, None, None, None, False] == [
        given.get("disable_safety_checker") for _, given in sent
    ]
    assert [None, None, None, None, 0, None] == [given.get("safety_tolerance") for _, given in sent]


def test_a_model_that_is_passed_over_is_listed(client):
    answer = generate(client, "kontext-max", "[[nsfw]]", fallback=["flux-1.1-pro"], safety_tolerance=0)

    answered = problem(answer, 422, "content_refused")  # the failure of the last model that was tried
    assert [("flux-kontext-max", "content_refused"), ("flux-1.1-pro", "invalid_request")] == tried(answered)
    assert None is answered["attempts"][1]["prediction_id"]
    ran = ("black-forest-labs/flux-kontext-max", answered["attempts"][0]["prediction_id"])
    assert ran == (answered["model_name"], answered["prediction_id"])


def black(client, link):
    with client.get(link.removeprefix("http://localhost")) as answer:
        picture = Image.open(BytesIO(answer.data))
        return (answer.status_code, picture.size, picture.convert("RGB").getextrema())


@pytest.mark.parametrize("given", [{"fallback": True}, {}, {"fallback": []}])
def test_a_placeholder_is_a_black_picture_that_is_no_success_and_costs_nothing(client, simulator, given):
    answer = generate(client, "flux-schnell", "[[fail]]", placeholder=True, **given)

    answered = answer.json
    assert (200, False, True, "failed") == (
        answer.status_code,
        answered["success"],
        answered["placeholder"],
        answered["status"],
    )
    assert ("generation_failed", 0.0, []) == (
        answered["error"]["code"],
        answered["cost_usd"],
        answered.get("output", []),
    )
    (link,) = answered["files"]
    assert (200, (1600, 900), ((0, 0),) * 3) == black(client, link)
    assert {"succeeded": 0, "failed": 1, "canceled": 0} == client.get("/status").json["generations"]


def test_a_batchs_placeholders_are_counted_as_failures(client):
    body = {"model_name": "flux-schnell", "prompts": ["a", "[[nsfw]]"], "placeholder": True}

    answered = client.post("/generate-batch", json=body, headers=ADMIN).json

    assert (False, 1, 1) == (answered["success"], answered["succeeded"], answered["failed"])
    assert [None, True] == [each.get("placeholder") for each in answered["results"]]
    assert (0.003, 0.006) == (answered["actual_cost_usd"], answered["estimated_cost_usd"])


@pytest.mark.parametrize("given", [{}, {"placeholder": False}, {"fallback": True}])
def test_no_placeholder_is_made_unless_requested(client, given):
    answer = generate(client, "flux-schnell", "[[nsfw]]", **given)

    assert 422 == answer.status_code
    assert ("placeholder" in answer.json, answer.json["files"]) == (False, [])


@pytest.mark.parametrize(
    "given", [{"placeholder": "yes"}, {"placeholder": 1}, {"fallback": 1}, {"fallback": {}}]
)
def test_an_invalid_fallback_is_refused(client, given):
    assert [*given] == fields(generate(client, "flux-schnell", **given))


@pytest.mark.slow
def test_every_example_can_fall_back_to_every_model_of_its_kind(make_app):
    """Replicate never refuses an input that was adapted to another model. The account may create more than usual, since
    the many creations would wait for the window."""
    requests = [
        {"model_name": model.name, **model.example, "prompt": f"[[only={model.short_name}]] [[fail]]",
         "fallback": [other.name]}
        for model in MODELS.values() for other in MODELS.values()
        if model.kind == other.kind and model is not other and makes_enough(other, model.example)
        if "image" in model.example or other.short_name != "qwen-image-edit-2511"  # which needs one
    ]  # fmt: skip

    with running(Options(prediction_seconds=0.05, jitter=0.0, creations_per_minute=6000)) as simulator:
        wide = {"REPLICATE_REQUESTS_PER_MINUTE": 6000, "REPLICATE_CONCURRENT_LIMIT": 50}
        client = make_app(REPLICATE_BASE_URL=simulator.url, **wide).test_client()
        answered = client.post("/generate-batch", json={"requests": requests}, headers=ADMIN).json
        counts = simulator.counts()

    assert {True} == {each["success"] for each in answered["results"]}, [
        each for each in answered["results"] if not each["success"]
    ]
    assert {} == {status: number for status, number in counts.refusals.items() if status != 404}
    assert answered["actual_cost_usd"] == pytest.approx(counts.billed_usd)


@pytest.mark.slow
def test_the_window_limit_holds_for_fallbacks_too():
    """Every second of 600 fails on its first model and is made by its second: 900 creations."""

    async def scenario():
        options = Options(prediction_seconds=0.2, jitter=0, answer_delay=(0, 0.8), seed=1)
        async with replicate(options, concurrent_limit=200, timeout=600, reserve=0.05) as (service, world):
            prompts = [f"picture {n}" + " [[only=flux-dev]] [[nsfw]]" * (n % 2) for n in range(600)]
            batch = await service.run_batch(prompts, fallback=True)
            return batch, world.counters.snapshot()

    batch, counts = run(scenario())
    assert 600 == batch.summary()["succeeded"]
    assert 900 == counts.creations_accepted
    assert counts.creations_peak_per_minute <= 600
    assert {} == counts.refusals
    assert {find("flux-dev"), find("qwen-image")} == {each.model for each in batch.items}
