"""The watcher when the upstream fails, asks to wait or hangs, and when polls are scarce."""

import asyncio

import pytest

from errors import UpstreamError
from providers.replicate.polling import PollFailed
from tests.support.upstream import HANGS, Poll, Upstream, caller, run
from tests.support.virtual_time import now

DOWN = PollFailed(UpstreamError())


def test_failed_polls_do_not_end_the_watch():
    async def scenario():
        upstream = Upstream()
        upstream.trouble = lambda poll: DOWN if len(upstream.polls) <= 50 else None
        await upstream.predict(1.0)
        return len(upstream.polls)

    assert 51 == run(scenario())


@pytest.mark.parametrize("many", [1, 50, 300])
def test_an_upstream_that_is_down_gets_few_polls_and_all_waits_end_soon_after(many):
    """One poll at a time, with pauses of at most eight seconds; then at most ten seconds for predictions
    whose poll failed last."""

    async def scenario():
        upstream = Upstream(round_trip=0.1)
        upstream.trouble = lambda poll: DOWN if 10.0 <= poll.at < 70.0 else None
        lengths = [20.0 + n / 10 for n in range(many)]
        late = await upstream.predict_many(lengths)
        over = max(length + each for length, each in zip(lengths, late, strict=True))
        return over - 70.0, sum(10.0 <= poll.at < 70.0 for poll in upstream.polls)

    ended_after, asked = run(scenario())
    assert ended_after <= 18.5
    assert asked <= 20


def test_all_due_predictions_are_polled_once_a_failing_account_answers():
    async def scenario():
        upstream = Upstream(round_trip=0.1)
        await upstream.learn(*[5.0] * 3)
        back = now() + 6.0
        upstream.trouble = lambda poll: DOWN if poll.at < back else None
        late = await asyncio.gather(*(upstream.predict(5.0, f"p{n}") for n in range(2)))
        answered = sorted(poll.at for poll in upstream.polls if poll.at >= back)
        return late, answered[1] - answered[0]

    _, gap = run(scenario())
    assert gap == pytest.approx(0.1)


def test_a_failing_account_delays_no_other():
    async def scenario():
        upstream = Upstream()
        await upstream.learn(20.0, 20.0, 20.0)
        upstream.trouble = lambda poll: DOWN if poll.caller == "ann" else None
        hers = asyncio.create_task(upstream.predict_many([20.0] * 50))
        his = await upstream.predict_many([20.0] * 50, account="bob")
        hers.cancel()
        return max(his)

    assert 0.0 == run(scenario())


def test_a_prediction_whose_polls_always_fail_starves_no_other():
    async def scenario():
        upstream = Upstream(round_trip=0.1)
        upstream.trouble = lambda poll: DOWN if poll.id == "bad" else None
        bad = asyncio.create_task(upstream.predict(60.0, "bad"))
        late = await upstream.predict_many([20.0 + n for n in range(20)])
        bad.cancel()
        return max(late)

    assert run(scenario()) <= 20.0


def test_patience_counts_failures_without_a_break():
    async def scenario():
        upstream = Upstream()
        error = UpstreamError("gone")
        upstream.trouble = lambda poll: None if 4 < poll.at < 6 else PollFailed(error, patience=5.0)
        with pytest.raises(UpstreamError) as raised:
            await upstream.predict(1000.0)
        good = [poll.at for poll in upstream.polls if 4 < poll.at < 6]
        return raised.value is error, now() - max(good)

    is_it, after = run(scenario())
    assert is_it
    assert 5.0 <= after <= 10.0


def test_an_outage_of_the_upstream_uses_up_no_patience():
    async def scenario():
        upstream = Upstream()
        missing = PollFailed(UpstreamError("gone"), patience=3.0)
        script = [missing, *[DOWN] * 5, missing]
        upstream.trouble = lambda poll: script.pop(0) if script else None
        return await upstream.predict(60.0)

    assert run(scenario()) >= 0.0


@pytest.mark.parametrize("others", [0, 1, 20])
def test_the_wait_of_a_refusal_holds_for_the_whole_account_and_no_other(others):
    """Polls that are under way meanwhile succeed."""

    async def scenario():
        upstream = Upstream(round_trip=0.4)
        asked: list[float] = []

        def busy(poll: Poll):
            if poll.caller == "ann" and poll.at > 5.0 and not asked:
                asked.append(now() + 0.2)
                return PollFailed(UpstreamError(), wait=30.0)
            return None

        async def later(n: int) -> None:
            await asyncio.sleep(n * 0.13)
            await upstream.predict(60.0, f"p{n}")

        upstream.trouble = busy
        hers = [later(n) for n in range(1 + others)]
        await asyncio.gather(*hers, upstream.predict(60.0, account="bob"))
        [at] = asked
        within = [poll.caller for poll in upstream.polls if at < poll.at < at + 29.99]
        return within.count("ann"), within.count("bob")

    ann, bob = run(scenario())
    assert 0 == ann
    assert bob > 3


def test_a_poll_that_waited_for_the_window_obeys_a_later_refusal():
    async def scenario():
        upstream = Upstream(round_trip=0.2)
        await upstream.learn(20.0, 20.0, 20.0)
        upstream.gate.configure(concurrent_limit=1)
        upstream.trouble = lambda poll: (
            PollFailed(UpstreamError(), wait=30.0) if len(upstream.polls) == 1 else None
        )
        await asyncio.gather(upstream.predict(20.0, "a"), upstream.predict(20.0, "b"))
        first, second, *_ = (poll.at for poll in upstream.polls)
        return second - first

    assert run(scenario()) >= 30.0


def test_any_other_error_ends_its_own_wait_and_no_other():
    async def scenario():
        upstream = Upstream()
        upstream.trouble = lambda poll: KeyError("a bug") if poll.id == "p" else None
        other = asyncio.create_task(upstream.predict(5.0, "other"))
        with pytest.raises(KeyError, match="a bug"):
            await upstream.predict(1000.0)
        await other
        return len(upstream.times("p"))

    assert 1 == run(scenario())


def test_a_hanging_poll_delays_no_other():
    async def scenario():
        upstream = Upstream()
        await upstream.learn(8.0, 8.0, 8.0)
        upstream.trouble = lambda poll: HANGS if poll.id == "stuck" else None
        stuck = asyncio.create_task(upstream.predict(8.0, "stuck", dated=False))
        late = await upstream.predict_many([8.0] * 100)
        stuck.cancel()
        return late, upstream.pages, upstream.gets

    assert ([0.0] * 100, 1, 1) == run(scenario())


def test_an_account_whose_polls_hang_delays_another_by_their_timeout_at_the_most():
    async def scenario():
        upstream = Upstream(round_trip=0.1)
        upstream.trouble = lambda poll: HANGS if poll.caller == "ann" else None
        hers = asyncio.create_task(upstream.predict_many([60.0] * 300))
        late = [await upstream.predict(5.0, f"p{n}", account="bob") for n in range(10)]
        hers.cancel()
        return max(late)

    assert run(scenario()) <= 12.0


def test_when_polls_are_scarce_the_likeliest_go_first():
    """Of three models, only the predictions of the quickest can be over, and their waits end first."""

    async def scenario():
        upstream = Upstream(per_minute=60)
        for seconds in (5.0, 60.0, 100.0):
            await upstream.learn(
                *(seconds * share for share in (0.1, 0.9, 1.0, 1.0, 1.1)), model=f"{seconds}"
            )
        await asyncio.sleep(60.0)
        began = now()
        watched = [
            asyncio.create_task(upstream.predict(seconds, f"{seconds}", account=f"{n}", model=f"{seconds}"))
            for n in range(20)
            for seconds in (100.0, 60.0, 5.0)
        ]
        await asyncio.gather(*watched)
        polls = [poll.id for poll in upstream.polls if poll.at >= began + 5.0]
        return polls[:20].count("5.0"), upstream.most_in_a_minute()

    quickest, most = run(scenario())
    assert quickest >= 15
    assert most <= 60


def test_when_polls_are_scarce_no_wait_starves_and_the_window_is_never_over():
    async def scenario():
        upstream = Upstream(round_trip=0.2, per_minute=60)
        lengths = (5.0, 20.0, 100.0)
        for seconds in lengths[:2]:
            await upstream.learn(seconds, seconds, seconds, model=f"{seconds}")

        async def one(n: int) -> float:
            await asyncio.sleep(0.1 * n)
            seconds = lengths[n % 3]
            return await upstream.predict(seconds, f"p{n}", account=f"a{n % 40}", model=f"{seconds}")

        late = await asyncio.gather(*(one(n) for n in range(300)))
        return max(late), upstream.most_in_a_minute(), upstream.is_idle()

    late, most, idle = run(scenario())
    assert late <= 180.0
    assert most <= 60
    assert idle


def test_an_old_prediction_ends_although_newer_ones_are_always_likelier():
    async def scenario():
        upstream = Upstream(round_trip=0.2, per_minute=60)

        async def fresh(n: int) -> None:
            await asyncio.sleep(0.9 * n)
            await upstream.predict(10.0, account=f"account {n}")

        crowd = [asyncio.create_task(fresh(n)) for n in range(1000)]
        async with asyncio.timeout(900.0):
            late = await upstream.predict(300.0, account="old")
        for each in crowd:
            each.cancel()
        return late

    assert run(scenario()) <= 300.0


def test_when_polls_are_scarce_a_cancel_gets_a_place_at_once():
    async def scenario():
        upstream = Upstream(round_trip=0.2, per_minute=60)
        crowd = [asyncio.create_task(upstream.predict(600.0, account=f"{n}")) for n in range(200)]
        waits = []
        for _ in range(40):
            await asyncio.sleep(20.0)
            asked = now()
            with await upstream.gate.acquire(caller("ann").id) as lease:
                lease.sent()
                waits.append(now() - asked)
        for each in crowd:
            each.cancel()
        return max(waits)

    assert 0.0 == run(scenario())


@pytest.mark.parametrize("per_minute", [1, 2, 5, 10])
def test_every_wait_ends_with_any_number_of_polls_a_minute(per_minute):
    async def scenario():
        upstream = Upstream(per_minute=per_minute)
        late = await asyncio.gather(*(upstream.predict(60.0, account=f"{n}") for n in range(5)))
        return max(late), upstream.most_in_a_minute()

    late, most = run(scenario())
    assert late <= 60.0 * (1 + 15 / per_minute)
    assert most <= per_minute


def test_an_error_of_the_polling_task_ends_all_waits_with_it():
    async def scenario():
        upstream = Upstream()

        def broken(*_, **__):
            raise ZeroDivisionError

        upstream.gate.acquire = broken
        with pytest.raises(ZeroDivisionError):
            await upstream.predict(5.0)

    run(scenario())


def test_closing_cancels_the_polls_under_way():
    async def scenario():
        upstream = Upstream()
        upstream.trouble = lambda poll: HANGS
        waits = [asyncio.create_task(upstream.predict(5.0, f"p{n}")) for n in range(5)]
        await asyncio.sleep(3.0)
        looking = upstream.watcher.statistics().polls
        for wait in waits:
            wait.cancel()
        await upstream.watcher.aclose()
        return looking, upstream.watcher.statistics().polls, upstream.gate.statistics().current_concurrent

    looking, left, held = run(scenario())
    assert looking > 0
    assert (0, 0) == (left, held)


def test_accounts_whose_polls_hang_leave_room_for_others():
    async def scenario():
        upstream = Upstream(round_trip=0.1)
        upstream.trouble = lambda poll: HANGS if poll.caller != "well" else None
        hung = [
            asyncio.create_task(upstream.predict(5.0, f"{account} {n}", account=account))
            for account in "abcdef"
            for n in range(80)
        ]
        late = await asyncio.gather(
            *(upstream.predict(5.0 + n / 10, f"w{n}", account="well") for n in range(20))
        )
        for each in hung:
            each.cancel()
        await asyncio.gather(*hung, return_exceptions=True)
        return max(late)

    assert run(scenario()) <= 3.0
