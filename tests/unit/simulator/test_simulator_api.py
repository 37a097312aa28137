"""The simulator's API behaves like Replicate's."""

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import pytest

from simulator import Options, Simulator, catalog, running

FLUX_DEV = "black-forest-labs/flux-dev"
SCHNELL = "black-forest-labs/flux-schnell"
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"


def test_a_creation_is_answered_201_while_it_is_starting(caller):
    answer = caller.create("a fox")
    assert answer.status_code == 201
    body = answer.json()
    assert body["status"] == "starting"
    assert body["model"] == FLUX_DEV
    assert body["version"] == "hidden"
    assert body["input"] == {"prompt": "a fox"}
    assert body["output"] is None
    assert body["completed_at"] is None
    assert body["data_removed"] is False
    assert re.fullmatch(TIME, body["created_at"])


def test_a_held_creation_is_answered_when_it_is_done(caller):
    body = caller.outcome("a fox")
    assert body["status"] == "succeeded"
    assert body["error"] is None
    assert body["created_at"] <= body["started_at"] <= body["completed_at"]
    assert set(body["metrics"]) == {"predict_time", "total_time", "image_count"}
    assert set(body["urls"]) == {"get", "cancel", "web", "stream"}
    assert "100%" in body["logs"]


def test_a_hold_that_times_out_returns_the_unfinished_prediction(caller):
    body = caller.create("[[hang]] a fox", headers={"Prefer": "wait=1"}).json()
    assert body["status"] == "processing"
    assert body["output"] is None


@pytest.mark.parametrize("name", [model.name for model in catalog.MODELS])
def test_each_model_has_its_declared_output_type(caller, name):
    model = catalog.find(name)
    output = caller.outcome("a fox", model=name)["output"]
    assert (list if model.schema.output["type"] == "array" else str) is type(output)
    ending = "mp4" if model.kind == "video" else model.default("output_format")
    assert str([output] if isinstance(output, str) else output).rstrip("']").endswith(ending)


def test_the_number_of_outputs_is_the_requested_one(caller):
    assert len(caller.outcome("a fox", num_outputs=3)["output"]) == 3


@pytest.mark.parametrize("version", ["latest", 7, "someone/lora", "ab" * 31, "ab" * 32])
def test_an_invalid_version_is_refused(caller, version):
    answer = caller.post("/v1/predictions", json={"version": version, "input": {"prompt": "x"}})
    assert answer.status_code == 422
    assert answer.json()["title"] == "Invalid version or not permitted"


def test_an_unknown_model_is_not_found(caller):
    answer = caller.create(model="nobody/nothing")
    assert answer.status_code == 404
    expected = {"detail": "The requested resource could not be found.", "status": 404}
    assert answer.json() == expected


def test_an_input_out_of_bounds_is_refused_by_field(caller):
    answer = caller.create(model=SCHNELL, num_inference_steps=5)
    assert answer.status_code == 422
    reason = "Must be less than or equal to 4"
    assert answer.json() == {
        "title": "Input validation failed",
        "detail": f"- input.num_inference_steps: {reason}\n",
        "status": 422,
        "invalid_fields": [
            {"type": "number_lte", "field": "input.num_inference_steps", "description": reason}
        ],
    }


def test_all_problems_of_an_input_are_reported_at_once(caller):
    answer = caller.create(7, aspect_ratio="7:1", guidance=-1, num_outputs="two")
    found = {(each["type"], each["field"]) for each in answer.json()["invalid_fields"]}
    assert found == {
        ("invalid_type", "input.prompt"),
        ("enum", "input.aspect_ratio"),
        ("number_gte", "input.guidance"),
        ("invalid_type", "input.num_outputs"),
    }


def test_a_missing_prompt_is_a_problem_of_the_input(caller):
    answer = caller.post(f"/v1/models/{FLUX_DEV}/predictions", json={"input": {}})
    problem = {"type": "required", "field": "input", "description": "prompt is required"}
    assert answer.json()["invalid_fields"] == [problem]


def test_a_width_must_be_a_multiple_of_32(caller):
    answer = caller.create(model="black-forest-labs/flux-1.1-pro", aspect_ratio="custom", width=300)
    assert answer.json()["invalid_fields"][0]["type"] == "multiple_of"


def test_an_input_image_lowers_the_maximum_tolerance(caller):
    kontext = "black-forest-labs/flux-kontext-max"
    image = "https://example.com/a.png"
    assert caller.create(model=kontext, safety_tolerance=6).status_code == 201
    answer = caller.create(model=kontext, safety_tolerance=6, input_image=image)
    assert answer.json()["invalid_fields"][0]["field"] == "input.safety_tolerance"


def test_unknown_inputs_are_ignored(caller):
    assert caller.create(no_such_input=1).status_code == 201


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff"])
def test_a_body_other_than_an_object_is_refused(caller, content):
    answer = caller.post(f"/v1/models/{FLUX_DEV}/predictions", data=content)
    assert answer.status_code == 400


@pytest.mark.parametrize("token", [None, "sk_other", ""])
def test_an_invalid_token_is_refused(caller_with, token):
    answer = caller_with(token).get("/v1/account")
    assert answer.status_code == 401
    assert answer.headers["Content-Type"] == "application/problem+json"
    detail = "You did not pass a valid authentication token"
    assert answer.json() == {"title": "Unauthenticated", "detail": detail, "status": 401}


def test_a_rejected_account_is_refused(sim: Simulator, caller):
    sim.account("r8_tester", reject=True)
    assert caller.get("/v1/account").status_code == 401
    sim.account("r8_tester", reject=False)
    assert caller.get("/v1/account").status_code == 200


def test_each_token_is_one_account_unless_two_share_a_username(sim: Simulator, caller_with):
    def names():
        return [
            caller_with(token).get("/v1/account").json()["username"] for token in ("r8_a", "r8_a", "r8_b")
        ]

    first, again, other = names()
    sim.account("r8_a", username="one")
    sim.account("r8_b", username="one")

    assert first == again != other
    assert ["one"] * 3 == names()


def test_an_account_without_credit_creates_no_prediction(sim: Simulator, caller):
    sim.account("r8_tester", credit="empty")
    answer = caller.create()
    assert answer.status_code == 402
    assert answer.json()["title"] == "Insufficient credit"
    assert answer.json()["detail"].startswith("You have insufficient credit to run this model.")
    assert caller.get("/v1/predictions").status_code == 200


def test_another_accounts_prediction_is_not_found(caller_with, caller):
    made = caller.create().json()
    path = f"/v1/predictions/{made['id']}"
    assert caller_with("r8_other").get(path).status_code == 404
    assert caller_with("r8_other").post(f"{path}/cancel").status_code == 404
    assert caller_with("r8_other").get("/v1/predictions").json()["results"] == []
    assert caller.get(path).status_code == 200


def test_a_running_prediction_can_be_cancelled(caller):
    made = caller.create("[[hang]]").json()
    answer = caller.post(f"/v1/predictions/{made['id']}/cancel")
    assert answer.status_code == 200
    assert answer.json()["status"] == "canceled"
    assert answer.json()["completed_at"] is not None
    assert caller.status(made) == "canceled"


def test_an_ended_prediction_cannot_be_cancelled(caller):
    made = caller.outcome()
    assert caller.post(f"/v1/predictions/{made['id']}/cancel").json()["status"] == "succeeded"


def test_the_list_has_a_hundred_a_page_newest_first(caller):
    made = [caller.create(f"fox {n}").json()["id"] for n in range(205)]
    pages, path = [], f"{caller.url}/v1/predictions"
    while path:
        pages.append(caller.get(path.removeprefix(caller.url)).json())
        path = pages[-1]["next"]
    assert [len(page["results"]) for page in pages] == [100, 100, 5]
    assert [each["id"] for page in pages for each in page["results"]] == made[::-1]
    assert pages[0]["results"][0]["input"] == {"prompt": "fox 204"}
    assert pages[0]["previous"] is None
    back = caller.get(pages[2]["previous"].removeprefix(caller.url)).json()
    assert back["results"] == pages[1]["results"]


def test_a_creation_between_two_pages_repeats_nothing(caller):
    made = [caller.create().json()["id"] for _ in range(101)]
    first = caller.get("/v1/predictions").json()
    caller.create()
    second = caller.get(first["next"].removeprefix(caller.url)).json()
    assert [each["id"] for each in second["results"]] == made[:1]


def test_the_list_can_be_filtered_by_time(caller):
    first, second = caller.create().json(), caller.create().json()

    def ids(**when):
        return [each["id"] for each in caller.get("/v1/predictions", params=when).json()["results"]]

    assert ids(created_after=second["created_at"]) == [second["id"]]
    assert ids(created_before=second["created_at"]) == [first["id"]]
    assert caller.get("/v1/predictions?created_after=soon").status_code == 400
    assert caller.get("/v1/predictions?cursor=nonsense").status_code == 400


def test_the_metadata_of_an_upload_expires_after_a_day(caller, caller_with):
    answer = caller.post("/v1/files", files={"content": ("cat.png", b"12345", "image/png")})
    assert answer.status_code == 201
    facts = answer.json()
    assert (facts["name"], facts["content_type"], facts["size"]) == ("cat.png", "image/png", 5)
    assert facts["created_at"][11:] == facts["expires_at"][11:]
    assert facts["created_at"] < facts["expires_at"]
    path = facts["urls"]["get"].removeprefix(caller.url)
    assert caller.get(path).json() == facts
    assert caller_with("r8_other").get(path).status_code == 404


def test_an_upload_without_content_is_refused(caller):
    assert caller.post("/v1/files", files={"other": b"1"}).status_code == 400
    assert caller.post("/v1/files", json={}).status_code == 400


def test_a_models_schema_is_shown_as_replicate_shows_it(caller):
    body = caller.get(f"/v1/models/{FLUX_DEV}").json()
    schemas = body["latest_version"]["openapi_schema"]["components"]["schemas"]
    steps = schemas["Input"]["properties"]["num_inference_steps"]
    assert (steps["minimum"], steps["maximum"], steps["default"]) == (1, 50, 28)
    assert schemas["Input"]["required"] == ["prompt"]
    ratio = schemas["Input"]["properties"]["aspect_ratio"]
    assert ratio["allOf"] == [{"$ref": "#/components/schemas/aspect_ratio"}]
    assert "21:9" in schemas["aspect_ratio"]["enum"]
    orders = [each["x-order"] for each in schemas["Input"]["properties"].values()]
    assert sorted(orders) == list(range(len(orders)))
    assert schemas["Output"]["type"] == "array"
    assert caller.get("/v1/models/nobody/nothing").status_code == 404


@pytest.mark.parametrize(
    ("header", "seconds"), [("5s", 5), ("5m", 300), ("1h30m", 5400), ("1h30m5s", 5405), ("30", 30)]
)
def test_a_cancel_after_header_is_parsed(sim: Simulator, caller, header, seconds):
    assert "deadline" in caller.create(headers={"Cancel-After": header}).json()
    assert sim.predictions()[-1].cancel_after == seconds


@pytest.mark.parametrize("header", ["4s", "soon", "", "-5s", "1.5m", "s"])
def test_an_invalid_cancel_after_header_is_refused(caller, header):
    assert caller.create(headers={"Cancel-After": header}).status_code == 422


def test_an_unknown_path_is_not_found(caller):
    assert caller.get("/v1/no/such/thing").status_code == 404
    assert caller.get("/v1/predictions/unknown").status_code == 404


@pytest.mark.parametrize("skew", [-250.0, 250.0])
def test_a_clock_skew_applies_to_every_date(make_caller, skew):
    with running(Options(prediction_seconds=0, clock_skew=skew)) as sim:
        caller = make_caller(sim.url)
        made = caller.create()
        dates = [
            parsedate_to_datetime(made.headers["Date"]),
            datetime.fromisoformat(made.json()["created_at"]),
        ]
        after = caller.get(f"/v1/predictions?created_after={made.json()['created_at']}").json()["results"]

    assert [skew, skew] == pytest.approx(
        [(each - datetime.now(UTC)).total_seconds() for each in dates], abs=20
    )
    assert [made.json()["id"]] == [each["id"] for each in after]


def test_a_lagging_list_leaves_out_recent_predictions(make_caller):
    with running(Options(prediction_seconds=0, list_lag=(3600.0, 3600.0))) as sim:
        caller = make_caller(sim.url)
        made = caller.outcome()

        assert [] == caller.get("/v1/predictions").json()["results"]
        assert made["id"] == caller.get(f"/v1/predictions/{made['id']}").json()["id"]


def test_the_start_page_describes_the_simulator(caller):
    assert "simulated Replicate" in caller.get("/").text


def test_only_the_latest_predictions_are_kept(make_caller):
    with running(Options(prediction_seconds=0, keep=3)) as sim:
        caller = make_caller(sim.url)
        made = [caller.outcome()["id"] for _ in range(5)]
        assert [each.id for each in sim.predictions()] == made[2:]
        assert caller.get(f"/v1/predictions/{made[0]}").status_code == 404


@pytest.mark.parametrize(
    "setting",
    [
        {"host": "0.0.0.0"},
        {"port": 70000},
        {"prediction_seconds": -1},
        {"jitter": 1},
        {"answer_delay": (2, 1)},
        {"list_lag": (2, 1)},
        {"clock_skew": 1e9},
        {"creations_per_minute": 0},
        {"webhook_retry_seconds": 0},
        {"keep": 0},
    ],
)
def test_an_invalid_option_is_refused_by_name(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        Options(**setting)
