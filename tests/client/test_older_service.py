"""`rcg` at a service of version 0.8.0: an error names the cause, no request is paid for, and no file is written.

The answers are those of 0.8.0 itself. Its libraries are not installed here.
"""

import json

import pytest
from replicate_concurrent.cli import main
from werkzeug.wrappers import Request, Response

from tests.support.served_in_process import online

NO_ROUTE = {
    "title": "Not found",
    "status": 404,
    "code": "not_found",
    "detail": "No route has this URL; /docs lists them.",
}
NO_BEARER = {
    "title": "A valid key is required", "status": 401, "code": "unauthenticated",
    "detail": "Send X-Admin-API-Key, or X-Replicate-API-Key or `Authorization: Bearer` with a Replicate token.",
}  # fmt: skip
ROUTES_WITH_KEYS = ("/generate", "/generations", "/usage", "/configure")


@Request.application
def refuse(request):
    """Answers as 0.8.0, called with its admin key as `Authorization: Bearer`, which it does not take."""
    request.get_data()
    answer = NO_BEARER if request.path.startswith(ROUTES_WITH_KEYS) else NO_ROUTE
    return Response(json.dumps(answer), answer["status"], content_type="application/problem+json")


@pytest.fixture(scope="module")
def older():
    """The address of the service."""
    with online(refuse) as url:
        yield url


@pytest.mark.parametrize(
    "command",
    [
        "generate A -m flux-dev", "batch rows.txt -m flux-dev -o out", "models flux-dev", "keys list", "keys self",
        "list", "usage", "configure --concurrent-limit 3", "get gen_1", "watch gen_1", "watch trn_1",
        "list --trainings", "train rows.txt -d dog",
    ],
)  # fmt: skip
def test_an_older_service_is_named_as_the_cause(older, command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, value in (
        ("URL", older),
        ("API_KEY", "the-admin-key"),
        ("CONFIG", str(tmp_path / "none.toml")),
    ):
        monkeypatch.setenv(f"RCG_{name}", value)
    (tmp_path / "rows.txt").write_text("A fox\n")

    with pytest.raises(SystemExit) as end:
        main(command.split())

    output, errors = capsys.readouterr()
    assert (1, "") == (end.value.code, output)
    assert "The service may be older than this rcg (0." in errors
    assert 1 == errors.count("\n")
    assert ["rows.txt"] == [path.name for path in tmp_path.iterdir()]
