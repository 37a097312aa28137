"""Calls of the HTTP API that many tests share: submit without waiting, look up, wait for the end."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from harness.service_process import until
from tests.support.callers import USER

ASYNC = {"Prefer": "respond-async"}

PICTURE = {"model_name": "flux-dev", "prompt": "[[slow=0]] A lighthouse at dusk"}
"""A request whose prediction is over when its creation is answered."""

CHECKED = {"account": 1}
"""The requests that Replicate gets if only the token is checked."""

ENDED = {"succeeded", "failed", "canceled"}

T = TypeVar("T")


def picture(prompt: str = PICTURE["prompt"], **fields: Any) -> dict[str, Any]:
    return PICTURE | {"prompt": prompt} | fields


def submit(
    client: FlaskClient, prompt: str = PICTURE["prompt"], *, by: Mapping[str, str] = USER, **fields: Any
) -> str:
    """Submit a generation without waiting, and return its id."""
    return _id(client.post("/generate", json=picture(prompt, **fields), headers={**by, **ASYNC}))


def submit_batch(client: FlaskClient, *prompts: str, by: Mapping[str, str] = USER, **fields: Any) -> str:
    """Submit a batch without waiting, and return its id."""
    body = {"model_name": "flux-dev", "prompts": list(prompts), **fields}
    return _id(client.post("/generate-batch", json=body, headers={**by, **ASYNC}))


def look_up(client: FlaskClient, target: str, *, by: Mapping[str, str] = USER) -> dict[str, Any]:
    """The body of a generation or batch."""
    kind = "batches" if target.startswith("batch_") else "generations"
    answer = client.get(f"/{kind}/{target}", headers=dict(by))
    assert 200 == answer.status_code, answer.text
    body: dict[str, Any] = answer.get_json()
    return body


def state(client: FlaskClient, target: str, *, by: Mapping[str, str] = USER) -> str:
    return str(look_up(client, target, by=by)["status"])


def ended(client: FlaskClient, target: str, *, by: Mapping[str, str] = USER) -> dict[str, Any]:
    """Wait until it has ended, and return its body."""
    until(lambda: state(client, target, by=by) in ENDED | {"completed"})
    return look_up(client, target, by=by)


def meanwhile(act: Callable[[], object], call: Callable[[], T]) -> T:
    """The result of `call`, which runs in another thread while `act` is called again and again.

    `meanwhile(simulator.finish, call)` ends each prediction that `call` waits for, as soon as it is there."""

    def is_over() -> bool:
        act()
        return result.done()

    with ThreadPoolExecutor(1) as thread:
        result = thread.submit(call)
        until(is_over)
    return result.result()


def _id(answer: TestResponse) -> str:
    body = answer.get_json()
    assert "id" in body, body  # the status varies, since the work may have ended already
    return str(body["id"])
