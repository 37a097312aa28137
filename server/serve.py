"""Runs gunicorn with `gunicorn.conf.py`, and a simulator of Replicate in a second process if the settings need one."""

import json
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from wsgiref.types import WSGIApplication

from gunicorn import systemd
from gunicorn.app.base import Application

from models import declared
from settings import SIMULATED_TOKEN, Settings

ROOT = Path(__file__).parent.parent


class Server(Application):  # type: ignore[misc] # gunicorn ships no types
    """gunicorn with its settings file. The worker creates the application."""

    def __init__(
        self, settings: Settings, create_app: Callable[[Settings], WSGIApplication], banner: str
    ) -> None:
        self._settings = settings
        self._create_app = create_app
        self._banner = banner
        super().__init__()

    def load_config(self) -> None:
        self.load_config_from_file(str(ROOT / "gunicorn.conf.py"))
        self.cfg.set("bind", self._settings.address)
        configured = self.cfg.when_ready

        def when_ready(arbiter: Any) -> None:
            configured(arbiter)
            sys.stdout.write(self._banner)
            sys.stdout.flush()

        self.cfg.set("when_ready", when_ready)

    def load(self) -> WSGIApplication:
        return self._create_app(self._settings)


def serve(settings: Settings, create_app: Callable[[Settings], WSGIApplication]) -> int:
    """Serve until a signal ends the process, and then end the simulator. Returns the exit status."""
    if trouble := _cannot_listen(settings):
        sys.stderr.write(f"{trouble}\n")
        return 2
    if not settings.needs_simulator:
        return _run(settings, create_app)
    if find_spec("simulator") is None:
        sys.stderr.write(
            "REPLICATE_SIMULATE: the simulator is not part of this installation; start one "
            "from a checkout (python -m simulator) and name it in REPLICATE_BASE_URL.\n"
        )
        return 2
    # The simulator ends with its stdin, so it never outlives this process, even if that is killed. In its own
    # session it gets no Ctrl-C: the service still needs it to cancel running predictions.
    command = [sys.executable, "-m", "simulator", "--port", "0", "--exit-on-stdin-eof"]
    with subprocess.Popen(  # noqa: S603 - our own module
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as simulator:
        said = simulator.stdout.readline() if simulator.stdout else ""
        if " http" not in said:
            return simulator.wait() or 1
        url = said.split()[-1]
        try:
            return _run(settings.model_copy(update={"REPLICATE_BASE_URL": url}), create_app)
        finally:
            simulator.terminate()


def _run(settings: Settings, create_app: Callable[[Settings], WSGIApplication]) -> int:
    try:
        Server(settings, create_app, _banner(settings)).run()
    except SystemExit as end:  # gunicorn ends by exiting
        return int(end.code or 0)
    return 0


def _cannot_listen(settings: Settings) -> str | None:
    """The reason why the address cannot be used, or None. gunicorn would retry for five seconds first. It needs none if
    it is passed a socket, as systemd does."""
    if systemd.listen_fds(unset_environment=False):
        return None
    host = settings.HOST.strip("[]")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, settings.PORT, type=socket.SOCK_STREAM)[
            0
        ]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        reason = error.strerror or str(error)
        return f"Cannot listen on {settings.address}: {reason}. PORT and HOST change it."
    return None


def _banner(settings: Settings) -> str:
    host = "localhost" if settings.HOST in {"0.0.0.0", "127.0.0.1", "::"} else settings.HOST
    url = "http://" + settings.model_copy(update={"HOST": host}).address
    if not settings.REPLICATE_SIMULATE:
        token = "set" if settings.replicate_token else "not set, so the admin key cannot pay"
        gemini = "set" if settings.gemini_key else "not set, so only the keys of callers pay"
        admin = "set" if settings.admin_key else "not set"
        return (
            f"\nServing on {url}; try {url}/docs\n"
            f"Replicate: {settings.REPLICATE_BASE_URL}; server token: {token}; admin key: {admin}\n"
            f"Gemini: {settings.GEMINI_BASE_URL}; server key: {gemini}\n"
            f"At once: {settings.REPLICATE_CONCURRENT_LIMIT}; a minute: {settings.REPLICATE_REQUESTS_PER_MINUTE}; "
            "limits of /configure come first\n\n"
        )
    example = json.dumps(declared().models[0].as_json()["example"])
    return (
        f"\n{'=' * 78}\n"
        "  SIMULATED: pictures and texts come from a simulator, not from a provider.\n"
        f"  They cost nothing. Simulator: {settings.REPLICATE_BASE_URL}\n"
        f"{'=' * 78}\n\n"
        f"Serving on {url}; try {url}/docs, or paste:\n\n"
        f"curl -s {url}/generate -H 'Content-Type: application/json' "
        f"-H 'X-Replicate-API-Key: {SIMULATED_TOKEN}' -d {shlex.quote(example)}\n\n"
    )
