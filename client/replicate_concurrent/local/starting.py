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
from replicate_concurrent.local import asking, state
from replicate_concurrent.local.places import Place
from replicate_concurrent.local.state import State
from replicate_concurrent.local.wanted import Wanted

IDLE_SECONDS = 600
"""Seconds without use after which the service ends, unless the script has another IDLE_EXIT_SECONDS."""

PATIENCE = 120.0
"""Seconds in which a service must serve. It takes one, on a busy machine some."""

_PAUSE = 0.05
_APPENDING = os.O_WRONLY | os.O_CREAT | os.O_APPEND
_LARGE_LOG = 5_000_000
_TAIL = 2_000

_DETACH = """
import os, sys
child = os.fork()
if child:
    print(child)
else:
    os.setsid()
    os.dup2(2, 1)
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
"""Runs a program in a session of its own, so that no Ctrl-C reaches it, and as no child of the script, which then need
not wait for its end. It is a program, since a fork is unsafe in a process with threads."""


def start(place: Place, wanted: Wanted, tree: Path, lock: int) -> State:
    """Start a service that keeps the lock with this descriptor. Returns when it serves. Raises NoServer with the end of
    its log if it does not.

    Port and key are those of the last service here if possible, so that links to its outputs stay valid."""
    last = state.read(place.state)
    starting = State(_port(last), last.key if last else secrets.token_urlsafe(32))
    state.write(place.state, starting)
    if place.log.exists() and place.log.stat().st_size > _LARGE_LOG:
        place.log.replace(place.log.with_name(f"{place.log.name}.1"))
    reading, writing = os.pipe()
    with os.fdopen(reading) as ends:
        with os.fdopen(writing) as kept, os.fdopen(os.open(place.log, _APPENDING, 0o600), "ab") as log:
            began = log.tell()
            command = [sys.executable, "-ISc", _DETACH, str(tree / "app.py")]
            environ = environment(place, wanted, starting)
            pid = _launch(command, environ, place.directory, log.fileno(), (lock, kept.fileno()))
        state.write(place.state, started := replace(starting, pid=pid))
        if _serves(started, pid, ends):
            return started
    raise NoServer(f"The local service did not start. Its log, {place.log}, ends:\n{_tail(place.log, began)}")


def _launch(
    command: Sequence[str], environ: Mapping[str, str], directory: Path, log: int, kept: Sequence[int]
) -> int:
    """Returns the number of the process. It inherits the descriptors in `kept`."""
    done = subprocess.run(  # noqa: S603 - our own program
        command, cwd=directory, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
        pass_fds=kept, check=True,
    )  # fmt: skip
    return int(done.stdout)


def environment(place: Place, wanted: Wanted, starting: State) -> Mapping[str, str]:
    return {
        "IDLE_EXIT_SECONDS": str(IDLE_SECONDS),
        **wanted.environ,
        **{name: str(value) for name, value in wanted.limits.items()},
        "REPLICATE_SIMULATE": "1" if wanted.simulated else "0",
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
    while asking.figures(started) is None:
        if select.select([ends], [], [], _PAUSE)[0]:
            return False
        if time.monotonic() > deadline:
            os.killpg(pid, signal.SIGKILL)
            return False
    return True


def _port(last: State | None) -> int:
    """A free port: the last one if it is free."""
    for port in (last.port if last else 0, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found: int = probe.getsockname()[1]
            return found
    raise NoServer("No port of 127.0.0.1 is free.")


def _tail(path: Path, began: int) -> str:
    """The last of what the log got since that byte."""
    with path.open("rb") as log:
        log.seek(max(began, log.seek(0, os.SEEK_END) - _TAIL))
        return log.read().decode(errors="replace").strip() or "(nothing)"
