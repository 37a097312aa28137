"""Predictions that may have to boot: their start is seen soon, it costs few polls, and boots distort no durations."""

import asyncio

import pytest

from tests.support.upstream import Upstream, run
from tests.support.virtual_time import now


class Looks(list):
    """What the looks at a prediction have shown, with the time of each."""

    def __call__(self, ran):
        self.append((now(), ran))

    @property
    def start(self):
        """When it was first seen running, and for how long it had run."""
        return next(each for each in self if each[1] is not None)


def cold(upstream, boot, seconds=8.0, *, start_by=600.0, **how):
    looks = Looks()
    return looks, upstream.predict(seconds, boot=boot, start_by=start_by, on_look=looks, **how)


@pytest.mark.parametrize(("boot", "at_most"), [(0.3, 3), (3.0, 12), (30.0, 22), (180.0, 52)])
def test_a_start_is_seen_after_a_quarter_of_the_boot_or_five_seconds_at_most(boot, at_most):
    async def scenario():
        upstream = Upstream()
        looks, predicting = cold(upstream, boot)
        await predicting
        seen_at, ran = looks.start
        polls = sum(poll.at <= seen_at for poll in upstream.polls)
        return seen_at - boot, ran, polls, len([each for each in looks if each[1] is not None])

    late, ran, polls, starts = run(scenario())
    assert 0.0 <= late <= min(5.0, max(0.25, 0.25 * boot))
    assert pytest.approx(late, abs=0.01) == ran
    assert polls <= at_most
    assert 1 == starts


def test_the_start_of_a_prediction_whose_result_is_pushed_is_polled_for_as_well():
    async def scenario():
        upstream = Upstream()
        made = upstream.make(120.0, boot=60.0)
        loop = asyncio.get_running_loop()
        loop.call_at(made.ends_at + 0.3, lambda: upstream.watcher.receive(made.end))
        looks = Looks()
        await upstream.watch(made, announced=True, on_look=looks, start_by=600.0)
        seen_at, _ = looks.start
        return seen_at - 60.0, [poll.at for poll in upstream.polls if poll.at > seen_at]

    late, later = run(scenario())
    assert late <= 5.0
    assert len(later) <= 7


def test_a_prediction_is_looked_at_when_it_must_have_started():
    async def scenario():
        upstream = Upstream()
        looks, predicting = cold(upstream, 500.0, start_by=101.0)
        await predicting
        return [at for at, ran in looks if ran is None and 100.0 < at < 102.0]

    assert [101.0] == run(scenario())


def test_durations_of_a_model_leave_boots_out():
    """After three boots of different lengths the model is known to run for 8 s, so one poll finds the end."""

    async def scenario():
        upstream = Upstream()
        for n, boot in enumerate((200.0, 30.0, 90.0)):
            await cold(upstream, boot, prediction_id=f"p{n}")[1]
        upstream.polls.clear()
        looks, predicting = cold(upstream, 50.0)
        late = await predicting
        seen_at, _ = looks.start
        return late, [poll.at for poll in upstream.polls if poll.at > seen_at]

    late, after = run(scenario())
    assert 1 == len(after)
    assert late < 0.1


def test_without_a_date_of_its_start_a_prediction_has_run_since_it_was_first_seen_running():
    async def scenario():
        upstream = Upstream()
        looks, predicting = cold(upstream, 60.0, says_start=False)
        await predicting
        return looks.start[1]

    assert 0.0 == run(scenario())


def test_without_a_date_of_its_start_an_official_model_has_run_since_it_was_last_seen_waiting():
    async def scenario():
        upstream = Upstream()
        looks = Looks()
        await upstream.predict(60.0, boot=60.0, says_start=False, on_look=looks)
        waited = [at for at, ran in looks if ran is None]
        at, ran = looks.start
        return at - ran, waited[-1]

    began, waited = run(scenario())
    assert began == waited


@pytest.mark.parametrize("known", [False, True])
def test_looks_cost_official_models_no_poll(known):
    async def scenario(on_look):
        upstream = Upstream(round_trip=0.2)
        if known:
            await upstream.learn(11.0, 12.0, 13.0)
        await upstream.predict(12.5, boot=0.4, on_look=on_look)
        return len(upstream.polls)

    assert run(scenario(None)) == run(scenario(Looks()))


def test_many_boots_are_polled_by_pages():
    async def scenario():
        upstream = Upstream()
        await asyncio.gather(
            *(cold(upstream, 120.0, prediction_id=f"p{n}")[1] for n in range(50)),
        )
        return upstream.pages, upstream.gets

    pages, gets = run(scenario())
    assert pages < 100
    assert gets < 20 * 50
