"""gunicorn's settings: one worker, since the gate must see every request, and many threads, since callers wait.

Never preload: the loop thread would start before the fork and not exist after it. The hooks connect the signals of
the process to the service's drain. On SIGTERM the worker keeps accepting, so that `/health` responds with 503,
until running work has ended or DRAIN_SECONDS are over, and then stops. Ctrl-C and SIGQUIT drain for 0 seconds.
"""

import gc
import logging
import os
import resource
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import structlog
from gunicorn import glogging

from server.idleness import Idleness
from server.pinning import pin
from server.worker import LONGEST_HEADERS, MOST_HEADERS, Worker, drain
from settings import SettingsError, load
from telemetry import logs

_ANSWER_SECONDS = 45
"""Seconds to wait for pending creations after the drain. The next process searches for any that take longer."""


class Logger(glogging.Logger):  # type: ignore[misc] # gunicorn ships no types
    """gunicorn's logger without the access log, since the application logs each request."""

    access_log_enabled = False


try:
    _settings = load()
except SettingsError as error:
    sys.exit(str(error))

wsgi_app = "app:create_app()"
bind = _settings.address
worker_class = Worker
workers = 1
threads = _settings.threads
worker_connections = 2 * threads
backlog = 2048
limit_request_field_size = LONGEST_HEADERS
limit_request_fields = MOST_HEADERS
keepalive = 15
timeout = 120  # of the worker's main thread, which only accepts; requests may take longer
graceful_timeout = int(_settings.DRAIN_SECONDS) + _ANSWER_SECONDS
control_socket_disable = True  # it would be a file in the home directory, and roots are read-only
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - a container's writable part
logger_class = Logger
logconfig_dict = logs.configuration(_settings)


def on_starting(_server: Any) -> None:
    """Raise the limit of file descriptors: every waiting caller needs two."""
    needed = 2 * worker_connections + _settings.REPLICATE_CONCURRENT_LIMIT + 512
    few, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < needed:
        _warn_of_few_files(most, needed)
        needed = most
    if few != resource.RLIM_INFINITY:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(few, needed), most))
        except (OSError, ValueError):  # the kernel of macOS has a limit below a hard limit of infinity
            _warn_of_few_files(few, needed)


def _warn_of_few_files(most: int, needed: int) -> None:
    logs.configure(_settings)
    structlog.get_logger("server").warning("file_descriptor_limit_low", most=most, wanted=needed)


def when_ready(server: Any) -> None:
    """Prevent a second worker, even for a moment, since each would use the full limits. Also prevent gunicorn's quick
    shutdown, which kills a worker after two seconds, even while a creation is pending."""

    def on_quit(_signum: int, _frame: FrameType | None) -> None:
        for pid in list(server.WORKERS):
            os.kill(pid, signal.SIGQUIT)
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGINT, on_quit)
    signal.signal(signal.SIGQUIT, on_quit)
    signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    for number in (signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def pre_fork(_server: Any, _worker: Any) -> None:
    """Have the garbage collector skip all objects made so far. They live as long as the process, and its marks would
    copy the pages that the worker shares with the master."""
    gc.freeze()
    gc.enable()  # app.py disabled it


def post_fork(_server: Any, _worker: Any) -> None:
    """Pin the worker before it starts threads, which inherit its core."""
    if _settings.PIN_TO_CORE and pin() is None:
        logs.configure(_settings)
        structlog.get_logger("server").warning("core_not_free")


def post_worker_init(worker: Any) -> None:
    """Replace gunicorn's signal handlers once there is a service to drain, and watch whether it is idle."""
    gc.freeze()  # the objects of the service live as long as the worker, too
    if _settings.IDLE_EXIT_SECONDS:
        worker.idleness = Idleness(_settings.IDLE_EXIT_SECONDS, now=time.monotonic())

    def on_term(_signum: int, _frame: FrameType | None) -> None:
        drain(worker, _settings.DRAIN_SECONDS)

    def on_quit(_signum: int, _frame: FrameType | None) -> None:
        drain(worker, 0)

    signal.signal(signal.SIGTERM, on_term)
    signal.signal(signal.SIGHUP, on_term)
    signal.signal(signal.SIGINT, on_quit)
    signal.signal(signal.SIGQUIT, on_quit)


def worker_exit(_server: Any, worker: Any) -> None:
    if getattr(worker, "wsgi", None) is not None:
        worker.wsgi.extensions["service"].close()
        logging.shutdown()
        os._exit(0)  # Python's own exit would wait for threads of peers that stall
