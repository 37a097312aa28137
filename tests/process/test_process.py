"""The service as a process: gunicorn, signals, closed sockets, hundreds of callers."""

import json
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import requests

from harness.service_process import ROOT, read_response, running_service, until
from settings import Settings
from simulator import Options, running
from tests.support.api_client import CHECKED
from tests.support.callers import PICTURE, USER

pytestmark = pytest.mark.slow


def _picture(prompt):
    return {**PICTURE, "prompt": prompt}


@pytest.fixture
def service(simulator):
    with running_service(
        REPLICATE_BASE_URL=simulator.url, REPLICATE_CONCURRENT_LIMIT=2, DRAIN_SECONDS=20
    ) as started:
        yield started


def _on_record(simulator, data, **settings):
    """A service whose ledger is in `data`."""
    return running_service(
        REPLICATE_BASE_URL=simulator.url, REPLICATE_CONCURRENT_LIMIT=2, DATA_DIR=data, **settings
    )


def _left(data):
    """What a process left in its ledger: of each generation its state and its prediction."""
    with closing(sqlite3.connect(data / "ledger.db")) as ledger:
        rows = ledger.execute(
            "SELECT id, state, prediction_id FROM generations LEFT JOIN attempts ON generation_id = id"
        )
        return {target: (state, prediction) for target, state, prediction in rows}


def test_each_of_many_parallel_callers_gets_its_own_image(simulator):
    with running_service(REPLICATE_BASE_URL=simulator.url, REPLICATE_CONCURRENT_LIMIT=25) as service:
        callers = [service.connect("/generate", _picture(f"picture {i}"), **USER) for i in range(50)]
        answers = [read_response(caller) for caller in callers]

    assert [200] * 50 == [status for status, _ in answers]
    assert [f"picture {i}" for i in range(50)] == [document["prompt"] for _, document in answers]
    assert 50 == len({document["prediction_id"] for _, document in answers})
    assert 50 == simulator.counts().creations_accepted


def test_two_hundred_waiting_callers_leave_room_for_health_status_and_configure(simulator):
    key = {"X-Admin-API-Key": "ops"}
    with running_service(
        REPLICATE_BASE_URL=simulator.url, REPLICATE_CONCURRENT_LIMIT=1, CONCURRENT_DOCKER_ADMIN_API_KEY="ops"
    ) as service:
        callers = [service.connect("/generate", _picture("[[hang]]"), **USER) for _ in range(200)]

        def figures():
            return requests.get(f"{service.url}/status", timeout=30).json()["concurrency"]

        until(lambda: figures()["waiting"] == 199)
        health = [
            requests.get(service.url + path, timeout=30).status_code
            for path in ("/health", "/health/live", "/health/ready")
        ]
        changed = requests.post(
            f"{service.url}/configure", json={"concurrent_limit": 2}, headers=key, timeout=30
        )
        until(lambda: figures()["current_concurrent"] == 2)
        for caller in callers:
            caller.close()
        until(lambda: figures()["waiting"] == figures()["current_concurrent"] == 0)

    assert [200, 200, 200, 200] == [*health, changed.status_code]


def test_a_disconnect_while_queued_costs_nothing_and_while_running_cancels(service, simulator):
    running_calls = [service.connect("/generate", _picture("[[hang]]"), **USER) for _ in range(2)]
    until(lambda: simulator.counts().in_flight == 2)
    queued = service.connect("/generate", _picture("never to be seen"), **USER)
    until(lambda: requests.get(f"{service.url}/status", timeout=30).json()["concurrency"]["waiting"] == 1)

    queued.close()
    until(lambda: requests.get(f"{service.url}/status", timeout=30).json()["concurrency"]["waiting"] == 0)
    for call in running_calls:
        call.close()
    until(lambda: simulator.counts().in_flight == 0)

    assert 2 == simulator.counts().creations_accepted
    assert ["canceled"] * 2 == [made.status for made in simulator.predictions()]


def test_a_disconnect_from_a_stream_cancels_the_rest_of_the_batch(service, simulator):
    batch = {"model_name": "flux-dev", "prompts": ["quick", "[[hang]]", "[[hang]]", "never"]}
    stream = service.connect("/generate-batch", batch, Accept="application/x-ndjson", **USER)
    received = b""
    while b'"index": 0' not in received:
        received += stream.recv(65536)
    until(lambda: simulator.counts().in_flight == 2)

    stream.close()
    until(lambda: simulator.counts().in_flight == 0)

    assert 3 == simulator.counts().creations_accepted


def test_sigterm_finishes_running_work_keeps_queued_work_and_refuses_new_work(simulator, tmp_path):
    with _on_record(simulator, tmp_path, DRAIN_SECONDS=60) as service:
        calls = [service.connect("/generate", _picture("[[hang]]"), **USER) for _ in range(2)]
        until(lambda: simulator.counts().in_flight == 2)
        queued = service.connect("/generate", _picture("too late"), **USER)
        until(lambda: requests.get(f"{service.url}/status", timeout=30).json()["concurrency"]["waiting"] == 1)

        service.signal(signal.SIGTERM)
        refused, document = read_response(queued)
        health = requests.get(f"{service.url}/health", timeout=30)
        late, _ = read_response(service.connect("/generate", PICTURE, **USER))
        simulator.finish()
        finished = [read_response(call) for call in calls]
        assert 0 == service.ended()

    assert (503, "shutting_down", None) == (refused, document["code"], document["prediction_id"])
    assert (503, 503) == (health.status_code, late)
    assert "Retry-After" in health.headers
    assert [200, 200] == [status for status, _ in finished]
    assert 2 == simulator.counts().creations_accepted
    ended = {result["id"]: ("succeeded", result["prediction_id"]) for _, result in finished}
    assert {**ended, document["id"]: ("queued", None)} == _left(tmp_path)


@pytest.mark.parametrize(("number", "patience"), [("SIGTERM", 0.2), ("SIGINT", 600)])
def test_work_beyond_the_drain_keeps_running_and_its_caller_gets_its_id(
    simulator, tmp_path, number, patience
):
    with _on_record(simulator, tmp_path, DRAIN_SECONDS=patience) as service:
        call = service.connect("/generate", _picture("[[hang]]"), **USER)
        until(lambda: simulator.counts().in_flight == 1)

        service.signal(signal.Signals[number])
        status, document = read_response(call)

        assert (503, "shutting_down", True) == (status, document["code"], document["retryable"])
        assert 0 == service.ended()
    (made,) = simulator.predictions()
    assert {document["id"]: ("running", made.id)} == _left(tmp_path)
    assert ("processing", made.id) == (made.status, document["prediction_id"])
    assert "cancel" not in simulator.counts().requests


def test_no_signal_starts_a_second_worker_and_sighup_drains(service, simulator):
    def workers():
        return Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children").read_text().split()

    assert requests.get(f"{service.url}/health", timeout=30).ok
    (worker,) = workers()
    service.signal(signal.SIGTTIN)
    service.signal(signal.SIGUSR2)
    call = service.connect("/generate", _picture("[[hang]]"), **USER)
    until(lambda: simulator.counts().in_flight == 1)
    assert [worker] == workers()

    service.signal(signal.SIGHUP)
    until(lambda: not requests.get(f"{service.url}/health", timeout=30).ok)
    simulator.finish()

    assert 200 == read_response(call)[0]
    assert 0 == service.ended()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"NOT HTTP AT ALL\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX-Long: " + b"x" * 33_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nBad Header: 1\r\n\r\n", 400),
        (b"POST /generate HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: nonsense\r\n\r\n", 400),
    ],
)
def test_a_request_that_is_not_http_gets_a_problem_document(service, sent, status):
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as caller:
        caller.sendall(sent)
        received = b""
        while chunk := caller.recv(65536):
            received += chunk
    head, _, body = received.partition(b"\r\n\r\n")

    assert str(status).encode() == head.split()[1]
    assert b"application/problem+json" in head
    assert status == json.loads(body)["status"]


def test_callers_who_never_read_their_response_delay_no_other(service):
    callers = [service.connect("/health") for _ in range(20)]

    answers = [requests.get(f"{service.url}/health", timeout=5).status_code for _ in range(20)]

    assert [200] * 20 == answers
    for caller in callers:
        caller.close()


def test_a_body_over_the_limit_is_refused_while_it_is_still_being_sent(service, simulator):
    answer = requests.post(
        f"{service.url}/generate", data=b" " * 20_000_000, timeout=60,
        headers={**USER, "Content-Type": "application/json"},
    )  # fmt: skip

    assert (413, "payload_too_large") == (answer.status_code, answer.json()["code"])
    assert CHECKED == dict(simulator.counts().requests)


def _refused_start(directory, **environ):
    """What is said, a line each, by a service that does not start."""
    ended = subprocess.run(
        [sys.executable, ROOT / "app.py"],
        cwd=directory,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert 2 == ended.returncode
    return ended.stderr.splitlines()


def test_bad_settings_stop_the_start_with_one_sentence_each(tmp_path):
    said = _refused_start(
        tmp_path,
        PORT="http",
        REPLICATE_CONCURRENT_LIMIT="0",
        REPLICATE_SIMULATE="si",
        REPLICATE_API_TOKEN="r8 x",
    )

    assert [
        "PORT: must be a whole number.",
        "REPLICATE_API_TOKEN: must be visible ASCII without spaces, since it travels in a header.",
        "REPLICATE_CONCURRENT_LIMIT: must be greater than or equal to 1.",
        "REPLICATE_SIMULATE: must be 1 or 0.",
    ] == sorted(said)


def test_an_address_in_use_stops_the_start_with_one_sentence(tmp_path, service):
    (said,) = _refused_start(tmp_path, PORT=str(service.port))

    assert (
        f"Cannot listen on 127.0.0.1:{service.port}: Address already in use. PORT and HOST change it." == said
    )


def test_the_service_simulates_without_a_token_if_that_option_is_set(tmp_path):
    settings = Settings.from_env({})

    assert settings.simulating_without_token().REPLICATE_SIMULATE
    for decided in ({"REPLICATE_API_TOKEN": "r8_x"}, {"REPLICATE_SIMULATE": "0"}):
        assert not Settings.from_env(decided).simulating_without_token().REPLICATE_SIMULATE
    assert "app.py --simulate-without-token" in (ROOT / "Makefile").read_text()


def test_the_simulator_beside_the_service_serves_it_and_ends_with_it():
    with running_service(REPLICATE_SIMULATE=1) as service:
        answer = requests.post(f"{service.url}/generate", json=PICTURE, headers=USER, timeout=60).json()
        simulator = answer["output"][0].split("/delivery/")[0]
        assert answer["simulated"] is True
        picture = requests.get(answer["output"][0], timeout=30)
        assert ("image/jpeg", b"\xff\xd8") == (picture.headers["Content-Type"], picture.content[:2])

        service.process.kill()
        service.ended()

        def is_gone() -> bool:
            try:
                requests.get(simulator, timeout=5)
            except requests.ConnectionError:
                return True
            return False

        until(is_gone)


def test_other_routes_respond_while_replicate_hangs_on_every_creation():
    with running(Options(prediction_seconds=0.05)) as simulator:
        simulator.inject(on="create", times=5, hang=2)
        with running_service(REPLICATE_BASE_URL=simulator.url) as service:
            calls = [service.connect("/generate", PICTURE, **USER) for _ in range(5)]
            until(lambda: simulator.counts().requests.get("create", 0) == 5)

            status, document = read_response(service.connect("/generate", _picture("a sixth"), **USER))
            for call in calls:
                call.close()

    assert (200, True) == (status, document["success"])


@pytest.mark.parametrize("early", [b"\r\n", b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"])
def test_a_disconnect_after_a_pipelined_request_is_noticed(service, simulator, early):
    call = service.connect("/generate", _picture("[[hang]]"), **USER)
    until(lambda: simulator.counts().in_flight == 1)

    call.sendall(early)
    call.close()

    until(lambda: simulator.counts().in_flight == 0)


@pytest.mark.parametrize(
    "body",
    [
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n-1\r\n{}\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}never ended",
        b'Content-Length: 1000\r\n\r\n{"concurrent_limit": 7}',
    ],
)
def test_a_truncated_or_malformed_body_is_refused_and_changes_nothing(simulator, body):
    with (
        running_service(REPLICATE_BASE_URL=simulator.url, CONCURRENT_DOCKER_ADMIN_API_KEY="ops") as service,
        socket.create_connection(("127.0.0.1", service.port), timeout=30) as caller,
    ):
        head = b"POST /configure HTTP/1.1\r\nHost: a\r\nX-Admin-API-Key: ops\r\nContent-Type: application/json\r\n"
        caller.sendall(head + body)
        caller.shutdown(socket.SHUT_WR)
        received = caller.recv(65536)
        limit = requests.get(f"{service.url}/status", timeout=30).json()["concurrency"]["concurrent_limit"]

    assert b"400" == received.split()[1]
    assert b"application/problem+json" in received
    assert 10 == limit


def test_a_stuck_connection_does_not_delay_the_stop(service):
    stuck = socket.create_connection(("127.0.0.1", service.port), timeout=30)
    stuck.sendall(b"GET /he")
    assert requests.get(f"{service.url}/health", timeout=30).ok

    service.signal(signal.SIGTERM)

    with stuck:
        assert 0 == service.process.wait(timeout=30)  # not after DRAIN_SECONDS and what cancelling may take


def test_a_second_signal_during_a_drain_still_awaits_pending_creations(simulator, tmp_path):
    simulator.inject(on="create", times=2, delay=3)
    with _on_record(simulator, tmp_path, DRAIN_SECONDS=20) as service:
        calls = [service.connect("/generate", _picture("[[hang]]"), **USER) for _ in range(2)]
        until(lambda: simulator.counts().requests.get("create") == 2)

        service.signal(signal.SIGTERM)
        until(lambda: not requests.get(f"{service.url}/health", timeout=30).ok)
        service.signal(signal.SIGINT)

        answers = [read_response(call) for call in calls]
        assert 0 == service.ended()

    assert [(503, "shutting_down")] * 2 == [(status, document["code"]) for status, document in answers]
    made = {each.id: each.status for each in simulator.predictions()}
    assert {document["prediction_id"]: "processing" for _, document in answers} == made
    assert {document["id"]: ("running", document["prediction_id"]) for _, document in answers} == _left(
        tmp_path
    )
    assert "cancel" not in simulator.counts().requests


def test_the_worker_records_running_work_and_ends_when_the_master_is_killed(simulator, tmp_path):
    with _on_record(simulator, tmp_path, DRAIN_SECONDS=20) as service:
        worker = service.worker()
        call = service.connect("/generate", _picture("[[hang]]"), **USER)
        until(lambda: simulator.counts().in_flight == 1)

        service.process.kill()
        status, document = read_response(call)
        until(lambda: not Path(f"/proc/{worker}").exists())

    (made,) = simulator.predictions()
    assert (503, "shutting_down") == (status, document["code"])
    assert {document["id"]: ("running", made.id)} == _left(tmp_path)
    assert ("processing", False) == (made.status, "cancel" in simulator.counts().requests)


def test_running_work_survives_a_lack_of_file_descriptors(simulator):
    with running_service(
        _descriptors=120,
        REPLICATE_BASE_URL=simulator.url,
        MAX_WAITING_CALLERS=20,
        REPLICATE_CONCURRENT_LIMIT=2,
    ) as service:
        call = service.connect("/generate", _picture("[[hang]]"), **USER)
        until(lambda: simulator.counts().in_flight == 1)
        crowd = [socket.create_connection(("127.0.0.1", service.port), timeout=30) for _ in range(150)]
        simulator.finish()

        status, document = read_response(call)
        assert (200, True) == (status, document["success"])
        for each in crowd:
            each.close()
        assert requests.get(f"{service.url}/health", timeout=30).ok
