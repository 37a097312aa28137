"""The OpenAPI document of the service, and a check that its answers match it."""

import json
from typing import Any

from jsonschema import Draft202012Validator
from werkzeug.test import TestResponse

from api.openapi.document import openapi_document
from service import VERSION
from tests.support.declarations import REGISTRY

DOCUMENT = openapi_document(VERSION, REGISTRY.models)


def validator(name: str, document: dict[str, Any] = DOCUMENT) -> Draft202012Validator:
    """The validator of a schema by its name."""
    return Draft202012Validator(document | {"$ref": f"#/components/schemas/{name}"})


def closed(schema: Any) -> Any:
    """The same schema, without further properties."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: closed(each) for name, each in schema.items()}
    return made | {"additionalProperties": False} if isinstance(schema.get("properties"), dict) else made


CLOSED = closed(DOCUMENT)


def described(answer: TestResponse, path: str, method: str = "post") -> dict[str, Any]:
    """The content of this answer in the document, which names its headers."""
    response = DOCUMENT["paths"][path][method]["responses"][str(answer.status_code)]
    named = {"Location", "Preference-Applied", "Retry-After", "x-should-retry"}
    assert named & set(answer.headers.keys()) <= set(response.get("headers", ()))
    content: dict[str, Any] = response.get("content", {})
    return content


def conforms(
    answer: TestResponse, path: str, method: str = "post", document: dict[str, Any] = CLOSED
) -> TestResponse:
    """The answer. Its body must match the document."""
    content = described(answer, path, method)[answer.content_type or ""]
    name = content["schema"]["$ref"].rsplit("/", 1)[1]
    errors = [error.message for error in validator(name, document).iter_errors(json.loads(answer.data))]
    assert [] == errors, (path, answer.status_code, "api/openapi/schemas.py has every field")
    return answer
