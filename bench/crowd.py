"""The cost of greedy callers to other callers: silent connections, large bodies, slow readers, one caller with 300
calls, and callers with invented tokens.

All of them at once, beside five callers that request a few pictures each and fetch them. Takes a minute and a half.
"""

import json
import os
import resource
import secrets
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from bench.processes import peak_megabytes, predictions, resident_megabytes, service_before, simulated
from bench.report import Claim, Section, claimed, counted
from harness.service_process import ROOT, ServiceProcess, until
from settings import Settings

_SECONDS = 20.0
_SLOTS = 12
_CALLERS = 5
_CALLS = 12
"""Open calls of each real caller."""

_GREEDY = "r8_greedy"  # a valid token
_GREEDY_CALLS = 300
_INVENTING = 20
"""Connections that each send one call after another, with a token that Replicate refuses."""

_BODIES = 100
_BODY_BYTES = 16_000_000
_READERS = 80
_FILE_BYTES = 50_000_000
_THREADS = Settings.from_env({}).threads
"""The service's default. It accepts twice as many connections."""

_NOTE = f"""\
The crowd is {_BODIES} connections that each send bodies of {_BODY_BYTES // 10**6} MB again and again (8 million
values; one long text; a batch of 10,000), {_READERS} readers of a file of {_FILE_BYTES // 10**6} MB that take
1 kB/s, {_INVENTING} connections that call with an invented token again and again, and one caller with
{_GREEDY_CALLS} calls of `POST /generate` open. All of it comes from one address. Beside it {_CALLERS} callers, each
from an address of its own, have {_CALLS} calls open each, and fetch the outputs. Predictions take 1 s at {_SLOTS}
slots. An equal turn is a {_CALLERS + 1}th of all predictions that the simulator counted in {_SECONDS:g} s. The load
shares the machine with the service."""


def crowd() -> Section:
    """Silent connections, then the crowd, then waiting callers."""
    _allow_descriptors()
    return claimed("A crowd", _claims(), note=_NOTE)


def _claims() -> Iterator[Claim]:
    yield from silent()
    yield from greedy()
    yield from waiting()


def silent() -> Iterator[Claim]:
    """Connections without a request, 1.2 times as many as the server accepts, and a trickling one for each thread."""
    number = round(1.2 * 2 * _THREADS)
    with simulated() as simulator, service_before(simulator) as service, ExitStack() as stack:
        for _ in range(number):
            stack.enter_context(_connected(service.port))
        trickling = [stack.enter_context(_connected(service.port)) for _ in range(_THREADS)]
        with _repeated(partial(_trickle, trickling)):
            took = _health(service, seconds=10)
    p99 = statistics.quantiles(took, n=100)[98]
    what = f"{number} silent connections and {_THREADS} that trickle: /health at p99"
    yield Claim(what, f"{p99 * 1000:.0f} ms", "≤ 1000 ms", p99 <= 1)


def greedy() -> Iterator[Claim]:
    """The crowd, and five callers beside it."""
    answers = Counter[int]()
    with TemporaryDirectory() as data, simulated("--seconds", "1", "--jitter", "0") as simulator:
        path = _stored_file(Path(data), _FILE_BYTES)
        settings = {"DATA_DIR": data, "REPLICATE_CONCURRENT_LIMIT": _SLOTS}
        with service_before(simulator, **settings) as service, ExitStack() as stack:
            stack.enter_context(_greedy_beside(service, path))
            for number in range(_CALLERS):
                session = _session_from(f"127.0.0.{10 + number}")
                call = partial(_generate, session, service.url, f"r8_real{number}", answers)
                for _ in range(_CALLS):
                    stack.enter_context(_repeated(call))
            time.sleep(3)
            before = _made(simulator)
            took = _health(service, seconds=_SECONDS)
            made, statuses = _made(simulator) - before, answers.copy()
            memory = peak_megabytes(service.process.pid)
    p99 = statistics.quantiles(took, n=100)[98]
    refused = statuses.total() - statuses[200]
    least = min(made[_prompt(f"r8_real{number}")] for number in range(_CALLERS))
    share = least / (made.total() / (_CALLERS + 1))
    yield Claim(
        f"the crowd: /health at p99 (p50 {statistics.median(took) * 1000:.0f} ms)",
        f"{p99 * 1000:.0f} ms", "≤ 100 ms", p99 <= 0.1,
    )  # fmt: skip
    yield counted(f"… of {statuses.total()} answers to real callers, not 200", refused)
    yield Claim("… the least that one of them got of an equal turn", f"{share:.2f}", "≥ 0.95", share >= 0.95)
    yield Claim("… peak memory of the service", f"{memory:.0f} MB", "≤ 450 MB", memory <= 450)


def waiting() -> Iterator[Claim]:
    """The memory of 256 and of 1,000 waiting callers."""
    with (
        simulated("--seconds", "600") as simulator,
        service_before(simulator, REPLICATE_CONCURRENT_LIMIT=10) as service,
        ExitStack() as stack,
    ):
        body = {"model_name": "flux-dev", "prompt": "a long wait"}
        memory = {0: resident_megabytes(service)}
        for number in (256, 1000):
            for index in range(max(memory), number):
                token = {"X-Replicate-API-Key": f"r8_caller{index % 4}"}
                stack.enter_context(service.connect("/generate", body, **token))
            until(partial(_are_waiting, service, number))
            memory[number] = resident_megabytes(service)
    for number in (256, 1000):
        yield Claim(
            f"{number} callers waiting: memory of the service ({memory[0]:.0f} MB idle)",
            f"{memory[number]:.0f} MB",
        )


def _are_waiting(service: ServiceProcess, number: int) -> bool:
    figures = requests.get(f"{service.url}/status", timeout=30).json()["concurrency"]
    return bool(figures["waiting"] + figures["current_concurrent"] == number)


def _health(service: ServiceProcess, *, seconds: float) -> list[float]:
    """The seconds of each `/health`, at 20 a second, each on a new connection."""
    took, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.perf_counter()
        requests.get(f"{service.url}/health", timeout=60).raise_for_status()
        took.append(time.perf_counter() - began)
        time.sleep(max(0.0, 0.05 - took[-1]))
    return took


@contextmanager
def _repeated(act: Callable[[], object]) -> Iterator[None]:
    """Repeat `act` in a daemon thread during the `with` block. Its last call may outlast the block."""
    is_over = threading.Event()

    def run() -> None:
        while not is_over.is_set():
            try:
                act()
            except (OSError, requests.RequestException):
                is_over.wait(0.2)

    threading.Thread(target=run, daemon=True).start()
    try:
        yield
    finally:
        is_over.set()


def _prompt(token: str) -> str:
    return f"a picture for {token}"


def _made(simulator: str) -> Counter[str]:
    """The number of predictions by prompt."""
    return Counter(each["input"]["prompt"] for each in predictions(simulator))


class _From(HTTPAdapter):
    """Connections from a local address."""

    def __init__(self, address: str) -> None:
        self._address = address
        super().__init__(pool_maxsize=_CALLS)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs, source_address=(self._address, 0))


def _session_from(address: str) -> requests.Session:
    session = requests.Session()
    session.mount("http://", _From(address))
    return session


def _generate(session: requests.Session, url: str, token: str, answers: Counter[int]) -> None:
    """One picture, and its file."""
    body = {"model_name": "flux-dev", "prompt": _prompt(token)}
    answer = session.post(f"{url}/generate", json=body, headers={"X-Replicate-API-Key": token}, timeout=120)
    answers[answer.status_code] += 1
    if answer.status_code != 200:
        time.sleep(0.5)
    elif token != _GREEDY:
        answers[session.get(answer.json()["files"][0], timeout=60).status_code] += 1


def _invent(url: str) -> None:
    """One call with an invented token."""
    body = {"model_name": "flux-dev", "prompt": "never made"}
    token = f"invented_{secrets.token_hex(8)}"
    requests.post(f"{url}/generate", json=body, headers={"X-Replicate-API-Key": token}, timeout=120)


def _attack(port: int, path: str) -> None:
    """The greedy callers, in a process of their own until its standard input ends."""
    _allow_descriptors()
    os.nice(10)  # in production they run on other machines
    numbers = count()
    bodies = [partial(_large_body, port, numbers) for _ in range(_BODIES)]
    readers = [partial(_read_slowly, port, path) for _ in range(_READERS)]
    url = f"http://127.0.0.1:{port}"
    calling = [partial(_generate, requests.Session(), url, _GREEDY, Counter()) for _ in range(_GREEDY_CALLS)]
    inventing = [partial(_invent, url) for _ in range(_INVENTING)]
    with ExitStack() as stack:
        for each in (*bodies, *readers, *calling, *inventing):
            stack.enter_context(_repeated(each))
        sys.stdin.read()
    os._exit(0)


@contextmanager
def _greedy_beside(service: ServiceProcess, path: str) -> Iterator[None]:
    command = [sys.executable, "-m", "bench.crowd", str(service.port), path]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()


def _allow_descriptors() -> None:
    few, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(few, min(16_384, most)), most))


_LARGE = (
    b"[" + b"0," * (_BODY_BYTES // 2) + b"0]",
    json.dumps({"model_name": "flux-dev", "prompt": "x" * (_BODY_BYTES - 100)}).encode(),
    json.dumps({"model_name": "flux-dev", "prompts": ["x" * 1580] * 10_000, "dry_run": True}).encode(),
)


def _large_body(port: int, numbers: "count[int]") -> None:
    """Send one large body."""
    body = _LARGE[(number := next(numbers)) % len(_LARGE)]
    head = [
        "POST /generate-batch HTTP/1.1", "Host: a", "Content-Type: application/json", "Connection: close",
        f"X-Replicate-API-Key: r8_large{number % 10}", f"Content-Length: {len(body)}",
    ]  # fmt: skip
    with _connected(port) as caller:
        caller.sendall("\r\n".join([*head, "", ""]).encode())
        with suppress(OSError):
            caller.sendall(body)
        while caller.recv(65536):
            pass
    time.sleep(1)  # as `Retry-After` says


def _read_slowly(port: int, path: str) -> None:
    """Read 1 kB/s of a file, until the service disconnects."""
    with _connected(port) as caller:
        caller.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        while caller.recv(1000):
            time.sleep(1)


def _trickle(connections: list[socket.socket]) -> None:
    """Send a byte of a request on each connection."""
    for each in connections:
        with suppress(OSError):
            each.sendall(b"G")
    time.sleep(1)


def _connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=60)


def _stored_file(data: Path, size: int) -> str:
    """Store a file of `size` bytes. Returns its URL path."""
    place = data / "files" / "00"
    place.mkdir(parents=True)
    (place / f"gen_{'0' * 32}.0.mp4").write_bytes(os.urandom(size))
    return f"/files/gen_{'0' * 32}/0.mp4"


if __name__ == "__main__":
    _attack(int(sys.argv[1]), sys.argv[2])
