"""A fake Google: scripted answers to requests, without sockets, so that time may be virtual."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from admission.flows import UNPROVEN
from auth import Caller, credentials
from concurrency import Gate
from providers.calls import Call, CallLease, Message
from providers.connections import HeldBack, NotSent
from providers.gemini.client import GeminiClient
from providers.gemini.transport import Connections, Incoming, Request

SERVER_KEY = "AQ.server-key-0123456789"
USER_KEY = "AIzaSyUserKey0123456789"

SERVER = Caller("admin", "admin", credentials(gemini=SERVER_KEY))
USER = Caller("user", "user_1", credentials(gemini=USER_KEY), turn=UNPROVEN)

HELLO = Call(model="gemini-3.8-flash", messages=(Message("user", "Hello"),), max_output_tokens=8192)

Step = bytes | float | Exception
"""Bytes of the answer, seconds of silence, or the error that ends the connection."""


@dataclass
class Script:
    """One answer. `head_after` is in seconds; an error in place of them comes before the head."""

    steps: Sequence[Step] = ()
    status: int = 200
    head_after: float | Exception = 0.0


def chunk(*texts: str, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    """A chunk as Google sends it."""
    candidate: dict[str, Any] = {"index": 0}
    if texts:
        candidate["content"] = {"role": "model", "parts": [{"text": text} for text in texts]}
    if finish:
        candidate["finishReason"] = finish
    return {"candidates": [candidate], "modelVersion": "gemini-3.8-flash", "responseId": "resp-1", **fields}


def usage(prompt: int, candidates: int = 0, thoughts: int = 0, cached: int = 0) -> dict[str, Any]:
    counts = {
        "promptTokenCount": prompt,
        "cachedContentTokenCount": cached,
        "candidatesTokenCount": candidates,
        "thoughtsTokenCount": thoughts,
        "totalTokenCount": prompt + candidates + thoughts,
    }
    return {"usageMetadata": counts}


def sse(*chunks: Mapping[str, Any]) -> bytes:
    return b"".join(b"data: " + json.dumps(each).encode() + b"\r\n\r\n" for each in chunks)


def error(code: int, status: str, message: str = "", *details: Mapping[str, Any]) -> dict[str, Any]:
    """An error document; the types of the details are those of Google's RPCs."""
    typed = [{**each, "@type": f"type.googleapis.com/google.rpc.{each['@type']}"} for each in details]
    return {
        "error": {"code": code, "message": message, "status": status, **({"details": typed} if typed else {})}
    }


def refused(code: int, status: str, message: str = "", *details: Mapping[str, Any]) -> Script:
    return Script([json.dumps(error(code, status, message, *details)).encode()], status=code)


def failure(quota: str, value: str | None = None) -> dict[str, Any]:
    violation = {"quotaId": quota, "quotaMetric": "m", **({} if value is None else {"quotaValue": value})}
    return {"@type": "QuotaFailure", "violations": [violation]}


@dataclass
class FakeGoogle(Connections):
    """Answers each request by the next script, and refuses the connection when there is none left."""

    scripts: list[Script]
    requests: list[Request] = field(default_factory=list)
    closed: int = 0
    others: Gate = field(default_factory=partial(Gate, concurrent_limit=100, requests_per_minute=1000))

    @asynccontextmanager
    async def open(self, request: Request) -> AsyncIterator[Incoming]:
        if not self.scripts:
            raise NotSent("no connection")
        if not request.may_send():
            raise HeldBack
        request.on_send()
        self.requests.append(request)
        script = self.scripts.pop(0)
        try:
            if isinstance(script.head_after, Exception):
                raise script.head_after
            await asyncio.sleep(script.head_after)
            yield _Answer(script)
        finally:
            self.closed += 1

    async def aclose(self) -> None: ...

    def client(self, **options: Any) -> GeminiClient:
        return GeminiClient(base_url="https://google.test", others=self.others, connections=self, **options)


class _Answer(Incoming):
    def __init__(self, script: Script) -> None:
        self._steps = list(script.steps)
        self._status = script.status

    @property
    def status(self) -> int:
        return self._status

    async def read(self) -> bytes:
        while self._steps:
            match self._steps.pop(0):
                case bytes(part):
                    return part
                case Exception() as ends:
                    raise ends
                case seconds:
                    await asyncio.sleep(float(str(seconds)))
        return b""


class LeaseLog(CallLease):
    """A lease that records each step of its call."""

    def __init__(self) -> None:
        self.log: list[str | int] = []

    def sent(self) -> None:
        self.log.append("sent")

    def not_sent(self) -> None:
        self.log.append("not_sent")

    def answered(self) -> None:
        self.log.append("answered")

    def measured(self, tokens: int) -> None:
        self.log.append(tokens)

    def lost(self) -> None:
        self.log.append("lost")
