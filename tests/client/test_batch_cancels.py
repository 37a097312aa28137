"""A batch that is cancelled: also the work whose id is not known yet, or that no batch of this run cancels."""

import queue
import threading

import pytest
from replicate_concurrent import ConnectionLost, NotFound
from replicate_concurrent.batches import cancelling, following
from replicate_concurrent.batches.following import Follower, Over
from replicate_concurrent.batches.manifest import Line
from replicate_concurrent.batches.rows import Row
from replicate_concurrent.results import Batch, Generation

ROWS = {digest: Row(1, "item 1", {"model_name": "m", "prompt": digest}, digest) for digest in "ab"}


class FakeService:
    """A client of a service that answers a POST when it is `let`, and whose work runs until it is cancelled."""

    def __init__(self, *, joined=(), forgets=()):
        self.let = threading.Event()
        self.has_post = threading.Event()
        self.posts = 0
        self.deleted = []
        self.joined = joined
        self.forgets = forgets

    def submit_batch(self, **_):
        self.posts += 1
        self.has_post.set()
        assert self.let.wait(30)
        return Batch(f"batch_{self.posts}")

    def batch_handle(self, batch):
        return FakeBatch(self, batch)

    def handle(self, generation):
        return FakeGeneration(self, generation)

    def request(self, method, path):
        assert method == "DELETE"
        self.deleted.append(path)
        if path in self.forgets:
            raise NotFound({"code": "not_found"})


class FakeBatch:
    def __init__(self, service, name):
        self.service, self.name = service, name

    def status(self):
        ended = Generation("gen_ended", "succeeded", True, index=0)
        listed = [{"index": index, "id": name} for index, name in enumerate(self.service.joined)]
        return Batch(self.name, results=(ended,), raw={"joined": listed})

    def results(self):
        return iter([Generation("gen_1", "canceled", False, index=0)])


class FakeGeneration:
    def __init__(self, service, name):
        self.service, self.name = service, name

    def status(self):
        has_ended = f"/generations/{self.name}" in self.service.deleted
        return Generation(self.name, "canceled" if has_ended else "running")


def line(digest, **known):
    return Line(f"key-{digest}", digest, 1, "a.{ext}", 0.0, **known)


def news_of(news, sources):
    """All news until so many sources are over."""
    found = []
    while sources:
        found.append(news.get(timeout=30))
        sources -= isinstance(found[-1], Over)
    return found


def test_a_batch_that_is_accepted_after_the_cancellation_is_cancelled_and_no_other_is_sent(monkeypatch):
    monkeypatch.setattr(following, "chunks", lambda rows: [[row] for row in rows])
    service, news = FakeService(), queue.SimpleQueue()
    follower = Follower(service, news, {}, at=0.0)
    follower.start([], [line("a"), line("b")], ROWS)
    assert service.has_post.wait(30)

    follower.cancel()
    assert [] == service.deleted
    service.let.set()
    found = news_of(news, sources=2)

    assert ([None, None], 1) == ([each.error for each in found if isinstance(each, Over)], service.posts)
    assert ["/batches/batch_1"] == service.deleted


def test_generations_that_are_followed_by_their_ids_are_cancelled(monkeypatch):
    monkeypatch.setattr(following, "_PAUSE", 0.01)
    service, news = FakeService(), queue.SimpleQueue()
    follower = Follower(service, news, {}, at=0.0)
    follower.start([line("a", generation="gen_7")], [line("b")], ROWS)
    assert service.has_post.wait(30)  # the generation was looked at before

    follower.cancel()
    service.let.set()
    news_of(news, sources=3)  # the generation, the batch, and the thread that sends and cancels it

    assert ["/batches/batch_1", "/generations/gen_7"] == sorted(service.deleted)


def test_items_that_a_batch_has_joined_are_cancelled_unless_they_have_ended():
    service = FakeService(joined=["gen_ended", "gen_3"])

    cancelling.cancel(service, ["batch_1"])

    assert ["/batches/batch_1", "/generations/gen_3"] == sorted(service.deleted)


def test_what_the_service_has_forgotten_does_not_keep_the_others_from_being_cancelled():
    service = FakeService(forgets=["/generations/gen_1"])

    cancelling.cancel(service, [], ["gen_1", "gen_2"])

    assert ["/generations/gen_1", "/generations/gen_2"] == sorted(service.deleted)


def test_an_error_is_raised_when_all_others_are_cancelled(monkeypatch):
    service = FakeService()
    request = service.request

    def failing(method, path):
        request(method, path)
        if path.endswith("gen_1"):
            raise ConnectionLost("lost")

    monkeypatch.setattr(service, "request", failing)
    with pytest.raises(ConnectionLost):
        cancelling.cancel(service, [], [f"gen_{number}" for number in range(1, 21)])

    assert 20 == len(service.deleted)


def test_a_batch_that_cannot_be_read_is_cancelled_and_so_are_all_others(monkeypatch):
    service = FakeService(joined=["gen_3"])
    batch_handle = service.batch_handle

    def failing(batch):
        if batch == "batch_1":
            raise ConnectionLost("lost")
        return batch_handle(batch)

    monkeypatch.setattr(service, "batch_handle", failing)
    with pytest.raises(ConnectionLost):
        cancelling.cancel(service, ["batch_1", "batch_2"], ["gen_1"])

    expected = ["/batches/batch_1", "/batches/batch_2", "/generations/gen_1", "/generations/gen_3"]
    assert expected == sorted(service.deleted)
