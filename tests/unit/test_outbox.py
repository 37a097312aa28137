"""Webhook deliveries: when results are posted. In virtual time, with a fake sender instead of a network."""

import asyncio
from collections import Counter
from dataclasses import dataclass, replace

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from generations import views
from tests.support import virtual_time
from tests.support.outbox_wiring import (
    DAY,
    EPOCH,
    HANGS,
    LOST,
    URL,
    Fake,
    Story,
    in_turn,
    is_valid,
    new,
    now,
    secrets,
    story,
)
from tests.support.virtual_time import in_virtual_time
from webhooks.outbox import RetryPolicy
from webhooks.sender import Response
from webhooks.signing import Message


def timetable(*, first: int = 5, longest: int = 3600, total_timeout: int = DAY) -> list[int]:
    times = [0]
    while times[-1] + (pause := min(first * 2 ** (len(times) - 1), longest)) <= total_timeout:
        times.append(times[-1] + pause)
    return times


# Outcomes of a delivery


@pytest.mark.parametrize("status", [200, 201, 202, 204, 226, 299])
@in_virtual_time
async def test_a_2xx_response_ends_a_delivery(status):
    outcome = await story(status, takes=0.5)

    assert [0] == outcome.sender.times
    assert [
        new(next_at=EPOCH),
        new(state="delivered", attempts=1, delivered_at=EPOCH + 0.5),
    ] == outcome.written


@pytest.mark.parametrize(
    "status", [101, 300, 301, 302, 303, 304, 307, 308, 400, 401, 404, 409, 429, 500, 503, 999]
)
@in_virtual_time
async def test_any_other_response_is_retried_for_a_day(status):
    outcome = await story(status)

    times = timetable()
    assert times == outcome.sender.times
    assert [0, 5, 15, 35, 75, 155, 315, 635, 1275, 2555, 5115, 8715, 12315] == times[:13]
    assert new(state="failed", attempts=len(times), trouble=outcome.delivery().trouble) == outcome.delivery()
    more = ", and redirects are not followed" if 300 <= status < 400 else ""
    assert f"it answered {status}{more}" == outcome.delivery().trouble


@in_virtual_time
async def test_the_ledger_has_every_attempt_and_the_time_of_the_next():
    outcome = await story(in_turn(500, LOST, HANGS, 200))

    assert [
        ("pending", 0, 0, None),
        ("pending", 1, 5, "it answered 500"),
        ("pending", 2, 15, "the connection was lost"),
        ("pending", 3, 45, "no answer within 10 s"),
        ("delivered", 4, None, None),
    ] == [
        (row.state, row.attempts, row.next_at and row.next_at - EPOCH, row.trouble) for row in outcome.written
    ]
    assert [0, 5, 15, 45] == outcome.sender.times


@in_virtual_time
async def test_a_410_ends_a_delivery():
    outcome = await story(410)

    assert [0] == outcome.sender.times
    assert new(state="failed", attempts=1, trouble="it answered 410") == outcome.delivery()


NINES = "9" * 400


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120),
        ("0120", 120),
        ("3600", 3600),
        ("86400", 3600),
        (NINES, 3600),
        ("Fri, 15 Jan 2027 08:10:00 GMT", 600),
        ("Fri, 15 Jan 2027 08:10:00 -0000", 600),
        ("Friday, 15-Jan-27 08:10:00 GMT", 600),
        ("Fri Jan 15 08:10:00 2027", 600),
        ("Fri, 15 Jan 2100 08:00:00 GMT", 3600),
        ("0", 5),
        ("2", 5),
        ("Fri, 15 Jan 2027 07:00:00 GMT", 5),
        ("Fri, 99 Jan 2027 07:00:00 GMT", 5),
        ("Fri, 31 Dec 9999 23:59:59 -2359", 3600),
        ("", 5),
        ("-120", 5),
        ("1e3", 5),
        ("nan", 5),
        ("inf", 5),
        ("soon", 5),
        ("\u0661\u0662\u0660", 5),
        ("120, 240", 5),
    ],
    ids=lambda it: str(it)[:40],
)
@in_virtual_time
async def test_retry_after_lengthens_the_backoff_up_to_an_hour(header, seconds):
    outcome = await story(in_turn(Response(503, header), 200))

    assert [0, seconds] == outcome.sender.times


@in_virtual_time
async def test_retry_after_does_not_extend_a_delivery_beyond_a_day():
    outcome = await story(Response(429, "3600"))

    assert [hour * 3600 for hour in range(25)] == outcome.sender.times
    assert "failed" == outcome.delivery().state


@pytest.mark.parametrize("seconds", [5.0, 7.5, 10.0])
@in_virtual_time
async def test_jitter_shortens_a_backoff_by_at_most_half(seconds):
    asked = []

    def uniform(low, high):
        asked.append((low, high))
        return seconds if high == 10 else high

    outcome = await story(in_turn(500, 500, 200), uniform=uniform)

    assert [(2.5, 5), (5, 10)] == asked[:2]
    assert [0, 5, 5 + seconds] == outcome.sender.times


@in_virtual_time
async def test_a_delivery_without_a_result_fails():
    async def message(delivery_id):
        return None

    outcome = await story(200, message=message)

    assert [] == outcome.sender.times
    assert new(state="failed", attempts=1, trouble="the result is not known any more") == outcome.delivery()


@in_virtual_time
async def test_a_result_that_cannot_be_read_is_retried():
    there = in_turn(OSError("the disk"), TimeoutError(), Message("admin", b"{}"))

    async def message(delivery_id):
        found = there(None)
        if isinstance(found, Exception):
            raise found
        return found

    outcome = await story(200, message=message)

    assert [15] == outcome.sender.times
    assert {"something went wrong inside this service", None} == {row.trouble for row in outcome.written}
    assert "delivered" == outcome.delivery().state


@pytest.mark.parametrize(
    ("url", "trouble"),
    [
        ("http://hooks.example.com/", "it must be an https URL"),
        ("https://10.0.0.1/", "it must name a public host"),
        ("https://localhost/", "it must name a public host"),
        ("https://user@hooks.example.com/", "it must not hold a user name or password"),
        ("https://[", "it must name a public host"),
        ("", "it must be an https URL"),
    ],
)
@in_virtual_time
async def test_a_url_from_the_ledger_is_checked_before_each_attempt(url, trouble):
    outcome = await story(200, new(url=url))

    assert [] == outcome.sender.times
    assert ("failed", trouble) == (outcome.delivery().state, outcome.delivery().trouble)


# Content of a message


@in_virtual_time
async def test_attempts_share_an_id_and_differ_in_timestamp_and_signature():
    outcome = await story(in_turn(500, 500, 200))

    assert [
        {
            "content-type": "application/json",
            "webhook-id": "msg_gen_1",
            "webhook-timestamp": str(EPOCH + seconds),
        }
        for seconds in (0, 5, 15)
    ] == [
        {name.lower(): value for name, value in attempt.headers.items() if name != "webhook-signature"}
        for attempt in outcome.sender.attempts
    ]
    assert 3 == len({attempt.headers["webhook-signature"] for attempt in outcome.sender.attempts})
    assert {(URL, b'{"id": "gen_1"}')} == {(each.url, each.content) for each in outcome.sender.attempts}
    for attempt in outcome.sender.attempts:
        is_valid(attempt.headers, attempt.content)


@in_virtual_time
async def test_without_a_secret_messages_are_not_signed():
    outcome = await story(200, secrets=secrets(None))

    assert {"Content-Type", "webhook-id", "webhook-timestamp"} == set(outcome.sender.attempts[0].headers)


@in_virtual_time
async def test_the_log_has_the_host_and_status_but_not_the_url():
    with structlog.testing.capture_logs() as logs:
        await story(in_turn(500, LOST, 410))

    common = {"id": "gen_1", "host": "hooks.example.com"}
    assert [
        common | {"event": "webhook_pending", "log_level": "info", "status": 500, "attempt": 1}
        | {"trouble": "it answered 500"},
        common | {"event": "webhook_pending", "log_level": "info", "status": None, "attempt": 2}
        | {"trouble": "the connection was lost"},
        common | {"event": "webhook_failed", "log_level": "warning", "status": 410, "attempt": 3}
        | {"trouble": "it answered 410"},
    ] == logs  # fmt: skip


# Limits of attempts in flight


@in_virtual_time
async def test_a_hanging_host_does_not_hold_up_another():
    hanging = [new(f"gen_{number}", "https://hangs.example/") for number in range(1000)]
    outcome = await story(
        lambda attempt: HANGS if "hangs" in attempt.url else 200, *hanging, new("gen_good"), seconds=5
    )

    assert [0] == [attempt.at for attempt in outcome.sender.attempts if attempt.id == "gen_good"]
    assert (4, 5) == (outcome.sender.most["hangs.example"], outcome.sender.most["all"])


@in_virtual_time
async def test_hosts_take_turns_at_the_limit_of_attempts_in_flight():
    hanging = [
        new(f"gen_{number}_{host}", f"https://hangs{host}.example/")
        for host in range(20)
        for number in range(50)
    ]
    outcome = await story(
        lambda attempt: HANGS if "hangs" in attempt.url else 200, *hanging, new("gen_good"), seconds=30
    )

    assert [10] == [attempt.at for attempt in outcome.sender.attempts if attempt.id == "gen_good"]
    assert 32 == outcome.sender.most["all"]
    assert 4 == max(most for host, most in outcome.sender.most.items() if host != "all")


@in_virtual_time
async def test_a_host_is_the_same_however_it_is_written():
    urls = ["https://hooks.example.com/a", "https://HOOKS.example.com:8443/b", "https://hooks.example.com./c"]
    outcome = await story(200, *(new(f"gen_{n}", urls[n % 3]) for n in range(30)), takes=1.0)

    assert 4 == outcome.sender.most["all"]


@in_virtual_time
async def test_the_end_of_an_attempt_starts_the_next_at_once():
    outcome = await story(200, *(new(f"gen_{number}") for number in range(10)), takes=1.0)

    assert [0, 0, 0, 0, 1, 1, 1, 1, 2, 2] == outcome.sender.times


@in_virtual_time
async def test_an_early_delivery_does_not_wait_for_the_timer_of_a_late_one():
    late = [new(f"gen_{seconds}", attempts=9, next_at=EPOCH + seconds) for seconds in (600, 60, 300)]
    outcome = await story(lambda attempt: 500 if attempt.at == 0 else 200, *late, new("gen_now"))

    assert [0, 5, 60, 300, 600] == outcome.sender.times


@in_virtual_time
async def test_a_hundred_thousand_waiting_deliveries_need_one_timer_and_no_task():
    loop = asyncio.get_running_loop()
    outcome = Story(Fake(200))
    outbox = outcome.begun()
    before = (len(asyncio.all_tasks()), len(loop.timers()))
    for number in range(100_000):
        outbox.take(
            new(f"gen_{number}", f"https://h{number % 1000}.example/", attempts=3, next_at=EPOCH + 600)
        )

    assert (before[0], before[1] + 1) == (len(asyncio.all_tasks()), len(loop.timers()))
    await outbox.aclose()
    assert before == (len(asyncio.all_tasks()), len(loop.timers()))
    assert [] == outcome.written


@in_virtual_time
async def test_an_outcome_that_cannot_be_written_blocks_no_other_delivery():
    outcome = Story(Fake(200))
    failing = iter([True] * 4)

    class Failing:
        @staticmethod
        def upsert(delivery):
            if delivery.state != "pending" and next(failing, False):
                raise OSError("the disk")
            outcome.upsert(delivery)

    outcome.options["ledger"] = Failing()
    await outcome.of(*(new(f"gen_{number}") for number in range(10)))

    assert Counter(pending=4, delivered=6) == Counter(each.state for each in outcome.rows.values())


# Announcements


@pytest.mark.parametrize("says", [200, 500, LOST, HANGS])
@in_virtual_time
async def test_the_start_of_work_is_posted_once_and_not_recorded(says):
    """Replicate does not retry webhooks of intermediate states."""
    outcome = Story(Fake(says))
    outbox = outcome.begun()
    outbox.announce("gen_1", URL, Message("user_1", b"{}"))
    await asyncio.sleep(DAY)
    await outbox.aclose()

    [sent] = outcome.sender.attempts
    assert "gen_1_start" == sent.id
    is_valid(sent.headers, b"{}")
    assert [] == outcome.written


# Stops and restarts


@in_virtual_time
async def test_a_restart_does_not_change_the_times_of_attempts():
    outcome = await Story(Fake(500)).of(new(), seconds=20)
    assert [0, 5, 15] == outcome.sender.times
    assert new(attempts=3, next_at=EPOCH + 35, trouble="it answered 500") == outcome.delivery()

    await outcome.of(outcome.delivery())
    assert timetable() == outcome.sender.times
    assert "failed" == outcome.delivery().state


@in_virtual_time
async def test_an_attempt_interrupted_by_a_stop_is_repeated_with_the_same_id():
    outcome = await Story(Fake(200, takes=1.0)).of(new(), seconds=0.5)
    assert [new(next_at=EPOCH)] == outcome.written
    assert Counter() == +outcome.sender.under_way

    await outcome.of(outcome.delivery())
    assert [0, 0.5] == outcome.sender.times
    assert 1 == len({attempt.headers["webhook-id"] for attempt in outcome.sender.attempts})
    assert ("delivered", 1) == (outcome.delivery().state, outcome.delivery().attempts)


@in_virtual_time
async def test_a_delivery_due_during_an_outage_is_attempted_at_the_start():
    outcome = Story(Fake(500))
    await asyncio.sleep(7 * DAY)
    await outcome.of(new(attempts=3, next_at=EPOCH + 35, trouble="it answered 500"))

    assert [7 * DAY] == outcome.sender.times
    assert ("failed", 4) == (outcome.delivery().state, outcome.delivery().attempts)


@in_virtual_time
async def test_a_clock_set_back_delays_a_delivery_by_at_most_an_hour():
    outcome = await story(200, new(attempts=3, next_at=EPOCH + 30 * DAY))

    assert [3600] == outcome.sender.times


@in_virtual_time
async def test_after_close_a_new_delivery_is_only_written_to_the_ledger():
    outcome = Story(Fake(200))
    outbox = outcome.begun()
    await outbox.aclose()
    outbox.take(new())
    await asyncio.sleep(DAY)

    assert [new(next_at=EPOCH)] == outcome.written
    assert [] == outcome.sender.times
    assert outcome.sender.closed


@in_virtual_time
async def test_taking_a_delivery_twice_sends_it_once():
    outcome = await story(200, new(), new(), new(next_at=EPOCH + 5), takes=1.0)

    assert [0] == outcome.sender.times


@pytest.mark.parametrize("state", ["delivered", "failed"])
@in_virtual_time
async def test_an_ended_delivery_is_not_started_again(state):
    outcome = await story(200, new(state=state))

    assert ([], []) == (outcome.sender.times, outcome.written)


@in_virtual_time
async def test_get_returns_a_delivery_while_it_is_pending():
    outcome = Story(Fake(in_turn(500, 200)))
    outbox = outcome.begun()
    assert outbox.get("gen_1") is None

    outbox.take(new())
    assert new(next_at=EPOCH) == outbox.get("gen_1")
    await asyncio.sleep(1)
    assert new(attempts=1, next_at=EPOCH + 5, trouble="it answered 500") == outbox.get("gen_1")
    await asyncio.sleep(5)
    assert outbox.get("gen_1") is None
    await outbox.aclose()


def test_callers_see_the_times_of_a_delivery_as_dates():
    assert {
        "url": URL,
        "state": "pending",
        "attempts": 2,
        "next_attempt_at": "2027-01-15T08:00:05.250Z",
        "trouble": "it answered 500",
        "delivered_at": None,
    } == views.webhook(new(attempts=2, next_at=EPOCH + 5.25, trouble="it answered 500"))
    assert {
        "url": URL,
        "state": "delivered",
        "attempts": 1,
        "next_attempt_at": None,
        "trouble": None,
        "delivered_at": "2027-01-15T08:00:01.000Z",
    } == views.webhook(new(state="delivered", attempts=1, delivered_at=EPOCH + 1.0))


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"max_per_host": 0}, "max_per_host must be at least 1"),
        ({"max_per_host": 5, "max_in_flight": 4}, "and at most max_in_flight, got 5 of 4"),
    ],
)
def test_invalid_limits_of_attempts_in_flight_are_refused(options, wrong):
    with pytest.raises(ValueError, match=wrong):
        Story(Fake(200), {"retry_policy": RetryPolicy(**options)}).begun()


@pytest.mark.parametrize("first", [0, -1, 3601])
def test_an_invalid_first_backoff_is_refused(first):
    with pytest.raises(
        ValueError, match=f"first_backoff must be above 0 and at most longest_backoff, got {first}"
    ):
        RetryPolicy(first_backoff=first)


# Properties for every history


@dataclass(frozen=True)
class Wanted:
    """A delivery for the test: its result arrives at `since`, its attempts take the outcomes in `said` one after
    another, and the last one repeats."""

    since: float
    host: str
    said: list


SAID = st.sampled_from(
    [200, 204, 302, 404, 410, 500, 500, Response(503, "400"), Response(429, "9999"), LOST, HANGS]
)
WANTED = st.builds(
    Wanted,
    since=st.sampled_from([0.0, 0.0, 1.0, 20.0]) | st.floats(0, 2000),
    host=st.sampled_from(["a.example", "a.example", "b.example", "c.example"]),
    said=st.lists(SAID, min_size=1, max_size=8),
)
RETRY_POLICY = RetryPolicy(first_backoff=5, longest_backoff=300, total_timeout=7200, attempt_timeout=10)
HAIR = 1e-5
"""The rounding error of Unix times as floats, in seconds."""


@pytest.mark.slow
@given(
    wanted=st.lists(WANTED, min_size=1, max_size=25),
    stops=st.lists(st.tuples(st.floats(0, 3000), st.floats(0, 1000)), max_size=4),
    takes=st.sampled_from([0.0, 0.3, 9.0]),
    random=st.randoms(use_true_random=False),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_every_delivery_ends_in_time_and_within_limits_for_any_receivers_and_stops(
    wanted, stops, takes, random
):
    left = {f"gen_{number}": list(each.said) for number, each in enumerate(wanted)}
    last = {}

    def says(attempt):
        said = left[attempt.id]
        last[attempt.id] = said.pop(0) if len(said) > 1 else said[0]
        return last[attempt.id]

    async def message(delivery_id):
        if outcome.rows[delivery_id].next_at > now() + HAIR:
            hurried.append(delivery_id)
        return Message("admin", b"{}")

    hurried, broken = [], []
    sender = Fake(says, takes=takes)
    options = {
        "retry_policy": replace(RETRY_POLICY, max_in_flight=3, max_per_host=2),
        "uniform": random.uniform,
        "message": message,
    }
    outcome = Story(sender, options)

    async def live():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: broken.append(context))
        service = outcome.begun()

        async def ends(number: int, each: Wanted) -> None:
            await asyncio.sleep(each.since)
            service.take(new(f"gen_{number}", f"https://{each.host}/", since=now()))

        async def restarts() -> None:
            nonlocal service
            for after, down in stops:
                await asyncio.sleep(after)
                await service.aclose()
                await asyncio.sleep(down)
                service = outcome.begun()
                for delivery in list(outcome.rows.values()):
                    service.take(delivery)

        await asyncio.gather(restarts(), *(ends(number, each) for number, each in enumerate(wanted)))
        await asyncio.sleep(RETRY_POLICY.total_timeout + 3600)
        assert 1 == len(asyncio.all_tasks()), "tasks remain after the last delivery has ended"
        await service.aclose()

    virtual_time.run(live())

    assert left.keys() == outcome.rows.keys(), "deliveries were lost"
    assert [] == broken
    assert [] == hurried, "attempts began before the time in the ledger"
    assert sender.most["all"] <= 3
    assert all(most <= 2 for host, most in sender.most.items() if host != "all")
    for delivery_id in left:
        was_written = zip(outcome.moments, outcome.written, strict=True)
        went_as_promised(
            [(moment, row) for moment, row in was_written if row.id == delivery_id], last[delivery_id]
        )


def went_as_promised(history: list[tuple[float, dict]], said) -> None:
    """Check the writes of one delivery. `history` has the time and the row of each write, and `said` is the outcome of
    the last attempt."""
    *tries, (ended_at, end) = history
    assert list(range(len(history))) == [row.attempts for _, row in history]
    assert {"pending"} == {row.state for _, row in tries}
    for moment, row in tries[1:]:
        least = min(5 * 2.0 ** (row.attempts - 1), 300) / 2
        assert least - HAIR <= row.next_at - moment <= 300 + HAIR
        assert row.next_at <= row.since + RETRY_POLICY.total_timeout + HAIR
    if said in (200, 204):
        assert ("delivered", ended_at, None) == (end.state, end.delivered_at, end.trouble)
    else:
        assert ("failed", None) == (end.state, end.delivered_at)
        assert end.trouble
        assert said == 410 or ended_at > end.since + RETRY_POLICY.total_timeout - 300 - HAIR, "given up early"
