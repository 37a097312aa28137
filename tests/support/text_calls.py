"""Calls to text models over HTTP: keys and bodies, and how they are sent."""

from collections.abc import Mapping
from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.support.callers import ADMIN_KEY

GEMINI_KEY = "AQ.the-key-of-the-service"
OWN_KEY = "AQ.the-key-of-a-caller"

ADMIN = {"Admin-API-Key": ADMIN_KEY}
OWNER = {"X-Gemini-API-Key": OWN_KEY}
CREDENTIALS = {"credentials": {"gemini_api_key": OWN_KEY}}

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "city": {"type": "string"}},
    "required": ["name", "city"],
}
EXTRACT = {"system_prompt": "Extract.", "user_content": "I am Jane from Oslo.", "json_schema": PERSON}
STORY = {"system_prompt": "Tell a story.", "user_content": "A fox."}


def ask(
    client: FlaskClient, body: Any, *, to: str = "/chat", by: Mapping[str, str] = ADMIN, **headers: str
) -> TestResponse:
    """The answer to a call."""
    return client.post(to, json=body, headers={**by, **headers})


def code(answer: TestResponse) -> tuple[int, str]:
    """The status and the code of a refusal or a failure."""
    assert "application/problem+json" == answer.content_type, answer.text
    return answer.status_code, answer.get_json()["code"]
