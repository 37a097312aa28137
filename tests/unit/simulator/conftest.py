"""A simulator for each test, and two callers of it: plain HTTP, and the official client."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import replicate
import requests

from simulator import Options, Simulator, running

FLUX_DEV = "black-forest-labs/flux-dev"


class Caller:
    """Talks to a simulator with one token."""

    def __init__(self, url: str, token: str | None = "r8_tester") -> None:
        self.url = url
        self.session = requests.Session()
        if token is not None:
            self.session.headers["Authorization"] = f"Bearer {token}"

    def ask(self, method: str, path: str, **how: Any) -> requests.Response:
        return self.session.request(method, f"{self.url}{path}", timeout=20, **how)

    def get(self, path: str, **how: Any) -> requests.Response:
        return self.ask("GET", path, **how)

    def post(self, path: str, **how: Any) -> requests.Response:
        return self.ask("POST", path, **how)

    def create(
        self,
        prompt: str = "a fox",
        *,
        model: str = FLUX_DEV,
        headers: dict[str, str] | None = None,
        body: dict[str, Any] | None = None,
        **given: Any,
    ) -> requests.Response:
        """Create a prediction, without waiting for it."""
        content = {"input": {"prompt": prompt, **given}} | (body or {})
        return self.post(f"/v1/models/{model}/predictions", json=content, headers=headers)

    def outcome(self, prompt: str = "a fox", **given: Any) -> dict[str, Any]:
        """Create a prediction and hold on until it is done."""
        return self.create(prompt, headers={"Prefer": "wait=10"}, **given).json()

    def status(self, prediction: dict[str, Any]) -> str:
        return self.get(f"/v1/predictions/{prediction['id']}").json()["status"]


class ManualClock:
    """A clock moved by hand, in nanoseconds."""

    def __init__(self) -> None:
        self.now = 10**15

    def __call__(self) -> int:
        return self.now

    def advance(self, *, seconds: float) -> None:
        self.now += round(seconds * 10**9)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def sim(clock: ManualClock) -> Iterator[Simulator]:
    options = Options(prediction_seconds=0.05, jitter=0, webhook_retry_seconds=0.01)
    with running(options, clock=clock) as simulator:
        yield simulator


@pytest.fixture
def make_caller() -> Iterator[Callable[..., Caller]]:
    """Makes callers by URL and token."""
    made: list[Caller] = []

    def make(url: str, token: str | None = "r8_tester") -> Caller:
        made.append(Caller(url, token))
        return made[-1]

    yield make
    for caller in made:
        caller.session.close()


@pytest.fixture
def caller_with(sim: Simulator, make_caller: Callable[..., Caller]) -> Callable[..., Caller]:
    """Makes callers of the simulator by token."""
    return lambda token="r8_tester": make_caller(sim.url, token)


@pytest.fixture
def caller(caller_with: Callable[..., Caller]) -> Caller:
    return caller_with()


@pytest.fixture
def client(sim: Simulator) -> Iterator[replicate.Client]:
    client = replicate.Client(api_token="r8_official", base_url=sim.url)
    yield client
    client._client.close()
