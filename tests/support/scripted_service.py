"""A service that answers the client as a script says, on a virtual clock, so that no test waits."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx
from replicate_concurrent.config import Address, Settings
from replicate_concurrent.operations.drivers import AsyncDriver, Driver
from replicate_concurrent.operations.sending import Service
from replicate_concurrent.operations.steps import Operation

URL = "http://service.test"

Answer = httpx.Response | Exception | Callable[[httpx.Request], httpx.Response]


def answer(status: int, body: Mapping[str, Any] | None = None, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, json=body or {}, headers=named)


def problem(
    status: int, code: str, *, retryable: bool = False, headers: Any = None, **more: Any
) -> httpx.Response:
    body = {"code": code, "detail": f"{code}.", "retryable": retryable, "request_id": "req_1", **more}
    return httpx.Response(status, json=body, headers=headers)


class ScriptedService:
    """Answers each request by the next of `answers`, and the last one again and again.

    `requests` are those it received, `pauses` the seconds that the client waited, and `time` the clock. `connections`
    says whether the client blocks or runs on asyncio.
    """

    def __init__(
        self,
        answers: Sequence[Answer],
        *,
        on_asyncio: bool = False,
        timeout: float = 600.0,
        connect_timeout: float | None = None,
    ) -> None:
        self.requests: list[httpx.Request] = []
        self.pauses: list[float] = []
        self.time = 1000.0
        self.service = Service(
            Settings(URL, "rcg_secret"),
            timeout,
            find=_no_service,
            connect_timeout=connect_timeout,
            jitter=lambda: 0.0,
        )
        self.answers = list(answers)
        self._on_asyncio = on_asyncio

    def run(self, operation: Operation[Any]) -> Any:
        """The result of an operation, by the driver that blocks or the one of asyncio."""
        transport = httpx.MockTransport(self._answer)
        if self._on_asyncio:
            return asyncio.run(self._run_on_asyncio(transport, operation))
        with httpx.Client(transport=transport) as http:
            return Driver(http, clock=self._now, sleep=self._sleep).run(operation)

    def emitted(self, operation: Operation[Any]) -> list[Any]:
        """The values that an operation emits."""
        transport = httpx.MockTransport(self._answer)
        if self._on_asyncio:
            return asyncio.run(self._emitted_on_asyncio(transport, operation))
        with httpx.Client(transport=transport) as http:
            return [*Driver(http, clock=self._now, sleep=self._sleep).iterate(operation)]

    def hang(self, request: httpx.Request) -> httpx.Response:
        """An answer that does not come: the client waits for as long as it does for each read."""
        seconds = request.extensions["timeout"]["read"]
        self.time += seconds
        raise httpx.ReadTimeout(f"no byte came within {seconds} s", request=request)

    def bodies(self) -> list[Any]:
        return [json.loads(each.content) for each in self.requests]

    def paths(self) -> list[str]:
        return [f"{each.method} {each.url.path}" for each in self.requests]

    async def _run_on_asyncio(self, transport: httpx.MockTransport, operation: Operation[Any]) -> Any:
        async with httpx.AsyncClient(transport=transport) as http:
            return await AsyncDriver(http, clock=self._now, sleep=self._sleep_on_asyncio).run(operation)

    async def _emitted_on_asyncio(
        self, transport: httpx.MockTransport, operation: Operation[Any]
    ) -> list[Any]:
        async with httpx.AsyncClient(transport=transport) as http:
            driver = AsyncDriver(http, clock=self._now, sleep=self._sleep_on_asyncio)
            return [each async for each in driver.iterate(operation)]

    def _answer(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, httpx.Response):
            return httpx.Response(answer.status_code, content=answer.content, headers=answer.headers)
        return answer(request)

    def _now(self) -> float:
        return self.time

    def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.time += seconds

    async def _sleep_on_asyncio(self, seconds: float) -> None:
        self._sleep(seconds)


def _no_service(settings: Settings) -> Address:
    raise AssertionError("the tests of a scripted service look for no other one")
