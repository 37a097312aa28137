"""WSGI middleware: closes the connection after a response that leaves a part of the request's body unread.

Otherwise the rest of the body, of any length and speed, would have to be read before the next request on that
connection. With `Connection: close`, the client may stop sending.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]

CLOSE: Final = ("Connection", "close")


class CloseUnread:
    """Wraps `application`, and adds `Connection: close` to its responses that leave a body unread."""

    def __init__(self, application: Application) -> None:
        self._application = application

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        length = environ.get("CONTENT_LENGTH") or "0"
        if length == "0" and "HTTP_TRANSFER_ENCODING" not in environ:
            return self._application(environ, start_response)
        body = _Body(environ["wsgi.input"], None if "HTTP_TRANSFER_ENCODING" in environ else length)

        def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            if not body.is_read:
                headers = [*headers, CLOSE]
                # gunicorn ignores this header of an application, so its response object must be set, too.
                force_close = getattr(getattr(start_response, "__self__", None), "force_close", None)
                if force_close is not None:
                    force_close()
            return start_response(status, headers, *more)

        return self._application(environ | {"wsgi.input": body}, start)


class _Body:
    """A request's body that records whether it was read to its end. `length` is its Content-Length; None if it is
    chunked."""

    def __init__(self, stream: Any, length: str | None) -> None:
        self._stream = stream
        self._left = int(length) if length is not None and length.isascii() and length.isdigit() else None
        self.is_read = False

    def read(self, size: int = -1) -> bytes:
        return self._seen(self._stream.read(size), wanted=size)

    def readline(self, size: int = -1) -> bytes:
        return self._seen(self._stream.readline(size), wanted=size)

    def readlines(self, _hint: int = -1) -> list[bytes]:
        return list(self)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")

    def _seen(self, chunk: bytes, *, wanted: int) -> bytes:
        if self._left is None:
            self.is_read = self.is_read or (not chunk and wanted != 0)
        else:
            self._left -= len(chunk)
            self.is_read = self._left <= 0
        return chunk
