"""The limits of keys in one process: the calls of its gate, what it publishes, and its refusals."""

from types import SimpleNamespace

import pytest

from cluster.figures import ProcessFigures
from errors import QueueFull
from generations.key_limits import KeyLimits
from ledger.access_records import ApiKeyRecord

SHOP = "key_shop"


class AGate:
    """Records the limits that it gets. A waiting generation is admitted each ten seconds."""

    def __init__(self):
        self.limits = {}

    def limit_caller(self, caller, **limits):
        self.limits[caller] = limits

    def seconds_to_admit(self, _caller, count):
        return 10.0 * count


def a_key(key_id=SHOP, **fields) -> ApiKeyRecord:
    return ApiKeyRecord(id=key_id, name="shop", role="caller", digest="", prefix="", created_at=0.0, **fields)


def waiting(count: int, turn: str = SHOP) -> list:
    return [SimpleNamespace(caller=SimpleNamespace(turn=turn))] * count


def elsewhere(count: int, key_id: str = SHOP) -> ProcessFigures:
    return ProcessFigures("h:1:x", 0.0, "1", False, {"waiting_of_keys": {key_id: count}})


def room(limits: KeyLimits, here: int, most: int = 20) -> int:
    """How many more generations of the key may be accepted while so many wait here."""
    for more in range(1, most):
        try:
            limits.check_room(more, SHOP, here, lambda: waiting(here))
        except QueueFull:
            return more - 1
    return most


@pytest.fixture
def limits():
    return KeyLimits(AGate())


def test_a_deleted_key_keeps_its_limits_at_the_gate():
    gate = AGate()
    limits = KeyLimits(gate)
    limits.apply([a_key(max_concurrent=2, requests_per_minute=9, max_queued=1)])
    limits.apply([a_key(max_concurrent=None, deleted_at=5.0)])

    assert {SHOP: {"max_concurrent": 2, "per_minute": 9}} == gate.limits
    assert 20 == room(limits, 5)


def test_what_waits_in_all_processes_counts(limits):
    limits.apply([a_key(max_queued=5)])
    assert (5, 2, 0) == (room(limits, 0), room(limits, 3), room(limits, 5))

    limits.read([elsewhere(1), elsewhere(1), elsewhere(9, "key_other")])
    assert (3, 0) == (room(limits, 0), room(limits, 3))
    limits.read([])
    assert 5 == room(limits, 0)


def test_what_runs_does_not_count(limits):
    limits.apply([a_key(max_queued=2)])

    limits.check_room(1, SHOP, 10, lambda: [*waiting(1), *waiting(7, "admin")])
    with pytest.raises(QueueFull):
        limits.check_room(2, SHOP, 10, lambda: waiting(1))


def test_a_refusal_says_when_there_is_room_and_whether_there_ever_is(limits):
    limits.apply([a_key(max_queued=5)])

    with pytest.raises(QueueFull) as refused:
        limits.check_room(4, SHOP, 9, lambda: waiting(4))
    assert (30, True) == (refused.value.retry_after, refused.value.retryable)
    with pytest.raises(QueueFull) as refused:
        limits.check_room(6, SHOP, 9, lambda: waiting(4))
    assert refused.value.retryable is False
    limits.apply([a_key(max_queued=None)])
    limits.check_room(600, SHOP, 9, lambda: waiting(4))


def test_only_keys_with_a_bound_of_their_own_are_published(limits):
    limits.apply([a_key(max_queued=5), a_key("key_free")])
    queued = [*waiting(3), *waiting(2, "key_free"), *waiting(4, "admin")]

    assert {"waiting_of_keys": {SHOP: 3}} == limits.published(queued)
    assert {} == limits.published(waiting(2, "admin"))
