"""Processes of the service, one after the other on one directory, and the requests that callers send to each."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from flask.testing import FlaskClient
from werkzeug.datastructures import FileStorage, MultiDict
from werkzeug.test import encode_multipart

from harness.service_process import until
from simulator import Simulator
from tests.data.inputs import Receiver
from tests.support.kept_ledgers import (
    headers_of,
    move,
    service,
)

DAY = 86_400
PNG = b"\x89PNG\r\n\x1a\n"
ASYNC = {"Prefer": "respond-async"}


class Processes:
    """Starts one process after the other, and sends requests to each."""

    def __init__(self, data: Path, simulator: Simulator, receiver: Receiver) -> None:
        self.data = data
        self.simulator = simulator
        self.hooks = receiver.url
        self.client: FlaskClient
        self.described: dict[str, list[str]] = {}
        self.keys: list[tuple[str, str, str, Any, bool]] = []
        """Whose key, of which route, with which body, and whether it has expired by now."""

    @contextmanager
    def process(self, *, then_pass: int = 0, **settings: Any) -> Iterator[None]:
        with service(self.data, self.simulator.url, **settings) as app:
            self.client = app.test_client()
            yield
        if then_pass:
            move(self.data / "ledger.db", -then_pass * DAY)

    def post(self, who: str, path: str, body: Any, *, key: str | None = None, **headers: str) -> Any:
        with_key = {} if key is None else {"Idempotency-Key": key}
        answer = self.client.post(path, json=body, headers=headers_of(who) | with_key | headers)
        if answer.status_code >= 400 and "id" not in answer.json:
            raise AssertionError(answer.json)
        return answer.json

    def make(
        self, who: str, *, model: str = "flux-dev", what: str = "", wait: bool = True, **body: Any
    ) -> str:
        answer = self.post(who, "/generate", {"model_name": model, **body}, **({} if wait else ASYNC))
        return self.note(what, answer["id"])

    def batch(self, who: str, body: Any, *, what: str = "", wait: bool = True) -> str:
        return self.note(what, self.post(who, "/generate-batch", body, **({} if wait else ASYNC))["id"])

    def many(self, who: str, number: int, *, prompt: str, model: str = "flux-dev", **body: Any) -> str:
        prompts = [f"{prompt}, number {each}" for each in range(number)]
        return self.batch(who, {"model_name": model, "prompts": prompts, **body})

    def keep(self, who: str, path: str, body: Any, *, key: str, expired: bool) -> None:
        self.post(who, path, body, key=key)
        self.keys.append((who, key, path, body, expired))

    def note(self, what: str, target: str) -> str:
        if what:
            self.described.setdefault(what, []).append(target)
        return target

    def state(self, target: str) -> str:
        answer = self.client.get(f"/generations/{target}", headers=headers_of("admin")).json
        return str(answer["status"])

    def come_to(self, state: str, *targets: str) -> None:
        until(lambda: all(self.state(each) == state for each in targets))

    def first_of_batch_done(self, target: str) -> None:
        headers = headers_of("admin")
        until(lambda: self.client.get(f"/batches/{target}", headers=headers).json["succeeded"] == 1)

    def cancel(self, who: str, target: str) -> None:
        kind = "batches" if target.startswith("batch_") else "generations"
        assert self.client.delete(f"/{kind}/{target}", headers=headers_of(who)).status_code == 200

    def later(self, work: Callable[[], object]) -> None:
        threading.Thread(target=work, daemon=True).start()

    def upload(self, who: str, **fields: str) -> str:
        image = FileStorage(BytesIO(PNG.ljust(300_000, b"\0")), "a.png")
        boundary, body = encode_multipart(MultiDict({**fields, "input_image": image}))
        kind = f"multipart/form-data; boundary={boundary}"
        answer = self.client.post("/generate", data=body, content_type=kind, headers=headers_of(who) | ASYNC)
        return str(answer.json["id"])
