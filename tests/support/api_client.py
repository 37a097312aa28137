"""How tests ask for work and come back for it."""

from typing import Any

from flask.testing import FlaskClient

from harness.service_process import until
from tests.support.callers import USER

ASYNC = {"Prefer": "respond-async"}

PICTURE = {"model_name": "flux-dev", "prompt": "[[slow=0]] A lighthouse at dusk"}
"""A request whose prediction is over when its creation is answered."""

CHECKED = {"account": 1}
"""The requests to Replicate after a check of the token alone."""

ENDED = {"succeeded", "failed", "canceled"}


def picture(prompt: str = PICTURE["prompt"], **fields: Any) -> dict[str, Any]:
    return PICTURE | {"prompt": prompt} | fields


def left(client: FlaskClient, prompt: str = PICTURE["prompt"], *, by=USER, **fields: Any) -> str:
    """The id of a generation that nobody waits for."""
    answer = client.post("/generate", json=picture(prompt, **fields), headers=by | ASYNC)
    assert "id" in answer.json, answer.json  # it may have ended already, in whatever way
    return answer.json["id"]


def left_batch(client: FlaskClient, *prompts: str, by=USER, **fields: Any) -> str:
    """The id of a batch that nobody waits for."""
    body = {"model_name": "flux-dev", "prompts": list(prompts), **fields}
    answer = client.post("/generate-batch", json=body, headers=by | ASYNC)
    assert "id" in answer.json, answer.json  # it may have ended already, in whatever way
    return answer.json["id"]


def look_up(client: FlaskClient, target: str, *, by=USER) -> dict[str, Any]:
    """How a generation or batch stands."""
    kind = "batches" if target.startswith("batch_") else "generations"
    answer = client.get(f"/{kind}/{target}", headers=by)
    assert 200 == answer.status_code, answer.json
    return answer.json


def state(client: FlaskClient, target: str, *, by=USER) -> str:
    return look_up(client, target, by=by)["status"]


def ended(client: FlaskClient, target: str, *, by=USER) -> dict[str, Any]:
    """How it ended, once it has."""
    until(lambda: state(client, target, by=by) in ENDED | {"completed"})
    return look_up(client, target, by=by)
