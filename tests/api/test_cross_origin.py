"""Cross-origin requests: only files, the models and the OpenAPI document allow other origins."""

import pytest

from tests.support.api_client import submit
from tests.support.callers import ADMIN, PICTURE

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


def test_a_preflight_request_is_refused(client, kept):
    for path in ("/generate", "/models", "/openapi.json", kept):
        asks = {"Access-Control-Request-Method": "POST"}
        with client.open(path, method="OPTIONS", headers={**ORIGIN, **asks}) as answer:
            assert (405, None) == (answer.status_code, answer.headers.get(ALLOW))
