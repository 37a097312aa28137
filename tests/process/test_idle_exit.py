"""A service with IDLE_EXIT_SECONDS as a process."""

import json
import socket
import sqlite3
import time
from contextlib import closing

import pytest

from harness.service_process import read_response, running_service
from simulator import Options, running
from tests.support.callers import PICTURE, USER

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("programs")]


def test_an_idle_service_ends_with_status_0_and_only_when_its_work_has_ended(tmp_path):
    with (
        running(Options(prediction_seconds=3, jitter=0.0)) as simulator,
        running_service(REPLICATE_BASE_URL=simulator.url, IDLE_EXIT_SECONDS=1, DATA_DIR=tmp_path) as service,
    ):
        status, _ = read_response(service.connect("/generate", PICTURE, Prefer="respond-async", **USER))
        assert (202, 0) == (status, service.ended())

    with closing(sqlite3.connect(tmp_path / "ledger.db")) as ledger:
        assert [("succeeded",)] == ledger.execute("SELECT state FROM generations").fetchall()


def test_a_request_whose_body_still_arrives_keeps_a_service(simulator, tmp_path):
    body = json.dumps(PICTURE).encode()
    head = f"POST /generate HTTP/1.1\r\nHost: here\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
    head += "Content-Type: application/json\r\n" + "".join(
        f"{name}: {value}\r\n" for name, value in USER.items()
    )
    with running_service(REPLICATE_BASE_URL=simulator.url, IDLE_EXIT_SECONDS=1, DATA_DIR=tmp_path) as service:
        caller = socket.create_connection(("127.0.0.1", service.port), timeout=30)
        caller.sendall(head.encode() + b"\r\n" + body[:10])
        time.sleep(3)
        caller.sendall(body[10:])

        assert 200 == read_response(caller)[0]
        assert 0 == service.ended()
