"""What the other processes learn of a version that one has trained."""

from types import SimpleNamespace

from catalog.targets import Target
from errors import UpstreamError
from generations.trained import TrainedVersions
from tests.support.trainers import trainer
from tests.support.wiring import on_a_loop

VERSION = Target("me/dog", "2" * 64)


def versions(look_up):
    ledger = SimpleNamespace(upsert=lambda record: None)
    return TrainedVersions(ledger=ledger, archive=None, look_up=look_up, simulated=False)


async def shows_it(caller, name):
    return VERSION.version


async def is_away(caller, name):
    raise UpstreamError("Replicate cannot be reached.")


@on_a_loop
async def test_a_version_counts_once_its_model_is_looked_up_and_also_if_that_fails():
    for look_up in (shows_it, is_away):
        trained = versions(look_up)
        work = SimpleNamespace(id="trn_1", door_facts=None, model=trainer())
        await trained.add("admin", VERSION, work)
        assert 1 == trained.count


def test_only_a_new_version_of_another_process_is_news():
    trained = versions(shows_it)
    assert not trained.meet({"a": 0, "b": 0})
    assert trained.meet({"a": 1, "b": 0})
    assert not trained.meet({"a": 1, "b": 0})
    assert not trained.meet({"b": 0})
    assert trained.meet({"b": 2, "c": 0})
