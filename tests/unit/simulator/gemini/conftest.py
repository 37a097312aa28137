"""A simulated Gemini for each test, and a caller of it by plain HTTP."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import httpx
import pytest
from PIL import Image

from simulator import Options, Simulator, running
from simulator.gemini.options import GeminiOptions
from tests.unit.simulator.conftest import ManualClock

BEFORE = datetime(2026, 11, 28, 12, tzinfo=UTC)
"""A date at which gemini-2.5-pro still answers itself."""


@dataclass
class Talker:
    """A caller with one key."""

    http: httpx.Client
    key: str = "AQ.tester"
    model: str = "gemini-3.8-flash"

    def post(self, method: str, body: Any, *, model: str = "", **options: Any) -> httpx.Response:
        headers = {"x-goog-api-key": self.key} | options.pop("headers", {})
        path = f"/v1beta/models/{model or self.model}:{method}"
        return self.http.post(path, json=body, headers=headers, **options)

    def ask(self, text: str = "Hello", *, model: str = "", **body: Any) -> httpx.Response:
        """A unary call."""
        return self.post("generateContent", said(text) | body, model=model)

    def stream(self, text: str = "Hello", *, model: str = "", **body: Any) -> list[dict[str, Any]]:
        """The chunks of a stream."""
        return events(self.post("streamGenerateContent?alt=sse", said(text) | body, model=model))


def said(text: str) -> dict[str, Any]:
    """A body with one content of a user."""
    return {"contents": [{"role": "user", "parts": [{"text": text}]}]}


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    """The events of a stream."""
    assert answer.headers["Content-Type"] == "text/event-stream"
    return [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line]


@pytest.fixture
def sim(clock: ManualClock) -> Iterator[Simulator]:
    gemini = GeminiOptions(first_seconds=0, seconds=0, date=BEFORE)
    with running(Options(seed=1, gemini=gemini), clock=clock) as simulator:
        yield simulator


@pytest.fixture
def talker_with(http: httpx.Client) -> Callable[..., Talker]:
    return lambda key="AQ.tester": Talker(http, key)


@pytest.fixture
def talker(talker_with: Callable[..., Talker]) -> Talker:
    return talker_with()


@pytest.fixture
def picture() -> Callable[[int, int], bytes]:
    """Makes a PNG of so many pixels."""

    def make(width: int, height: int) -> bytes:
        content = BytesIO()
        Image.new("L", (width, height)).save(content, "PNG")
        return content.getvalue()

    return make
