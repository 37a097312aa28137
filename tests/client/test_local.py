"""The local service: found, started once for all scripts of a user, and started again when it has ended."""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest
from replicate_concurrent import Client, local
from replicate_concurrent.config import Settings
from replicate_concurrent.errors import ConfigError, NoServer, Unauthenticated
from replicate_concurrent.local import caring, starting, state
from replicate_concurrent.local.finding import Local
from replicate_concurrent.local.installed import WAYS
from replicate_concurrent.local.places import place
from replicate_concurrent.local.settings import local_settings

from harness.service_process import until

CLIENT = Path(__file__).parents[2] / "client"
TOKEN = Settings(replicate_api_token="r8_own")
SCRIPT = """
import sys, time
from replicate_concurrent import config, local
print(local.find_or_start(config.Settings(replicate_api_token="r8_own")).url, flush=True)
sys.stdin.read()
"""
"""A script that stays until its stdin ends."""


@pytest.fixture
def environ(tmp_path, monkeypatch, simulator):
    """The variables of scripts whose Replicate is simulated, but not as they know it."""
    for name in [name for name in os.environ if name.startswith(("REPLICATE_", "RCG_"))]:
        monkeypatch.delenv(name)
    set_to = {
        "XDG_STATE_HOME": str(tmp_path),
        "REPLICATE_BASE_URL": simulator.url,
        "IDLE_EXIT_SECONDS": "120",  # ends what a failing test leaves
        "PYTHONPATH": str(CLIENT),
    }
    for name, value in set_to.items():
        monkeypatch.setenv(name, value)
    yield os.environ
    caring.stop(place(os.environ, simulated=False), seconds=30)


def script(**more):
    """A script in a session of its own, as from another terminal."""
    return subprocess.Popen(
        [sys.executable, "-W", "always", "-c", SCRIPT], env={**os.environ, **more}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


@pytest.mark.slow
def test_scripts_that_start_at_once_share_one_service_that_outlives_them(environ):
    scripts = [script() for _ in range(8)]
    urls = [each.stdout.readline().strip() for each in scripts]
    for each in scripts:
        os.killpg(each.pid, signal.SIGINT)
        each.communicate()

    where = place(environ, simulated=False)
    report = local.doctor(TOKEN)
    assert 1 == len(set(urls))
    assert ("running", urls[0], ()) == (report.service, report.url, report.problems)
    assert state.read(where.state).pid == report.pid
    assert 1 == where.log.read_text().count("Serving on")
    modes = [
        stat.S_IMODE(path.stat().st_mode) for path in (where.directory, where.state, where.lock, where.log)
    ]
    assert [0o700, 0o600, 0o600, 0o600] == modes


@pytest.mark.slow
def test_after_a_kill_the_next_call_starts_a_service_that_has_the_work_of_the_first_at_the_same_address(
    environ,
):
    with Client(replicate_api_token="r8_own") as client:
        first = client.generate("one", model="flux-dev")
        known = state.read(place(environ, simulated=False).state)
        os.killpg(known.pid, signal.SIGKILL)
        until(lambda: local.doctor(TOKEN).service == "stopped")
        second = client.generate("two", model="flux-dev")

    assert first.files[0].startswith(known.url)
    assert second.files[0].startswith(known.url)
    assert 200 == httpx.get(first.files[0], trust_env=False).status_code
    assert local.doctor(TOKEN).pid not in {None, known.pid}


@pytest.mark.slow
def test_a_gemini_key_alone_is_enough_for_texts(environ, monkeypatch, simulator):
    monkeypatch.setenv("GEMINI_BASE_URL", simulator.url)
    monkeypatch.setenv("GEMINI_API_KEY", "a-key-of-a-user")
    with Client() as client:
        assert client.chat("[[out=20]] [[first=0]] [[slow=0]]").response
        with pytest.raises(Unauthenticated):
            client.generate("A fox", model="flux-dev")


@pytest.mark.slow
def test_the_limits_of_the_first_script_hold_and_a_later_one_is_warned(environ, monkeypatch):
    monkeypatch.setenv("REPLICATE_GLOBAL_MAX_CONCURRENT", "7")
    first, other = map(local.find_or_start, (TOKEN, Settings(replicate_api_token="r8_other")))
    later = script(REPLICATE_GLOBAL_MAX_CONCURRENT="60", REPLICATE_CONCURRENT_LIMIT="30")
    _, said = later.communicate()

    assert "UserWarning: The local service has REPLICATE_CONCURRENT_LIMIT=7, not 30" in said
    assert 7 == local.doctor(TOKEN).figures["concurrency"]["concurrent_limit"]
    assert (first.url, "r8_own", "r8_other") == (
        other.url,
        first.key,
        other.key,
    )  # each pays for its own work


@pytest.mark.slow
def test_an_idle_service_ends_and_a_stopped_one_too(environ, monkeypatch):
    monkeypatch.setenv("IDLE_EXIT_SECONDS", "1")
    found = local.find_or_start(TOKEN)
    until(lambda: not found.is_current())
    monkeypatch.setenv("IDLE_EXIT_SECONDS", "120")
    again = local.find_or_start(TOKEN)

    assert local.stop().pid is not None
    assert not again.is_current()
    assert caring.Stopped(None) == local.stop()


@pytest.mark.slow
def test_a_start_that_fails_shows_the_end_of_the_log_and_leaves_the_lock_free(environ, monkeypatch):
    monkeypatch.setenv("REPLICATE_REQUESTS_PER_MINUTE", "70000")

    with pytest.raises(NoServer, match="REPLICATE_REQUESTS_PER_MINUTE: must be"):
        local.find_or_start(TOKEN)

    until(lambda: not state.is_held(place(environ, simulated=False).lock))


def test_without_a_token_nothing_is_started_and_the_error_names_the_command(environ):
    with pytest.raises(ConfigError, match="rcg init"):
        local.find_or_start(Settings())
    with pytest.raises(ConfigError, match="RCG_URL"):
        local.find_or_start(Settings(api_key="rcg_of_a_service"))

    assert not list(Path(environ["XDG_STATE_HOME"]).iterdir())
    assert ("There is no token of Replicate; `rcg init` asks for it.",) == local.doctor(Settings()).problems


def test_without_the_extra_the_error_names_three_ways_to_a_service(environ, monkeypatch):
    monkeypatch.setitem(sys.modules, "flask", None)

    with pytest.raises(NoServer) as refused:
        local.find_or_start(TOKEN)

    for way in ("flask cannot be imported", "RCG_URL", "pip install 'replicate-concurrent[serve]'", "Docker"):
        assert way in str(refused.value)
    assert ["flask" in reason for reason in local.doctor(TOKEN).problems] == [True]


def test_without_the_extra_and_a_token_the_error_names_the_ways_to_a_service_too(environ, monkeypatch):
    monkeypatch.setitem(sys.modules, "flask", None)

    with pytest.raises(NoServer) as refused:
        local.find_or_start(Settings())
    with pytest.raises(ConfigError) as useless:
        local.find_or_start(Settings(api_key="rcg_of_a_service"))

    for way in ("rcg init", "flask cannot be imported", WAYS):
        assert way in str(refused.value)
    assert (ConfigError, True) == (type(useless.value), WAYS in str(useless.value))


def test_on_windows_the_error_names_the_ways_to_a_service(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")

    with pytest.raises(NoServer, match="On Windows no script can start a service") as refused:
        local.find_or_start(TOKEN)

    assert WAYS in str(refused.value)


@pytest.mark.parametrize(
    ("environ", "limit"),
    [
        ({}, None),
        ({"REPLICATE_CONCURRENT_LIMIT": "20"}, 20),
        ({"REPLICATE_GLOBAL_MAX_CONCURRENT": "60"}, 60),
        ({"REPLICATE_GLOBAL_MAX_CONCURRENT": "60", "REPLICATE_CONCURRENT_LIMIT": "20"}, 20),
        ({"REPLICATE_GLOBAL_MAX_CONCURRENT": "5", "REPLICATE_CONCURRENT_LIMIT": " "}, 5),
    ],
)
def test_the_smaller_of_two_limits_counts(environ, limit):
    assert limit == local_settings(environ).limits.get("REPLICATE_CONCURRENT_LIMIT")


@pytest.mark.parametrize(
    "environ",
    [
        {"REPLICATE_GLOBAL_MAX_CONCURRENT": "many"},
        {"REPLICATE_CONCURRENT_LIMIT": "0"},
        {"RCG_SIMULATE": "yea"},
    ],
)
def test_a_variable_that_cannot_be_read_is_named(environ):
    with pytest.raises(ConfigError, match=f"^{next(iter(environ))}: must be"):
        local_settings(environ)


def test_variables_of_the_scripts_own_program_and_its_token_do_not_reach_the_service(tmp_path):
    script = {
        "DATABASE_URL": "postgresql://app",
        "PORT": "80",
        "HOST": "x",
        "REPLICATE_API_TOKEN": "r8_own",
        "LANG": "C",
    }

    got = starting.environment(place({}, simulated=False), local_settings(script), state.State(5001, "key"))

    assert ("5001", "127.0.0.1", "0", "C", "600") == tuple(
        got[each] for each in ("PORT", "HOST", "REPLICATE_SIMULATE", "LANG", "IDLE_EXIT_SECONDS")
    )
    assert not {"DATABASE_URL", "REPLICATE_API_TOKEN"} & got.keys()


def test_only_a_service_that_is_not_simulated_has_the_address_of_replicate_from_the_script():
    address = {"REPLICATE_BASE_URL": "https://egress.example/replicate"}

    assert address.items() <= local_settings(address).environ.items()
    assert {} == local_settings(address | {"RCG_SIMULATE": "1"}).environ


def test_the_simulated_service_has_a_place_of_its_own():
    simulated, real = (Local.of({"RCG_SIMULATE": said, "XDG_STATE_HOME": "/s"}).place for said in ("1", "0"))

    assert ("/s/rcg/simulator", "/s/rcg/service") == (str(simulated.directory), str(real.directory))


class _Impostor(BaseHTTPRequestHandler):
    """Another program at the port, which would agree to anything."""

    def do_GET(self):
        self.server.asked.append(self.headers["X-Admin-API-Key"])
        body = json.dumps({"service": "replicate-concurrent-generation", "configured_limits": {}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def impostor():
    with HTTPServer(("127.0.0.1", 0), _Impostor) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_program_that_has_got_the_port_of_a_dead_service_is_not_even_asked(environ, impostor):
    where = place(environ, simulated=False)
    where.make()
    where.lock.touch()
    state.write(where.state, state.State(impostor.server_port, "key", pid=os.getpid()))

    assert Local.of(environ).find() is None
    assert [] == impostor.asked
    with state.lock(where.lock):  # it has been started again, and the file is its own
        assert Local.of(environ).find() is not None
