"""WSGI middleware: a URL with a slash at its end is the same as without it.

Tools join a base URL and a path in both ways. A redirect would cost another request, and some clients repeat a POST as
a GET then.
"""

from collections.abc import Iterable

from server.unread_body import Application, Environ, StartResponse


class WithoutTrailingSlash:
    """Wraps `application`, and takes one slash from the end of each path but the root's."""

    def __init__(self, application: Application) -> None:
        self._application = application

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if len(path) > 1 and path.endswith("/"):
            environ = environ | {"PATH_INFO": path[:-1]}
        return self._application(environ, start_response)
