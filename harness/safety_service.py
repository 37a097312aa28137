"""A service that judges prompts, as operators have one at SAFETY_URL, and Azure's, on a real socket."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, Mapping[str, str], bytes]


def answer(body: Any, status: int = 200, **headers: str) -> Answer:
    return status, headers, body if isinstance(body, bytes) else json.dumps(body).encode()


def by_words(words: Mapping[str, str]) -> Callable[[Any], Answer]:
    """Refuses a prompt with one of these words for its category."""

    def judge(body: Any) -> Answer:
        texts = f"{body['prompt']} {body['negative_prompt']}"
        found = [category for word, category in words.items() if word in texts]
        return answer(
            {"allow": not found, "categories": found, "reason": "It has a word." if found else None}
        )

    return judge


class SafetyService:
    """Answers each request by `judge`. While `open` is not set, requests wait."""

    def __init__(self, judge: Callable[[Any], Answer]) -> None:
        self.judge = judge
        self.url = ""
        self.bodies: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.open = threading.Event()
        self.open.set()

    @property
    def prompts(self) -> list[str]:
        return [each["prompt"] for each in self.bodies]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    service: SafetyService


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        service = self.server.service
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        service.paths.append(self.path)
        service.headers.append({name.lower(): value for name, value in self.headers.items()})
        service.bodies.append(body)
        service.open.wait(30)
        status, headers, content = service.judge(body)
        try:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
        except OSError:
            pass  # the caller does not wait any more

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def judging(judge: Callable[[Any], Answer]) -> Iterator[SafetyService]:
    """A service that runs while the block does."""
    service = SafetyService(judge)
    server = _Server(("127.0.0.1", 0), _Handler)
    server.service = service
    service.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield service
    finally:
        service.open.set()
        server.shutdown()
        thread.join()
        server.server_close()
