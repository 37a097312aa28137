"""The page `/docs`: its text and token with the simulator, and that it clears old responses."""

import re

import pytest

from tests.support.callers import ADMIN, ADMIN_KEY, PICTURE, SERVER_TOKEN


def page(make_app, **settings):
    return make_app(**settings).test_client().get("/docs").get_data(as_text=True)


def filled_in(page, field):
    """What stands in an input from the start."""
    return re.search(rf'<input id="{field}"[^>]*>', page)[0].partition('value="')[2].partition('"')[0]


def test_the_page_of_a_simulated_service_says_so_and_has_a_valid_token(make_app):
    client = make_app(REPLICATE_SIMULATE=1).test_client()
    shown = client.get("/docs").get_data(as_text=True)
    token = filled_in(shown, "user")

    assert "This service simulates Replicate." in shown
    assert token.startswith("r8_")
    assert client.post("/generate", json=PICTURE, headers={"X-Replicate-API-Key": token}).json["simulated"]
    assert "" == filled_in(shown, "admin")


def test_the_page_of_a_real_service_mentions_no_simulator_and_has_no_token(make_app):
    shown = page(make_app)

    assert "simulates" not in shown
    assert "r8_" not in shown
    assert ["", ""] == [filled_in(shown, field) for field in ("user", "admin")]


def test_the_page_of_a_simulated_service_without_user_tokens_has_no_token(make_app):
    shown = page(make_app, REPLICATE_SIMULATE=1, ALLOW_USER_TOKENS=0)

    assert "This service simulates Replicate." in shown
    assert "r8_" not in shown
    assert ["", ""] == [filled_in(shown, field) for field in ("user", "admin")]


@pytest.mark.parametrize("settings", [{}, {"REPLICATE_SIMULATE": 1}])
def test_no_secret_of_the_service_is_in_the_page(make_app, settings):
    shown = page(make_app, **settings)

    assert ADMIN_KEY not in shown
    assert SERVER_TOKEN not in shown


def test_the_last_answer_is_cleared_before_the_next_request_is_sent(make_app):
    before, _, _ = re.search(r'\$\("try"\)\.onsubmit = .*', page(make_app), re.DOTALL)[0].partition(
        "await fetch("
    )

    assert '$("answer").hidden = true;' in before
    assert 'for (const part of $("answer").querySelectorAll("[id]")) part.replaceChildren();' in before


def test_the_page_starts_with_a_request_to_generate(client):
    first, methods = next(iter(client.get("/openapi.json").json["paths"].items()))

    assert ("/generate", ["post"]) == (first, list(methods))


def test_the_page_looks_any_model_up_with_the_keys_that_are_typed_in(client):
    shown = client.get("/docs").get_data(as_text=True)
    looked_up, _, after = re.search(r'\$\("find"\)\.onsubmit = .*', shown, re.DOTALL)[0].partition("fetch(")

    assert 'map(encodeURIComponent).join("/")' in looked_up
    assert "`${root}/models/${path}`, { headers: keys() }" in after
    assert 'bodies["POST /generate"][example.model_name] = example;' in after
    assert {"model_name", "input"} == set(client.get("/models/acme/upscaler", headers=ADMIN).json["example"])


def test_what_a_stranger_wrote_about_a_model_is_shown_as_text(client):
    assert [] == re.findall(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write", client.get("/docs").get_data(as_text=True)
    )
