"""Parses the requests that create models: the destinations of trainings.

A model belongs to the account that creates it, so its owner is the account's username. A private model exists only for
that account.
"""

import re
from typing import Any

from simulator import creation, directives, responses

_REQUIRED = ("owner", "name", "visibility", "hardware")
_OPTIONAL = ("description", "github_url", "license_url", "paper_url", "cover_image_url")
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?")


def parse(content: bytes, *, username: str, token: str) -> dict[str, Any]:
    """The document of a new model (`loading`) from the body of a request.

    A name can have directives, which the trainings into it obey.

    Args:
        content: The body.
        username: The name of the caller's account.
        token: The token by which that account is known.

    Raises:
        ApiError: 400, 403 or 422.
    """
    body = creation.parsed_object(content)
    creation.check_names(body, set(_REQUIRED), set(_OPTIONAL))
    problems = [
        responses.problem("invalid_type", name, "Invalid type. Expected: string")
        for name, value in body.items()
        if not isinstance(value, str) and not (value is None and name in _OPTIONAL)
    ]
    if not problems and body["visibility"] not in ("public", "private"):
        problems = [responses.problem("enum", "visibility", "visibility must be public or private")]
    if not problems and not _NAME.fullmatch(directives.remove(body["name"])):
        found = "Must be lower-case letters, digits, dashes, underscores and dots"
        problems = [responses.problem("pattern", "name", found)]
    if problems:
        raise responses.invalid_input(problems)
    if body["owner"] != username:
        raise responses.forbidden()
    return {name: value for name, value in body.items() if name != "hardware"} | {
        "is_official": False,
        "simulator": {
            "hardware": body["hardware"],
            "tokens": [token] if body["visibility"] == "private" else None,
        },
    }
