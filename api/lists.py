"""Lists in pages: the query of a request, and the response with one page.

All functions run in a Flask thread, inside a request.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from flask import Response, jsonify, request

from parsing.queries import each_once

Row = TypeVar("Row")


def query() -> dict[str, str]:
    """The query of this request. Raises InvalidRequest if it repeats a name."""
    return each_once(request.args.to_dict(flat=False))


def page(
    name: str,
    found: Sequence[Row],
    limit: int,
    *,
    view: Callable[[Row], dict[str, Any]],
    cursor: Callable[[Row], str],
) -> Response:
    """The first `limit` rows as the field `name`, each by its `view`, and the `next_cursor`, which names the place of
    the last of them. `found` has one row more if there is a next page."""
    rows = found[:limit]
    following = cursor(rows[-1]) if len(found) > limit else None
    return jsonify({name: [view(each) for each in rows], "next_cursor": following})
