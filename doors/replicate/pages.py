"""Pages of Replicate's list of predictions: a hundred each, the latest first, linked by `next` and `previous`.

A cursor names a generation and the side of it on which a page lies, so a creation between two pages repeats none.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlencode

from errors import InvalidRequest, Problem
from ledger import Page
from ledger.records import GenerationRecord
from parsing.queries import date_time

PAGE: Final = 100
"""Predictions of one page."""

_FRACTION: Final = 5e-7
"""Seconds by which a date may be too late, since it was read from text and is a float."""

_CURSOR: Final = re.compile(r"(?P<side>before|after)-(?P<place>[1-9]\d{0,17})")


def read_page(query: Mapping[str, str], caller_id: str) -> Page:
    """The page of a caller that this query names, and one generation more, which shows that there are others. Raises
    InvalidRequest."""
    problems: list[Problem] = []
    cursor = query.get("cursor")
    found = None if cursor is None else _CURSOR.fullmatch(cursor)
    if cursor is not None and found is None:
        problems.append(Problem("cursor", "must be that of a link to another page", cursor))
    since = _moment("created_after", query, problems)
    until = _moment("created_before", query, problems)
    if problems:
        raise InvalidRequest(problems)
    place = None if found is None else int(found["place"])
    is_after = found is not None and found["side"] == "after"
    return Page(
        caller_id,
        PAGE + 1,
        since=since,
        until=until,
        before=None if is_after else place,
        after=place if is_after else None,
    )


def shown_on(page: Page, found: Sequence[GenerationRecord]) -> Sequence[GenerationRecord]:
    """Those of the `found` generations that the page shows."""
    return found[:PAGE] if page.after is None else found[-PAGE:]


def page_links(
    page: Page, found: Sequence[GenerationRecord], query: Mapping[str, str], url: str
) -> dict[str, Any]:
    """The links to the pages before and after. `found` has one generation more than the page if there are more in its
    direction."""
    shown, has_more = shown_on(page, found), len(found) > PAGE
    has_next = has_more or page.after is not None
    has_previous = page.before is not None if page.after is None else has_more
    return {
        "next": _link(url, query, f"before-{shown[-1].seq}") if has_next and shown else None,
        "previous": _link(url, query, f"after-{shown[0].seq}") if has_previous and shown else None,
    }


def _link(url: str, query: Mapping[str, str], cursor: str) -> str:
    return f"{url}?{urlencode({**query, 'cursor': cursor})}"


def _moment(name: str, query: Mapping[str, str], problems: list[Problem]) -> float | None:
    """The Unix time of an ISO 8601 date and time, UTC if it has no offset."""
    text = query.get(name)
    if text is None:
        return None
    try:
        return date_time(text) - _FRACTION
    except (ValueError, OverflowError):
        problems.append(Problem(name, "must be an ISO 8601 date-time", text))
        return None
