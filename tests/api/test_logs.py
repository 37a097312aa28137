"""The log: one JSON object per line, with the request's id, and never a token or key."""

import ast
import json
import logging
import os
import sys
from contextlib import suppress

import pytest
import structlog

from harness.service_process import until
from telemetry.logs import OLD_NAMES
from tests.support.callers import ADMIN, ADMIN_KEY, PICTURE, SERVER_TOKEN, USER, USER_TOKEN
from tests.unit.test_layout import SERVICE


@pytest.fixture
def logged(make_app, capfd):
    """Makes a service that logs JSON, and what it logged so far."""

    def make(**settings):
        app = make_app(**({"LOG_FORMAT": "json", "LOG_LEVEL": "info"} | settings))

        def seen():
            return [json.loads(line) for line in capfd.readouterr().err.splitlines()]

        return app, seen

    yield make
    logging.getLogger().handlers.clear()  # their stream ends with this test


def of(events, name):
    return [each for each in events if each["event"] == name]


def test_a_request_is_one_line_with_its_id_caller_and_outcome(logged):
    app, seen = logged()
    client = app.test_client()

    client.post("/generate", json=PICTURE, headers=USER | {"X-Request-ID": "mine"})

    events = seen()
    (line,) = of(events, "request")
    assert ("mine", "POST", "/generate", 200) == tuple(
        line[k] for k in ("request", "method", "path", "status")
    )
    assert line["caller"].startswith("user_")
    assert {"timestamp", "level", "logger", "seconds"} < set(line)
    (ended,) = of(events, "generation_ended")
    assert ("mine", "succeeded") == (ended["request"], ended["state"])


def test_requests_for_health_and_status_are_not_logged_at_level_info(logged):
    app, seen = logged()

    for path in ("/health", "/health/live", "/health/ready", "/status"):
        app.test_client().get(path)

    assert [] == of(seen(), "request")


def test_a_crash_is_one_line_with_its_traceback_and_request_id(logged):
    app, seen = logged(LOG_LEVEL="error")
    app.extensions["service"], real = object(), app.extensions["service"]

    app.test_client().get("/status", headers={"X-Request-ID": "mine"})
    app.extensions["service"] = real

    (line,) = seen()
    assert ("request_crashed", "mine", "error") == (line["event"], line["request"], line["level"])
    assert "AttributeError" in line["exception"]


def test_a_ledger_that_cannot_be_opened_is_logged(logged, tmp_path):
    (tmp_path / "a file").write_text("")

    _, seen = logged(DATA_DIR=tmp_path / "a file")

    assert of(seen(), "ledger_down")


def test_only_a_response_of_500_is_logged_as_an_error(logged, tmp_path):
    app, seen = logged(LOG_LEVEL="debug")
    client, service = app.test_client(), app.extensions["service"]
    seen()
    client.post("/generate", json=PICTURE | {"prompt": "[[fail]]"}, headers=USER)
    client.post("/generate", json=PICTURE | {"prompt": "[[nsfw]]"}, headers=USER)
    client.get("/health")
    service.ledger.trouble = "It is gone."
    client.get("/health")
    service.begin_drain(0)
    client.get("/health")

    lines = [(each["path"], each["status"], each["level"]) for each in of(seen(), "request")]
    assert [
        ("/generate", 500, "error"),
        ("/generate", 422, "info"),
        ("/health", 200, "debug"),
        ("/health", 500, "error"),
        ("/health", 503, "debug"),
    ] == lines


def test_the_end_of_a_generation_names_its_caller_and_its_cost(logged):
    app, seen = logged()
    client = app.test_client()

    paid, unpaid = (
        client.post("/generate", json=PICTURE | {"prompt": prompt}, headers=USER).json["id"]
        for prompt in ("a", "[[fail]]")
    )

    events = seen()
    ends = {each["generation"]: (each["cost_usd"], each["caller"]) for each in of(events, "generation_ended")}
    caller = of(events, "request")[0]["caller"]
    assert {paid: (0.025, caller), unpaid: (0.0, caller)} == ends


def test_the_end_of_suspended_work_is_logged_like_any_other(logged, make_app):
    app, _ = logged()
    client = app.test_client()
    later = USER | {"Prefer": "respond-async"}
    target = client.post("/generate", json=PICTURE | {"prompt": "[[hang]]"}, headers=later).json["id"]
    until(lambda: client.get(f"/generations/{target}", headers=USER).json["status"] == "running")
    app.extensions["service"].close()

    app, seen = logged()
    app.test_client().delete(f"/generations/{target}", headers=ADMIN)

    (end,) = of(seen(), "generation_ended")
    assert (target, "canceled", 0.025) == (end["generation"], end["state"], end["cost_usd"])
    assert end["caller"].startswith("user_")


def test_a_change_of_the_limits_is_logged_with_its_caller(logged):
    app, seen = logged()

    app.test_client().post("/configure", json={"concurrent_limit": 3}, headers=ADMIN)
    app.test_client().post("/configure", json={"concurrent_limit": 4}, headers=USER)

    (changed,) = of(events := seen(), "configured")
    assert ("admin", "127.0.0.1", 3) == (changed["caller"], changed["peer"], changed["concurrent_limit"])
    assert "admin" == of(events, "request")[0]["caller"]


@pytest.mark.parametrize("path", ["/a\nb", "/\x1b[31m", '/"}', "/\xff", "/\xe2\x80\xa8"])
def test_no_path_breaks_a_line_in_two(logged, path):
    app, seen = logged()
    seen()  # of the start

    app.test_client().open(environ_overrides={"PATH_INFO": path})

    (line,) = seen()
    assert "request" == line["event"]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["json", "console"])
def test_no_token_or_key_is_logged_even_for_failures_at_level_debug(make_app, simulator, capfd, form):
    app = make_app(LOG_LEVEL="debug", LOG_FORMAT=form)
    client = app.test_client()
    wrong = {"X-Admin-API-Key": "wrong-key"}
    simulator.inject(on="create", times=1, status=503, headers={"Retry-After": "0"})
    for headers in (ADMIN, USER, wrong, {"X-Replicate-API-Key": "wrong,key"}):
        client.post("/generate", json=PICTURE, headers=headers)
        client.post("/generate", json=PICTURE | {"prompt": "[[fail]]"}, headers=headers)
        client.post("/generate-batch", json={"requests": [PICTURE, PICTURE]}, headers=headers)
        client.post("/configure", json={"concurrent_limit": 3}, headers=headers)
    for account in ({"reject": True}, {"credit": "empty"}):
        simulator.account(USER_TOKEN, **account)
        client.post("/generate", json=PICTURE, headers=USER)
    real, app.extensions["service"] = app.extensions["service"], object()
    client.post("/generate", json=PICTURE, headers=ADMIN | USER)
    app.extensions["service"] = real

    text = capfd.readouterr().err

    assert "request_crashed" in text
    secrets = (ADMIN_KEY, SERVER_TOKEN, USER_TOKEN, "wrong-key", "wrong,key", "Bearer")
    assert [] == [secret for secret in secrets if secret in text]


def test_traces_on_a_console_never_show_locals(logged, capfd):
    logged(LOG_FORMAT="console")
    capfd.readouterr()

    def fail(token):
        raise RuntimeError

    try:
        fail("r8_secret")
    except RuntimeError:
        structlog.get_logger("http").exception("request_crashed")

    printed = capfd.readouterr().err
    assert "RuntimeError" in printed
    assert "r8_secret" not in printed.replace('fail("r8_secret")', "")


@pytest.mark.parametrize("trouble", ["full", "closed", "unread"])
def test_work_continues_if_its_log_cannot_be_written(logged, monkeypatch, trouble):
    reader, writer = os.pipe()
    os.close(reader)
    if trouble != "unread":
        os.close(writer)
        writer = os.open("/dev/full" if trouble == "full" else os.devnull, os.O_WRONLY)
    stderr = os.fdopen(writer, "w")
    monkeypatch.setattr(sys, "stderr", stderr)
    app, _ = logged()
    if trouble == "closed":
        stderr.close()

    made = app.test_client().post("/generate", json=PICTURE, headers=USER)
    structlog.get_logger("ledger").error("ledger_down", reason="gone")

    with suppress(OSError):  # flushes the rest of its buffer
        stderr.close()
    assert (200, "succeeded") == (made.status_code, made.json["status"])


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_renamed_event_has_a_line_under_each_name_with_the_same_fields(logged, capfd, form):
    logged(LOG_FORMAT=form)
    capfd.readouterr()

    structlog.get_logger("ledger").warning("ledger_recovered", seconds=3)
    structlog.get_logger("ledger").warning("ledger_down", reason="gone")

    lines = capfd.readouterr().err.splitlines()
    assert ["ledger_recovered", "ledger_up", "ledger_down"] == [
        name for line in lines for name in ("ledger_recovered", "ledger_up", "ledger_down") if name in line
    ]
    assert 2 == len([line for line in lines if "seconds" in line])


def test_each_renamed_event_is_logged_somewhere_in_the_code():
    named = {
        node.value
        for path in SERVICE
        if path.name != "logs.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }

    assert set() == OLD_NAMES.keys() - named
    assert set() == set(OLD_NAMES.values()) & named
