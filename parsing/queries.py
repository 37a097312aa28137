"""Parses the query strings of `GET /generations`, `GET /usage` and `GET /models`."""

import base64
import binascii
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from catalog.model import KINDS, TIERS, Model
from catalog.registry import Registry
from catalog.targets import Target
from contract.callers import ADMIN, KEY_PREFIX
from contract.states import ENDED, UNFINISHED, iso8601
from errors import Forbidden, Problem
from ledger import GROUPS, METADATA, TAG, ActsPage, Page, Place
from parsing.validation import refuse_if_any

LONGEST_SEARCH: Final = 200
LONGEST_PAGE: Final = 200
USUAL_PAGE: Final = 20

_BASIC_DATE: Final = re.compile(r"[0-9]{8}")
"""A date such as 20261121, which is no Unix time (of 1970)."""

_MOST_GROUPS: Final = 2

_METADATA: Final = "metadata."
"""How the names of filters by metadata begin."""

_OF_LIST: Final = ("state", "model", "since", "limit", "cursor", "key", "batch", "kind", "prompt")


@dataclass(frozen=True, slots=True)
class Owner:
    """The owner of the work in a list: a caller, the keys of a name, or all callers if both are None."""

    caller_id: str | None
    key_name: str | None = None


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """`GET /usage`: Unix times, from `since` to before `until`."""

    since: float | None
    until: float | None
    group_by: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {
            "since": None if self.since is None else iso8601(self.since),
            "until": None if self.until is None else iso8601(self.until),
            "group_by": ",".join(self.group_by) or None,
        }


def each_once(query: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The query with one value for each name. Raises InvalidRequest if a name is repeated, since one value would be
    ignored."""
    refuse_if_any(
        [
            Problem(name, "is there more than once", values)
            for name, values in query.items()
            if len(values) > 1
        ]
    )
    return {name: values[0] for name, values in query.items()}


def parse_list(query: Mapping[str, str], registry: Registry, owner: Owner) -> Page:
    """The page of this owner's generations that the query of `GET /generations` requests; its `key` is read before
    (`api/incoming.py`). Raises InvalidRequest with all problems."""
    metadata = {name: value for name, value in query.items() if name.startswith(_METADATA)}
    query = {name: value for name, value in query.items() if name not in metadata}
    problems = _unknown(query, _OF_LIST)
    if _METADATA in metadata:
        problems.append(Problem(_METADATA, "must have a name after the dot"))
    state = _chosen("state", query, (*UNFINISHED, *ENDED), problems)
    model = registry.find(query["model"]) if "model" in query else None
    name = model.name if model else Target.parse(query.get("model", "")).name
    if "model" in query and model is None and "/" not in name:
        near = ", ".join(registry.nearest_first(query["model"]))
        problems.append(Problem("model", f"is not a model known here; these are: {near}", query["model"]))
    since = _moment("since", query, problems)
    limit, before = _limit(query, problems), _before(query, problems)
    kind = _chosen("kind", query, KINDS, problems)
    prompt = _searched(query, problems)
    refuse_if_any(problems)
    return Page(
        owner.caller_id,
        limit,
        state,
        name or None,
        since,
        before,
        key_name=owner.key_name,
        batch_id=query.get("batch"),
        kind=kind,
        prompt=prompt,
        metadata=tuple((name.removeprefix(_METADATA), value) for name, value in metadata.items()),
    )


def parse_owner(key: str | None, *, own_id: str, own_name: str, sees_all: bool) -> Owner:
    """The owner of the work in a list, by its `key`: an id or name of a key, `admin`, or `*` for all. Without one it is
    the caller. Raises Forbidden for the work of others, unless the caller `sees_all`."""
    if key in {None, own_id}:
        return Owner(own_id)
    if not sees_all:
        if key == own_name:
            return Owner(own_id)
        raise Forbidden("`key` may name only the key of the request. Admins and viewers may see others.")
    if key == "*":
        return Owner(None)
    is_id = key == ADMIN or str(key).startswith((KEY_PREFIX, "user_"))
    return Owner(key) if is_id else Owner(None, key)


def _searched(query: Mapping[str, str], problems: list[Problem]) -> str | None:
    """The text that prompts are to contain."""
    given = query.get("prompt")
    if given is not None and not 1 <= len(given) <= LONGEST_SEARCH:
        problems.append(Problem("prompt", f"must have 1 to {LONGEST_SEARCH} characters", given))
    return given


def parse_filter(query: Mapping[str, Sequence[str]]) -> Callable[[Model], bool]:
    """A filter for the models that the query of `GET /models` asks for, by kind and by tier. Raises InvalidRequest."""
    choices = {"kind": KINDS, "tier": TIERS}
    refuse_if_any(
        [
            Problem(name, f"must be {' or '.join(known)}", value)
            for name, known in choices.items()
            for value in query.get(name, ())
            if value not in known
        ]
    )
    kinds, tiers = query.get("kind", KINDS), query.get("tier", (*TIERS, None))
    return lambda model: model.kind in kinds and model.tier in tiers


def parse_search(query: Mapping[str, Sequence[str]]) -> str | None:
    """The words that the query of `GET /models` searches for, None without any. Raises InvalidRequest."""
    given = " ".join(query.get("search", ())).strip()
    if len(given) > LONGEST_SEARCH:
        refuse_if_any([Problem("search", f"must have at most {LONGEST_SEARCH} characters")])
    return given or None


def parse_usage(query: Mapping[str, str]) -> UsageQuery:
    """The query of `GET /usage`. Raises InvalidRequest with all problems."""
    problems = _unknown(query, ("since", "until", "group_by"))
    groups = _groups(query.get("group_by"), problems)
    since, until = _moment("since", query, problems), _moment("until", query, problems)
    refuse_if_any(problems)
    return UsageQuery(since, until, groups)


def _groups(given: str | None, problems: list[Problem]) -> tuple[str, ...]:
    """One or two groups of usage, separated by a comma."""
    found = () if given is None else tuple(given.split(","))
    named = (
        each.removeprefix(TAG).removeprefix(METADATA) for each in found if each.startswith((TAG, METADATA))
    )
    others = [each for each in found if not each.startswith((TAG, METADATA))]
    if (
        len(found) > _MOST_GROUPS
        or len({*found}) < len(found)
        or not {*others} <= {*GROUPS}
        or not all(named)
    ):
        names = ", ".join((*GROUPS, f"{TAG}<name>", f"{METADATA}<name>"))
        problems.append(Problem("group_by", f"must be one or two of {names}, separated by a comma", given))
    return found


def cursor(place: int) -> str:
    """A position in the list as an opaque text, with which a caller gets the next page."""
    return base64.urlsafe_b64encode(struct.pack(">Q", place)).rstrip(b"=").decode()


def parse_places(query: Mapping[str, str], *also: str) -> tuple[int, Place | None]:
    """The limit of a page, and the place that its cursor names, from a query that may `also` have these names. Raises
    InvalidRequest."""
    problems = _unknown(query, ("limit", "cursor", *also))
    limit, before = _limit(query, problems), None
    if (given := query.get("cursor")) is not None:
        try:
            moment, _, row_id = base64.b64decode(given, altchars=b"-_", validate=True).decode().partition(" ")
            before = float(moment), row_id
        except (binascii.Error, ValueError):
            problems.append(Problem("cursor", "must be a next_cursor of an earlier page", given))
    refuse_if_any(problems)
    return limit, before


def parse_acts(query: Mapping[str, str]) -> ActsPage:
    """The page that the query of `GET /audit` requests. Raises InvalidRequest."""
    problems: list[Problem] = []
    since = _moment("since", query, problems)
    limit, before = parse_places(query, "actor", "action", "since")
    refuse_if_any(problems)
    return ActsPage(limit, before, query.get("actor"), query.get("action"), since)


def place_cursor(moment: float, row_id: str) -> str:
    """The place of a row in a list as an opaque text, with which a caller gets the next page."""
    return base64.urlsafe_b64encode(f"{moment!r} {row_id}".encode()).decode()


def date_time(text: str) -> float:
    """The Unix time of a date, or of a date and time, UTC if it has no offset. Raises ValueError or OverflowError."""
    # In a query, a plus is decoded as a space. ISO 8601 with a T has no other space.
    found = datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _before(query: Mapping[str, str], problems: list[Problem]) -> int | None:
    given = query.get("cursor")
    if given is None:
        return None
    try:
        place: int = struct.unpack(">Q", base64.b64decode(given + "=", altchars=b"-_", validate=True))[0]
        if place < 2**63:
            return place
    except (binascii.Error, struct.error, ValueError):
        pass
    problems.append(Problem("cursor", "must be a next_cursor of an earlier page", given))
    return None


def _limit(query: Mapping[str, str], problems: list[Problem]) -> int:
    given = query.get("limit", str(USUAL_PAGE))
    if given.isascii() and given.isdigit() and len(given) < 6 and 1 <= int(given) <= LONGEST_PAGE:
        return int(given)
    problems.append(Problem("limit", f"must be a whole number from 1 to {LONGEST_PAGE}", given))
    return USUAL_PAGE


def _chosen(
    name: str, query: Mapping[str, str], choices: tuple[str, ...], problems: list[Problem]
) -> str | None:
    given = query.get(name)
    if given is not None and given not in choices:
        problems.append(Problem(name, f"must be one of {', '.join(choices)}", given))
    return given


def _moment(name: str, query: Mapping[str, str], problems: list[Problem]) -> float | None:
    """The Unix time of a date, a date and time (UTC if it has no offset), or a Unix time."""
    given = query.get(name)
    if given is None:
        return None
    try:
        if given.replace(".", "", 1).isdigit() and given.isascii() and not _BASIC_DATE.fullmatch(given):
            moment = float(given)
        else:
            moment = date_time(given)
        iso8601(moment)
        return moment
    except (ValueError, OverflowError, OSError):
        problems.append(Problem(name, "must be a date, a date and time (ISO 8601) or a Unix time", given))
        return None


def _unknown(query: Mapping[str, str], known: tuple[str, ...]) -> list[Problem]:
    return [
        Problem(name, f"is not known here; {', '.join(known)} are", value)
        for name, value in query.items()
        if name not in known
    ]
