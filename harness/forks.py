"""Starts services as forks of one process that has imported the service (`harness/service_template.py`), on Linux.

Tests start hundreds of services. As a fork, a start takes a fifth of the processor time of a new Python, and the
service then runs the same `app.py`. Benchmarks start new Pythons, as operators do.
"""

import atexit
import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
from functools import cached_property
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Self

_ROOT = Path(__file__).parent.parent

_PR_SET_CHILD_SUBREAPER = 36

VARIABLE = "SERVICES_BY_FORK"
"""The environment variable that enables forks, if it is not empty."""


class Fork:
    """A forked process: the part of `subprocess.Popen` that callers use."""

    def __init__(self, pid: int, output: int) -> None:
        self.pid = pid
        self.stdout = os.fdopen(output)
        self.returncode: int | None = None
        self._lock = Lock()
        self._descriptor = os.pidfd_open(pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stdout.close()
        self.wait()
        os.close(self._descriptor)

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None if it runs."""
        with self._lock:
            if self.returncode is None:
                ended, status = os.waitpid(self.pid, os.WNOHANG)
                if ended:
                    self.returncode = os.waitstatus_to_exitcode(status)
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit status. Raises subprocess.TimeoutExpired after `timeout` seconds."""
        if self.returncode is None:
            end = select.poll()
            end.register(self._descriptor, select.POLLIN)
            end.poll(None if timeout is None else timeout * 1000)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired("app.py", timeout or 0)
        return status

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Template:
    """The process to fork. It starts with the first fork, and ends with this process. Any thread may fork."""

    def __init__(self) -> None:
        self._lock = Lock()

    @cached_property
    def _line(self) -> socket.socket:
        """The socket for requests. Its first use starts the process, so use it under the lock."""
        line, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        arguments = [str(end.fileno()), str(_ROOT / "app.py"), str(os.getpid())]
        process = subprocess.Popen(
            [sys.executable, "-m", "harness.service_template", *arguments],
            cwd=_ROOT,
            env={"PATH": os.environ["PATH"]},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[end.fileno()],
        )
        end.close()
        atexit.register(_end, process, line)
        return line

    def fork(self, environ: dict[str, str], directory: str, descriptors: int, errors: int) -> Fork:
        """A service; see `service_process.launched_service`. `errors` is the descriptor of its standard error."""
        request = {"environ": environ, "directory": directory, "descriptors": descriptors}
        output, writing = os.pipe()
        with self._lock:
            line = self._line
            _adopt_orphans(True)
            try:
                socket.send_fds(line, [json.dumps(request).encode()], [writing, errors])
                answer = line.recv(64)
            finally:
                _adopt_orphans(False)
        os.close(writing)
        assert answer, "the process to fork has ended"
        return Fork(int(answer), output)


TEMPLATE = Template()
"""The process to fork for all services of this process."""


def _end(process: "subprocess.Popen[bytes]", line: socket.socket) -> None:
    line.close()
    process.wait()


def _adopt_orphans(yes: bool) -> None:
    """Make each orphan among the descendants a child of this process, or no longer."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(yes), 0, 0, 0)


def is_enabled(command: list[str]) -> bool:
    """Whether a service with these arguments of Python starts as a fork. Otherwise it needs a new Python."""
    return bool(os.environ.get(VARIABLE)) and command == [str(_ROOT / "app.py")] and _has_pidfd()


def _has_pidfd() -> bool:
    """Whether a process can be waited for by a descriptor. Only Linux has these, and a sandbox may refuse them."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True
