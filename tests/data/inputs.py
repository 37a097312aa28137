"""The requests of `write_ledger.py` that fail or change on the way, and the receiver of its webhooks."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PICTURE = "https://example.com/a.png"

FAILING: list[tuple[str, dict[str, Any]]] = [
    ("ann", {"prompt": "[[fail]] out of memory"}),
    ("ann", {"prompt": "[[fail=The tensor is too large]] with words of its own"}),
    ("ann", {"prompt": "[[nsfw]] refused", "fallback": False}),
    ("ann", {"prompt": "[[empty]] nothing came"}),
    ("ann", {"prompt": "[[canceled]] ended by Replicate"}),
    ("ann", {"prompt": "[[aborted]] ended before it began"}),
    ("ann", {"prompt": "[[fewer]] one less", "num_outputs": 3}),
    ("ann", {"prompt": "[[transient]] again"}),
    ("ann", {"prompt": "[[early]] there before its end"}),
    ("bob", {"prompt": "[[hang]] too long", "timeout": 1}),
    ("bob", {"prompt": "[[only=flux-dev]] [[nsfw]] falls back", "fallback": True, "num_outputs": 2, "guidance": 3}),
    ("bob", {"prompt": "[[nsfw]] falls back in vain", "fallback": True}),
    ("bob", {"prompt": "[[nsfw]] [[only=flux-dev,imagen-4-ultra]] in this order",
             "fallback": ["imagen-4-ultra", "nano-banana"], "seed": 3}),
    ("bob", {"prompt": "[[fail]] nothing affordable", "fallback": ["imagen-4-ultra"], "max_cost_usd": 0.03}),
    ("bob", {"prompt": "[[fail]] a black one", "placeholder": True, "file_name": "stand-in"}),
    ("bob", {"prompt": "[[nsfw]] a black one after all", "placeholder": True, "fallback": True}),
    ("bob", {"prompt": "[[hang]] [[only=flux-dev]] late", "timeout": 1, "fallback": True}),
    ("bob", {"prompt": "[[only=flux-dev]] [[fail]] with its picture", "fallback": True, "image": PICTURE}),
    ("admin", {"prompt": "An owl with Ünïcödé, \"quotes\" and 🦉", "file_name": "an owl.png"}),
    ("admin", {"prompt": "Three at once", "num_outputs": 3, "file_name": "Käuze"}),
    ("admin", {"prompt": "[[sparse]] few words"}),
]  # fmt: skip


class Receiver:
    """Receives webhooks: answers 204 at `/heard`, 410 at `/gone`, and 503 at `/later` with an hour to wait."""

    def __init__(self) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response({"/heard": 204, "/gone": 410}.get(self.path, 503))
                if self.path == "/later":
                    self.send_header("Retry-After", "3600")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"
