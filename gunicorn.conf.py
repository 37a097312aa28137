"""How gunicorn serves: one worker, since the gate must see every call; threads, since callers wait.

Never preload: the loop thread would be started before the fork and be missing after it. The hooks tie the
process's signals to the service's drain: on SIGTERM the worker goes on accepting, so that `/health` can say
503, until what runs has ended or was given its time; only then does it stop. Ctrl-C and SIGQUIT give it none.
"""

import errno
import gc
import json
import logging
import os
import resource
import secrets
import signal
import socket
import struct
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from types import FrameType
from typing import Any

from gunicorn import glogging
from gunicorn.workers.gthread import ThreadWorker

import logs
from errors import Internal, InvalidRequest, Problem, ServiceError
from settings import FILES_AT_ONCE, HANDED_IN_AT_ONCE, LISTENERS_AT_ONCE, SettingsError, load

_SPARE_THREADS = 32
"""For whoever neither waits for a result nor fetches a file: health checks, status, configuration, refusals."""

_CLOSERS = 16
"""Connections that may linger at once when they are closed, up to two seconds each; more are closed at once."""

_SILENT_SECONDS = 10
"""A peer who stops in the middle of a request is given up after this."""

_UNREAD_SECONDS = 60
"""A peer who does not read is given up after this; with a stream, its batch too, so it is given more time."""

_LAST_WORDS_SECONDS = 5
"""What writing the last answers may take once nothing runs any more."""

_HEARING_SECONDS = 45
"""What hearing of creations on their way may take after the drain. What takes longer the next process looks for."""


class Worker(ThreadWorker):  # type: ignore[misc] # gunicorn ships no types
    """gthread, with a few things put right: the thread that accepts neither lingers nor dies of a full table of
    descriptors, a peer that stalls is given up, and what cannot even be parsed is answered by a problem document
    instead of a page of HTML."""

    def init_process(self) -> None:
        self.closers = ThreadPoolExecutor(_CLOSERS, thread_name_prefix="closer")
        self.may_linger = threading.Semaphore(_CLOSERS)
        super().init_process()

    def accept(self, listener: Any) -> None:
        try:
            super().accept(listener)
        except OSError as error:
            if error.errno not in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
                raise
            self.log.error("Cannot accept a connection: %s", error.strerror)
            time.sleep(0.1)  # or the listener, still readable, would be tried again at once

    def enqueue_req(self, conn: Any) -> None:
        if not conn.initialized:
            for option, seconds in (
                (socket.SO_RCVTIMEO, _SILENT_SECONDS),
                (socket.SO_SNDTIMEO, _UNREAD_SECONDS),
            ):
                conn.sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", seconds, 0))
        super().enqueue_req(conn)

    def is_parent_alive(self) -> bool:
        alive: bool = super().is_parent_alive()
        if not alive:
            _drain(self, 0)
            self.cfg.set("graceful_timeout", _LAST_WORDS_SECONDS)
        return alive

    def finish_request(self, conn: Any, fs: Any) -> None:
        # gunicorn 27 waits up to two seconds for the peer to close, on its only accepting thread: a few
        # callers who do not read their answers would stop everybody, health checks included.
        close = conn.close

        def linger() -> None:
            try:
                close(graceful=True)
            finally:
                self.may_linger.release()

        def close_elsewhere(*, graceful: bool = False) -> None:
            if graceful and self.may_linger.acquire(blocking=False):
                self.closers.submit(linger)
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


class Logger(glogging.Logger):  # type: ignore[misc] # gunicorn ships no types
    """Requests are logged by the application; gunicorn would put a line together for each, for nobody."""

    access_log_enabled = False


try:
    _settings = load()
except SettingsError as error:
    sys.exit(str(error))

wsgi_app = "app:create_app()"
bind = _settings.address
worker_class = Worker
workers = 1
threads = (
    _settings.MAX_WAITING_CALLERS + HANDED_IN_AT_ONCE + FILES_AT_ONCE + LISTENERS_AT_ONCE + _SPARE_THREADS
)
worker_connections = 2 * threads
backlog = 2048
keepalive = 15
timeout = 120  # of the worker's main thread, which only accepts; requests may take longer
graceful_timeout = int(_settings.DRAIN_SECONDS) + _HEARING_SECONDS
control_socket_disable = True  # it would be a file in the home directory, and roots are read-only
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - a container's writable part
logger_class = Logger
logconfig_dict = logs.configuration(_settings)


def on_starting(server: Any) -> None:
    """See to file descriptors: every caller who waits holds two."""
    wanted = 2 * worker_connections + _settings.REPLICATE_CONCURRENT_LIMIT + 512
    few, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < wanted:
        server.log.warning("Only %d file descriptors may be open; %d would always suffice.", most, wanted)
        wanted = most
    if few != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(few, wanted), most))


def when_ready(server: Any) -> None:
    """Never a second worker beside the first, not even for a moment: each would spend the whole allowance. And
    never gunicorn's quick shutdown, which kills after two seconds what still hears of a creation on its way."""

    def on_quit(_signum: int, _frame: FrameType | None) -> None:
        for pid in list(server.WORKERS):
            os.kill(pid, signal.SIGQUIT)
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGINT, on_quit)
    signal.signal(signal.SIGQUIT, on_quit)
    signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    for number in (signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def post_worker_init(worker: Any) -> None:
    """Take the signals over from gunicorn once there is a service to drain."""
    # What is here now stays as long as the worker: the collector need not go through it again and again.
    gc.collect()
    gc.freeze()

    def on_term(_signum: int, _frame: FrameType | None) -> None:
        _drain(worker, _settings.DRAIN_SECONDS)

    def on_quit(_signum: int, _frame: FrameType | None) -> None:
        _drain(worker, 0)

    signal.signal(signal.SIGTERM, on_term)
    signal.signal(signal.SIGHUP, on_term)
    signal.signal(signal.SIGINT, on_quit)
    signal.signal(signal.SIGQUIT, on_quit)


def worker_exit(_server: Any, worker: Any) -> None:
    if getattr(worker, "wsgi", None) is not None:
        worker.wsgi.extensions["service"].close()
        logging.shutdown()
        os._exit(0)  # Python would first wait for threads that wait for a peer who stalls


def _drain(worker: Any, seconds: float) -> None:
    def exit_soon() -> None:
        worker.cfg.set("graceful_timeout", _LAST_WORDS_SECONDS)
        worker.handle_exit(signal.SIGTERM, None)

    worker.wsgi.extensions["service"].begin_drain(seconds, then=exit_soon)
