"""One request until it is answered: with its idempotency key, over lost connections, 429 and 503, within a deadline.

A request is sent again only if that is safe: the service knows it by its key, the second one changes no more, or the
first cannot have arrived. `x-should-retry: false` ends it always.
"""

from __future__ import annotations

import random
import ssl
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

import httpx

from replicate_concurrent.config import Address, Settings
from replicate_concurrent.errors import (
    ApiError,
    BadAnswer,
    ConfigError,
    ConnectionLost,
    ReplicateConcurrentError,
    api_error,
)
from replicate_concurrent.operations.steps import Do, Open, Operation, Part, Pause, Read, Request, Send, now
from replicate_concurrent.version import VERSION

READ = 60.0
"""Seconds in which a service answers a request that does not let it wait."""

_BRIEFEST = 0.05
"""Seconds that an attempt has at least."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 10.0
"""Seconds between attempts, when the service does not say how long."""

_FOREVER = 1e9
"""Seconds that no call has. A `Retry-After` may be any number, and a clock cannot wait for each."""

_UNKEYED = "/replicate/"
"""The beginning of the paths at which the service knows no repeated POST, since Replicate's API has no keys for it."""

UPLOADS = "/replicate/v1/files"
"""Where files are uploaded. A second copy costs nothing, and ends after a day."""

_ADMIN = ("/configure", "/keys", "/audit", "/_admin/")
"""What the user does as the administrator of a service of this machine."""

_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)

_USELESS = (httpx.UnsupportedProtocol, httpx.LocalProtocolError)
"""Errors that the next attempt would have, too."""


@dataclass(frozen=True)
class Call:
    """A request to the service. `wait` is for how many seconds the service may hold the answer; 0 for not at all, None
    for a route that has no such choice. The body of a call that `is_streamed` is read in chunks. One that `is_text` is
    about a text model: the user's own Gemini key identifies the caller, if there is one. `answered_within` is in
    seconds, beside those of `wait`."""

    method: str
    path: str
    json: Any = None
    parts: tuple[Part, ...] = ()
    params: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    key: str | None = None
    wait: int | None = None
    is_streamed: bool = False
    is_text: bool = False
    answered_within: float = READ

    @property
    def is_repeatable(self) -> bool:
        return self.method != "POST" or not self.path.startswith(_UNKEYED) or self.path == UPLOADS


class Service:
    """The service that a client calls: its address and key, and whether it has answered so far."""

    def __init__(
        self,
        settings: Settings,
        timeout: float,
        *,
        find: Callable[[Settings], Address],
        connect_timeout: float | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.timeout = timeout
        """Seconds that a call may take, unless it has its own."""
        self.connect_timeout = timeout if connect_timeout is None else connect_timeout
        """Seconds for which a service is called that has not answered so far: its address may be wrong."""
        self.jitter = jitter
        self.has_answered = False
        self._wanted = settings
        self._find = find
        self._found: Address | None = None

    def ready(self) -> Operation[Address]:
        """Where to send requests. A service of this machine is found or started. Raises NoServer."""
        if self._wanted.url is not None:
            return Address(self._wanted.url, self._wanted.key, gemini_key=self._wanted.gemini_api_key)
        if self._found is None or not self._found.is_current():
            self._found = yield Do(self._find, (self._wanted,))
        return self._found

    def forget(self) -> None:
        """Look for the service of this machine again: one that was idle for long has ended."""
        self._found = None


def new_key() -> str:
    """An idempotency key."""
    return f"rcg-{uuid.uuid4()}"


def quoted(name: str) -> str:
    """An id as one part of a path."""
    return quote(name, safe="")


def send(service: Service, call: Call, *, deadline: float) -> Operation[httpx.Response]:
    """The response to a call, of a status below 300.

    Raises ApiError, ConnectionLost if it was not answered before the `deadline`, BadAnswer, and ConfigError.
    """
    if call.method == "POST" and call.key is None:
        call = replace(call, key=new_key())
    started = yield from now()
    attempt = 0
    while True:
        address = yield from service.ready()
        answer = yield from _answered(address, call, deadline)
        if isinstance(answer, httpx.Response):
            service.has_answered = True
            if answer.status_code < 300:
                return answer
            if answer.status_code == 429 and call.wait:
                call = replace(call, wait=0)  # too many wait for a result already
        elif isinstance(answer, _NOT_SENT):
            service.forget()
        trouble = _trouble(address.url, call, answer)
        pause = pause_after(answer, attempt, service.jitter())
        attempt += 1
        last = deadline if service.has_answered else min(deadline, started + service.connect_timeout)
        if (yield from now()) + pause > last:
            raise trouble
        yield Pause(pause)


def json_of(response: httpx.Response, *, has_id: bool = False) -> dict[str, Any]:
    """The JSON object of a response. Raises BadAnswer, also for one without the id of its work where it `has_id`."""
    body = _json(response)
    if not isinstance(body, dict) or (has_id and not (isinstance(body.get("id"), str) and body["id"])):
        raise BadAnswer(
            f"{response.request.url} answered {response.status_code} with {response.headers.get('content-type')}, "
            "which is no answer of this service. Is the address right?"
        )
    return body


def error_of(response: httpx.Response) -> ReplicateConcurrentError:
    """The error that a response of a status from 300 is."""
    status, request_id = response.status_code, response.headers.get("x-request-id")
    if response.is_redirect:
        return BadAnswer(
            f"{response.request.url} redirects to {response.headers.get('location', 'no address')}. "
            "The key is not sent there; set that address if it is the service."
        )
    body = _json(response)
    if isinstance(body, dict) and "code" in body:
        return api_error(body, status=status, request_id=request_id)
    shown = {
        "code": f"http_{status}",
        "detail": f"{response.request.url} answered {status} {response.reason_phrase}.",
    }
    return ApiError(shown, status=status, request_id=request_id)


def pause_after(answer: httpx.Response | httpx.RequestError | None, attempt: int, jitter: float) -> float:
    """The seconds until the next attempt: those of `Retry-After`, and up to a tenth more, so that callers spread."""
    if not isinstance(answer, httpx.Response):
        return _backoff(attempt, jitter)
    header = answer.headers.get("retry-after", "").strip()
    if header.isascii() and header.isdigit():
        return min(float(header), _FOREVER) * (1 + jitter / 10)
    try:
        at = parsedate_to_datetime(header)
    except ValueError:
        return _backoff(attempt, jitter)
    at = at if at.tzinfo else at.replace(tzinfo=timezone.utc)
    return max(0.0, (at - datetime.now(timezone.utc)).total_seconds()) * (1 + jitter / 10)


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except (ValueError, RecursionError):
        return None


def _request(address: Address, call: Call, left: float) -> Request:
    headers = {**call.headers, "User-Agent": f"replicate-concurrent/{VERSION}"}
    if address.admin_key and call.path.startswith(_ADMIN):
        headers["X-Admin-API-Key"] = address.admin_key
    elif call.is_text and address.gemini_key:
        headers["X-Gemini-API-Key"] = address.gemini_key  # alone, since the service takes one credential
    elif address.key:
        headers["Authorization"] = f"Bearer {address.key}"
    if call.key is not None:
        headers["Idempotency-Key"] = call.key
    wait = call.wait
    if wait is not None:
        wait = int(max(0.0, min(wait, left / 2)))  # so that the answer still comes in time
        headers["Prefer"] = f"wait={wait}" if wait else "respond-async"
    return Request(
        call.method,
        f"{address.url}{call.path}",
        headers=headers,
        json=call.json,
        params=call.params,
        parts=call.parts,
        timeout=max(_BRIEFEST, min(call.answered_within + (wait or 0), left)),
    )


def _answered(
    address: Address, call: Call, deadline: float
) -> Operation[httpx.Response | httpx.RequestError]:
    left = deadline - (yield from now())
    request = _request(address, call, left)
    try:
        response: httpx.Response = yield (Open(request) if call.is_streamed else Send(request))
        if call.is_streamed and response.status_code >= 300:
            yield Read(response)
    except httpx.RequestError as error:
        return error
    except httpx.InvalidURL as error:
        raise ConfigError(f"{request.url} is no address: {error}") from error
    return response


def _trouble(url: str, call: Call, answer: httpx.Response | httpx.RequestError) -> ReplicateConcurrentError:
    """The error of an attempt, if another one may succeed; raised if not."""
    if isinstance(answer, httpx.Response):
        trouble = error_of(answer)
        may_repeat = _is_temporary(call, answer, trouble)
    else:
        trouble = _lost(url, answer)
        is_certain = isinstance(trouble, ConfigError)
        may_repeat = not is_certain and (call.is_repeatable or isinstance(answer, _NOT_SENT))
    if may_repeat:
        return trouble
    raise trouble from (None if isinstance(answer, httpx.Response) else answer)


def _lost(url: str, error: httpx.RequestError) -> ReplicateConcurrentError:
    reason = str(error) or type(error).__name__
    if isinstance(_root(error), ssl.SSLCertVerificationError):
        return ConfigError(f"The certificate of {url} is not trusted: {reason}. SSL_CERT_FILE names others.")
    if isinstance(error, _USELESS):
        return ConfigError(f"{url} cannot be called: {reason}")
    if isinstance(error, _NOT_SENT):
        return ConnectionLost(f"{url} cannot be reached: {reason}")
    return ConnectionLost(f"{url} did not answer: {reason}")


def _root(error: BaseException) -> BaseException:
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error


def _is_temporary(call: Call, response: httpx.Response, trouble: ReplicateConcurrentError) -> bool:
    """Whether the same request may be answered otherwise later, and costs no more then."""
    if not isinstance(trouble, ApiError) or response.headers.get("x-should-retry") == "false":
        return False
    is_own = "retryable" in trouble.raw  # else a proxy has answered
    if response.status_code in (429, 503):
        return trouble.retryable or not is_own
    if is_own:
        return call.is_repeatable and trouble.retryable and trouble.id is None
    return call.is_repeatable and response.status_code in (502, 504)


def _backoff(attempt: int, jitter: float) -> float:
    return min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(attempt, 10)) * (0.5 + jitter / 2)
