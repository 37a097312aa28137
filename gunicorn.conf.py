"""How gunicorn serves: one worker, since the gate must see every call; threads, since callers wait.

Never preload: the loop thread would be started before the fork and be missing after it. The hooks tie the
process's signals to the service's drain: on SIGTERM the worker goes on accepting, so that `/health` can say
503, until what runs has ended; only then does it stop. Ctrl-C and SIGQUIT cancel what runs at once.
"""

import json
import os
import secrets
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from types import FrameType
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

import logs
from errors import Internal, InvalidRequest, Problem, ServiceError
from settings import SettingsError, load

_SPARE_THREADS = 32
"""For whoever does not wait for a result: health checks, status, configuration, refusals."""

_CLOSERS = 16
"""Threads on which connections are closed; each may linger for two seconds."""

_CANCEL_SECONDS = 45
"""What cancelling the rest may take after the drain. Whatever takes longer is left to its deadline at Replicate."""


class Worker(ThreadWorker):  # type: ignore[misc] # gunicorn ships no types
    """gthread, with two things put right: it never lingers on the thread that accepts, and it answers what
    it cannot even parse as a problem document instead of a page of HTML."""

    def init_process(self) -> None:
        self.closers = ThreadPoolExecutor(_CLOSERS, thread_name_prefix="closer")
        super().init_process()

    def finish_request(self, conn: Any, fs: Any) -> None:
        # gunicorn 27 waits up to two seconds for the peer to close, on its only accepting thread: a few
        # callers who do not read their answers would stop everybody, health checks included.
        close = conn.close

        def close_elsewhere(*, graceful: bool = False) -> None:
            if graceful:
                self.closers.submit(close, graceful=True)
            else:
                close()

        conn.close = close_elsewhere
        super().finish_request(conn, fs)
        conn.close = close

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Exception) -> None:  # noqa: ARG002
        error: ServiceError
        if req is None or type(exc).__module__ == "gunicorn.http.errors":
            error = InvalidRequest(
                [Problem("request", f"is not HTTP as this server reads it ({type(exc).__name__})")]
            )
        else:
            self.log.exception("Error handling a request")
            error = Internal()
        request_id = "req_" + secrets.token_hex(12)
        body = json.dumps(error.as_problem(request_id))
        answer = (
            f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\nConnection: close\r\n"
            f"Content-Type: application/problem+json\r\nContent-Length: {len(body)}\r\n"
            f"X-Request-ID: {request_id}\r\n\r\n{body}"
        )
        try:
            client.sendall(answer.encode())
        except OSError:
            self.log.debug("Failed to send the error answer.")


try:
    _settings = load()
except SettingsError as error:
    sys.exit(str(error))

wsgi_app = "app:create_app()"
bind = _settings.address
worker_class = Worker
workers = 1
threads = _settings.MAX_WAITING_CALLERS + _SPARE_THREADS
worker_connections = 2 * threads
backlog = 2048
keepalive = 15
timeout = 120  # of the worker's main thread, which only accepts; requests may take longer
graceful_timeout = int(_settings.DRAIN_SECONDS) + _CANCEL_SECONDS
control_socket_disable = True  # it would be a file in the home directory, and roots are read-only
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - a container's writable part
logconfig_dict = logs.configuration(_settings)


def when_ready(_server: Any) -> None:
    """Never a second worker beside the first, not even for a moment: each would spend the whole allowance."""
    signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    for number in (signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def post_worker_init(worker: Any) -> None:
    """Take the signals over from gunicorn once there is a service to drain."""
    service = worker.wsgi.extensions["service"]

    def drain(seconds: float) -> None:
        service.begin_drain(seconds, then=lambda: worker.handle_exit(signal.SIGTERM, None))

    def on_term(_signum: int, _frame: FrameType | None) -> None:
        drain(service.settings.DRAIN_SECONDS)

    def on_quit(_signum: int, _frame: FrameType | None) -> None:
        drain(0)

    signal.signal(signal.SIGTERM, on_term)
    signal.signal(signal.SIGHUP, on_term)
    signal.signal(signal.SIGINT, on_quit)
    signal.signal(signal.SIGQUIT, on_quit)


def worker_exit(_server: Any, worker: Any) -> None:
    service = getattr(worker.wsgi, "extensions", {}).get("service") if worker.wsgi else None
    if service is not None:
        service.close()
