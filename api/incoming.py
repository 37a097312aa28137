"""Reads the current request for a route: caller, preferences, idempotency key, addresses and body.

All functions run in a Flask thread, inside a request.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Literal, TypeVar

from flask import Request, current_app, g, request
from gunicorn.http.errors import ParseException
from werkzeug.http import parse_list_header

from api.backpressure import CallerLimits, Quota
from auth import CREDENTIAL_HEADERS, Caller, Headers, Principal, names_key
from errors import (
    Forbidden,
    InvalidRequest,
    LedgerDown,
    PayloadTooLarge,
    Problem,
    ServiceError,
    UnsupportedMediaType,
)
from generations.screening import is_checked
from generations.submission import (
    NO_FINGERPRINT,
    BodyFingerprint,
    Submission,
    body_fingerprint,
    ledger_key,
    request_texts,
)
from generations.supervisor import new_id
from ledger.records import PlanRecord
from network.addresses import network_of
from parsing import shapes, strict_json
from parsing.context import ParseContext
from parsing.generation import names_in
from parsing.hidden import hidden
from parsing.multipart_form import NO_NAMES, FormNames, read_form
from parsing.normal import normalised, normalised_batch
from parsing.shapes import BatchRequest, GenerationRequest
from service import Runtime

Sender = TypeVar("Sender", Caller, Principal)

_HOST: Final = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_SECONDS: Final = re.compile(r"[0-9]{1,9}")
_UNREADABLE: Final = (ConnectionError, TimeoutError, BlockingIOError, ParseException)
"""Malformed chunks, or a caller who stopped sending. Any other OSError is the service's, such as a full disk."""

_SMALL: Final = 65_536
"""Maximum bytes of a body that needs no share of memory and no turn to parse."""

_FEW: Final = 100
"""Maximum items of a batch that needs no turn to parse and plan."""

_READ: Final = 262_144

_SOON: Final = 1.0
"""Seconds until the memory of another body is likely free."""


@dataclass(frozen=True, slots=True)
class Preference:
    """Seconds that the caller waits for the end (None: without limit), and the value of `Preference-Applied`."""

    seconds: float | None = None
    applied: str | None = None


WAITS: Final = Preference()
"""That of a request that waits for the end."""


def current() -> Request:
    """The request itself. Flask's proxy looks it up anew at each use."""
    found: Request = request._get_current_object()  # type: ignore[attr-defined] # noqa: SLF001 - as Flask documents
    return found


def service() -> Runtime:
    found: Runtime = current_app.extensions["service"]
    return found


def limits() -> CallerLimits:
    found: CallerLimits = current_app.extensions["caller_limits"]
    return found


def require_payer() -> Caller:
    """The caller who pays for this request. A new user's token is checked before the body is read. Raises
    TokenRejected, and ShuttingDown unless an idempotency key may name earlier work."""
    running = service()
    if "Idempotency-Key" not in request.headers:
        running.raise_if_draining()
    caller = identified(running.authenticator.payer)
    g.caller = caller.id
    checks = running.core.checks
    return checks.known(caller) or running.loop.run(checks.check(caller), disconnect=connection())


def require_admin() -> Principal:
    """The sender of this request, who is an admin. Raises Unauthenticated or Forbidden."""
    found = identified(service().authenticator.require_admin)
    g.caller, g.caller_name = found.id, found.name
    return found


def authenticate(*, for_metrics: bool = False) -> Principal:
    """The sender of this request, which spends nothing. Raises Unauthenticated, and Forbidden for a key that may read
    only the metrics, unless the request is one `for_metrics`, or about the key itself."""
    found = identified(service().authenticator.authenticate)
    if found.role == "metrics" and not for_metrics:
        raise Forbidden("A key of the role `metrics` may only read GET /metrics and GET /keys/self.")
    g.caller, g.caller_name = found.id, found.name
    return found


def known() -> Principal | None:
    """The sender of this request, on a route that needs no key. None without a valid key. A Replicate token counts only
    if it is proven already, since any other may be invented."""
    try:
        found = authenticate()
    except ServiceError:
        return None
    if found.role != "user" or found.caller is None:
        return found
    return found if service().core.checks.known(found.caller) is not None else None


def named_origin() -> str | None:
    """The origin of the web page that made this request, if it is another one that CORS_ORIGINS names."""
    origin = request.headers.get("Origin")
    is_named = origin in current_app.config["CORS_ORIGINS"]
    return origin if is_named and origin != request.host_url.rstrip("/") else None


def identified(identify: Callable[[Headers], Sender]) -> Sender:
    """The result of `identify` for the request. If the ledger is not open yet, the LedgerDown has its reason. Raises
    Forbidden for an admin's request from a page of another origin, whose scripts could all read the key."""
    running = service()
    try:
        if names_key(request.headers) and not running.core.key_directory.is_fresh:
            running.loop.run(running.core.key_directory.ensure_fresh())
        found = identify(request.headers)
    except LedgerDown as down:
        raise LedgerDown(running.ledger.trouble or down.detail) from None
    if found.is_admin and named_origin() is not None:
        raise Forbidden("A web page of another origin may not use an admin key.")
    return found


def has_key() -> bool:
    """Whether the request has a header that may identify its sender."""
    return any(name in request.headers for name in CREDENTIAL_HEADERS)


def idempotency_key() -> str | None:
    """Raises InvalidRequest."""
    key = request.headers.get("Idempotency-Key")
    try:
        return None if key is None else shapes.usable_key(key)
    except ValueError as wrong:
        raise InvalidRequest([Problem("Idempotency-Key", str(wrong), key)]) from None


def preference() -> Preference:
    """The `Prefer` header (RFC 7240). Preferences that are not understood are ignored."""
    wishes: dict[str, str] = {}
    for wish in parse_list_header(request.headers.get("Prefer", "")):
        name, _, value = wish.partition(";")[0].partition("=")
        wishes.setdefault(name.strip().lower(), _unquoted(value.strip()))
    if _SECONDS.fullmatch(wait := wishes.get("wait", "")):
        return Preference(int(wait), f"wait={int(wait)}")
    return Preference(0, "respond-async") if wishes.get("respond-async") == "" else Preference()


def quota(preference: Preference) -> Quota:
    """The quota for this request: of those that wait for the end, or of those that only submit."""
    return limits().submitting if preference.seconds == 0 else limits().waiting


def take_place(caller: Caller, preference: Preference) -> Callable[[], None]:
    """Take a place of the quota for this request. Returns a function that gives it back. Raises QueueFull."""
    return quota(preference).take(caller.turn, retry_after=service().seconds_per_release)


def _unquoted(word: str) -> str:
    is_quoted = len(word) > 1 and word[0] == word[-1] == '"'
    return word[1:-1] if is_quoted else word


def address() -> str:
    """The base URL by which this caller reaches the service. It may raise, so call it before anything is spent."""
    if public := service().settings.PUBLIC_URL:
        return public
    environ = request.environ
    host = environ.get("HTTP_HOST", "")
    if not _HOST.fullmatch(host):
        host = f"{environ['SERVER_NAME']}:{environ['SERVER_PORT']}"
    return f"{environ['wsgi.url_scheme']}://{host}"


def root() -> str:
    """The path of PUBLIC_URL, below which all routes are; empty if there is none."""
    path: str = current_app.config["PUBLIC_PATH"]
    return path


def view_name() -> str:
    """The name of the view for this request; empty if there is none."""
    return (request.endpoint or "").rpartition(".")[2]


def submission(
    kind: Literal["gen", "batch", "trn"],
    wanted: GenerationRequest | BatchRequest,
    body: Any,
    *,
    context: ParseContext,
    caller: Caller,
    address: str,
    key: str | None,
    seconds: float | None,
    plan: PlanRecord | None = None,
    work_id: str | None = None,
    door: str | None = None,
    door_fingerprint: str | None = None,
) -> Submission:
    """The submission for this request, with its uploaded files stored. Its id is `work_id`, or a new one.
    `door_fingerprint` identifies its body at a door. Raises LedgerDown if the files cannot be stored."""
    running = service()
    work_id, simulated = work_id or new_id(kind), running.settings.REPLICATE_SIMULATE
    return Submission(
        id=work_id,
        request=wanted,
        request_json=request_texts(work_id, wanted, running.attachments),
        caller=caller,
        request_id=g.request_id,
        address=address,
        simulated=simulated,
        plan=plan,
        key=ledger_key(key, simulated=simulated),
        fingerprint=fingerprint(kind, body, context) if key is not None else NO_FINGERPRINT,
        wait_seconds=seconds,
        door=door,
        body_fingerprint=door_fingerprint,
    )


def fingerprint(route: str, body: Any, context: ParseContext) -> BodyFingerprint:
    """Identifies the body of this request on a route: `gen`, `batch`, or the path of a door. Reads the uploaded files;
    blocks."""
    body = hidden(body, context, service().authenticator.keyed_hash)
    normalise = normalised_batch if route == "batch" else normalised
    return body_fingerprint(route, body, normalise=partial(normalise, registry=service().context.registry))


def peer() -> str:
    """The network that the connection comes from, for requests without a key."""
    return network_of(request.remote_addr or "")


def connection() -> Any:
    """The caller's socket, used to notice a disconnect; None unless gunicorn serves."""
    return request.environ.get("gunicorn.socket")


@contextmanager
def body(caller_id: str, *, forms: bool = False, names: FormNames = NO_NAMES) -> Iterator[Any]:
    """The parsed body: JSON, or a form if `forms` is true, whose fields have these `names`. A large body counts as
    memory of the caller's until the context ends.

    Raises QueueFull if there is no memory for it, and the error of a body that cannot be used."""
    sent = current()
    encoding, mimetype = sent.content_encoding, sent.mimetype
    is_form = forms and mimetype == "multipart/form-data"
    if not (is_form or mimetype == "application/json") or encoding not in {None, "", "identity"}:
        said = encoding or sent.content_type or "an unknown type"
        taken = "application/json or multipart/form-data" if forms else "application/json"
        raise UnsupportedMediaType(
            f"The body must be {taken}, without a Content-Encoding; it was sent as {said[:100]}."
        )
    with _Memory(caller_id) as memory:
        yield _form(memory, names) if is_form else _json(caller_id, memory)


@contextmanager
def bytes_of_body(caller_id: str) -> Iterator[bytes]:
    """The raw body. Raises as `body` does."""
    with _Memory(caller_id) as memory:
        yield bytes(_bytes(memory))


def has_body() -> bool:
    """Whether the request has a body, by its framing (RFC 9112, 6.3)."""
    sent = current()
    return bool(sent.content_length) or "Transfer-Encoding" in sent.headers


def take_memory(caller_id: str, size: int) -> Callable[[], None]:
    """Take `size` bytes of the memory for large bodies. Returns a function that gives them back. Raises QueueFull."""
    return limits().large_bodies.take(caller_id, size, retry_after=lambda: _SOON)


class _Memory(ExitStack):
    """The share of one body in the memory for large bodies. The share is returned when the context ends."""

    def __init__(self, caller_id: str) -> None:
        super().__init__()
        self._caller_id = caller_id
        self._share = limits().large_bodies.share
        self._size = 0

    def hold(self, size: int) -> None:
        """Raise the share to `size` bytes. Raises QueueFull, or PayloadTooLarge if the quota is always too small."""
        if size > self._share:
            raise PayloadTooLarge(f"The body needs more than {self._share} bytes of memory.")
        if size > max(_SMALL, self._size):
            self.callback(take_memory(self._caller_id, size - self._size))
            self._size = size


@contextmanager
def unreadable() -> Iterator[None]:
    """Turns the failure to read a body into InvalidRequest."""
    try:
        yield
    except _UNREADABLE:
        raise InvalidRequest([Problem("request", "could not be read")]) from None


def _json(caller_id: str, memory: _Memory) -> Any:
    content = _bytes(memory)
    with limits().parsing.turn(caller_id) if len(content) > _SMALL else nullcontext():
        return strict_json.loads(content)


def _bytes(memory: _Memory) -> bytearray:
    content, sent = bytearray(), current()
    with unreadable():
        stream = sent.stream  # raises if its Content-Length is too large
        memory.hold(sent.content_length or 0)
        while chunk := stream.read(_READ):  # raises once a chunked body is too large
            content += chunk
            memory.hold(len(content))
    if sent.content_length not in {None, len(content)}:
        raise InvalidRequest([Problem("request", "is shorter than it said")])
    return content


def turn_for(body: Any, caller_id: str) -> AbstractContextManager[None]:
    """The caller's turn to parse and plan this batch; no turn is needed for a small one."""
    lists = [body.get(name) for name in ("prompts", "requests", "inputs")] if isinstance(body, dict) else []
    is_quick = all(len(each) <= _FEW for each in lists if isinstance(each, list))
    return nullcontext() if is_quick else limits().parsing.turn(caller_id)


def context(body: Any, caller: Caller, *, by_id: bool = False) -> ParseContext:
    """What parsing this body depends on, with the models that it names and that are not declared. They are looked up at
    Replicate if they are not known. `by_id` is as in `Resolver.resolve`. Raises ServiceError if that fails, and
    ModelNotAllowed."""
    running, names = service(), names_in(body)
    resolver = running.core.resolver
    context = context_for(caller, running.context)
    if resolver.must_resolve(names, caller):
        found = running.loop.run(resolver.resolve(names, caller, by_id=by_id), disconnect=connection())
        context = replace(context, resolved=found)
    if caller.key is not None and caller.key.models:
        resolver.check_key(caller, {name: each for name in names if (each := context.find(name)) is not None})
    return context


def context_for(caller: Caller, context: ParseContext) -> ParseContext:
    """The context for this caller: without rules if they are off for it, and with the models that it may run."""
    resolver, rules = service().core.resolver, context.rules if is_checked(caller) else None
    may_run = partial(resolver.may_run, caller) if resolver.restricts(caller) else context.may_run
    return replace(context, rules=rules, may_run=may_run)


def _form(memory: _Memory, names: FormNames) -> Any:
    settings = service().settings
    request.max_content_length = max(settings.MAX_UPLOAD_BYTES, settings.MAX_BODY_BYTES)
    with unreadable():
        return read_form(
            request.stream,
            registry=service().context.registry,
            options=request.mimetype_params,
            most_text=settings.MAX_BODY_BYTES,
            hold=memory.hold,
            spool=service().uploads_dir,
            names=names,
        )
