"""One greedy and four polite callers share each resource: the polite are served, and the greedy gets half."""

import json
import os
import resource
import socket
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import requests

from harness.service_process import read_response, running_service, until
from settings.capacity import FILES_AT_ONCE, LISTENERS_AT_ONCE, SUBMITTING_AT_ONCE
from tests.support.callers import PICTURE

pytestmark = pytest.mark.slow

GREEDY = {"X-Replicate-API-Key": "r8_greedy"}
POLITE = [{"X-Replicate-API-Key": f"r8_polite_{number}"} for number in range(4)]
ASYNC = {"Prefer": "respond-async"}
LINE = 2 * 1024 * 1024


@pytest.fixture
def data(tmp_path):
    return tmp_path


@contextmanager
def sharing(simulator, data, **settings):
    """The service, and a stack that closes the callers' connections."""
    wanted = {"REPLICATE_BASE_URL": simulator.url, "DATA_DIR": data} | settings
    with running_service(**wanted) as service, ExitStack() as stack:
        yield service, stack


def begun(service, stack, method, path, body=b"", *, length=None, **headers):
    """A connection on which a request was sent, with less of its body than it says."""
    head = [f"{method} {path} HTTP/1.1", "Host: a", "Content-Type: application/json"]
    head += [f"Content-Length: {len(body) if length is None else length}"]
    head += [f"{name}: {value}" for name, value in headers.items()]
    caller = stack.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=30))
    caller.sendall("\r\n".join([*head, "", ""]).encode() + body)
    return caller


def status_of(caller):
    """The status of the answer that has come, or None."""
    caller.setblocking(False)
    try:
        return int(caller.recv(4096, socket.MSG_PEEK).split()[1])
    except BlockingIOError:
        return None


def read_answers(caller, number):
    """Read so many answers of `/health`, which end in a brace."""
    received = b""
    while received.count(b"}") < number:
        received += (chunk := caller.recv(65536))
        assert chunk
    assert number == received.count(b"HTTP/1.1 200 OK")


def refused(callers):
    return [status_of(each) for each in callers].count(429)


def test_each_caller_may_wait_for_results_despite_a_greedy_one(simulator, data):
    body = json.dumps(PICTURE | {"prompt": "[[hang]]"}).encode()
    with sharing(simulator, data, MAX_WAITING_CALLERS=8) as (service, stack):
        greedy = [begun(service, stack, "POST", "/generate", body, **GREEDY) for _ in range(12)]
        until(lambda: refused(greedy) == 8)

        polite = [begun(service, stack, "POST", "/generate", body, **each) for each in POLITE]
        figures = f"{service.url}/status"
        until(lambda: 8 == requests.get(figures, timeout=30).json()["concurrency"]["current_concurrent"])
        assert (8, 0) == (refused(greedy), refused(polite))


def test_each_caller_may_submit_work_despite_a_greedy_one(simulator, data):
    most, hanging = SUBMITTING_AT_ONCE // 2, PICTURE | {"prompt": "[[hang]]"}
    with sharing(simulator, data) as (service, stack):
        greedy = [
            begun(service, stack, "POST", "/generate", b"{", length=100, **GREEDY, **ASYNC)
            for _ in range(most + 6)
        ]
        until(lambda: refused(greedy) == 6)

        polite = [service.connect("/generate", hanging, **each, **ASYNC) for each in POLITE]
        assert [202] * 4 == [read_response(each)[0] for each in polite]
        assert 6 == refused(greedy)


def test_each_caller_may_listen_to_events_despite_a_greedy_one(simulator, data):
    body = json.dumps(PICTURE | {"prompt": "[[hang]]"}).encode()
    most = LISTENERS_AT_ONCE // 2
    with sharing(simulator, data) as (service, stack):

        def listen(caller):
            return begun(service, stack, "GET", f"/generations/{targets[str(caller)]}/events", **caller)

        targets = {}
        for caller in (GREEDY, *POLITE):
            _, answered = read_response(service.connect("/generate", json.loads(body), **caller, **ASYNC))
            targets[str(caller)] = answered["id"]
        greedy = [listen(GREEDY) for _ in range(most + 6)]
        until(lambda: refused(greedy) == 6)

        polite = [listen(each) for each in POLITE]
        until(lambda: [200] * 4 == [status_of(each) for each in polite])


def kept(data, size):
    """The path of a kept file of so many bytes."""
    place = data / "files" / "00"
    place.mkdir(parents=True, exist_ok=True)
    (place / f"gen_{'0' * 32}.0.mp4").write_bytes(os.urandom(1024) * (size // 1024))
    return f"/files/gen_{'0' * 32}/0.mp4"


def test_each_caller_may_fetch_files_despite_a_greedy_one(simulator, data):
    path = kept(data, 20 * LINE)
    with sharing(simulator, data) as (service, stack):
        greedy = [begun(service, stack, "GET", path) for _ in range(FILES_AT_ONCE)]
        until(lambda: None not in [status_of(each) for each in greedy])
        assert FILES_AT_ONCE // 2 <= [status_of(each) for each in greedy].count(200)

        for _ in range(5):
            with requests.get(service.url + path, timeout=60) as answer:
                assert (200, 20 * LINE) == (answer.status_code, len(answer.content))


def test_each_caller_may_send_large_bodies_despite_a_greedy_one(simulator, data):
    large = 16_000_000
    with sharing(simulator, data) as (service, stack):
        greedy = [
            begun(service, stack, "POST", "/generate-batch", b"{", length=large, **GREEDY, **ASYNC)
            for _ in range(6)
        ]
        until(lambda: refused(greedy) == 4)

        batch = {"model_name": "flux-dev", "prompts": ["a fox"], "dry_run": True}
        small = [service.connect("/generate-batch", batch, **GREEDY, **each) for each in (*[ASYNC] * 3, {})]
        assert [200] * 4 == [read_response(each)[0] for each in small]
        padded = {**batch, "prompts": ["a fox " * 40] * 1000}
        polite = [service.connect("/generate-batch", padded, **each) for each in POLITE]
        assert [200] * 4 == [read_response(each)[0] for each in polite]


def test_each_caller_may_plan_batches_despite_a_greedy_one(simulator, data):
    """A small batch beside the planning of many large ones is planned before the last of them."""
    large = {"model_name": "flux-dev", "prompts": ["a fox"] * 10_000, "dry_run": True}
    small = {"model_name": "flux-dev", "prompts": ["a hare"], "dry_run": True}
    with sharing(simulator, data) as (service, stack):
        body = json.dumps(large).encode()
        greedy = [begun(service, stack, "POST", "/generate-batch", body, **GREEDY) for _ in range(30)]

        polite = [service.connect("/generate-batch", small, **each) for each in POLITE]
        assert [200] * 4 == [read_response(each)[0] for each in polite]
        assert None in [status_of(each) for each in greedy]


def threads_of(pid):
    return int(Path(f"/proc/{pid}/status").read_text().partition("Threads:")[2].split()[0])


@pytest.mark.parametrize("sent", [b"", b"GET /hea", b"\r\n\r\n", b"GET /health HTTP/1.1\r\nHost: a\r\nX: "])
def test_connections_without_a_complete_request_take_no_thread(simulator, data, sent):
    few, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, most), most))
    threads = 10 + SUBMITTING_AT_ONCE + FILES_AT_ONCE + LISTENERS_AT_ONCE + 64
    try:
        with sharing(simulator, data, MAX_WAITING_CALLERS=10) as (service, stack):
            worker = service.worker()
            assert requests.get(f"{service.url}/health", timeout=30).ok
            before = threads_of(worker)
            for _ in range(round(1.2 * 2 * threads)):
                silent = stack.enter_context(
                    socket.create_connection(("127.0.0.1", service.port), timeout=30)
                )
                silent.sendall(sent)

            answers = [requests.get(f"{service.url}/health", timeout=30).status_code for _ in range(20)]

            assert [200] * 20 == answers
            # A few answer the requests, and a few close connections that are given up: not one for each connection.
            assert threads_of(worker) - before < threads / 2
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (few, most))


def test_an_unread_body_holds_no_thread_for_long(simulator, data):
    with sharing(simulator, data, MAX_WAITING_CALLERS=10) as (service, stack):
        silent = [begun(service, stack, "GET", "/health", length=1000) for _ in range(400)]
        until(lambda: [200] * 400 == [status_of(each) for each in silent])

        assert requests.get(f"{service.url}/health", timeout=30).ok


def test_a_connection_may_send_several_requests_and_each_in_pieces(simulator, data):
    head = b"\r\nGET /health HTTP/1.1\r\nHost: a\r\n\r\n"
    with sharing(simulator, data) as (service, stack):
        caller = stack.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=30))
        caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in head:
            caller.sendall(bytes([byte]))
        read_answers(caller, 1)

        caller.sendall(head * 3 + head[:10])
        read_answers(caller, 3)
        caller.sendall(head[10:])
        read_answers(caller, 1)


def test_a_head_without_an_end_is_refused(simulator, data):
    with sharing(simulator, data) as (service, stack):
        caller = stack.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=30))
        caller.sendall(b"GET /health HTTP/1.1\r\n" + b"X-Filler: y\r\n" * 6000)
        until(lambda: status_of(caller) == 431)


@pytest.mark.parametrize("headers", [GREEDY, {}], ids=["a body too large", "no key"])
def test_a_client_that_reads_only_after_sending_its_whole_body_gets_the_refusal(simulator, data, headers):
    body = b" " * 20_000_000
    with sharing(simulator, data) as (service, stack):
        caller = begun(service, stack, "POST", "/generate", length=len(body), **headers, Connection="close")
        caller.sendall(body)

        assert (413 if headers else 401) == read_response(caller)[0]
