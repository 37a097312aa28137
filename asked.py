"""What a route needs to know of the request at hand: who asks, for what, how they want to be told, and what it says.

On Flask's threads, inside a request.
"""

import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

from flask import current_app, g, request
from gunicorn.http.errors import ParseException
from werkzeug.http import parse_list_header

from auth import Caller, Headers, Visitor
from errors import InvalidRequest, LedgerDown, Problem, UnsupportedMediaType
from generations.submission import Submission, body_fingerprint, kept_key, request_texts
from generations.supervisor import new_id
from ledger.records import PlanRecord
from parsing import strict_json
from parsing.multipart_form import read_form
from parsing.shapes import BatchRequest, GenerationRequest
from service import Runtime
from waiting import Seats

T = TypeVar("T")

_HOST: Final = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_KEY: Final = re.compile(r"[!-~]{1,255}")
_SECONDS: Final = re.compile(r"[0-9]{1,9}")
_UNREADABLE: Final = (ConnectionError, TimeoutError, BlockingIOError, ParseException)
"""Malformed chunks, or a caller who stopped sending. Other OSErrors are trouble of our own: a full disk, say."""

_LARGE: Final = 100_000
"""Bytes of a body that takes a while to read."""


@dataclass(frozen=True, slots=True)
class Preference:
    """How long the caller waits for the end, in seconds (None: until it is there), and what of their wishes that is."""

    seconds: float | None = None
    applied: str | None = None


def service() -> Runtime:
    found: Runtime = current_app.extensions["service"]
    return found


def spending_caller() -> Caller:
    """Who is calling, ready to spend."""
    service().raise_if_draining()
    caller = _let_in(service().doors.admit)
    g.caller = caller.id
    return caller


def visitor() -> Visitor:
    """Who is asking, without spending."""
    found = _let_in(service().doors.recognise)
    g.caller = found.id
    return found


def _let_in(door: Callable[[Headers], T]) -> T:
    """Through a door; while it is not known yet who is who, with the ledger's own reason."""
    try:
        return door(request.headers)
    except LedgerDown as down:
        raise LedgerDown(service().ledger.trouble or down.detail) from None


def idempotency_key() -> str | None:
    """Raises InvalidRequest."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not _KEY.fullmatch(key):
        raise InvalidRequest([Problem("Idempotency-Key", "must be 1 to 255 visible ASCII characters", key)])
    return key


def preference() -> Preference:
    """What `Prefer` says of waiting (RFC 7240); what is not understood there is not honoured, and no error."""
    wishes: dict[str, str] = {}
    for wish in parse_list_header(request.headers.get("Prefer", "")):
        name, _, value = wish.partition(";")[0].partition("=")
        wishes.setdefault(name.strip().lower(), _unquoted(value.strip()))
    if _SECONDS.fullmatch(wait := wishes.get("wait", "")):
        return Preference(int(wait), f"wait={int(wait)}")
    return Preference(0, "respond-async") if wishes.get("respond-async") == "" else Preference()


def seats(preference: Preference) -> Seats:
    """Those of the callers who wait for the end, or of those who only hand their work in."""
    limits = service().limits
    return limits.submitting if preference.seconds == 0 else limits.waiting


def _unquoted(word: str) -> str:
    is_quoted = len(word) > 1 and word[0] == word[-1] == '"'
    return word[1:-1] if is_quoted else word


def address() -> str:
    """The base URL under which this caller reaches the service. Call it before anything is spent: it may raise."""
    host = request.environ.get("HTTP_HOST", "")
    if not _HOST.fullmatch(host):
        host = f"{request.environ['SERVER_NAME']}:{request.environ['SERVER_PORT']}"
    return service().settings.PUBLIC_URL or f"{request.scheme}://{host}"


def submission(
    kind: Literal["gen", "batch"],
    wanted: GenerationRequest | BatchRequest,
    body: Any,
    *,
    caller: Caller,
    address: str,
    key: str | None,
    seconds: float | None,
    plan: PlanRecord | None = None,
) -> Submission:
    """This request as it is submitted, its uploaded files kept. Raises LedgerDown if they cannot be."""
    work_id, simulated = new_id(kind), service().settings.REPLICATE_SIMULATE
    return Submission(
        id=work_id,
        request=wanted,
        request_json=request_texts(work_id, wanted, service().attachments),
        caller=caller,
        request_id=g.request_id,
        address=address,
        simulated=simulated,
        plan=plan,
        key=kept_key(key, simulated=simulated),
        fingerprint=body_fingerprint(kind, body) if key is not None else "",
        wait_seconds=seconds,
    )


def connection() -> Any:
    """The caller's socket, where the server tells it; it is how a hang-up is noticed."""
    return request.environ.get("gunicorn.socket")


def body(*, forms: bool = False) -> Any:
    """The body, read: JSON, or a form that stands for it where forms are taken."""
    is_form = forms and request.mimetype == "multipart/form-data"
    encoding = request.content_encoding
    if not (is_form or request.mimetype == "application/json") or encoding not in {None, "", "identity"}:
        said = encoding or request.content_type or "nothing"
        raise UnsupportedMediaType(f"{UnsupportedMediaType.title}; this one says {said[:100]}.")
    if is_form:
        return _form()
    content = bytes_of_body()
    with service().limits.parsing if len(content) > _LARGE else nullcontext():
        return strict_json.loads(content)


def bytes_of_body() -> bytes:
    """The body as it came. Raises InvalidRequest if it did not come whole."""
    try:
        content = request.get_data(cache=False)
        request.stream.read(1)  # raises when a chunked body is too large; get_data cuts it off
    except _UNREADABLE:
        raise InvalidRequest([Problem("request", "could not be read")]) from None
    if request.content_length not in {None, len(content)}:
        raise InvalidRequest([Problem("request", "is shorter than it said")])
    return content


def _form() -> Any:
    settings = service().settings
    request.max_content_length = max(settings.MAX_UPLOAD_BYTES, settings.MAX_BODY_BYTES)
    try:
        return read_form(
            request.stream,
            registry=service().context.registry,
            options=request.mimetype_params,
            length=request.content_length,
            most_text=settings.MAX_BODY_BYTES,
            spool=service().uploads_dir,
        )
    except _UNREADABLE:
        raise InvalidRequest([Problem("request", "could not be read")]) from None
