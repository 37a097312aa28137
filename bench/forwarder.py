"""A bare forwarder to compare with, without limits or error handling.

    python -m bench.forwarder --upstream http://127.0.0.1:8000 --port 5001

Flask under gunicorn's own gthread worker, an asyncio loop in a thread beside it, one aiohttp session on that loop. A
request creates a prediction, polls it until it has ended, and responds with its output. There is no queue, count,
retry, adoption, cancellation, validation or log. The difference to the service is their cost.
"""

import argparse
import asyncio
import threading
from typing import Any

import aiohttp
from flask import Flask, Response, current_app, jsonify, request
from gunicorn.app.base import BaseApplication

TOKEN = "r8_forwarder"

_TERMINAL = frozenset({"succeeded", "failed", "canceled", "aborted"})
_POLL_SECONDS = 0.5
_TIMEOUT_SECONDS = 600


class Upstream:
    """A session on a loop of its own. Create it after the fork, since a thread does not survive a fork."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="upstream", daemon=True).start()
        self._session = asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()

    def generated(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Create a prediction and return it once it has ended. Safe in any thread."""
        return asyncio.run_coroutine_threadsafe(self._generated(inputs), self._loop).result()

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._session.close(), self._loop).result()

    async def _open(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            self._url,
            connector=aiohttp.TCPConnector(limit=0),
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS),
            raise_for_status=True,
        )

    async def _generated(self, inputs: dict[str, Any]) -> dict[str, Any]:
        path = "/v1/models/black-forest-labs/flux-dev/predictions"
        async with self._session.post(path, json={"input": inputs}) as answer:
            prediction: dict[str, Any] = await answer.json()
        while prediction["status"] not in _TERMINAL:
            await asyncio.sleep(_POLL_SECONDS)
            async with self._session.get(f"/v1/predictions/{prediction['id']}") as answer:
                prediction = await answer.json()
        return prediction


def create_app(upstream: str) -> Flask:
    """The forwarder as a WSGI application."""
    app = Flask(__name__, static_folder=None)
    app.extensions["upstream"] = Upstream(upstream)
    app.add_url_rule("/generate", view_func=generate, methods=["POST"])
    return app


def generate() -> Response:
    """`POST /generate`: the fields other than `model_name` are the input. The model is always flux-dev."""
    inputs = {name: value for name, value in request.get_json().items() if name != "model_name"}
    upstream: Upstream = current_app.extensions["upstream"]
    prediction = upstream.generated(inputs)
    return jsonify(
        {
            "success": prediction["status"] == "succeeded",
            "prediction_id": prediction["id"],
            "output": prediction["output"],
            "error": prediction["error"],
        }
    )


class Server(BaseApplication):  # type: ignore[misc] # gunicorn ships no types
    """gunicorn with those settings of the service that matter for speed."""

    def __init__(self, upstream: str, port: int, threads: int) -> None:
        self._upstream = upstream
        self._settings: dict[str, Any] = {
            "bind": f"127.0.0.1:{port}",
            "worker_class": "gthread",
            "workers": 1,
            "threads": threads,
            "worker_connections": 2 * threads,
            "backlog": 2048,
            "keepalive": 15,
            "loglevel": "error",
            "control_socket_disable": True,
            "when_ready": lambda _: print("Serving on", self._settings["bind"], flush=True),
            "worker_exit": lambda _, worker: worker.wsgi.extensions["upstream"].close(),
        }
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._settings.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        return create_app(self._upstream)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m bench.forwarder", description="A bare forwarder.", allow_abbrev=False
    )
    parser.add_argument("--upstream", required=True, help="URL of Replicate")
    parser.add_argument("--port", type=int, default=5001)
    parser.add_argument("--threads", type=int, default=332)
    parsed = parser.parse_args()
    Server(parsed.upstream, parsed.port, parsed.threads).run()
