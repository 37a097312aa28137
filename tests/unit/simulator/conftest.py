"""A simulator for each test, and its callers: plain HTTP and the official client."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import requests

from simulator import Options, Simulator, running
from tests.unit.simulator.creations import FLUX_DEV, MINE
from tests.unit.simulator.receivers import Receiver


class Caller:
    """A caller of a simulator with one token."""

    def __init__(self, url: str, token: str | None = "r8_tester") -> None:
        self.url = url
        self.session = requests.Session()
        if token is not None:
            self.session.headers["Authorization"] = f"Bearer {token}"

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        return self.session.request(method, f"{self.url}{path}", timeout=20, **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> requests.Response:
        return self.request("POST", path, **options)

    def create(
        self,
        prompt: str = "a fox",
        *,
        model: str = FLUX_DEV,
        headers: dict[str, str] | None = None,
        body: dict[str, Any] | None = None,
        **inputs: Any,
    ) -> requests.Response:
        """Create a prediction, without waiting for it."""
        content = {"input": {"prompt": prompt, **inputs}} | (body or {})
        return self.post(f"/v1/models/{model}/predictions", json=content, headers=headers)

    def outcome(self, prompt: str = "a fox", **inputs: Any) -> dict[str, Any]:
        """Create a prediction and return it at its end."""
        return self.create(prompt, headers={"Prefer": "wait=10"}, **inputs).json()

    @property
    def username(self) -> str:
        name: str = self.get("/v1/account").json()["username"]
        return name

    def destination(self, name: str = "fox", *, visibility: str = "private") -> str:
        """Create a model without a version. Returns its full name."""
        owner = self.username
        body = {"owner": owner, "name": name, "visibility": visibility, "hardware": "gpu-t4"}
        assert self.post("/v1/models", json=body).status_code == 201
        return f"{owner}/{name}"

    def upload(self, content: bytes, name: str = "images.zip") -> str:
        """Upload a file. Returns its URL."""
        facts = self.post("/v1/files", files={"content": (name, content, "application/zip")}).json()
        url: str = facts["urls"]["get"]
        return url

    def train(
        self, trainer: str, destination: str, *, body: dict[str, Any] | None = None, **inputs: Any
    ) -> requests.Response:
        """Create a training by the latest version of a trainer, without waiting for it."""
        version = self.get(f"/v1/models/{trainer}").json()["latest_version"]["id"]
        content = {"destination": destination, "input": inputs} | (body or {})
        return self.post(f"/v1/models/{trainer}/versions/{version}/trainings", json=content)

    def training(self, made: dict[str, Any], *, until: str = "") -> dict[str, Any]:
        """A training at its end, or once it has the status `until`."""
        for _ in range(1000):
            found: dict[str, Any] = self.get(f"/v1/trainings/{made['id']}").json()
            if found["status"] == until or found["completed_at"]:
                return found
            time.sleep(0.01)
        raise AssertionError(f"the training is still {found['status']}")

    def status(self, prediction: dict[str, Any]) -> str:
        return self.get(f"/v1/predictions/{prediction['id']}").json()["status"]


class ManualClock:
    """A clock in nanoseconds that only `advance` moves."""

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
    options = Options(prediction_seconds=0.05, training_seconds=0.05, jitter=0, webhook_retry_seconds=0.01)
    with running(options, clock=clock) as simulator:
        yield simulator


@pytest.fixture
def make_caller() -> Iterator[Callable[..., Caller]]:
    """Makes callers from a URL and a token."""
    made: list[Caller] = []

    def make(url: str, token: str | None = "r8_tester") -> Caller:
        made.append(Caller(url, token))
        return made[-1]

    yield make
    for caller in made:
        caller.session.close()


@pytest.fixture
def caller_with(sim: Simulator, make_caller: Callable[..., Caller]) -> Callable[..., Caller]:
    """Makes callers of the simulator from a token."""
    return lambda token="r8_tester": make_caller(sim.url, token)


@pytest.fixture
def caller(caller_with: Callable[..., Caller]) -> Caller:
    return caller_with()


@pytest.fixture
def http(sim: Simulator) -> Iterator[httpx.Client]:
    """An HTTP client of the simulator, without a token."""
    with httpx.Client(base_url=sim.url, timeout=20, trust_env=False) as client:
        yield client


@pytest.fixture
def outcome(http: httpx.Client) -> Callable[..., dict[str, Any]]:
    """Creates a prediction and returns it at its end."""

    def create(
        prompt: str = "a fox", *, model: str = FLUX_DEV, headers: dict[str, str] = MINE, **inputs: Any
    ) -> dict[str, Any]:
        answer = http.post(
            f"/v1/models/{model}/predictions",
            json={"input": {"prompt": prompt, **inputs}},
            headers={**headers, "Prefer": "wait=10"},
        )
        body: dict[str, Any] = answer.json()
        return body

    return create


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver of webhooks."""
    made = Receiver()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()
