"""The HTTP service: wiring, routes, and the one error handler. `python app.py` serves.

Every route is a few lines: who is calling, what they ask for, the service does it. Whatever goes wrong is
raised, and answered in one place as a problem document; no answer is ever an HTML error page.
"""

import argparse
import re
import secrets
import sys
import time
from urllib.parse import unquote, urlsplit

import structlog
from flask import Blueprint, Flask, Response, g, jsonify, render_template, request
from werkzeug.exceptions import HTTPException

from api import files, generations, incoming, responses
from api import status as figures
from api.openapi.document import openapi_document
from auth import ADMIN, Caller
from errors import (
    Internal,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    Problem,
    ServiceError,
    every_error,
)
from files import names
from generations import views
from generations.core import FullProvider
from generations.service import HandedOver
from generations.submission import Submission
from loop_thread import ClientDisconnected
from parsing.batch import parse_batch
from parsing.generation import parse_generation
from parsing.limits import parse_limits
from parsing.queries import parse_filter
from parsing.shapes import BatchRequest
from resources import check
from server.serve import serve
from server.unread_body import CloseUnread
from service import NAME, VERSION, Runtime, started
from settings import SIMULATED_TOKEN, Settings, SettingsError, load
from telemetry import logs

_REQUEST_ID = re.compile(r"[!-~]{1,200}")

_QUIET = frozenset({"health", "status"})
"""Views that are asked again and again."""

_OPEN_TO_PAGES = frozenset({"file", "list_models", "openapi"})
"""Views whose answers a page of any other site may read. They need no key, and answer every caller alike."""

log = structlog.get_logger("http")


def create_app(settings: Settings | None = None, *, provider: FullProvider | None = None) -> Flask:
    """The service as a WSGI application; without `settings`, those of the environment. `provider` replaces Replicate.

    It starts the loop thread, so make it in the process that serves, after any fork. The running service is
    `app.extensions["service"]`: whoever makes the application closes that.
    """
    settings = settings or load()
    logs.configure(settings)
    app = Flask(__name__, static_folder=None, template_folder="api/templates")
    app.config["MAX_CONTENT_LENGTH"] = settings.MAX_BODY_BYTES
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False  # an empty page of HTML; OPTIONS is a 405 like the rest
    app.url_map.merge_slashes = False  # a redirect would be a page of HTML
    app.json.sort_keys = False  # type: ignore[attr-defined] # answers read in the order they are written
    app.config["PUBLIC_PATH"] = path = urlsplit(settings.PUBLIC_URL or "").path
    app.extensions["service"] = started(settings, provider=provider)
    app.wsgi_app = CloseUnread(app.wsgi_app)  # type: ignore[method-assign] # as Flask says to
    app.before_request(_begin)
    app.after_request(_finish)
    app.register_error_handler(Exception, _answer_error)
    app.register_blueprint(routes := _routes())
    if path:  # a proxy in front may strip it or not
        app.register_blueprint(routes, url_prefix=unquote(path), name="routes_below_the_public_path")
    return app


def _routes() -> Blueprint:
    routes = Blueprint("routes", __name__)
    for rule, view, method in (
        ("/", index, "GET"),
        ("/generate", generate, "POST"),
        ("/generate-batch", generate_batch, "POST"),
        ("/configure", configure, "POST"),
        ("/models", list_models, "GET"),
        ("/files/<generation>/<name>", file, "GET"),
        ("/status", status, "GET"),
        ("/health", health, "GET"),
        ("/openapi.json", openapi, "GET"),
        ("/docs", docs, "GET"),
    ):
        # The public path without its slash is no redirect, which would be a page of HTML.
        routes.add_url_rule(rule, view_func=view, methods=[method], strict_slashes=rule != "/")
    routes.register_blueprint(generations.blueprint)
    return routes


# ── Routes ──────────────────────────────────────────────────────────────────────────────────────────


def index() -> Response:
    """What this is and where to go on. A browser is led to the page."""
    if request.accept_mimetypes.best_match(["application/json", "text/html"]) == "text/html":
        response = Response(status=302, headers={"Location": f"{incoming.root()}/docs"})
        del response.headers["Content-Type"]
        return response
    address = incoming.address()
    paths = ("docs", "openapi.json", "models", "status", "health")
    links = {path.removesuffix(".json"): f"{address}/{path}" for path in paths}
    return jsonify({"name": NAME, "version": VERSION, "links": links})


def generate() -> Response:
    """Generate: one generation, answered when it has ended, or as the caller prefers; or its forecast."""
    service, caller = incoming.service(), incoming.spending_caller()
    preference = incoming.preference()
    with incoming.quota(preference).held(caller.turn, retry_after=service.seconds_per_release):
        submission = _generation_of(service, caller, preference)
        if isinstance(submission, Response):
            return submission
        work = service.loop.run(service.generations.submit(submission), disconnect=incoming.connection())
    return responses.answer(service, work, submission.address, preference)


def generate_batch() -> Response:
    """Generate a batch: every result in input order, or each as it is ready; or its forecast."""
    service, caller = incoming.service(), incoming.spending_caller()
    preference = incoming.preference()
    leave = incoming.quota(preference).take(caller.turn, retry_after=service.seconds_per_release)
    try:
        submission = _batch_of(service, caller, preference)
        if isinstance(submission, Response):
            response = submission
        elif responses.wants_lines(request) and preference.seconds is None:
            response = responses.stream(service, submission, incoming.connection())
        else:
            work = service.loop.run(service.generations.submit(submission), disconnect=incoming.connection())
            response = responses.answer(service, work, submission.address, preference)
    except BaseException:
        leave()
        raise
    response.call_on_close(leave)
    return response


def _generation_of(
    service: Runtime, caller: Caller, preference: incoming.Preference
) -> Submission | Response:
    """The generation that the body requests, and nothing else of the body stays in memory; or the answer, if it
    requests a dry run."""
    address, key = incoming.address(), incoming.idempotency_key()
    with incoming.body(caller.turn, forms=True) as body:
        wanted = parse_generation(incoming.with_images_on_disk(body), service.context)
        if wanted.dry_run:
            plan = service.loop.run(service.generations.forecast(BatchRequest([wanted]), caller))
            return jsonify(views.dry_run(wanted, plan))
        return incoming.submission(
            "gen", wanted, body, caller=caller, address=address, key=key, seconds=preference.seconds
        )


def _batch_of(service: Runtime, caller: Caller, preference: incoming.Preference) -> Submission | Response:
    """The batch that the body requests, with its plan; or the answer, if it requests the plan alone."""
    address, key = incoming.address(), incoming.idempotency_key()
    with incoming.body(caller.turn, forms=True) as body, incoming.turn_for(body, caller.turn):
        wanted = parse_batch(incoming.with_images_on_disk(body), service.context)
        may_exist = key is not None and not wanted.dry_run
        plan = service.loop.run(service.generations.forecast(wanted, caller, may_exist=may_exist))
        if wanted.dry_run:
            return jsonify({"dry_run": True, "total": len(wanted.requests), **views.plan(plan)})
        return incoming.submission(
            "batch", wanted, body, caller=caller, address=address, key=key,
            seconds=preference.seconds, plan=plan,
        )  # fmt: skip


def configure() -> Response:
    """Change the limits at once, both ways, under load."""
    service = incoming.service()
    service.doors.admit_admin(request.headers)
    g.caller = ADMIN
    with incoming.body(ADMIN) as body:
        limits = parse_limits(body)
    configured = service.configure(limits)
    who = {"caller": ADMIN, "peer": request.remote_addr}
    log.info("configured", request=g.request_id, **who, **limits.model_dump(exclude_none=True))
    return jsonify(configured)


def list_models() -> Response:
    """The registry, or those of it that are of one kind, or in one tier."""
    wanted = parse_filter(request.args.to_dict(flat=False))
    return jsonify(
        {"models": [model.as_json() for model in incoming.service().context.registry.models if wanted(model)]}
    )


def file(generation: str, name: str) -> Response:
    """An output that was kept. Whoever has the link may have it: nobody can guess one."""
    service = incoming.service()
    leave = service.limits.files.begin(incoming.peer(), incoming.connection())
    try:
        kept_as = names.kept_name(generation, name)
        opened = service.files.open(generation, kept_as) if service.files else None
        if opened is None:
            raise NotFound("There is no such file, or no longer.")
        response = files.answer(opened, request, name=names.link_name(generation, kept_as))
    except BaseException:
        leave()
        raise
    response.call_on_close(leave)
    return response


def status() -> Response:
    """The live figures, and for the admin those of the work. A wrong key is no error: anyone may have the figures."""
    service = incoming.service()
    return jsonify(figures.status(service, for_admin=service.doors.is_admin(request.headers)))


def health() -> Response:
    """Whether this process takes work."""
    return jsonify(incoming.service().health())


def openapi() -> Response:
    """The OpenAPI document."""
    return jsonify(
        openapi_document(VERSION, incoming.service().context.registry.models, root=incoming.root())
    )


def docs() -> Response:
    """A page to read and try it; nothing in it comes from elsewhere."""
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
        # What a reader made is shown from where it lies.
        "img-src 'self' data: https: http://127.0.0.1:* http://localhost:*; "
        "media-src 'self' https: http://127.0.0.1:* http://localhost:*; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page


# ── What every request goes through ─────────────────────────────────────────────────────────────────


def _begin() -> None:
    given = request.headers.get("X-Request-ID", "")
    g.request_id = given if _REQUEST_ID.fullmatch(given) else "req_" + secrets.token_hex(12)
    g.began = time.perf_counter()


def _finish(response: Response) -> Response:
    response.headers["X-Request-ID"] = g.request_id
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers.setdefault("Cache-Control", "no-store")
    if incoming.view_name() in _OPEN_TO_PAGES:
        response.headers["Access-Control-Allow-Origin"] = "*"
    facts = {
        "method": request.method,
        "path": request.path,
        "status": response.status_code,
        "seconds": round(time.perf_counter() - g.began, 3),
        "request": g.request_id,
        "caller": g.get("caller"),
        "code": g.get("error_code"),
        "detail": g.get("error_detail"),
    }
    if response.status_code == 500 and "crashed" not in g:  # a crash has its own line
        log.error("request", **facts)
    elif incoming.view_name() in _QUIET:
        log.debug("request", **facts)
    else:
        log.info("request", **facts)
    return response


def _answer_error(error: Exception) -> Response:
    """The one place where an error becomes an answer."""
    if isinstance(error, ClientDisconnected):
        # The client is gone; the log shows what nginx would.
        return Response(status=499, mimetype="application/problem+json")
    if isinstance(error, HandedOver):
        error = responses.refusal(error, incoming.address())
    if isinstance(error, HTTPException):
        error = _from_werkzeug(error)
    if not isinstance(error, ServiceError):
        log.exception("request_crashed", request=g.request_id, exc_info=error)
        g.crashed = True
        error = Internal()
        error.may_be_paid = request.method == "POST"  # where it stopped is not known
    problem = error.as_problem(g.request_id, root=incoming.root())
    # First for the order of its fields, and last so that `status` is HTTP's and not the generation's.
    problem = {**problem, **g.get("beside_the_error", {}), **problem}
    g.error_code, g.error_detail = error.code, error.detail
    response = jsonify(problem)
    response.status_code = error.status
    response.content_type = "application/problem+json"
    response.headers.update(error.headers)
    return response


def _from_werkzeug(error: HTTPException) -> ServiceError:
    match error.code:
        case 404:
            return NotFound(f"There is nothing here; {incoming.root()}/docs lists the routes.")
        case 405:
            return MethodNotAllowed(allowed=getattr(error, "valid_methods", None) or ())
        case 413:
            limit = request.max_content_length
            return PayloadTooLarge(f"The body may have at most {limit} bytes.")
        case 400:
            return InvalidRequest([Problem("request", "could not be read")])
    log.error("unforeseen_http_error", status=error.code, request=g.request_id)
    return Internal()


def main(arguments: list[str]) -> int:
    """Serve until a signal ends it. Returns the exit status. Raises SystemExit as argparse does."""
    parser = argparse.ArgumentParser(
        "python app.py",
        description=f"{NAME} {VERSION}. Settings come from the environment and .env; see README.md.",
        allow_abbrev=False,
    )
    parser.add_argument("--port", help="the port to listen on, instead of PORT")
    parser.add_argument(
        "--simulate-without-token",
        action="store_true",
        help="simulate Replicate if REPLICATE_API_TOKEN is not set",
    )
    parser.add_argument("--version", action="version", version=VERSION)
    options = parser.parse_args(arguments)
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
