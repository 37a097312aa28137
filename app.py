"""The HTTP service: wiring, routes, and the one error handler. `python app.py` serves.

Every route is a few lines: who is calling, what they ask for, the service does it. Whatever goes wrong is
raised, and answered in one place as a problem document; no answer is ever an HTML error page.
"""

import json
import queue
import re
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from typing import Any

import structlog
from flask import Flask, Response, current_app, g, jsonify, render_template, request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import HTTPException

import delivery
import logs
import models
import waiting
from auth import Caller
from errors import (
    Internal,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    Problem,
    ServiceError,
    UnsupportedMediaType,
    every_error,
)
from intake import strict_json
from intake.forms import read_form
from intake.parsing import parse_batch, parse_filter, parse_generation, parse_limits
from intake.shapes import BatchRequest
from openapi import openapi_document
from planning import Plan
from records import Batch, View
from service import VERSION, Service, check
from serving import serve
from settings import Settings, SettingsError, load

_REQUEST_ID = re.compile(r"[!-~]{1,200}")
_HOST = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_NDJSON = "application/x-ndjson"
_UNREADABLE = (ConnectionError, TimeoutError, BlockingIOError, ParseException)
"""Malformed chunks, or a caller who stopped sending. Other OSErrors are trouble of our own: a full disk, say."""

_LARGE = 100_000
"""Bytes of a body that takes a while to read."""

_QUIET = frozenset({"/health", "/status"})

log = structlog.get_logger("http")


def create_app(settings: Settings | None = None) -> Flask:
    """The service as a WSGI application; without `settings`, those of the environment.

    It starts the loop thread, so make it in the process that serves, after any fork. The running service is
    `app.extensions["service"]`: whoever makes the application closes that.
    """
    settings = settings or load()
    logs.configure(settings)
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.MAX_BODY_BYTES
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False  # an empty page of HTML; OPTIONS is a 405 like the rest
    app.url_map.merge_slashes = False  # a redirect would be a page of HTML
    app.json.sort_keys = False  # type: ignore[attr-defined] # answers read in the order they are written
    app.extensions["service"] = Service(settings)
    app.before_request(_begin)
    app.after_request(_finish)
    app.register_error_handler(Exception, _answer_error)
    for rule, view, method in (
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
        app.add_url_rule(rule, view_func=view, methods=[method])
    return app


# ── Routes ──────────────────────────────────────────────────────────────────────────────────────────


def generate() -> Response:
    """Generate: one generation, answered when it has ended."""
    service, caller = _service(), _spending_caller()
    view = _view(service)
    with service.seats.taken(retry_after=service.seconds_per_release):
        wanted = parse_generation(_body(forms=True), rules=service.fallbacks)
        work = service.generations.run(wanted, caller=caller, request_id=g.request_id)
        generation = waiting.result(waiting.submit(service.loop, work, _connection()))
    if generation.error is not None and not generation.placeholder:
        g.beside_the_error = generation.told(view)
        raise generation.error
    return jsonify(generation.result(view))


def generate_batch() -> Response:
    """Generate a batch: every result in input order, or each as it is ready. Or only tell how it would go."""
    service, caller = _service(), _spending_caller()
    view = _view(service)
    service.seats.take(retry_after=service.seconds_per_release)
    try:
        body = _body(forms=True)
        with service.thinking:
            wanted = parse_batch(body, rules=service.fallbacks)
            plan = service.plan(wanted, caller)
        if wanted.dry_run:
            response = jsonify({"dry_run": True, "total": len(wanted.requests), **plan.as_json()})
        else:
            accepted = request.accept_mimetypes.best_match(["application/json", _NDJSON])
            response = (_stream if accepted == _NDJSON else _all_at_once)(service, caller, wanted, plan, view)
    except BaseException:
        service.seats.leave()
        raise
    response.call_on_close(service.seats.leave)
    return response


def configure() -> Response:
    """Change the limits at once, both ways, under load."""
    service = _service()
    service.doors.admit_admin(request.headers)
    limits = parse_limits(_body())
    configured = service.configure(limits)
    log.info("configured", request=g.request_id, **limits.model_dump(exclude_none=True))
    return jsonify(configured)


def list_models() -> Response:
    """The registry, or those of it that are of one kind, or in one tier."""
    wanted = parse_filter(request.args.to_dict(flat=False))
    return jsonify({"models": [model.as_json() for model in models.MODELS.values() if wanted(model)]})


def file(generation: str, name: str) -> Response:
    """An output that was kept. Whoever has the link may have it: nobody can guess one."""
    service = _service()
    service.file_seats.take(retry_after=lambda: 1)
    try:
        opened = service.files.open(generation, name) if service.files else None
        if opened is None:
            raise NotFound("There is no such file, or no longer.")
        response = delivery.answer(opened, request, name=name)
    except BaseException:
        service.file_seats.leave()
        raise
    response.call_on_close(service.file_seats.leave)
    return response


def status() -> Response:
    """The live figures of the gate."""
    return jsonify(_service().status())


def health() -> Response:
    """Whether this process takes work."""
    return jsonify(_service().health())


def openapi() -> Response:
    """The OpenAPI document."""
    return jsonify(openapi_document(VERSION))


def docs() -> Response:
    """A page to read and try it; nothing in it comes from elsewhere."""
    nonce = secrets.token_urlsafe(16)
    page = Response(
        render_template("docs.html", nonce=nonce, version=VERSION, errors=every_error()), mimetype="text/html"
    )
    page.headers["Content-Security-Policy"] = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; "
        # What a reader made is shown from where it lies.
        "img-src 'self' data: https: http://127.0.0.1:* http://localhost:*; "
        "media-src 'self' https: http://127.0.0.1:* http://localhost:*; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page


def _all_at_once(service: Service, caller: Caller, wanted: BatchRequest, plan: Plan, view: View) -> Response:
    work = service.generations.run_batch(wanted, plan=plan, caller=caller, request_id=g.request_id)
    batch = waiting.result(waiting.submit(service.loop, work, _connection()))
    results = [batch.item(index, view) for index in range(len(batch.generations))]
    return jsonify({**batch.summary(), "results": results})


def _stream(service: Service, caller: Caller, wanted: BatchRequest, plan: Plan, view: View) -> Response:
    """A line a result, the moment it is ready, then the summary; refusals come before the first line."""
    ended: queue.SimpleQueue[tuple[Batch, int] | None] = queue.SimpleQueue()
    work = service.generations.run_batch(
        wanted,
        plan=plan,
        caller=caller,
        request_id=g.request_id,
        tell=lambda batch, index: ended.put((batch, index)),
    )
    future = waiting.submit(service.loop, work, _connection())
    future.add_done_callback(lambda _: ended.put(None))
    first = ended.get()
    if first is None:
        waiting.result(future)

    def lines() -> Iterator[str]:
        news = first
        while news is not None:
            batch, index = news
            yield json.dumps(batch.item(index, view)) + "\n"
            news = ended.get()
        with suppress(waiting.CallerGone):
            yield json.dumps(waiting.result(future).summary()) + "\n"

    response = Response(lines(), mimetype=_NDJSON)
    response.call_on_close(future.cancel)  # not in `lines`: what is closed before its first line never runs
    return response


# ── What every request goes through ─────────────────────────────────────────────────────────────────


def _begin() -> None:
    given = request.headers.get("X-Request-ID", "")
    g.request_id = given if _REQUEST_ID.fullmatch(given) else "req_" + secrets.token_hex(12)
    g.began = time.perf_counter()


def _finish(response: Response) -> Response:
    response.headers["X-Request-ID"] = g.request_id
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers.setdefault("Cache-Control", "no-store")
    record = log.debug if request.path in _QUIET else log.info
    record(
        "request",
        method=request.method,
        path=request.path,
        status=response.status_code,
        seconds=round(time.perf_counter() - g.began, 3),
        request=g.request_id,
        caller=g.get("caller"),
        code=g.get("error_code"),
        detail=g.get("error_detail"),
    )
    return response


def _answer_error(error: Exception) -> Response:
    """The one place where an error becomes an answer."""
    if isinstance(error, waiting.CallerGone):
        # Nobody reads it; the log shows what nginx would.
        return Response(status=499, mimetype="application/problem+json")
    if isinstance(error, HTTPException):
        error = _from_werkzeug(error)
    if not isinstance(error, ServiceError):
        log.exception("request_crashed", request=g.request_id, exc_info=error)
        error = Internal()
    problem = error.as_problem(g.request_id)
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
            return NotFound("There is nothing here; /docs tells what there is.")
        case 405:
            return MethodNotAllowed(allowed=getattr(error, "valid_methods", None) or ())
        case 413:
            limit = request.max_content_length
            return PayloadTooLarge(f"The body may have at most {limit} bytes.")
        case 400:
            return InvalidRequest([Problem("request", "could not be read")])
    log.error("unforeseen_http_error", status=error.code, request=g.request_id)
    return Internal()


def _service() -> Service:
    service: Service = current_app.extensions["service"]
    return service


def _spending_caller() -> Caller:
    """Who is calling, ready to spend."""
    service = _service()
    service.raise_if_draining()
    caller = service.doors.admit(request.headers)
    g.caller = caller.id
    return caller


def _body(*, forms: bool = False) -> Any:
    """The body, read: JSON, or a form that stands for it where forms are taken."""
    is_form = forms and request.mimetype == "multipart/form-data"
    if not (is_form or request.mimetype == "application/json") or request.content_encoding:
        said = (
            (request.content_type or "nothing") if not request.content_encoding else request.content_encoding
        )
        raise UnsupportedMediaType(f"{UnsupportedMediaType.title}; this one says {said[:100]}.")
    return _form() if is_form else _json()


def _form() -> Any:
    settings = _service().settings
    request.max_content_length = max(settings.MAX_UPLOAD_BYTES, settings.MAX_BODY_BYTES)
    try:
        return read_form(
            request.stream,
            options=request.mimetype_params,
            length=request.content_length,
            most_text=settings.MAX_BODY_BYTES,
            spool=_service().uploads_dir,
        )
    except _UNREADABLE:
        raise InvalidRequest([Problem("request", "could not be read")]) from None


def _json() -> Any:
    try:
        body = request.get_data(cache=False)
        request.stream.read(1)  # raises when a chunked body is too large; get_data cuts it off
    except _UNREADABLE:
        raise InvalidRequest([Problem("request", "could not be read")]) from None
    if request.content_length not in {None, len(body)}:
        raise InvalidRequest([Problem("request", "is shorter than it said")])
    with _service().thinking if len(body) > _LARGE else nullcontext():
        return strict_json.loads(body)


def _view(service: Service) -> View:
    """How this caller is told of what will have happened. Asked before anything is spent, since it may raise."""
    host = request.environ.get("HTTP_HOST", "")
    if not _HOST.fullmatch(host):
        host = f"{request.environ['SERVER_NAME']}:{request.environ['SERVER_PORT']}"
    address = service.settings.PUBLIC_URL or f"{request.scheme}://{host}"
    return View(service.settings.REPLICATE_SIMULATE, address)


def _connection() -> Any:
    """The caller's socket, where the server tells it; it is how a hang-up is noticed."""
    return request.environ.get("gunicorn.socket")


def main(arguments: list[str]) -> int:
    """Serve until told to stop. Returns the exit status."""
    try:
        settings = load()
        check(settings)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if "--simulate-without-token" in arguments:
        settings = settings.simulating_without_token()
    return serve(settings, create_app)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
