"""A receiver of webhooks."""

import json
import threading
import time
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Receiver:
    """A server that accepts webhooks. `statuses_to_send` has the statuses of its first responses."""

    def __init__(self) -> None:
        self.statuses_to_send: deque[int] = deque()
        self.accepted: list[tuple[dict[str, str], str]] = []
        self.refused: list[dict[str, str]] = []
        self.completed = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                headers = {name.lower(): value for name, value in self.headers.items()}
                status = receiver.statuses_to_send.popleft() if receiver.statuses_to_send else 200
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()
                if status != 200:
                    receiver.refused.append(headers)
                    return
                receiver.accepted.append((headers, body))
                if json.loads(body)["completed_at"]:
                    receiver.completed.set()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"

    def statuses(self) -> list[str]:
        assert self.completed.wait(10)
        return sorted(json.loads(body)["status"] for _, body in self.accepted)

    def bodies(self, count: int) -> list[dict[str, Any]]:
        """The accepted bodies, once there are so many of them."""
        for _ in range(1000):
            if len(self.accepted) >= count:
                return [json.loads(body) for _, body in self.accepted]
            time.sleep(0.01)
        raise AssertionError(f"only {len(self.accepted)} webhooks came")


def webhook_fields(receiver, *events):
    return {"webhook": receiver.url} | ({"webhook_events_filter": list(events)} if events else {})
