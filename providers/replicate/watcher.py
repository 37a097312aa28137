"""Polls all predictions in flight by one schedule, so that few requests find each end soon.

Each prediction has a span of time in which its next poll is due (`durations.py`). When the first of these
spans ends, all predictions whose span has begun are polled together.

- **One request shows a hundred predictions.** The list of an account has pages of a hundred predictions, with their
  status and outputs. A page also shows predictions that are not due yet. If fewer than three predictions of an account
  are due, each gets a poll of its own.
- **A page alone is not trusted.** A prediction is polled by itself if a page does not show it, shows it over
  without a result, or has shown it unfinished twenty times in a row. While no page can be read, all
  predictions are polled by themselves.
- **When polls are scarce, the polls that will probably find the most predictions over go first**
  (`polling.py`).
- **A failing upstream gets few requests.** An account whose poll failed gets one poll at a time, after a growing pause,
  or after the pause that a refusal names.
- **Pushed results save polls.** Where webhooks arrive (`push.py`), polls are rare. They find missing webhooks, and
  accounts whose webhooks do not arrive. Only a prediction that may have to boot is polled until it runs.

The official client's own `wait` is not used: it has no deadline, and returns at any status but `starting`.
Facts of the list: replicate.com/docs/reference/http#predictions.list.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import datetime
from functools import partial

import structlog

from admission.durations import Durations
from auth import Caller
from concurrency import Gate, Lease
from network.backoff import backoff
from providers import OnLook, Prediction
from providers.replicate.answers import Page
from providers.replicate.durations import OF_PREDICTIONS, Pace
from providers.replicate.polling import (
    ANSWER_PATIENCE,
    FOLLOW_INTERVAL,
    MAX_UNFINISHED_PAGES,
    MIN_DUE_FOR_PAGE,
    UNDATED,
    NoPages,
    Poll,
    PolledAccount,
    PollFailed,
    PollThrottle,
    Watch,
    WatcherStats,
    due,
)
from providers.replicate.push import PushTracker

_poll_backoff = partial(backoff, first=0.25, longest=8.0, jitter=0.0)
"""Seconds until the next poll of an account, by the number of failed polls in a row."""

_page_backoff = partial(backoff, first=1.0, longest=60.0, jitter=0.0)
"""Seconds until the next page of an account, by the number of failed pages in a row."""

_FEW_SHOWN = 5
"""A page that shows fewer than `MIN_DUE_FOR_PAGE` of the due predictions counts as this many pages, since
other predictions fill the list."""

_PLAN_GOOD_FOR = 0.05
"""Seconds. After a longer wait for a place in the window, the polls are chosen again."""


log = structlog.get_logger("watcher")


Get = Callable[[Caller, str, Lease], Awaitable[Prediction]]
"""Fetches one prediction. Raises PollFailed for a failure that may pass; any other error ends the watch."""

GetPage = Callable[[Caller, datetime, Lease], Awaitable[Page]]
"""Fetches the latest hundred predictions created before a time. Raises PollFailed for a failure that may
pass, and NoPages."""


class Watcher:
    """`wait` returns one prediction when it is over; one timer and one polling task serve all waits. `receive` takes a
    pushed result, and `follow` shows progress.

    `places` is the window of the polls; `durations` remembers how long each model's predictions take. `pace` decides
    when one is polled again.
    """

    def __init__(
        self, *, places: Gate, get: Get, get_page: GetPage, durations: Durations, pace: Pace = OF_PREDICTIONS
    ) -> None:
        self._places = places
        self._get = get
        self._get_page = get_page
        self._durations = durations
        self._pace = pace
        self._accounts: dict[str, PolledAccount] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._poller: asyncio.Task[None] | None = None
        self._polls: set[asyncio.Task[None]] = set()
        self._throttle = PollThrottle(places)
        self.pushes = PushTracker(on_silence=self._poll_as_usual)

    async def wait(
        self,
        caller: Caller,
        prediction: Prediction,
        *,
        model: str,
        on_look: OnLook | None = None,
        start_by: float | None = None,
    ) -> Prediction:
        """As `Provider.wait`. If the wait begins late, the result may have been pushed already, so the prediction is
        polled as usual."""
        if prediction.is_over:
            return prediction
        early = self.pushes.early(prediction.id)
        if early and (early := replace(early, form=prediction.form)).is_over:
            return early
        loop = asyncio.get_running_loop()
        lengths = self._durations.lengths(model)
        since, created_at = loop.time() - prediction.age, prediction.created_at or UNDATED
        over, form = loop.create_future(), prediction.form
        watch = Watch(prediction.id, created_at, since, lengths, over, form, on_look, start_by, self._pace)
        watch.needs_own_poll = watch.created_at is UNDATED
        if prediction.is_announced and prediction.age == 0:
            watch.is_pushed = partial(self.pushes.are_expected, caller)
        # As if never polled, so a prediction that should be over by now is polled at once.
        watch.schedule(since)
        watch.first = watch.latest
        account = self._accounts.setdefault(caller.account, PolledAccount(caller))
        account.caller = caller  # the caller may be proven by now, and then has another turn
        account.watches[watch] = None
        self._wake_by(max(watch.latest, account.next_poll_at))
        try:
            return await watch.over
        finally:
            account.watches.pop(watch, None)
            self._forget(account)

    def receive(self, prediction: Prediction) -> None:
        """Use a pushed result. It may arrive twice, or for a prediction that nothing waits for."""
        if not prediction.is_over:
            return
        self.pushes.arrived(prediction.id)
        watched = list(self.watches_of(prediction.id))
        for watch in watched:
            if (shown := watch.formed(prediction)).is_over:
                self._over(watch, shown)
        if not watched:
            self.pushes.keep(prediction)

    def follow(
        self, prediction_id: str, listener: Callable[[Prediction], object], *, eager: bool = True
    ) -> Callable[[], None]:
        """Call the listener with each poll's answer while the prediction is unfinished, until the returned function is
        called. If it is `eager`, that is about once a second. Does nothing if it is not watched."""
        watch = next(self.watches_of(prediction_id), None)
        if watch is None:
            return lambda: None
        follower = object()
        watch.followers[follower] = listener
        if eager:
            watch.eager.add(follower)
            watch.poll_for_followers(
                max(asyncio.get_running_loop().time(), watch.polled_at + FOLLOW_INTERVAL)
            )
            self._wake_by(watch.follow_at)

        def leave() -> None:
            watch.followers.pop(follower, None)
            watch.eager.discard(follower)
            watch.poll_for_followers(watch.follow_at)

        return leave

    def statistics(self) -> WatcherStats:
        return WatcherStats(len(self._accounts), len(self._polls), is_polling=self._poller is not None)

    async def aclose(self) -> None:
        """Stop polling, and wait until the polls under way have ended. All waits must have ended."""
        self.pushes.close()
        polls = [*self._polls, *([self._poller] if self._poller else [])]
        for poll in polls:
            poll.cancel()
        await asyncio.gather(*polls, return_exceptions=True)
        if self._timer is not None:
            self._timer.cancel()

    def watches_of(self, prediction_id: str) -> Iterator[Watch]:
        everything = (watch for account in self._accounts.values() for watch in account.watches)
        return (watch for watch in everything if watch.id == prediction_id and not watch.over.done())

    def _poll_as_usual(self, caller: Caller) -> None:
        """Rely on polls alone, since this account's webhooks do not arrive."""
        if account := self._accounts.get(caller.account):
            for watch in account.watches:
                watch.schedule(asyncio.get_running_loop().time())
            self._wake_by(account.next_poll())

    def _forget(self, account: PolledAccount) -> None:
        """Forget an account that nothing waits for, but not before the pause that a refusal stated is
        over."""
        loop = asyncio.get_running_loop()
        if account.watches or self._accounts.get(account.caller.account) is not account:
            return
        if account.next_poll_at > loop.time():
            loop.call_at(account.next_poll_at, self._forget, account)
        else:
            del self._accounts[account.caller.account]

    # When to poll: a timer runs while no poll is due, and a task while polls are due.

    def _wake_by(self, when: float) -> None:
        if self._poller is not None or when == math.inf:
            return
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(when, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._poller = asyncio.create_task(self._poll_while_due())

    async def _poll_while_due(self) -> None:
        now = asyncio.get_running_loop().time
        try:
            while polls := due(self._accounts.values(), now()):
                planned_at = now()
                for poll in polls:
                    await self._throttle.wait()
                    lease = await self._places.acquire(poll.account.caller.turn, batch="polls")
                    poll.watches = [watch for watch in poll.watches if not watch.over.done()]
                    if poll.watches and poll.account.may_begin(now()):
                        self._begin(poll, lease)
                    else:
                        lease.release()
                    if now() - planned_at > _PLAN_GOOD_FOR:
                        break
        except Exception as error:  # the waits must end with any error
            for account in self._accounts.values():
                for watch in account.watches:
                    self._end(watch, error)
        finally:
            self._poller = None
        self._wake_by(min((account.next_poll() for account in self._accounts.values()), default=math.inf))

    # How to poll: each poll is a task, and handles its own answer.

    def _begin(self, poll: Poll, lease: Lease) -> None:
        # The next poll does not wait for this one's answer: on a slow line it would come late.
        now = asyncio.get_running_loop().time()
        self._throttle.record_poll()
        stuck = poll.account.has_max_pages()
        for watch in poll.watches:
            watch.schedule(now)
            if poll.before is None and (stuck or watch.unanswered):
                watch.earliest = watch.latest = now + ANSWER_PATIENCE
            watch.unanswered += poll.before is None
        if poll.before is None:
            self._schedule_own_poll(poll.watches[0], now)
        poll.account.under_way += 1
        if poll.before:
            poll.account.pages_under_way.append(now)
        if poll.account.failures:  # one poll at a time: the next when this one is answered
            poll.account.next_poll_at = now + ANSWER_PATIENCE
        answer = self._list(poll, poll.before, lease, now) if poll.before else self._poll(poll, lease, now)
        task = asyncio.create_task(answer)
        self._polls.add(task)
        task.add_done_callback(partial(self._ended, poll, now))

    def _schedule_own_poll(self, watch: Watch, now: float) -> None:
        watch.polled_at = now
        followed = sum(bool(each.eager) for account in self._accounts.values() for each in account.watches)
        wait = max(self._throttle.follow_interval(followed), ANSWER_PATIENCE if watch.unanswered > 1 else 0.0)
        watch.poll_for_followers(now + wait)

    def _ended(self, poll: Poll, began: float, task: asyncio.Task[None]) -> None:
        self._polls.discard(task)
        poll.account.under_way -= 1
        if poll.before:
            poll.account.pages_under_way.remove(began)
        else:
            poll.watches[0].unanswered -= 1

    async def _poll(self, poll: Poll, lease: Lease, began: float) -> None:
        account, [watch] = poll.account, poll.watches
        try:
            with lease:
                prediction = await self._get(account.caller, watch.id, lease)
        except PollFailed as failed:
            watch.failures += 1
            if failed.patience == math.inf:
                watch.missing_since = None
            elif watch.missing_since is None:
                watch.missing_since = began
            elif began - watch.missing_since >= failed.patience:
                self._end(watch, failed.error)
            self._postpone(poll, failed, began)
        except Exception as error:  # the waits must end with any error
            self._end(watch, error)
        else:
            self._record_success(account, began)
            watch.failures, watch.pages, watch.missing_since = 0, 0, None
            self._apply(account, watch, prediction, began, by_page=False)
        self._wake_by(account.next_poll())

    async def _list(self, poll: Poll, before: datetime, lease: Lease, began: float) -> None:
        now, account = asyncio.get_running_loop().time, poll.account
        try:
            with lease:
                page = await self._get_page(account.caller, before, lease)
        except Exception as error:
            if not isinstance(error, PollFailed | NoPages):
                log.exception("prediction_list_failed", caller=account.caller.id)
            if began >= account.next_page_at:  # pages that failed together count as one failure
                account.page_failures += 1
                account.next_page_at = now() + _page_backoff(account.page_failures)
            self._postpone(poll, error, began)
        else:
            account.page_failures = 0
            self._record_success(account, began)
            for watch in list(account.watches):
                if prediction := page.predictions.get(watch.id):
                    self._apply(account, watch, prediction, began, by_page=True)
            missing = [watch for watch in poll.watches if watch.id not in page.predictions]
            shows_few = len(poll.watches) - len(missing) < MIN_DUE_FOR_PAGE
            for watch in missing:
                # By its date the page should have shown it, or the page was too short.
                watch.needs_own_poll = page.oldest is None or watch.created_at >= page.oldest
                watch.pages += _FEW_SHOWN if shows_few else 1
                watch.latest = now()
        self._wake_by(account.next_poll())

    def _apply(
        self, account: PolledAccount, watch: Watch, prediction: Prediction, began: float, *, by_page: bool
    ) -> None:
        now = asyncio.get_running_loop().time()
        if watch.over.done():
            return
        prediction = watch.formed(prediction)
        if not prediction.is_over:
            if by_page and watch.pages >= MAX_UNFINISHED_PAGES:
                return  # a page that is not trusted does not delay the prediction's own poll
            watch.needs_own_poll = watch.created_at is UNDATED
            watch.look(prediction, now)
            watch.seen = max(watch.seen, began - watch.since)
            watch.schedule(now)
            watch.pages += by_page and now >= watch.first
            if not by_page:
                watch.show(prediction)
        elif by_page and not shows_result(prediction):
            watch.needs_own_poll = True
            watch.latest = watch.latest if watch.unanswered else now
        else:
            if watch.is_pushed() and prediction.status != "processing":  # this state is never pushed
                self.pushes.expect(account.caller, watch.id)
            self._over(watch, prediction)

    def _over(self, watch: Watch, prediction: Prediction) -> None:
        if prediction.status == "succeeded" and not watch.over.done():
            watch.learn(prediction, asyncio.get_running_loop().time())
        self._end(watch, prediction)

    def _postpone(self, poll: Poll, failed: Exception, began: float) -> None:
        now, account = asyncio.get_running_loop().time(), poll.account
        for watch in poll.watches:
            if poll.before is None:
                watch.schedule(now)
            elif not watch.over.done():  # it waited for the page, and is still due
                watch.latest = now
        if not isinstance(failed, PollFailed) or failed.patience < math.inf:
            self._record_success(account, began)
            return
        pause = failed.wait or _poll_backoff(account.failures + 1)
        if began >= account.failed_at:  # polls that failed together count as one failure
            account.failures += 1
        account.failed_at = now
        account.next_poll_at = max(account.next_poll_at, now + pause)

    def _record_success(self, account: PolledAccount, began: float) -> None:
        if began >= account.failed_at:  # an answer to a poll that began before proves nothing
            account.failures, account.next_poll_at = 0, -math.inf

    def _end(self, watch: Watch, end: Prediction | Exception) -> None:
        watch.latest = watch.follow_at = math.inf
        if watch.over.done():
            return
        if isinstance(end, Exception):
            watch.over.set_exception(end)
        else:
            watch.over.set_result(end)


def shows_result(prediction: Prediction) -> bool:
    """Whether a prediction that is over shows its output or its error. A page may show the end before either."""
    return prediction.has_output or bool(prediction.error) or prediction.status in {"canceled", "aborted"}
