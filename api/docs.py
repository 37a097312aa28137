"""The routes that document the service: links, the OpenAPI document and an HTML page."""

import json
import secrets
from typing import Any, Final

from flask import Blueprint, Response, g, jsonify, render_template, request

from api import admin, incoming, semaphores
from api.openapi.document import openapi_document
from doors import OPENAI_ROOT, REPLICATE_ROOT, error_shapes
from errors import InvalidRequest, Problem
from errors.listing import every_error
from service import NAME, VERSION
from settings import SIMULATED_TOKEN

routes = Blueprint("docs", __name__)

_DOORS: Final = {"openai": OPENAI_ROOT, "replicate": REPLICATE_ROOT}
"""The path below which each door is."""


# Without this, the public path without its slash would redirect by an HTML page.
@routes.get("/", strict_slashes=False)
def index() -> Response:
    """Links to the documentation, and the providers. A browser is redirected to the HTML page."""
    if request.accept_mimetypes.best_match(["application/json", "text/html"]) == "text/html":
        response = Response(status=302, headers={"Location": f"{incoming.root()}/docs"})
        del response.headers["Content-Type"]
        return response
    address, service = incoming.address(), incoming.service()
    paths = ("docs", "openapi.json", "models", "status", "health")
    links = {path.removesuffix(".json"): f"{address}/{path}" for path in paths}
    body: dict[str, Any] = {
        "name": NAME,
        "version": VERSION,
        "links": links,
        "providers": admin.providers(service),
    }
    if incoming.known() is not None:
        body["semaphores"] = semaphores.listed(service)
    return jsonify(body)


@routes.get("/openapi.json")
def openapi() -> Response:
    """The OpenAPI document."""
    return jsonify(
        openapi_document(VERSION, incoming.service().context.registry.models, root=incoming.root())
    )


@routes.get("/docs")
def docs() -> Response:
    """A self-contained HTML page to read and try the API."""
    nonce, settings = secrets.token_urlsafe(16), incoming.service().settings
    simulated = settings.REPLICATE_SIMULATE
    html = render_template(
        "docs.html",
        nonce=nonce,
        version=VERSION,
        errors=every_error(),
        shapes={name: _error_at(path) for name, path in _DOORS.items()},
        root=incoming.root(),
        address=incoming.address(),
        user_tokens=settings.ALLOW_USER_TOKENS,
        simulated=simulated,
        token=SIMULATED_TOKEN if simulated and settings.ALLOW_USER_TOKENS else "",
    )
    page = Response(html, mimetype="text/html")
    page.headers["Content-Security-Policy"] = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; "
        # Outputs are shown from their own URLs.
        "img-src 'self' data: https: http://127.0.0.1:* http://localhost:*; "
        "media-src 'self' data: https: http://127.0.0.1:* http://localhost:*; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page


def _error_at(path: str) -> str:
    """The body of a refusal below a path, as JSON."""
    refused = InvalidRequest([Problem("prompt", "is required")])
    problem = refused.as_problem(g.request_id, root=incoming.root())
    body, _, _ = error_shapes.shape(problem, {}, path)
    return json.dumps(body, indent=2)
