"""Limits of a batch run that hold for all of its rows, also if they are more than one request takes."""

import queue
import threading

import pytest
from replicate_concurrent import ConnectionLost
from replicate_concurrent.batches import following
from replicate_concurrent.batches.following import Follower, Over
from replicate_concurrent.batches.manifest import Line
from replicate_concurrent.batches.rows import Row
from replicate_concurrent.results import Batch, Generation

ROWS = {digest: Row(1, "item 1", {"model_name": "m", "prompt": digest}, digest) for digest in "abc"}


class Busy:
    """A client of a service that ends its work at the next POST, or else soon. `overlaps` are the POSTs during work."""

    def __init__(self, *running, fails=False):
        self.posts = []
        self.overlaps = []
        self.fails = fails
        self.seen = set()
        self._ends = {name: threading.Event() for name in running}

    def submit_batch(self, **fields):
        batch = f"batch_{len(self.posts)}"
        self.posts.append(len(fields["requests"]))
        for name, end in self._ends.items():
            self.overlaps.append((batch, name))
            end.set()
        self._ends[batch] = threading.Event()
        return Batch(batch)

    def batch_handle(self, name):
        return BusyWork(self, name)

    def handle(self, name):
        return BusyWork(self, name)

    def end(self, name):
        if self.fails:
            raise ConnectionLost("lost")
        self._ends[name].wait(0.2)
        del self._ends[name]


class BusyWork:
    def __init__(self, service, name):
        self.service, self.name = service, name

    def results(self):
        self.service.end(self.name)
        yield Generation("gen_1", "succeeded", True, index=0)

    def status(self):
        if self.name not in self.service.seen:
            self.service.seen.add(self.name)
            return Generation(self.name, "running")
        self.service.end(self.name)
        return Generation(self.name, "succeeded", True)


def line(digest, **known):
    return Line(f"key-{digest}", digest, 1, "a.{ext}", 0.0, **known)


@pytest.fixture
def followed(monkeypatch):
    """Follows lines to their end. Each row is a batch of its own. Returns the follower, and the errors."""
    monkeypatch.setattr(following, "chunks", lambda rows: [[row] for row in rows])
    monkeypatch.setattr(following, "_PAUSE", 0.01)

    def run(service, opened, new, options):
        news = queue.SimpleQueue()
        follower = Follower(service, news, options, at=0.0)
        sources, errors = follower.start(opened, new, ROWS), []
        while sources:
            found = news.get(timeout=30)
            sources += isinstance(found, following.Begun)
            if isinstance(found, Over):
                sources -= 1
                errors += [found.error] if found.error else []
        return follower, errors

    return run


def test_without_a_limit_batches_are_sent_side_by_side(followed):
    service = Busy()

    followed(service, [], [line("a"), line("b")], {})

    assert [("batch_1", "batch_0")] == service.overlaps


@pytest.mark.parametrize(
    "opened",
    [[line("c", batch="batch_old")], [line("c", batch="batch_old", generation="gen_old")]],
    ids=["a batch of an earlier run", "a generation of an earlier run"],
)
def test_with_a_limit_a_batch_is_sent_only_when_all_earlier_work_has_ended(followed, opened):
    service = Busy(opened[0].generation or opened[0].batch)

    follower, errors = followed(service, opened, [line("a"), line("b")], {"max_concurrent": 5})

    assert ([1, 1], [], [], 0) == (service.posts, service.overlaps, errors, follower.unsent)


def test_with_a_limit_no_batch_is_sent_after_one_that_cannot_be_followed(followed):
    service = Busy(fails=True)

    follower, errors = followed(service, [], [line("a"), line("b")], {"max_concurrent": 5})

    assert ([1], [ConnectionLost], 1) == (service.posts, [type(each) for each in errors], follower.unsent)
