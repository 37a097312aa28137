"""A service with an account at one of the two providers only."""

from tests.support.text_calls import ADMIN, CREDENTIALS, GEMINI_KEY, ask, code

PICTURE = {"model_name": "flux-dev", "prompt": "A fox"}


def configured(client):
    providers = client.get("/").json["providers"]
    return {name: each["configured"] for name, each in providers.items()}


def test_with_a_gemini_key_alone_calls_run_and_predictions_name_the_missing_token(make_app, simulator):
    simulator.gemini.configure(first_seconds=0, seconds=0)
    client = make_app(
        REPLICATE_API_TOKEN="", GEMINI_API_KEY=GEMINI_KEY, GEMINI_BASE_URL=simulator.url
    ).test_client()

    assert {"replicate": False, "gemini": True} == configured(client)
    assert 200 == ask(client, {"prompt": "Hello"}).status_code
    refused = ask(client, PICTURE, to="/generate")
    assert (500, "server_token_rejected") == code(refused)
    assert "no REPLICATE_API_TOKEN" in refused.json["detail"]


def test_with_a_replicate_token_alone_predictions_run_and_callers_pay_for_their_calls(make_app, simulator):
    simulator.gemini.configure(first_seconds=0, seconds=0)
    client = make_app(GEMINI_BASE_URL=simulator.url, GEMINI_OPEN=1).test_client()

    assert {"replicate": True, "gemini": False} == configured(client)
    assert 200 == ask(client, PICTURE, to="/generate").status_code
    refused = ask(client, {"prompt": "Hello"})
    assert (500, "server_gemini_key_rejected") == code(refused)
    assert "no GEMINI_API_KEY" in refused.json["detail"]
    assert 200 == ask(client, {"prompt": "Hello"} | CREDENTIALS, by={}).status_code
    assert (401, "unauthenticated") == code(ask(client, {"prompt": "Hello"}, by={}))


def test_without_any_account_both_are_refused(make_app):
    client = make_app(REPLICATE_API_TOKEN="").test_client()

    assert {"replicate": False, "gemini": False} == configured(client)
    assert 500 == ask(client, {"prompt": "Hello"}, by=ADMIN).status_code
    assert 500 == ask(client, PICTURE, to="/generate", by=ADMIN).status_code
