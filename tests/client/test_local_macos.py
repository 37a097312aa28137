"""The local service on macOS, which no test runs on: its files, the name of the machine, and a start without what only
Linux has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from replicate_concurrent import config
from replicate_concurrent.local import caring, probing, state
from replicate_concurrent.local.finding import Local
from replicate_concurrent.local.places import Place, place
from replicate_concurrent.local.settings import local_settings
from replicate_concurrent.local.state import State

CLIENT = Path(__file__).parents[2] / "client"

MACOS = """
import os, select, signal, socket, sys, sysconfig, types
sysconfig.get_config_vars()  # those of this build, which are found by the platform
sys.platform = "darwin"
sys.modules["_scproxy"] = types.SimpleNamespace(_get_proxy_settings=dict, _get_proxies=dict)
ABSENT = {
    select: "epoll",
    os: "sched_getaffinity sched_setaffinity pidfd_open eventfd memfd_create pipe2 splice copy_file_range fdatasync",
    signal: "pidfd_send_signal sigtimedwait sigwaitinfo SIGPWR",
    socket: "SO_PEERCRED SO_BINDTODEVICE SOCK_CLOEXEC SOCK_NONBLOCK TCP_USER_TIMEOUT TCP_QUICKACK TCP_KEEPIDLE",
}
for module, names in ABSENT.items():
    for name in names.split():
        vars(module).pop(name, None)
"""
"""Takes from a Python on Linux what that on macOS lacks, in each process that has it as its `sitecustomize`."""

SCRIPT = """
import sys
from replicate_concurrent import Client, local
with Client() as client:
    print(client.generate("A red fox", model="flux-dev").raw["simulated"], sys.platform)
print(local.stop().killed)
"""


def test_the_files_are_where_macos_keeps_them(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setenv("HOME", str(tmp_path))
    kept = tmp_path / "Library" / "Application Support" / "rcg"

    assert kept / "service" == place({}, simulated=False).directory
    assert kept / "config.toml" == config.path_of({})


@pytest.mark.parametrize(("answers", "pid"), [(True, 7), (False, None)])
def test_a_service_that_answers_is_here_also_when_the_machine_has_got_another_name(
    answers, pid, tmp_path, monkeypatch
):
    figures = {"version": "1", "concurrency": {}} if answers else None
    monkeypatch.setattr(probing, "figures", lambda _: figures)
    here = Place(tmp_path)
    state.write(here.state, State(1, "key", pid=7, host="mac.in-another-network"))

    with state.lock(here.lock):
        found = caring.doctor(Local(here, local_settings({})), has_token=True)

    assert pid == found.pid


@pytest.mark.slow
def test_a_service_starts_works_and_ends_without_what_only_linux_has(tmp_path):
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "sitecustomize.py").write_text(MACOS)
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PYTHONPATH": f"{modules}:{CLIENT}",
        "RCG_SIMULATE": "1",
        "IDLE_EXIT_SECONDS": "120",  # ends what a failing test leaves
    }

    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, env=environ, text=True, capture_output=True, check=False
    )

    assert ("True darwin False", "") == (" ".join(done.stdout.split()), done.stderr)
    log = tmp_path / "Library" / "Application Support" / "rcg" / "simulator" / "service.log"
    assert "Traceback" not in log.read_text()
