"""The watcher: one schedule for every prediction in flight, so that looking costs little and tells soon.

Each prediction has a span of time in which its next look is wanted (`durations.py`). When the first of these
spans ends, everything whose span has begun is looked at together:

- **One request tells of a hundred.** An account's predictions can be listed, a hundred a page with their
  status and outputs, so whatever is due of one account costs one request, however much it is. A page also
  tells of those that are not due yet. Only when less than three are due does each get a look of its own.
- **A page is not taken at its word alone.** What it does not show, shows as over without saying with what, or
  has shown unfinished for twenty pages, is asked for by itself; and so is everything while no page can be had.
- **When looks are scarce, the likeliest come first**, those that tell of most predictions; see `pace.py`.
- **A failing upstream is not hammered.** An account whose look failed is tried with one look at a time, after
  a growing pause, or after the one it asked for.
- **Who will be told need not look.** Where webhooks come (`announcements.py`), looks are rare: they find out what
  was not told, and accounts that are not told of.

The client's own `wait` is never used: it has no deadline and takes any status but `starting` for finished.
Facts of the list: replicate.com/docs/reference/http#predictions.list.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime
from functools import partial

import structlog

from admission.durations import Durations
from auth import Caller
from concurrency import Gate, Lease
from errors import ServiceError
from providers import Prediction
from providers.announcements import Announcements
from providers.answers import Page
from providers.looks import (
    PAGES_BELIEVED,
    UNANSWERED,
    UNDATED,
    WORTH_A_PAGE,
    Account,
    Look,
    Watch,
    due,
)
from providers.pace import EACH_FOLLOWED, Pace

_PAUSES = (0.25, 8.0)
"""Seconds after a look that failed, at first and at the most; it doubles."""

_NO_PAGES = (1.0, 60.0)
"""Seconds without pages after one that could not be had, at first and at the most; it doubles."""

_CROWDED_OUT = 5
"""A page that tells of less than was worth it counts as so many: other people's predictions fill the list."""

_PLAN_GOOD_FOR = 0.05
"""Seconds. Whoever waited longer for a place asks again who is likeliest."""


log = structlog.get_logger("watcher")


class LookFailed(Exception):
    """This look told nothing; another may.

    `wait` is how long the upstream asked for, in seconds. With `patience` it is the prediction that fails, and
    not the upstream: after so many seconds of that in a row its watch ends with `error`.
    """

    def __init__(self, error: ServiceError, *, wait: float = 0.0, patience: float = math.inf) -> None:
        super().__init__(str(error))
        self.error = error
        self.wait = wait
        self.patience = patience


Get = Callable[[Caller, str, Lease], Awaitable[Prediction]]
"""One prediction. Raises LookFailed for what may pass; anything else ends the watch with that error."""

GetPage = Callable[[Caller, datetime, Lease], Awaitable[Page]]
"""The latest hundred created before a moment. Raises LookFailed for what may pass, and NoPages."""


class NoPages(Exception):
    """The list will not be shown, whoever asks."""


class Watcher:
    """`finished` waits for one prediction; one timer and one patrol serve all that wait. `tell` ends the waiting for
    one that was told of, and `follow` lets somebody else see how it goes.

    `places` is the window that looks are made within; `durations` remembers how long each model's predictions take.
    """

    def __init__(self, *, places: Gate, get: Get, get_page: GetPage, durations: Durations) -> None:
        self._places = places
        self._get = get
        self._get_page = get_page
        self._durations = durations
        self._accounts: dict[str, Account] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._patrol: asyncio.Task[None] | None = None
        self._looks: set[asyncio.Task[None]] = set()
        self._pace = Pace(places)
        self._announcements = Announcements(on_silence=self._look_as_usual)

    async def finished(
        self, caller: Caller, prediction: Prediction, *, model: str, announced: bool = False
    ) -> Prediction:
        """Wait until the prediction is over and give back how it ended. Whoever relies on being told of it says
        that this was `announced`; what is watched late may have been told of already, and is looked at as usual."""
        if prediction.is_over:
            return prediction
        if (early := self._announcements.early(prediction.id)) is not None:
            return early
        loop = asyncio.get_running_loop()
        lengths = self._durations.lengths(model)
        since, created_at = loop.time() - prediction.age, prediction.created_at or UNDATED
        watch = Watch(prediction.id, created_at, since, lengths, loop.create_future())
        watch.alone = watch.created_at is UNDATED
        if announced and prediction.age == 0:
            watch.will_be_told = partial(self._announcements.are_relied_on, caller)
        watch.schedule(since)  # as one never looked at, so what should be over by now is looked at at once
        watch.first = watch.latest
        account = self._accounts.setdefault(caller.id, Account(caller))
        account.watches[watch] = None
        self._wake_by(max(watch.latest, account.looks_again))
        try:
            return await watch.over
        finally:
            account.watches.pop(watch, None)
            self._forget(account)

    def tell(self, prediction: Prediction) -> None:
        """Its upstream says by itself how it ended. Twice, or of what nobody waits for, does no harm."""
        if not prediction.is_over:
            return
        self._announcements.came(prediction.id)
        watched = list(self._watches_of(prediction.id))
        for watch in watched:
            self._over(watch, prediction)
        if not watched:
            self._announcements.keep(prediction)

    def follow(self, prediction_id: str, listener: Callable[[Prediction], object]) -> Callable[[], None]:
        """Let the listener have every look at it that finds it unfinished, about one a second, until what this
        returns is called. Nothing happens if it is not watched."""
        watch = next(self._watches_of(prediction_id), None)
        if watch is None:
            return lambda: None
        follower = object()
        watch.followers[follower] = listener
        watch.look_for_followers(max(asyncio.get_running_loop().time(), watch.looked_at + EACH_FOLLOWED))
        self._wake_by(watch.follow_at)

        def leave() -> None:
            watch.followers.pop(follower, None)
            watch.look_for_followers(watch.follow_at)

        return leave

    async def aclose(self) -> None:
        """Look no more, and wait for the looks under way to be gone. Nobody may wait any more."""
        self._announcements.close()
        looks = [*self._looks, *([self._patrol] if self._patrol else [])]
        for look in looks:
            look.cancel()
        await asyncio.gather(*looks, return_exceptions=True)
        if self._timer is not None:
            self._timer.cancel()

    def _watches_of(self, prediction_id: str) -> Iterator[Watch]:
        everything = (watch for account in self._accounts.values() for watch in account.watches)
        return (watch for watch in everything if watch.id == prediction_id and not watch.over.done())

    def _look_as_usual(self, caller: Caller) -> None:
        """This account is not told of its predictions after all."""
        if account := self._accounts.get(caller.id):
            for watch in account.watches:
                watch.schedule(asyncio.get_running_loop().time())
            self._wake_by(account.next_look())

    def _forget(self, account: Account) -> None:
        """An account that nobody waits for, but not before the wait that its upstream asked for is over."""
        loop = asyncio.get_running_loop()
        if account.watches or self._accounts.get(account.caller.id) is not account:
            return
        if account.looks_again > loop.time():
            loop.call_at(account.looks_again, self._forget, account)
        else:
            del self._accounts[account.caller.id]

    # When: one timer while nothing is due, and one patrol while something is.

    def _wake_by(self, when: float) -> None:
        if self._patrol is not None or when == math.inf:
            return
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(when, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._patrol = asyncio.create_task(self._look_while_due())

    async def _look_while_due(self) -> None:
        now = asyncio.get_running_loop().time
        try:
            while looks := due(self._accounts.values(), now()):
                planned_at = now()
                for look in looks:
                    await self._pace.wait()
                    lease = await self._places.acquire(look.account.caller.id, batch="looks")
                    look.watches = [watch for watch in look.watches if not watch.over.done()]
                    if look.watches and look.account.may_begin(now()):
                        self._begin(look, lease)
                    else:
                        lease.release()
                    if now() - planned_at > _PLAN_GOOD_FOR:
                        break
        except Exception as error:  # whatever it is, whoever waits must hear of it
            for account in self._accounts.values():
                for watch in account.watches:
                    self._end(watch, error)
        finally:
            self._patrol = None
        self._wake_by(min((account.next_look() for account in self._accounts.values()), default=math.inf))

    # How: each look is a task, and hears for itself what comes of it.

    def _begin(self, look: Look, lease: Lease) -> None:
        # The next look does not wait for this one's answer: on a slow line it would come late.
        now = asyncio.get_running_loop().time()
        self._pace.looks()
        stuck = look.account.has_pages_enough()
        for watch in look.watches:
            watch.schedule(now)
            if look.before is None and (stuck or watch.unanswered):
                watch.earliest = watch.latest = now + UNANSWERED
            watch.unanswered += look.before is None
        if look.before is None:
            self._looks_by_itself(look.watches[0], now)
        look.account.under_way += 1
        if look.before:
            look.account.pages_under_way.append(now)
        if look.account.failures:  # one look at a time: the next when this one is answered
            look.account.looks_again = now + UNANSWERED
        answer = self._list(look, look.before, lease, now) if look.before else self._look(look, lease, now)
        task = asyncio.create_task(answer)
        self._looks.add(task)
        task.add_done_callback(partial(self._ended, look, now))

    def _looks_by_itself(self, watch: Watch, now: float) -> None:
        watch.looked_at = now
        followed = sum(
            bool(each.followers) for account in self._accounts.values() for each in account.watches
        )
        wait = max(self._pace.between_follows(followed), UNANSWERED if watch.unanswered > 1 else 0.0)
        watch.look_for_followers(now + wait)

    def _ended(self, look: Look, began: float, task: asyncio.Task[None]) -> None:
        self._looks.discard(task)
        look.account.under_way -= 1
        if look.before:
            look.account.pages_under_way.remove(began)
        else:
            look.watches[0].unanswered -= 1

    async def _look(self, look: Look, lease: Lease, began: float) -> None:
        account, [watch] = look.account, look.watches
        try:
            with lease:
                prediction = await self._get(account.caller, watch.id, lease)
        except LookFailed as failed:
            watch.failures += 1
            if failed.patience == math.inf:
                watch.missing_since = None
            elif watch.missing_since is None:
                watch.missing_since = began
            elif began - watch.missing_since >= failed.patience:
                self._end(watch, failed.error)
            self._put_off(look, failed, began)
        except Exception as error:  # whatever it is, whoever waits must hear of it
            self._end(watch, error)
        else:
            self._is_well(account, began)
            watch.failures, watch.pages, watch.missing_since = 0, 0, None
            self._saw(account, watch, prediction, began, by_page=False)
        self._wake_by(account.next_look())

    async def _list(self, look: Look, before: datetime, lease: Lease, began: float) -> None:
        now, account = asyncio.get_running_loop().time, look.account
        try:
            with lease:
                page = await self._get_page(account.caller, before, lease)
        except Exception as error:
            if not isinstance(error, LookFailed | NoPages):
                log.exception("page_crashed", caller=account.caller.id)
            if began >= account.pages_again:  # those that failed together have failed once
                account.pages_again = now() + _doubled(_NO_PAGES, account.page_failures)
                account.page_failures += 1
            self._put_off(look, error, began)
        else:
            account.page_failures = 0
            self._is_well(account, began)
            for watch in list(account.watches):
                if prediction := page.predictions.get(watch.id):
                    self._saw(account, watch, prediction, began, by_page=True)
            missing = [watch for watch in look.watches if watch.id not in page.predictions]
            told_few = len(look.watches) - len(missing) < WORTH_A_PAGE
            for watch in missing:
                # By its date it should have been there, or else the page was too short for it.
                watch.alone = page.oldest is None or watch.created_at >= page.oldest
                watch.pages += _CROWDED_OUT if told_few else 1
                watch.latest = now()
        self._wake_by(account.next_look())

    def _saw(
        self, account: Account, watch: Watch, prediction: Prediction, began: float, *, by_page: bool
    ) -> None:
        now = asyncio.get_running_loop().time()
        if watch.over.done():
            return
        if not prediction.is_over:
            if by_page and watch.pages >= PAGES_BELIEVED:
                return  # what is doubted does not put off its own look
            watch.alone = watch.created_at is UNDATED
            watch.seen = max(watch.seen, began - watch.since)
            watch.schedule(now)
            watch.pages += by_page and now >= watch.first
            if not by_page:
                watch.show(prediction)
        elif by_page and not _says_why(prediction):
            watch.alone = True
            watch.latest = watch.latest if watch.unanswered else now
        else:
            if watch.will_be_told() and prediction.status != "processing":  # of which nothing is ever told
                self._announcements.expect(account.caller, watch.id)
            self._over(watch, prediction)

    def _over(self, watch: Watch, prediction: Prediction) -> None:
        if prediction.status == "succeeded" and not watch.over.done():
            took = asyncio.get_running_loop().time() - watch.since
            watch.lengths.learn(min(took if prediction.seconds is None else prediction.seconds, took))
        self._end(watch, prediction)

    def _put_off(self, look: Look, failed: Exception, began: float) -> None:
        now, account = asyncio.get_running_loop().time(), look.account
        for watch in look.watches:
            if look.before is None:
                watch.schedule(now)
            elif not watch.over.done():  # it has waited for the page, and is still due
                watch.latest = now
        if not isinstance(failed, LookFailed) or failed.patience < math.inf:
            self._is_well(account, began)
            return
        pause = failed.wait or _doubled(_PAUSES, account.failures)
        if began >= account.failed_at:  # looks that failed together have failed once
            account.failures += 1
        account.failed_at = now
        account.looks_again = max(account.looks_again, now + pause)

    def _is_well(self, account: Account, began: float) -> None:
        if began >= account.failed_at:  # an answer to what began before proves nothing
            account.failures, account.looks_again = 0, -math.inf

    def _end(self, watch: Watch, end: Prediction | Exception) -> None:
        watch.latest = watch.follow_at = math.inf
        if watch.over.done():
            return
        if isinstance(end, Exception):
            watch.over.set_exception(end)
        else:
            watch.over.set_result(end)


def _says_why(prediction: Prediction) -> bool:
    return bool(prediction.outputs or prediction.error) or prediction.status in {"canceled", "aborted"}


def _doubled(bounds: tuple[float, float], times: int) -> float:
    first, most = bounds
    return min(first * 2.0 ** min(times, 10), most)
