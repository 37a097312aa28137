"""The routes for the Python client: an index page as pip's `--find-links` reads it, and the wheels of this version.

`make client` builds them into `client/dist`, and so does the build of the image.
"""

from html import escape
from pathlib import Path
from typing import Final

from flask import Blueprint, Response, current_app

from api import incoming
from errors import NotFound
from service import VERSION

DIST: Final = Path(__file__).parent.parent / "client" / "dist"

_PAGE: Final = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>Python client {version}</title></head>
<body>
<h1>Python client {version}</h1>
<p><code>pip install --find-links {address}/client/ 'replicate-concurrent[cli]=={version}'</code></p>
{links}
</body>
</html>
"""

routes = Blueprint("client_wheels", __name__)


@routes.get("/client")
def client_index() -> Response:
    """An HTML page that links to the wheels. It needs no key. Raises NotFound if there are none."""
    wheels = _wheels()
    if not wheels:
        raise _missing()
    root = incoming.root()
    links = "\n".join(
        f'<a href="{escape(f"{root}/client/{name}")}">{escape(name)}</a><br>' for name in sorted(wheels)
    )
    page = _PAGE.format(version=VERSION, address=escape(incoming.address()), links=links)
    response = Response(page, mimetype="text/html")
    response.headers["Content-Security-Policy"] = (
        "default-src 'none'; base-uri 'none'; frame-ancestors 'none'"
    )
    return response


@routes.get("/client/<name>")
def client_wheel(name: str) -> Response:
    """A wheel. It needs no key. Raises NotFound, and QueueFull as for stored files."""
    leave = incoming.limits().files.begin(incoming.peer(), incoming.connection())
    try:
        if (path := _wheels().get(name)) is None:
            raise _missing()
        response = Response(path.read_bytes(), mimetype="application/octet-stream")
    except BaseException:
        leave()
        raise
    response.call_on_close(leave)
    return response


def _wheels() -> dict[str, Path]:
    """The wheels of the version of the service, by file name."""
    return {path.name: path for path in current_app.config["CLIENT_DIST"].glob(f"*-{VERSION}-*.whl")}


def _missing() -> NotFound:
    return NotFound(
        f"There is no such wheel of version {VERSION} here; `make client` in a checkout builds it."
    )
