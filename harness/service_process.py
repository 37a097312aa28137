"""The service as a process, as `make run` starts it, and callers as plain sockets."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from harness import forks
from harness.forks import Fork

ROOT = Path(__file__).parent.parent

_LAUNCH = """
import ctypes, os, resource, signal, sys
descriptors, *command = sys.argv[1:]
if int(descriptors):
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(descriptors),) * 2)
if sys.platform == "linux":
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGQUIT)
os.execv(sys.executable, [sys.executable, *command])
"""
"""Sets the limit of open files (0 for no change), asks the kernel to end the process with its parent, and becomes the
command. It is a program, since a `preexec_fn` is unsafe in a process with threads."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until(condition: Callable[[], object], *, timeout: float = 60) -> None:
    """Wait until `condition()` is true. `timeout` is in seconds and only bounds a failing test."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("the condition did not become true")
        time.sleep(0.01)


class ServiceProcess:
    """A running service process."""

    def __init__(self, process: subprocess.Popen[str] | Fork, port: int) -> None:
        self.process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def connect(self, path: str, body: object = None, **headers: str) -> socket.socket:
        """Send a request. The response can be read from the returned socket."""
        payload = json.dumps(body).encode() if body is not None else b""
        method = "GET" if body is None else "POST"
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(payload)}"]
        lines += ["Content-Type: application/json", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        caller = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        caller.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + payload)
        return caller

    def worker(self) -> int:
        """The process id of gunicorn's worker, once there is exactly one."""
        until(lambda: len(self.workers()) == 1)
        return self.workers()[0]

    def workers(self) -> list[int]:
        """The process ids of the workers that run now."""
        try:
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        except FileNotFoundError:  # it has ended
            return []
        return [int(each) for each in children.split()]

    def is_serving(self, *, within: float) -> bool:
        """Whether it serves within so many seconds."""
        assert self.process.stdout is not None
        deadline, output = time.monotonic() + within, b""
        while select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
            output += (chunk := os.read(self.process.stdout.fileno(), 65536))
            if b"Serving on" in output:
                return True
            assert chunk, f"it ended with {self.process.wait()} before it served"
        return False

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """Kill master and worker at once, as the kernel does when memory runs out."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        until(lambda: not _is_alive(self.process.pid))

    def ended(self) -> int:
        """Wait for its end. Returns its exit status."""
        return self.process.wait(timeout=60)


def read_response(caller: socket.socket) -> tuple[int, Any]:
    """The status and the JSON of the response, read to the end of the connection."""
    with caller:
        received = b""
        while chunk := caller.recv(65536):
            received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


@contextmanager
def running_service(**settings: Any) -> Iterator[ServiceProcess]:
    """A service that serves; see `launched_service`."""
    with launched_service(**settings) as service:
        assert service.is_serving(within=60)
        yield service


@contextmanager
def launched_service(
    *,
    _descriptors: int = 0,
    _command: Sequence[str] = (str(ROOT / "app.py"),),
    _log: Path | None = None,
    **settings: object,
) -> Iterator[ServiceProcess]:
    """A service that has just been started, and is ended with the block. `_descriptors` limits its open files;
    `_command` replaces the arguments of Python; `_log` is a file to which its log is appended. With PostgreSQL it also
    has the settings that a start then needs, unless they are in `settings`.

    On Linux it also ends with this process or the thread that started it, however these end. If the environment enables
    forks, it is a fork of a process that has imported it, and ends with this process; see `harness.forks`.
    """
    port = free_port()
    environ = {"PATH": os.environ["PATH"], "PORT": str(port), "LOG_LEVEL": "error"}
    if str(settings.get("DATABASE_URL", "")).startswith("postgres"):
        environ |= {"FILES_SHARED": "1", "PUBLIC_URL": f"http://127.0.0.1:{port}"}
    environ |= {name: str(value) for name, value in settings.items()}
    folder = TemporaryDirectory()  # without an .env
    with (_log or Path(os.devnull)).open("ab") as log:
        process = _started([*_command], environ, folder.name, _descriptors, log)
    with folder, process:
        try:
            yield ServiceProcess(process, port)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGQUIT)
                try:
                    process.wait(timeout=15)
                except subprocess.TimeoutExpired:
                    process.kill()


def _started(
    command: list[str], environ: dict[str, str], directory: str, descriptors: int, errors: IO[bytes]
) -> subprocess.Popen[str] | Fork:
    """A process that leads a group, so that all of it can be killed at once."""
    if forks.is_enabled(command):
        return forks.TEMPLATE.fork(environ, directory, descriptors, errors.fileno())
    return subprocess.Popen(
        [sys.executable, "-ISc", _LAUNCH, str(descriptors), *command],
        env=environ,
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        process_group=0,
    )


def _is_alive(group: int) -> bool:
    """Whether a process of the group runs. Zombies do not count."""
    for process in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, process_group_id = process.read_text().rpartition(") ")[2].split()[:3]
            if int(process_group_id) == group and state != "Z":
                return True
    return False
