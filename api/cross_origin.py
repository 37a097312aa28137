"""Which web pages of other origins may use the service (CORS), and the answers to OPTIONS.

Files, models and the OpenAPI document need no key and are open to all pages. Other routes are open to the pages of
`CORS_ORIGINS`, but not with an admin key: each program in such a page could read it.
"""

from collections.abc import Iterable
from typing import Final

from flask import Response, current_app, request

from api import incoming
from api.responses import no_content
from auth import ADMIN_HEADER

_OPEN: Final = frozenset({"file", "list_models", "openapi"})
"""Views that pages of any origin may read. They respond to all callers alike."""

_EXPOSED: Final = "Location, Preference-Applied, Retry-After, X-Request-ID, X-Should-Retry"
"""Headers of responses that such a page may read beside the usual ones."""

_REMEMBERED: Final = "600"
"""Seconds for which a browser need not repeat a preflight request."""


def allow(response: Response) -> None:
    """Let the page that made this request read the response, if it may."""
    if incoming.view_name() in _OPEN:
        response.headers["Access-Control-Allow-Origin"] = "*"
    elif current_app.config["CORS_ORIGINS"]:
        response.vary.add("Origin")
        if (origin := incoming.named_origin()) is not None:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = _EXPOSED


def options(methods: Iterable[str]) -> Response:
    """The response to OPTIONS for a URL that takes these methods, which is also that to a preflight request."""
    allowed = ", ".join(sorted({*methods, "OPTIONS"}))
    response = no_content()
    response.headers["Allow"] = allowed
    if incoming.named_origin() is not None and "Access-Control-Request-Method" in request.headers:
        requested = request.headers.get("Access-Control-Request-Headers", "").split(",")
        names = [
            name for each in requested if (name := each.strip()) and name.lower() != ADMIN_HEADER.lower()
        ]
        response.headers["Access-Control-Allow-Methods"] = allowed
        response.headers["Access-Control-Allow-Headers"] = ", ".join(names)
        response.headers["Access-Control-Max-Age"] = _REMEMBERED
    return response
