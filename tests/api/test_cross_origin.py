"""Cross-origin requests: files, the models and the OpenAPI document allow every origin, the rest only named ones."""

import pytest

from settings import Settings, SettingsError
from tests.support.api_client import submit
from tests.support.callers import ADMIN, ADMIN_KEY, PICTURE, USER
from tests.support.problem_documents import problem

ALLOW = "Access-Control-Allow-Origin"
ORIGIN = {"Origin": "https://elsewhere.example"}


def allowed(client, path, *, method="GET", **headers):
    """Which origins may read the answer."""
    with client.open(path, method=method, headers={**ORIGIN, **headers}) as answer:
        assert "Access-Control-Allow-Credentials" not in answer.headers
        return answer.headers.get(ALLOW)


@pytest.fixture
def kept(client):
    """The path of a kept file."""
    link = client.post("/generate", json=PICTURE, headers=ADMIN).json["files"][0]
    return link.removeprefix("http://localhost")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_files_models_and_the_openapi_document_allow_every_origin(client, kept, method):
    for path in ("/models", "/models?kind=video", "/openapi.json", kept, f"{kept}?name=fox"):
        assert "*" == allowed(client, path, method=method)
    assert "*" == allowed(client, kept, method=method, Range="bytes=0-3")


def test_errors_of_these_routes_allow_every_origin(client, kept):
    assert "*" == allowed(client, "/files/gen_1/gen_1.png")
    assert "*" == allowed(client, kept, Range="bytes=999999999-")
    assert "*" == allowed(client, "/models?kind=poem")


def test_routes_below_a_public_path_allow_every_origin(make_app):
    client = make_app(PUBLIC_URL="https://example.org/gen").test_client()

    assert ["*", None] == [allowed(client, path) for path in ("/gen/models", "/gen/status")]


def test_no_other_route_allows_another_origin(client):
    target = submit(client, by=ADMIN)

    for path in ("/", "/docs", "/status", "/health", "/nowhere", "/files", "/files/gen_1"):
        assert allowed(client, path) is None
    for path in ("/generations", f"/generations/{target}", f"/generations/{target}/events", "/usage"):
        assert allowed(client, path, **ADMIN) is None
        assert allowed(client, path) is None
    for path in ("/generate", "/generate-batch", "/configure", "/webhooks/replicate"):
        assert allowed(client, path, method="POST", **ADMIN) is None


def preflight(client, path, origin, *, method="POST", headers="Content-Type, X-API-Key"):
    """The headers of the answer that a browser gets before it sends a request with a key."""
    preflight = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": headers}
    with client.options(path, headers={"Origin": origin, **preflight}) as answer:
        assert 204 == answer.status_code
        return answer.headers


def test_a_preflight_request_of_a_page_that_is_not_named_is_not_allowed(client, kept):
    for path in ("/generate", "/usage"):
        assert ALLOW not in preflight(client, path, ORIGIN["Origin"])
    for path in ("/models", "/openapi.json", kept):
        assert "Access-Control-Allow-Headers" not in preflight(client, path, ORIGIN["Origin"])


@pytest.fixture
def named(make_app):
    """A client of a service that names two origins."""
    app = make_app(CORS_ORIGINS="https://tools.example, http://127.0.0.1:8080")
    return app.test_client()


@pytest.mark.parametrize("origin", ["https://tools.example", "http://127.0.0.1:8080"])
def test_a_named_page_may_use_every_route_with_a_token(named, origin):
    headers = preflight(
        named, "/generate", origin, headers="content-type, X-Admin-API-Key,x-replicate-api-key"
    )
    assert origin == headers[ALLOW]
    assert "OPTIONS, POST" == headers["Access-Control-Allow-Methods"]
    assert "content-type, x-replicate-api-key" == headers["Access-Control-Allow-Headers"]

    answer = named.post("/generate", json=PICTURE, headers={**USER, "Origin": origin})
    assert (200, origin) == (answer.status_code, answer.headers[ALLOW])
    assert "Origin" in answer.headers["Vary"]
    assert "Retry-After" in answer.headers["Access-Control-Expose-Headers"]
    assert "Access-Control-Allow-Credentials" not in answer.headers


def test_a_page_that_is_not_named_may_not_even_if_others_are(named):
    for origin in ("https://tools.example.org", "http://tools.example", "https://TOOLS.example", "null", ""):
        assert ALLOW not in preflight(named, "/generate", origin)
        answer = named.post("/generate", json=PICTURE, headers={**USER, "Origin": origin})
        assert (200, None) == (answer.status_code, answer.headers.get(ALLOW))
        assert "Origin" in answer.headers["Vary"]


def test_a_named_page_may_not_use_an_admin_key(named, simulator):
    page = {"Origin": "https://tools.example"}

    for headers in (ADMIN, {"X-API-Key": ADMIN_KEY}, {"Authorization": f"Bearer {ADMIN_KEY}"}):
        answer = named.post("/generate", json=PICTURE, headers=headers | page)
        problem(answer, 403, "forbidden")
        assert page["Origin"] == answer.headers[ALLOW]
    assert {} == dict(simulator.counts().requests)
    assert "budget_left_usd" not in named.get("/status", headers=ADMIN | page).json
    assert 200 == named.get("/usage", headers=ADMIN | ORIGIN).status_code


def test_the_pages_of_the_service_itself_may_use_an_admin_key(make_app):
    client = make_app(CORS_ORIGINS="http://localhost").test_client()

    assert 200 == client.get("/usage", headers={**ADMIN, "Origin": "http://localhost"}).status_code


@pytest.mark.parametrize(
    "value", ["*", "tools.example", "https://tools.example/", "https://a.example b.example"]
)
def test_origins_that_no_browser_sends_are_refused_at_start(value):
    with pytest.raises(SettingsError, match="CORS_ORIGINS"):
        Settings.from_env({"CORS_ORIGINS": value})
