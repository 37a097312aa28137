"""`PUBLIC_URL` with a path: every link begins with the path, whether or not a reverse proxy strips it from requests."""

import re
from urllib.parse import urljoin, urlsplit

import pytest
import requests

from harness.service_process import free_port, running_service, until
from tests.support.api_client import ASYNC, PICTURE, ended, picture, submit
from tests.support.callers import ADMIN
from tests.support.served_in_process import online

PUBLIC = "https://example.org/gen"

RUNNING = picture("[[hang]]")
"""A request that is not over when it is answered."""


@pytest.fixture
def client(make_app):
    return make_app(PUBLIC_URL=PUBLIC).test_client()


def status(client, address):
    with client.get(address, headers=ADMIN) as answer:
        return answer.status_code


@pytest.mark.parametrize("given", [PUBLIC, f"{PUBLIC}/", f"{PUBLIC}//"])
@pytest.mark.parametrize(
    ("path", "body", "where"),
    [
        ("/generate", RUNNING, "generations/gen_"),
        ("/generate-batch", {"requests": [RUNNING]}, "batches/batch_"),
    ],
)
def test_location_headers_have_the_path(make_app, given, path, body, where):
    client = make_app(PUBLIC_URL=given).test_client()

    location = client.post(path, json=body, headers=ADMIN | ASYNC).headers["Location"]

    assert urljoin(PUBLIC + path, location).startswith(f"{PUBLIC}/{where}")
    assert 200 == status(client, location)


@pytest.mark.slow
def test_links_to_files_have_the_path(client):
    answer = client.post("/generate", json=PICTURE | {"prompt": "a fox"}, headers=ADMIN).json
    batch = client.post("/generate-batch", json={"requests": [PICTURE]}, headers=ADMIN).json

    for link in (*answer["files"], *batch["results"][0]["files"]):
        assert link.startswith(f"{PUBLIC}/files/gen_")
        assert 200 == status(client, urlsplit(link).path)
        assert 200 == status(client, link.removeprefix(PUBLIC))


@pytest.mark.parametrize("prefix", ["", "/gen"])
def test_routes_are_found_with_and_without_the_path(client, prefix):
    target = submit(client, by=ADMIN)

    for path in (
        "/health",
        "/status",
        "/models",
        "/openapi.json",
        "/docs",
        "/generations",
        f"/generations/{target}",
        "/usage",
    ):
        assert 200 == status(client, prefix + path)
    assert 200 == client.post(f"{prefix}/generate", json=PICTURE, headers=ADMIN).status_code
    assert 405 == client.get(f"{prefix}/generate").status_code
    assert 404 == client.get(f"{prefix}/nowhere").status_code
    assert 404 == client.get("/other/health").status_code


@pytest.mark.parametrize(
    "path", ["/files", "/docs", "/generate", "/generations", "/a/b", "/v1.0", "/my%20pictures"]
)
def test_links_and_routes_work_with_any_path(make_app, path):
    client = make_app(PUBLIC_URL=f"https://example.org{path}").test_client()

    accepted = client.post("/generate", json=PICTURE, headers=ADMIN | ASYNC)
    location = accepted.headers["Location"]
    result = ended(client, accepted.json["id"], by=ADMIN)
    link = result["files"][0]

    assert f"{path}/generations/{accepted.json['id']}" == location
    for address in (
        location,
        location.removeprefix(path),
        link,
        link.removeprefix(f"https://example.org{path}"),
    ):
        assert 200 == status(client, address)
    assert 200 == client.get(f"{path}/docs").status_code


@pytest.mark.parametrize("prefix", ["", "/gen"])
def test_error_types_are_links_with_the_path(client, prefix):
    for answer, code in (
        (client.post(f"{prefix}/generate", json={}, headers=ADMIN), "invalid_request"),
        (client.post(f"{prefix}/generate", json={}), "unauthenticated"),
        (client.get(f"{prefix}/generate"), "method_not_allowed"),
        (client.get(f"{prefix}/nowhere"), "not_found"),
    ):
        assert f"/gen/docs#{code}" == answer.json["type"]
    assert "/gen/docs" in client.get(f"{prefix}/nowhere").json["detail"]


@pytest.mark.parametrize("prefix", ["", "/gen"])
def test_the_docs_page_and_the_openapi_document_have_the_path(client, prefix):
    page = client.get(f"{prefix}/docs").get_data(as_text=True)

    links = re.findall(r'href="(/[^"]*)"', page)
    assert ["/gen/openapi.json", "/gen/models", "/gen/status"] == links
    assert 'const root = "/gen";' in page
    assert [] == re.findall(r"""fetch\(["'`]/""", page)
    assert [{"url": "/gen"}] == client.get(f"{prefix}/openapi.json").json["servers"]


@pytest.mark.parametrize("public", ["", "https://example.org", "https://example.org/"])
def test_a_public_url_without_a_path_prefixes_nothing(make_app, public):
    client = make_app(PUBLIC_URL=public).test_client()

    assert [{"url": "/"}] == client.get("/openapi.json").json["servers"]
    assert "/docs#not_found" == client.get("/gen/health").json["type"]
    assert (
        client.post("/generate", json=RUNNING, headers=ADMIN | ASYNC)
        .headers["Location"]
        .startswith("/generations/")
    )


def test_replicates_webhooks_arrive_under_the_path(make_app, simulator):
    port = free_port()
    app = make_app(REPLICATE_SIMULATE=1, PUBLIC_URL=f"http://127.0.0.1:{port}/gen")
    with online(app, port):
        client = app.test_client()
        client.post("/generate", json=PICTURE | {"prompt": "a fox"}, headers=ADMIN)

        (prediction,) = simulator.predictions()
        assert prediction.webhook.startswith(f"http://127.0.0.1:{port}/gen/webhooks/replicate?")
        until(lambda: simulator.counts().webhooks_delivered)


def test_the_error_type_for_a_malformed_http_request_has_the_path(simulator):
    with running_service(REPLICATE_BASE_URL=simulator.url, PUBLIC_URL=PUBLIC) as service:
        answer = requests.get(f"{service.url}/health", headers={"Bad Header": "1"}, timeout=30)

    assert (400, "/gen/docs#invalid_request") == (answer.status_code, answer.json()["type"])
