"""The watcher: how often it looks, how soon it tells."""

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual_time import run

from errors import UpstreamError
from providers import Prediction
from providers.watcher import REMEMBERED, Durations, LookFailed, Watcher

MODEL = "someone/something"
OUTPUT = ("https://replicate.delivery/picture.png",)


def now() -> float:
    return asyncio.get_running_loop().time()


class Upstream:
    """Predictions that end at their time, and what a look at each shall raise first, as a script."""

    def __init__(self) -> None:
        self.watcher: Watcher[str] = Watcher(self.look)
        self.ends: dict[str, tuple[float, Prediction]] = {}
        self.raises: dict[str, list[Exception]] = {}
        self.hangs: set[str] = set()
        self.looks: list[tuple[float, str]] = []

    async def look(self, caller: str, identity: str) -> Prediction:
        assert "ann" == caller
        self.looks.append((now(), identity))
        if identity in self.hangs:
            await asyncio.Event().wait()
        if self.raises.get(identity):
            raise self.raises[identity].pop(0)
        at, end = self.ends[identity]
        return end if now() >= at else Prediction(identity, "processing")

    async def predict(self, seconds: float, identity: str = "p", status: str = "succeeded") -> float:
        """Watch one prediction of so many seconds. Returns how long after its end that was told."""
        at = now() + seconds
        self.ends[identity] = at, Prediction(identity, status, OUTPUT, seconds=seconds)
        ended = await self.watcher.finished("ann", Prediction(identity, "starting"), model=MODEL)
        assert self.ends[identity][1] is ended
        return now() - at

    async def learn(self, *durations: float) -> None:
        for seconds in durations:
            await self.predict(seconds)
        self.looks.clear()

    def times(self, identity: str) -> list[float]:
        return [at for at, seen in self.looks if seen == identity]


@pytest.mark.parametrize("seconds", [1.5, 8.0, 45.0, 600.0])
def test_a_known_model_that_is_steady_is_told_at_its_first_look(seconds):
    async def story():
        upstream = Upstream()
        await upstream.learn(seconds, seconds, seconds)
        late = await upstream.predict(seconds)
        return late, len(upstream.looks)

    assert (0.0, 1) == run(story())


@given(
    usual=st.integers(2, 600),
    shares=st.lists(st.integers(90, 110), min_size=3, max_size=30),
    share=st.integers(0, 100),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_a_known_model_is_told_within_5_percent_after_few_looks(usual, shares, share):
    """For whatever it takes, from what four in five took to the longest."""

    async def story():
        upstream = Upstream()
        durations = sorted(usual * share / 100 for share in shares)
        await upstream.learn(*durations)
        soon, longest = durations[len(durations) // 5], durations[-1]
        seconds = soon + (longest - soon) * share / 100
        late = await upstream.predict(seconds)
        return late / seconds, len(upstream.looks)

    late, looks = run(story())
    assert late <= 0.05
    assert looks <= 8


@pytest.mark.parametrize(
    ("seconds", "looks", "late"), [(0.2, 1, 0.25), (3.0, 9, 0.25), (30.0, 20, 0.2), (600.0, 135, 0.2)]
)
def test_an_unknown_model_is_looked_at_a_bounded_number_of_times(seconds, looks, late):
    """Told within a quarter of its time, or of a second, and never more than five seconds late."""

    async def story():
        upstream = Upstream()
        return await upstream.predict(seconds), len(upstream.looks)

    told_late, looked = run(story())
    assert looked <= looks
    assert told_late <= min(5.0, max(0.25, late * seconds))


def test_an_unknown_model_is_looked_at_at_growing_intervals():
    async def story():
        upstream = Upstream()
        await upstream.predict(600.0)
        times = [0.0, *upstream.times("p")]
        return [later - earlier for earlier, later in pairwise(times)]

    gaps = run(story())
    assert 0.25 == gaps[0]
    assert 5.0 == gaps[-1]
    assert gaps == pytest.approx(sorted(gaps), rel=1e-9)


def test_two_durations_do_not_make_a_model_known_and_three_do():
    async def looks_after(*durations):
        upstream = Upstream()
        await upstream.learn(*durations)
        await upstream.predict(20.0)
        return len(upstream.looks)

    assert run(looks_after(20.0, 20.0)) > 10
    assert 1 == run(looks_after(20.0, 20.0, 20.0))


def test_only_success_teaches_how_long_a_model_takes():
    async def story():
        upstream = Upstream()
        await upstream.learn(20.0, 20.0, 20.0)
        for _ in range(10):
            await upstream.predict(1.0, status="failed")
        upstream.looks.clear()
        await upstream.predict(20.0)
        return len(upstream.looks)

    assert 1 == run(story())


def test_durations_forget_the_oldest():
    durations = Durations()
    for seconds in [500.0] * REMEMBERED + [2.0] * REMEMBERED:
        durations.learn(seconds)
    assert 2.0 == durations.next_look(0.0)
    assert REMEMBERED == len(durations._by_age) == len(durations._by_length)


@given(learned=st.lists(st.floats(0, 1000), max_size=200), age=st.floats(0, 10_000))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_the_next_look_is_always_later_and_never_much_later_than_what_was_usual(learned, age):
    durations = Durations()
    for seconds in learned:
        durations.learn(seconds)
    latest = max(learned[-REMEMBERED:], default=0.0)
    assert age + 0.049 < durations.next_look(age) <= max(latest, age + max(5.0, 0.04 * latest))
    assert sorted(learned[-REMEMBERED:]) == durations._by_length


@pytest.mark.parametrize(
    ("status", "outputs"),
    [("succeeded", ()), ("failed", ()), ("canceled", ()), ("aborted", ()), ("processing", OUTPUT)],
)
def test_a_prediction_that_is_over_is_told_and_not_looked_at_any_more(status, outputs):
    async def story():
        upstream = Upstream()
        end = Prediction("p", status, outputs)
        upstream.ends["p"] = 2.0, end
        assert end == await upstream.watcher.finished("ann", Prediction("p", "starting"), model=MODEL)
        looks = len(upstream.looks)
        await asyncio.sleep(1000)
        assert looks == len(upstream.looks)
        assert end == await upstream.watcher.finished("ann", end, model=MODEL)
        return looks == len(upstream.looks)

    assert run(story())


def test_processing_without_output_is_not_over():
    async def story():
        upstream = Upstream()
        return await upstream.predict(7.0)

    assert run(story()) >= 0.0


def test_looks_that_fail_do_not_end_the_watch():
    async def story():
        upstream = Upstream()
        upstream.raises["p"] = [LookFailed(UpstreamError()) for _ in range(50)]
        await upstream.predict(1.0)
        return len(upstream.looks)

    assert 51 == run(story())


def test_patience_counts_failures_in_a_row():
    async def story():
        upstream = Upstream()
        error = UpstreamError("gone")
        watch = asyncio.create_task(upstream.predict(1000.0))
        upstream.raises["p"] = [LookFailed(error, patience=3), LookFailed(error, patience=3)]
        await asyncio.sleep(10)
        upstream.raises["p"] = [LookFailed(error, patience=3) for _ in range(3)]
        with pytest.raises(UpstreamError) as told:
            await watch
        assert [] == upstream.raises["p"]
        return told.value is error

    assert run(story())


def test_the_wait_that_was_asked_for_is_obeyed():
    async def story():
        upstream = Upstream()
        upstream.raises["p"] = [LookFailed(UpstreamError(), wait=30.0)]
        await upstream.predict(1.0)
        return upstream.times("p")

    assert [0.25, 30.25] == run(story())


def test_any_other_error_reaches_whoever_waits():
    async def story():
        upstream = Upstream()
        upstream.raises["p"] = [KeyError("a bug")]
        other = asyncio.create_task(upstream.predict(5.0, "other"))
        with pytest.raises(KeyError, match="a bug"):
            await upstream.predict(1000.0)
        await other
        return len(upstream.times("p"))

    assert 1 == run(story())


def test_a_cancelled_waiter_is_not_looked_at_any_more():
    async def story():
        upstream = Upstream()
        gone, stays = (asyncio.create_task(upstream.predict(60.0, name)) for name in ("gone", "stays"))
        await asyncio.sleep(10.0)
        gone.cancel()
        await stays
        return gone.cancelled(), max(upstream.times("gone"))

    cancelled, last = run(story())
    assert cancelled
    assert last <= 10.0


def test_a_waiter_cancelled_during_its_look_is_not_looked_at_any_more():
    async def story():
        upstream = Upstream()
        upstream.hangs.add("gone")
        gone = asyncio.create_task(upstream.predict(60.0, "gone"))
        await asyncio.sleep(10.0)
        gone.cancel()
        await asyncio.sleep(1000.0)
        return upstream.times("gone")

    assert [0.25] == run(story())


def test_a_look_that_hangs_delays_no_other():
    async def story():
        upstream = Upstream()
        await upstream.learn(8.0, 8.0, 8.0)
        upstream.hangs.add("stuck")
        stuck = asyncio.create_task(upstream.predict(8.0, "stuck"))
        late = await asyncio.gather(*(upstream.predict(8.0, f"p{n}") for n in range(100)))
        stuck.cancel()
        return late, len(upstream.looks)

    assert ([0.0] * 100, 101) == run(story())


def test_a_later_watch_with_an_earlier_look_comes_first():
    async def story():
        upstream = Upstream()
        await upstream.learn(100.0, 100.0, 100.0)
        slow = asyncio.create_task(upstream.predict(100.0, "slow"))
        await asyncio.sleep(1.0)
        prediction = Prediction("quick", "starting")
        upstream.ends["quick"] = 0.0, Prediction("quick", "succeeded", OUTPUT)
        asked_at = now()
        await upstream.watcher.finished("ann", prediction, model="another/model")
        return now() - asked_at, await slow

    assert (0.25, 0.0) == run(story())
