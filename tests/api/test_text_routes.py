"""Which models are listed for which routes, and what the status and the figures say about calls."""

import pytest

from tests.support.text_calls import ask, code


@pytest.fixture
def client(texts):
    return texts()


def test_text_models_are_listed_with_limits_levels_prices_and_ends(client):
    listed = client.get("/models").json["models"]
    found = {each["name"]: each for each in listed if each.get("provider") == "gemini"}
    assert {"text"} == {each["kind"] for each in found.values()}
    assert found.keys() == {each["name"] for each in client.get("/models?kind=text").json["models"]}

    flash, old = found["gemini-3.8-flash"], found["gemini-2.5-flash"]
    assert (1_048_576, 65_536) == (flash["input_tokens"], flash["output_tokens"])
    assert ["low", "medium", "high"] == flash["thinking_levels"]
    assert [None, "2027-01-01"] == [each.get("since") for each in flash["usd_per_million_tokens"]]
    assert "gemini-3.5-flash-lite" == old["sent_as"]
    assert old["ends"]
    assert not {"task", "json", "model_name"} & flash["input_schema"]["properties"].keys()
    assert {"model": "gemini-3.8-flash", "prompt": "Hello world"} == flash["example"]


def test_the_example_of_each_text_model_runs(client):
    for each in client.get("/models?kind=text").json["models"]:
        answer = ask(client, each["example"])
        assert 200 == answer.status_code, answer.text


def test_a_text_model_is_found_by_its_names_and_by_words(client):
    for name in ("gemini-3.8-flash", "gemini-flash-latest", "models/gemini-3.8-flash"):
        assert "gemini-3.8-flash" == client.get(f"/models/{name}").json["name"]
    searched = client.get("/models?search=2.5+flash+lite").json["models"]
    assert ["gemini-2.5-flash-lite"] == [each["name"] for each in searched]


@pytest.mark.parametrize(
    ("route", "body", "field", "named"),
    [
        ("/generate", {"model_name": "gemini-2.5-flash", "prompt": "x"}, "model_name", "POST /chat"),
        ("/generate", {"model_name": "models/gemini-2.5-flash", "prompt": "x"}, "model_name", "POST /chat"),
        ("/generate", {"model_name": "flux-dev", "prompt": "x", "fallback": ["gemini-3.8-flash"]}, "fallback[0]",
         "POST /chat"),
        ("/generate-batch", {"model_name": "gemini-3.8-flash", "prompts": ["x"]}, "model_name", "POST /chat"),
        ("/generate-batch", {"requests": [{"model_name": "gemini-3.8-flash", "prompt": "x"}]},
         "requests[0].model_name", "POST /chat"),
        ("/chat", {"prompt": "x", "model": "flux-dev"}, "model", "POST /generate"),
        ("/chat", {"prompt": "x", "fallback": ["flux-dev"]}, "fallback[0]", "POST /generate"),
        ("/batch/chat", {"requests": [{"prompt": "x", "model": "veo-3-fast"}]}, "requests[0].model", "POST /generate"),
    ],
)  # fmt: skip
def test_a_model_of_other_routes_is_refused_with_their_names(client, simulator, route, body, field, named):
    answer = ask(client, body, to=route)

    assert (400, "invalid_request") == code(answer)
    [problem] = answer.json["errors"]
    assert field == problem["field"]
    assert named in problem["message"]
    assert not simulator.gemini.counts().requests
