"""The page `/docs`: its keys, doors, errors and token, and that it clears old responses."""

import html
import json
import re

import pytest

from settings import SIMULATED_TOKEN
from tests.support.callers import ADMIN, ADMIN_KEY, PICTURE, SERVER_TOKEN


def page(make_app, **settings):
    return make_app(**settings).test_client().get("/docs").get_data(as_text=True)


def filled_in(page, field):
    """What stands in an input from the start."""
    return re.search(rf'<input id="{field}"[^>]*>', page)[0].partition('value="')[2].partition('"')[0]


def test_the_page_of_a_simulated_service_says_so_and_has_a_valid_token(make_app):
    client = make_app(REPLICATE_SIMULATE=1).test_client()
    shown = client.get("/docs").get_data(as_text=True)
    token = filled_in(shown, "credential")

    assert "This service simulates Replicate." in shown
    assert token.startswith("r8_")
    assert client.post("/generate", json=PICTURE, headers={"X-Replicate-API-Key": token}).json["simulated"]


def test_the_page_of_a_real_service_mentions_no_simulator_and_has_no_token(make_app):
    shown = page(make_app)

    assert "simulates" not in shown
    assert SIMULATED_TOKEN not in shown
    assert "" == filled_in(shown, "credential")


def test_the_page_of_a_simulated_service_without_user_tokens_has_no_token(make_app):
    shown = page(make_app, REPLICATE_SIMULATE=1, ALLOW_USER_TOKENS=0)

    assert "This service simulates Replicate." in shown
    assert SIMULATED_TOKEN not in shown
    assert "" == filled_in(shown, "credential")
    assert "Replicate token" not in shown.partition("<script")[0]


@pytest.mark.parametrize("settings", [{}, {"REPLICATE_SIMULATE": 1}])
def test_no_secret_of_the_service_is_in_the_page(make_app, settings):
    shown = page(make_app, **settings)

    assert ADMIN_KEY not in shown
    assert SERVER_TOKEN not in shown


@pytest.mark.parametrize(
    ("settings", "address"),
    [
        ({}, "http://localhost"),
        ({"PUBLIC_URL": "https://pictures.example/here"}, "https://pictures.example/here"),
    ],
)
def test_the_page_shows_the_address_of_each_door(make_app, settings, address):
    path = "/here" if settings else ""
    shown = make_app(**settings).test_client().get(f"{path}/docs").get_data(as_text=True)

    assert f"OPENAI_BASE_URL={address}/v1\n" in shown
    assert f"REPLICATE_BASE_URL={address}/replicate\n" in shown


@pytest.mark.parametrize(
    ("door", "path"), [("openai", "/v1/nowhere"), ("replicate", "/replicate/v1/nowhere")]
)
def test_the_page_shows_errors_in_the_shape_of_each_door(client, door, path):
    shown = client.get("/docs").get_data(as_text=True)
    example = json.loads(
        html.unescape(re.search(rf'<pre id="error-{door}">(.*?)</pre>', shown, re.DOTALL)[1])
    )
    real = client.get(path).json

    for error, other in ((example, real), (example.get("error"), real.get("error"))):
        assert {*(other or {})} <= {*(error or {})}
    assert "invalid_request" in json.dumps(example)


def test_the_page_takes_the_groups_keys_and_examples_from_the_document(client):
    script = client.get("/docs").get_data(as_text=True).partition("<script")[2]

    for part in (
        "components.securitySchemes",
        "api.tags",
        "operation.responses",
        "content.examples",
        "x-roles",
    ):
        assert part in script


def test_a_key_that_is_typed_in_is_sent_in_the_header_for_its_kind(client):
    script = client.get("/docs").get_data(as_text=True)
    sent = re.search(r"function keys\(\) \{.*?\n\}", script, re.DOTALL)[0]

    assert {"X-Replicate-API-Key", "X-API-Key", "Authorization"} == set(
        re.findall(r'"(X-[\w-]+|Authorization)"', sent)
    )
    assert "credential" in sent
    assert "localStorage" not in script
    assert "sessionStorage" not in script


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
    assert "bodies[operation][example.model || example.model_name] = example;" in after
    assert {"model_name", "input"} == set(client.get("/models/acme/upscaler", headers=ADMIN).json["example"])


def test_what_a_stranger_wrote_about_a_model_is_shown_as_text(client):
    assert [] == re.findall(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write", client.get("/docs").get_data(as_text=True)
    )
