"""Errors and warnings of a start, apart from single settings, and the garbage collector at the fork."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

import service
from service import VERSION
from settings import Settings, SettingsError, load
from telemetry import startup

ROOT = Path(__file__).parents[2]


def _settings(**given: object) -> Settings:
    return Settings.from_env({name: str(value) for name, value in given.items()})


def _command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "app.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_data_dir_that_cannot_be_a_directory_ends_the_start_with_its_path(tmp_path, below):
    file = tmp_path / "file"
    file.write_text("")

    with pytest.raises(SettingsError, match=f"^DATA_DIR: {file / below} cannot be a directory"):
        service.check(_settings(DATA_DIR=file / below))


def test_a_data_dir_in_a_container_is_warned_of_unless_it_is_on_a_volume(tmp_path, monkeypatch):
    mark = tmp_path / "mark"
    mark.write_text("")
    monkeypatch.setattr(startup, "_CONTAINER_MARKS", (str(mark),))
    for is_mount in (False, True):
        monkeypatch.setattr(Path, "is_mount", lambda path, is_mount=is_mount: is_mount and path == tmp_path)
        with capture_logs() as logs:
            startup.warn(_settings(DATA_DIR=tmp_path / "data"))

        assert is_mount is ("data_dir_not_a_volume" not in [each["event"] for each in logs])


def test_a_weak_admin_key_and_unknown_variables_are_warned_of_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FILE_TTL", "1")
    settings = load(CONCURRENT_DOCKER_ADMIN_API_KEY="short")

    with capture_logs() as logs:
        startup.warn(settings)

    said = {each["event"]: each for each in logs}
    assert "admin_key_weak" in said
    assert ("FILE_TTL", "FILES_TTL") == (said["setting_unknown"]["name"], said["setting_unknown"]["nearest"])
    assert "short" not in [value for each in logs for value in each.values()]


@pytest.mark.parametrize(
    ("environ", "entries"),
    [
        ({"HTTPS_PROXY": "http://proxy.corp"}, [2, 4]),
        ({"HTTPS_PROXY": "http://proxy.corp", "NO_PROXY": "a.com, 10.0.0.0/8"}, None),
        ({}, None),
    ],
)
def test_entries_of_no_proxy_that_cannot_be_read_are_warned_of_by_number(environ, entries):
    with capture_logs() as logs:
        startup.warn(_settings(**{"NO_PROXY": "a.com, http://b.com 10.0.0.0/8,c.com:x"} | environ))

    assert entries == next(
        (each["entries"] for each in logs if each["event"] == "no_proxy_entries_ignored"), None
    )


@pytest.mark.slow
def test_the_command_prints_its_version_and_its_options():
    assert f"{VERSION}\n" == _command("--version").stdout
    assert all(option in _command("--help").stdout for option in ("--port", "--version"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--prot", "5001"), "unrecognized"),
        (("--por", "5001"), "unrecognized"),
        (("--simulate",), "unrecognized"),
        (("--port", "x"), "PORT: must be a whole number"),
        (("5001",), "5001"),
    ],
)
def test_an_unknown_option_or_a_wrong_port_ends_the_start(arguments, said):
    ended = _command(*arguments)

    assert 2 == ended.returncode
    assert said in ended.stderr


_FORK = f"""
import gc, json, runpy
gc.disable()
runpy.run_path("{ROOT}/gunicorn.conf.py")["pre_fork"](None, None)
print(json.dumps([gc.isenabled(), gc.get_count()[0] < 1000 < gc.get_freeze_count()]))
"""


_REFUSED = f"""
import resource, runpy
def refuse(*_):
    raise ValueError("current limit exceeds maximum limit")
resource.getrlimit, resource.setrlimit = lambda _: (256, resource.RLIM_INFINITY), refuse
runpy.run_path("{ROOT}/gunicorn.conf.py")["on_starting"](None)
"""


def test_a_system_that_refuses_more_files_gets_a_warning_and_the_start_goes_on(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", _REFUSED],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "LOG_FORMAT": "json"},
        capture_output=True,
        text=True,
        check=True,
    )

    said = json.loads((done.stdout + done.stderr).splitlines()[0])  # the second line has the earlier name
    assert ("file_descriptor_limit_low", 256) == (said["event"], said["most"])


def test_the_worker_collects_garbage_but_not_the_objects_that_were_made_before_the_fork(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", _FORK],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
    )

    assert [True, True] == json.loads(done.stdout)
