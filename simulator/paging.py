"""The lists of an account's predictions and trainings: a page at a time, newest first.

A cursor is the number of a prediction, so creations between two pages neither repeat nor hide an entry.
"""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic

from aiohttp import web
from yarl import URL

from simulator import responses
from simulator.responses import ApiResponse
from simulator.stores import P, Store

PAGE = 100


@dataclass(frozen=True, slots=True)
class Page(Generic[P]):
    """A page of an account's predictions, newest first, and the cursors of its neighbours."""

    predictions: list[P]
    next: str | None
    previous: str | None


def answer(
    request: web.Request,
    store: Store[P],
    *,
    token: str,
    base_url: str,
    keep: Callable[[P], bool],
    show: Callable[[P], Any],
) -> ApiResponse:
    """The page that a request names by its `cursor`, with the links of its neighbours.

    Args:
        request: The request.
        store: The predictions.
        token: The token of the account.
        base_url: The address by which the caller reached this server.
        keep: Whether a prediction is in the list.
        show: The JSON of a prediction.

    Raises:
        ApiError: 400 if the cursor is invalid.
    """
    query = request.query
    try:
        found = page(store, token, query.get("cursor"), size=PAGE, keep=keep)
    except ValueError as reason:
        raise responses.malformed("Invalid cursor") from reason
    here = URL(f"{base_url}{request.path}").with_query(query)
    links = {"next": found.next, "previous": found.previous}
    body = {name: str(here.update_query(cursor=cursor)) if cursor else None for name, cursor in links.items()}
    return ApiResponse(body | {"results": [show(each) for each in found.predictions]})


def page(store: Store[P], token: str, cursor: str | None, *, size: int, keep: Callable[[P], bool]) -> Page[P]:
    """The page of `token`'s predictions at `cursor`, or the newest page without one.

    Only predictions for which `keep(prediction)` is true are on it.

    Raises:
        ValueError: If the cursor is invalid.
    """
    backwards, place = _placed(cursor)
    if backwards:
        near = (p for p in store.oldest_first(token) if p.number > place and keep(p))
    else:
        near = (p for p in store.newest_first(token) if p.number < place and keep(p))
    found = [p for p, _ in zip(near, range(size + 1), strict=False)]
    more, found = len(found) > size, found[:size]
    if backwards:
        found.reverse()
    older = bool(found) and (more or backwards)
    newer = bool(found) and (more if backwards else cursor is not None)
    return Page(
        found,
        next=_cursor(found[-1].number, backwards=False) if older else None,
        previous=_cursor(found[0].number, backwards=True) if newer else None,
    )


def _cursor(place: int, *, backwards: bool) -> str:
    return base64.urlsafe_b64encode(f"{'r' if backwards else 'p'}={place}".encode()).decode()


def _placed(cursor: str | None) -> tuple[bool, float]:
    if cursor is None:
        return False, float("inf")
    way, _, place = base64.urlsafe_b64decode(cursor).decode().partition("=")
    if way not in ("p", "r"):
        raise ValueError("not a cursor")
    return way == "r", int(place)
