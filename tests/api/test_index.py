"""`GET /`: JSON for programs, the page for browsers."""

import pytest

from service import NAME, VERSION

FIREFOX = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
CHROME = (
    FIREFOX.replace("*/*", "image/avif,image/webp,image/apng,*/*") + ",application/signed-exchange;v=b3;q=0.7"
)


@pytest.mark.parametrize(
    "accept",
    [None, "", "*/*", "application/json", "application/*", "application/json, text/plain, */*", "text/plain",
     "nonsense", "application/json, text/html;q=0.9", "text/html;q=0.5, */*", "text/html;q=0, */*"],
)  # fmt: skip
def test_a_program_gets_the_name_the_version_and_links(client, accept):
    answer = client.get("/", headers={} if accept is None else {"Accept": accept})

    assert (200, "application/json") == (answer.status_code, answer.content_type)
    assert (NAME, VERSION) == (answer.json["name"], answer.json["version"])
    assert ["docs", "openapi", "models", "status", "health"] == list(answer.json["links"])
    for link in answer.json["links"].values():
        assert link.startswith("http://localhost/")
        assert 200 == client.get(link).status_code


@pytest.mark.parametrize(
    "accept", [FIREFOX, CHROME, "text/html", "TEXT/HTML", "text/*", "text/html, application/json;q=0.5"]
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_browser_is_redirected_to_the_page(client, method, accept):
    answer = client.open("/", method=method, headers={"Accept": accept})

    assert (302, "/docs", b"") == (answer.status_code, answer.headers["Location"], answer.data)
    assert "Content-Type" not in answer.headers
    assert "text/html" == client.get(answer.headers["Location"]).mimetype


@pytest.mark.parametrize("path", ["/", "/gen", "/gen/"])
def test_links_include_the_public_path(make_app, path):
    client = make_app(PUBLIC_URL="https://example.org/gen").test_client()

    assert "https://example.org/gen/docs" == client.get(path).json["links"]["docs"]
    answer = client.get(path, headers={"Accept": FIREFOX})
    assert (302, "/gen/docs") == (answer.status_code, answer.headers["Location"])
