"""How gunicorn serves: one worker, since the gate must see every call; threads, since callers wait.

Never preload: the loop thread would be started before the fork and be missing after it. The hooks tie the
process's signals to the service's drain: on SIGTERM the worker goes on accepting, so that `/health` can say
503, until what runs has ended or was given its time; only then does it stop. Ctrl-C and SIGQUIT give it none.
"""

import gc
import logging
import os
import resource
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import structlog
from gunicorn import glogging

from server.worker import LONGEST_HEADERS, MOST_HEADERS, Worker, drain
from settings import SettingsError, load
from telemetry import logs

_HEARING_SECONDS = 45
"""What hearing of creations on their way may take after the drain. What takes longer the next process looks for."""


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
threads = _settings.threads
worker_connections = 2 * threads
backlog = 2048
limit_request_field_size = LONGEST_HEADERS
limit_request_fields = MOST_HEADERS
keepalive = 15
timeout = 120  # of the worker's main thread, which only accepts; requests may take longer
graceful_timeout = int(_settings.DRAIN_SECONDS) + _HEARING_SECONDS
control_socket_disable = True  # it would be a file in the home directory, and roots are read-only
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - a container's writable part
logger_class = Logger
logconfig_dict = logs.configuration(_settings)


def on_starting(_server: Any) -> None:
    """See to file descriptors: every caller who waits holds two."""
    wanted = 2 * worker_connections + _settings.REPLICATE_CONCURRENT_LIMIT + 512
    few, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < wanted:
        logs.configure(_settings)
        structlog.get_logger("server").warning("file_descriptor_limit_low", most=most, wanted=wanted)
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
        os._exit(0)  # Python would first wait for threads that wait for a peer who stalls
