"""The routes that document the service: links, the OpenAPI document and an HTML page."""

import secrets

from flask import Blueprint, Response, jsonify, render_template, request

from api import incoming
from api.openapi.document import openapi_document
from errors import every_error
from service import NAME, VERSION
from settings import SIMULATED_TOKEN

routes = Blueprint("docs", __name__)


# Without this, the public path without its slash would redirect by an HTML page.
@routes.get("/", strict_slashes=False)
def index() -> Response:
    """Links to the documentation. A browser is redirected to the HTML page."""
    if request.accept_mimetypes.best_match(["application/json", "text/html"]) == "text/html":
        response = Response(status=302, headers={"Location": f"{incoming.root()}/docs"})
        del response.headers["Content-Type"]
        return response
    address = incoming.address()
    paths = ("docs", "openapi.json", "models", "status", "health")
    links = {path.removesuffix(".json"): f"{address}/{path}" for path in paths}
    return jsonify({"name": NAME, "version": VERSION, "links": links})


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
        root=incoming.root(),
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
