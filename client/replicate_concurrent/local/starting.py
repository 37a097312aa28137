"""Starts a service as a process of its own, which outlives the script and its terminal, and waits until it serves."""

from __future__ import annotations

import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

from replicate_concurrent.errors import NoServer
from replicate_concurrent.local import probing, state
from replicate_concurrent.local.places import Place
from replicate_concurrent.local.settings import LocalSettings
from replicate_concurrent.local.state import State

IDLE_SECONDS = 600
"""Seconds without use after which the service ends, unless the script has another IDLE_EXIT_SECONDS."""

PATIENCE = 120.0
"""Seconds in which a service must serve. It takes one, on a busy machine some."""

_PAUSE = 0.05
_BACKLOG = 2048
_LARGE_LOG = 5_000_000
_TAIL = 2_000

_DETACH = """
import fcntl, os, sys
child = os.fork()
if child:
    print(child)
else:
    os.setsid()
    listener = int(sys.argv[1])
    for kept in map(int, sys.argv[2].split(",")):
        fcntl.fcntl(kept, fcntl.F_DUPFD, 10)  # out of the way of 3
    os.dup2(fcntl.fcntl(listener, fcntl.F_DUPFD, 10), 3)
    os.dup2(2, 1)
    program = [sys.executable, *sys.argv[3:]]
    os.execve(program[0], program, os.environ | {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"})
"""
"""Runs a program in a session of its own, so that no Ctrl-C reaches it, and as no child of the script, which then need
not wait for its end. The program has a listening socket as systemd passes one, and the other descriptors. This is a
program, too, since a fork is unsafe in a process with threads."""


def start(place: Place, settings: LocalSettings, tree: Path, lock: int) -> State:
    """Start a service that keeps the lock with this descriptor. Returns when it serves. Raises NoServer with the end of
    its log if it does not.

    Port and key are those of the last service here if possible, so that links to its outputs stay valid. The port is
    taken before anything is written or started, so no other program can have it."""
    last = state.read(place.state)
    if place.log.exists() and place.log.stat().st_size > _LARGE_LOG:
        place.log.replace(place.log.with_name(f"{place.log.name}.1"))
    began = place.log.stat().st_size if place.log.exists() else 0
    reading, writing = os.pipe()
    with os.fdopen(reading) as ends:
        with os.fdopen(writing) as kept, _listener(last) as listener:
            started = State(listener.getsockname()[1], last.key if last else secrets.token_urlsafe(32))
            state.write(place.state, started)
            fds = (listener.fileno(), lock, kept.fileno())
            pid = _launch(tree / "app.py", environment(place, settings, started), place, fds)
        state.write(place.state, started := replace(started, pid=pid))
        if _serves(started, pid, ends):
            return started
    raise NoServer(f"The local service did not start. Its log, {place.log}, ends:\n{_tail(place.log, began)}")


def _listener(last: State | None) -> socket.socket:
    """A listening socket with the last port, or with a free one if that is taken."""
    for port in (last.port if last else 0, 0):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
        else:
            return listener
    raise NoServer("No port of 127.0.0.1 is free.")


def _launch(program: Path, environ: Mapping[str, str], place: Place, fds: Sequence[int]) -> int:
    """Returns the number of the process, which has these descriptors; the first is its socket."""
    listener, *kept = fds
    command = [sys.executable, "-ISc", _DETACH, str(listener), ",".join(map(str, kept)), str(program)]
    with os.fdopen(os.open(place.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
        done = subprocess.run(  # noqa: S603 - our own program
            command, cwd=place.directory, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
            pass_fds=fds, check=True,
        )  # fmt: skip
    return int(done.stdout)


def environment(place: Place, settings: LocalSettings, starting: State) -> Mapping[str, str]:
    """The variables of the service."""
    return {
        "IDLE_EXIT_SECONDS": str(IDLE_SECONDS),
        **settings.environ,
        **{name: str(value) for name, value in settings.limits.items()},
        "REPLICATE_SIMULATE": "1" if settings.simulated else "0",
        "CONCURRENT_DOCKER_ADMIN_API_KEY": starting.key,
        "DATA_DIR": str(place.data),
        "HOST": "127.0.0.1",
        "PORT": str(starting.port),
        "LOG_FORMAT": "json",
    }


def _serves(started: State, pid: int, ends: IO[str]) -> bool:
    """Wait until it serves, or has ended. `ends` is a pipe whose other end all of its processes have. A service that
    does neither in time is killed."""
    deadline = time.monotonic() + PATIENCE
    while probing.figures(started) is None:
        if select.select([ends], [], [], _PAUSE)[0]:
            return False
        if time.monotonic() > deadline:
            os.killpg(pid, signal.SIGKILL)
            return False
    return True


def _tail(path: Path, began: int) -> str:
    """The last of what the log got since that byte."""
    with path.open("rb") as log:
        log.seek(max(began, log.seek(0, os.SEEK_END) - _TAIL))
        return log.read().decode(errors="replace").strip() or "(empty)"
