"""The Flask application: the routes of `api/`, one log line for each request, and the only error handler.

`python app.py` serves it. Routes raise errors, and the handler turns each into a problem document (RFC 9457). No error
response is HTML.
"""

import argparse
import gc
import random
import re
import sys
import time

if __name__ == "__main__":
    gc.disable()  # a tenth of the start, for almost no garbage; gunicorn.conf.py enables it again
    sys.modules["rich"] = None  # type: ignore[assignment] # structlog would load it if it is installed, and not use it

import structlog
from flask import Flask, Response, g, jsonify, request
from werkzeug.exceptions import HTTPException

from api import cross_origin, incoming, register, responses
from doors import error_shapes
from errors import (
    Internal,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    Problem,
    ServiceError,
)
from generations.core import FullProvider
from generations.service import HandedOver
from ledger.move import move
from loop_thread import ClientDisconnected
from server.serve import serve
from server.trailing_slash import WithoutTrailingSlash
from server.unread_body import CloseUnread
from service import NAME, VERSION, check, started
from settings import Settings, SettingsError, load
from telemetry import logs

_REQUEST_ID = re.compile(r"[!-~]{1,200}")

_QUIET = frozenset({"health", "live", "metrics", "ready", "status"})
"""Views that monitoring requests often; their log lines are at level debug."""

log = structlog.get_logger("http")


def create_app(settings: Settings | None = None, *, provider: FullProvider | None = None) -> Flask:
    """The service as a WSGI application; without `settings`, those of the environment. `provider` replaces Replicate.

    It starts the loop thread, so call it after any fork. The running service is `app.extensions["service"]`, and the
    caller closes it.
    """
    settings = (settings or load()).renewed()
    logs.configure(settings)
    app = Flask(__name__, static_folder=None, template_folder="api/templates")
    app.config["MAX_CONTENT_LENGTH"] = settings.MAX_BODY_BYTES
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False  # an empty page of HTML; `_answer_error` has another
    app.url_map.merge_slashes = False  # a redirect would be a page of HTML
    app.json.sort_keys = False  # type: ignore[attr-defined] # keep the order of fields
    app.wsgi_app = WithoutTrailingSlash(CloseUnread(app.wsgi_app))  # type: ignore[method-assign] # see Flask's manual
    app.before_request(_begin)
    app.after_request(_finish)
    app.register_error_handler(Exception, _answer_error)
    register(app, started(settings, provider=provider))
    return app


def _begin() -> None:
    given = request.headers.get("X-Request-ID", "")
    # Not a secret, so no system call for random bytes.
    g.request_id = given if _REQUEST_ID.fullmatch(given) else f"req_{random.getrandbits(96):024x}"
    g.began = time.perf_counter()


def _finish(response: Response) -> Response:
    sent, about, view = incoming.current(), vars(g), incoming.view_name()
    response.headers["X-Request-ID"] = about["request_id"]
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers.setdefault("Cache-Control", "no-store")
    cross_origin.allow(response)
    facts = {
        "method": sent.method,
        "path": sent.path,
        "status": response.status_code,
        "seconds": round(time.perf_counter() - about["began"], 3),
        "request": about["request_id"],
        "caller": about.get("caller"),
        "code": about.get("error_code"),
        "detail": about.get("error_detail"),
    }
    if response.status_code == 500 and "crashed" not in about:  # a crash has its own line
        log.error("request", **facts)
    elif view in _QUIET:
        log.debug("request", **facts)
    else:
        log.info("request", **facts)
    return response


def _answer_error(error: Exception) -> Response:
    """The response to an error."""
    if isinstance(error, ClientDisconnected):
        # The client is gone, so only the log shows this status, which nginx uses, too.
        return Response(status=499, mimetype="application/problem+json")
    if isinstance(error, HTTPException) and error.code == 405 and request.method == "OPTIONS":
        return cross_origin.options(getattr(error, "valid_methods", None) or ())
    if isinstance(error, HandedOver):
        error = responses.refusal(error, incoming.address())
    if isinstance(error, HTTPException):
        error = _from_werkzeug(error)
    if not isinstance(error, ServiceError):
        log.exception("request_crashed", request=g.request_id, exc_info=error)
        g.crashed = True
        error = Internal()
        error.may_be_paid = request.method == "POST"  # a prediction may exist by now
    problem = error.as_problem(g.request_id, root=incoming.root())
    # Merged twice: first for the order of fields, and last so that `status` is the HTTP status.
    problem = {**problem, **g.get("beside_the_error", {}), **problem}
    g.error_code, g.error_detail = error.code, error.detail
    body, content_type, more = error_shapes.shape(
        problem, error.headers, request.path, public=incoming.root()
    )
    response = jsonify(body)
    response.status_code = body.get("status", error.status)
    response.content_type = content_type
    response.headers.update({**error.headers, **more})
    return response


def _from_werkzeug(error: HTTPException) -> ServiceError:
    match error.code:
        case 404:
            return NotFound(f"No route has this URL; {incoming.root()}/docs lists them.")
        case 405:
            return MethodNotAllowed(allowed=getattr(error, "valid_methods", None) or ())
        case 413:
            limit = request.max_content_length
            return PayloadTooLarge(f"The body may have at most {limit} bytes.")
        case 400:
            return InvalidRequest([Problem("request", "could not be read")])
    log.error("unexpected_http_error", status=error.code, request=g.request_id)
    return Internal()


def _move_ledger(source: str, target: str) -> int:
    """Returns the exit status."""
    try:
        target = Settings.from_env({"DATABASE_URL": target}).database_url
        counts = move(source, target)
    except Exception as error:  # of the disk or of a database: its message has the reason
        sys.stderr.write(f"{getattr(error, 'orig', None) or error}\nThe ledger is not moved.\n")
        return 2
    rows = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    sys.stdout.write(f"Moved: {rows}. Set DATABASE_URL, and do not use the old ledger any more.\n")
    return 0


def main(arguments: list[str]) -> int:
    """Serve until a signal ends it. Returns the exit status. Raises SystemExit as argparse does."""
    parser = argparse.ArgumentParser(
        "python app.py",
        description=f"{NAME} {VERSION}. Settings come from the environment and .env; see docs/settings.md.",
        allow_abbrev=False,
    )
    parser.add_argument("--port", help="the port to listen on, instead of PORT")
    parser.add_argument(
        "--simulate-without-token",
        action="store_true",
        help="simulate Replicate if REPLICATE_API_TOKEN is not set",
    )
    parser.add_argument("--version", action="version", version=VERSION)
    parser.add_argument(
        "--move-ledger",
        nargs=2,
        metavar=("FROM", "TO"),
        help="copy the ledger at sqlite:///path into an empty one in PostgreSQL, and exit; stop the service before",
    )
    options = parser.parse_args(arguments)
    if options.move_ledger:
        return _move_ledger(*options.move_ledger)
    given = {} if options.port is None else {"PORT": options.port}
    try:
        settings = load(**given)
        if options.simulate_without_token:
            settings = settings.simulating_without_token()
        check(settings)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return serve(settings, create_app)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
