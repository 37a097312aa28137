"""Streamed batches as NDJSON, and a wait until all work of a service has ended."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

NDJSON = {"Accept": "application/x-ndjson"}


def stream(client: FlaskClient, headers: dict[str, str], *prompts: str, **more: Any) -> TestResponse:
    """The response to a batch of these prompts once its first result is ready; `lines` reads the rest."""
    body = {"model_name": "flux-dev", "prompts": list(prompts), **more}
    return client.post("/generate-batch", json=body, headers=headers | NDJSON)


def lines(answer: TestResponse) -> Iterator[Any]:
    """The lines of a stream, as they arrive."""
    return (json.loads(line) for line in answer.iter_encoded())


def settle(app: Flask) -> None:
    """Return once all work has ended."""
    service = app.extensions["service"]

    async def ended() -> None:
        if running := service.core.supervisor.tasks():
            await asyncio.wait(running)

    service.loop.submit(ended()).result(30)
