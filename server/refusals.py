"""Responses to requests that end in the server, before the application gets them."""

import json
from http import HTTPStatus
from urllib.parse import unquote, urlsplit

from doors import error_shapes
from errors import ServiceError


def response_to(error: ServiceError, request_id: str, head: bytes | bytearray, *, public: str) -> bytes:
    """The last response of a connection, with this error. It has the shape of the door for the path in the `head` of
    the request, as far as there is one. `public` is the path of PUBLIC_URL."""
    problem = error.as_problem(request_id, root=public)
    shaped, content_type, more = error_shapes.shape(problem, error.headers, path_of(head), public=public)
    status, body = HTTPStatus(shaped.get("status", error.status)), json.dumps(shaped)
    headers = {
        "Connection": "close",
        "Content-Type": content_type,
        "Content-Length": len(body),
        **error.headers,
        **more,
        "X-Request-ID": request_id,
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status.value} {status.phrase}\r\n{lines}\r\n{body}".encode()


def path_of(head: bytes | bytearray) -> str:
    """The path in the first line of a request, which may be incomplete; empty if there is none."""
    target = head.partition(b"\n")[0].partition(b" ")[2].partition(b" ")[0].decode("latin-1").strip()
    if not target.startswith("/"):
        try:
            target = urlsplit(target).path if "://" in target else ""
        except ValueError:
            return ""
    return unquote(target.partition("?")[0])
