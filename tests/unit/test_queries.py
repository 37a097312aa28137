"""Query strings are parsed strictly, and all problems are reported at once."""

from datetime import UTC, datetime, timedelta, timezone
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errors import InvalidRequest
from ledger import Page
from parsing import queries
from parsing.queries import LONGEST_PAGE, USUAL_PAGE, Owner, cursor, parse_usage
from tests.support.declarations import REGISTRY

parse_list = partial(queries.parse_list, registry=REGISTRY, owner=Owner("admin"))


def refused(parse, query) -> list[str]:
    """The fields of the problems for which a query is refused; empty if it is accepted."""
    try:
        parse(query)
    except InvalidRequest as invalid:
        return [problem.field for problem in invalid.problems]
    return []


def wrong(parse, **query) -> list[str]:
    return refused(parse, query)


def test_an_empty_query_gets_the_first_page_of_all_generations():
    assert Page("admin", USUAL_PAGE) == parse_list({})


def test_a_model_is_found_by_any_of_its_names():
    assert {"black-forest-labs/flux-dev"} == {
        parse_list({"model": name}).model for name in ("flux-dev", "black-forest-labs/flux-dev")
    }


@given(st.integers(0, 2**63 - 1))
def test_a_cursor_is_parsed_into_its_position(place):
    assert place == parse_list({"cursor": cursor(place)}).before


@given(st.text(max_size=40) | st.binary(max_size=12).map(lambda raw: raw.hex()))
def test_an_invalid_cursor_is_the_only_problem(text):
    assert refused(parse_list, {"cursor": text}) in ([], ["cursor"])


@pytest.mark.parametrize(
    "text", ["", "=", "AAAAAAAAAAA=", "__________8", "AAAAAAAAAA", "AAAAAAAAAAAA", "A" * 10_000]
)
def test_cursors_that_were_never_issued_are_refused(text):
    assert ["cursor"] == wrong(parse_list, cursor=text)


@pytest.mark.parametrize(
    "text", ["0", "-1", "201", "1.0", "1e2", "", " 5", "٣", "²", "+5", "0x10", "9" * 5000]
)
def test_an_invalid_limit_is_refused(text):
    assert ["limit"] == wrong(parse_list, limit=text)


def test_every_limit_up_to_the_longest_page_is_accepted():
    assert [1, 7, LONGEST_PAGE] == [parse_list({"limit": text}).limit for text in ("1", "007", "200")]


MOMENT = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    "text",
    [
        "2026-03-04T05:06:07Z", "2026-03-04T05:06:07", "2026-03-04 05:06:07", "2026-03-04T07:06:07+02:00",
        "2026-03-04T07:06:07 02:00", "2026-03-03T23:06:07-06:00", "20260304T050607Z", str(int(MOMENT)), f"{MOMENT}00",
        "2026-03-04T05:06:07.000Z", "2026-03-04T05:06:07.000000+00:00",
    ],
)  # fmt: skip
def test_a_moment_is_parsed_in_every_notation(text):
    assert MOMENT == parse_list({"since": text}).since == parse_usage({"until": text}).until


def test_a_date_means_its_first_moment_in_utc():
    for date in ("2026-03-04", "20260304"):
        assert datetime(2026, 3, 4, tzinfo=UTC).timestamp() == parse_usage({"since": date}).since


@given(st.datetimes(min_value=datetime(1, 1, 3), max_value=datetime(9999, 12, 29)), st.integers(-1439, 1439))  # noqa: DTZ001
def test_every_moment_is_parsed_correctly_in_every_time_zone(moment, minutes):
    moment = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))

    assert moment.timestamp() == parse_list({"since": moment.isoformat()}).since
    assert moment.timestamp() == parse_list({"since": moment.isoformat().replace("+", " ")}).since


@pytest.mark.parametrize(
    "text",
    [
        "", "now", "yesterday", "-1", "1.2.3", "nan", "inf", "1e9", "2026-13-01", "2026-02-30", "24:00", "9" * 400,
        "99999999999999", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "²026-01-01", "2026-01-01T", ".",
    ],
)  # fmt: skip
def test_an_invalid_moment_is_refused(text):
    assert ["since"] == wrong(parse_list, since=text)
    assert ["since", "until"] == wrong(parse_usage, since=text, until=text)


def test_all_problems_are_reported_at_once():
    everything = {
        "state": "over",
        "model": "dall-e",
        "since": "x",
        "limit": "x",
        "cursor": "x",
        "offset": "1",
    }

    assert {*everything} == set(wrong(parse_list, **everything))
    assert {"group_by", "since", "until", "limit"} == set(
        wrong(parse_usage, group_by="prompt", since="x", until="x", limit="1")
    )


def test_the_usage_query_is_repeated_as_json():
    asked = parse_usage({"since": "2026-03-04", "group_by": "day"})

    assert {"since": "2026-03-04T00:00:00.000Z", "until": None, "group_by": "day"} == asked.as_json()


@pytest.mark.parametrize("group", ["model", "caller", "day"])
def test_usage_is_grouped_by_model_caller_or_day(group):
    assert (group,) == parse_usage({"group_by": group}).group_by


@given(
    st.dictionaries(
        st.sampled_from(["state", "model", "since", "limit", "cursor", "until"]), st.text(max_size=20)
    )
)
def test_every_query_is_parsed_or_refused(query):
    assert {*refused(parse_list, query), *refused(parse_usage, query)} <= query.keys()
