"""The route for stored files: validators, ranges, caching and the download name (RFC 9110 8.8, 13, 14).

A file never changes under its name, so it may be cached for a year, and its ETag is strong.
"""

from collections.abc import Callable
from datetime import UTC, datetime

from flask import Blueprint, Request, Response, request

from api import incoming
from errors import NotFound, RangeNotSatisfiable
from files.names import content_disposition, link_name, stored_name
from files.storage import OpenFile
from files.weights import WeightsStore
from media.files import SVG

_SHOWN = ("image/", "video/", "audio/")
"""A browser shows these itself. It saves any other file, since an SVG or a page could run its scripts here."""

CACHING = "public, max-age=31536000, immutable"

_FOR_OWNER = "private, no-cache"
"""A file that needs a key: each use of a cached one is checked by its ETag."""

routes = Blueprint("files", __name__)


@routes.get("/files/<generation>/<name>")
def file(generation: str, name: str) -> Response:
    """A stored output. The URL cannot be guessed, so it needs no key."""
    return _download(lambda: _output(generation, name))


def weights(store: WeightsStore, training_id: str, name: str) -> Response:
    """The weights of a training, for a caller who may read it. Raises NotFound, and the errors of a download."""
    return _download(
        lambda: answer(_found(store.open(training_id, name)), request, name=name, caching=_FOR_OWNER)
    )


def _download(respond: Callable[[], Response]) -> Response:
    """The response with a file, which counts as a download of this client until it ends."""
    leave = incoming.limits().files.begin(incoming.peer(), incoming.connection())
    try:
        response = respond()
    except BaseException:
        leave()
        raise
    response.call_on_close(leave)
    return response


def _output(generation: str, name: str) -> Response:
    opened = _found(kept_file(generation, name))
    return answer(opened, request, name=link_name(generation, stored_name(generation, name)))


def _found(opened: OpenFile | None) -> OpenFile:
    if opened is None:
        raise NotFound("The file does not exist, or is no longer kept.")
    return opened


def kept_file(generation: str, name: str) -> OpenFile | None:
    """The output of this name, which is that in its link; None if it is not kept any more. The caller closes it."""
    files = incoming.service().files
    return files.open(generation, name) if files else None


def answer(opened: OpenFile, request: Request, *, name: str, caching: str = CACHING) -> Response:
    """The response with the file, the requested range, or 304. The file is closed with the response, also if
    this raises RangeNotSatisfiable. `name` is the default file name."""
    try:
        response = _answer(opened, request)
    except BaseException:
        opened.close()
        raise
    response.call_on_close(opened.close)
    response.set_etag(opened.etag)
    response.last_modified = datetime.fromtimestamp(opened.modified, UTC)
    response.headers["Cache-Control"] = caching
    response.headers["Accept-Ranges"] = "bytes"
    is_shown = opened.media_type.startswith(_SHOWN) and opened.media_type != SVG.name
    shown = "inline" if is_shown else "attachment"
    names = content_disposition(request.args.get("name", ""), name)
    response.headers.set("Content-Disposition", shown, **names)
    if not is_shown:
        response.headers["Content-Security-Policy"] = "default-src 'none'; sandbox"
    return response


def _answer(opened: OpenFile, request: Request) -> Response:
    if _is_known(opened, request):
        return Response(status=304)
    part = _part(opened, request)
    start, stop = part or (0, opened.size)
    status = 206 if part else 200
    response = Response(opened.chunks(start, stop), status=status, mimetype=opened.media_type)
    response.content_length = stop - start
    if part:
        response.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{opened.size}"
    return response


def _is_known(opened: OpenFile, request: Request) -> bool:
    if request.if_none_match:
        return request.if_none_match.contains_weak(opened.etag)
    since = request.if_modified_since
    return since is not None and int(opened.modified) <= since.timestamp()


def _part(opened: OpenFile, request: Request) -> tuple[int, int] | None:
    """The requested range as start and stop. None means the whole file: no range, several ranges, or an If-Range that
    does not match. Ranges apply to GET only (RFC 9110 14.2)."""
    wanted, only_if = request.range, request.if_range
    if wanted is None or request.method != "GET" or wanted.units != "bytes" or len(wanted.ranges) != 1:
        return None
    if only_if.etag is not None and only_if.etag != opened.etag:
        return None
    if only_if.date is not None and only_if.date.timestamp() != int(opened.modified):
        return None
    start, stop = wanted.ranges[0]
    start = max(0, opened.size + start) if start < 0 else start
    stop = opened.size if stop is None else min(stop, opened.size)
    if start >= stop:
        raise RangeNotSatisfiable(size=opened.size)
    return start, stop
