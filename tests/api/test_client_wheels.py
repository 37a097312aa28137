"""`/client/`: the wheels of the Python client that fit the service."""

import re

import pytest

from service import VERSION

WHEEL = f"replicate_concurrent-{VERSION}-py3-none-any.whl"


@pytest.fixture
def dist(app, tmp_path):
    app.config["CLIENT_DIST"] = tmp_path
    for name in (
        WHEEL,
        "replicate_concurrent-0.0.1-py3-none-any.whl",
        f"replicate_concurrent-{VERSION}.tar.gz",
    ):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def test_the_page_links_to_the_wheel_of_the_old_library_too(client, dist):
    name = f"replicate_batch_process_compat-{VERSION}-py3-none-any.whl"
    (dist / name).write_bytes(b"compat")

    links = re.findall('<a href="([^"]+)"', client.get("/client/").text)
    assert [f"/client/{name}", f"/client/{WHEEL}"] == links
    assert b"compat" == client.get(links[0]).data


@pytest.mark.usefixtures("dist")
@pytest.mark.parametrize("path", ["/client", "/client/"])
def test_the_page_links_to_the_wheel_of_this_version_alone(client, path):
    answer = client.get(path)

    assert (200, "text/html") == (answer.status_code, answer.mimetype)
    [link] = re.findall('<a href="([^"]+)"', answer.text)
    assert f"/client/{WHEEL}" == link
    assert WHEEL.encode() == client.get(link).data


def test_links_are_below_the_public_path(make_app, tmp_path):
    app = make_app(PUBLIC_URL="https://example.org/gen")
    app.config["CLIENT_DIST"] = tmp_path
    (tmp_path / WHEEL).write_bytes(b"wheel")

    page = app.test_client().get("/gen/client/").text

    assert f'href="/gen/client/{WHEEL}"' in page
    assert "--find-links https://example.org/gen/client/" in page


@pytest.mark.usefixtures("dist")
@pytest.mark.parametrize("name", ["replicate_concurrent-0.0.1-py3-none-any.whl", "..%2Fapp.py", "app.py"])
def test_other_files_are_not_served(client, name):
    assert 404 == client.get(f"/client/{name}").status_code


def test_without_a_wheel_the_answer_names_the_command_that_builds_it(app, client, tmp_path):
    app.config["CLIENT_DIST"] = tmp_path / "missing"

    for path in ("/client", f"/client/{WHEEL}"):
        answer = client.get(path)
        assert (404, "not_found") == (answer.status_code, answer.json["code"])
        assert "make client" in answer.json["detail"]
