"""Creations of several versions with the same input lose their answers at once: each finds its own prediction."""

import asyncio
import math
import random
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.outputs import Url
from errors import OutcomeUnknown
from ledger.rivals import Rival, Seen
from providers import Prediction, TryAgain, UncertainCreation
from providers.fingerprints import fingerprint
from providers.origins import Origin
from providers.pushes import PushedResult
from providers.replicate.absence import SearchTiming
from providers.replicate.answers import read_page
from providers.replicate.late_search import LateSearches
from providers.replicate.reconciliation import Creations
from simulator import Options
from tests.support import virtual_time
from tests.support.virtual_replicate import Losing, replicate
from tests.support.wiring import ADMIN, KEYS

ONE, TWO = "1" * 64, "2" * 64
SENT = {"prompt": "a fox"}
SHOWN = {
    "a/b": {"model": "a/b", "version": "hidden"},
    f"a/b:{ONE}": {"model": "a/b", "version": ONE},
    f"a/b:{TWO}": {"model": "a/b", "version": TWO},
    f"c/d:{ONE}": {"model": "c/d", "version": ONE},
    "deployments/me/app": {"model": "a/b", "version": ONE, "deployment": "me/app"},
    "deployments/me/other": {"model": "a/b", "version": TWO, "deployment": "me/other"},
}
"""What the list shows of a prediction, by what its creation ran."""


def ident(target: str) -> str:
    """The id of the prediction of this target."""
    return f"p{list(SHOWN).index(target)}"


@dataclass
class Account:
    """An account whose creations all lose their answers. `hides` are fields that the list leaves out."""

    hides: tuple[str, ...] = ()
    items: list[dict] = field(default_factory=list)
    elsewhere: "Elsewhere | None" = None

    def __post_init__(self) -> None:
        self.creations = Creations(self._page, elsewhere=self.elsewhere)
        self.late = LateSearches(self.creations)

    def make(self, prediction_id: str, target: str, **shown) -> None:
        date = datetime.now(UTC).isoformat()
        item = {"id": prediction_id, "created_at": date, "input": SENT} | SHOWN[target] | shown
        self.items.append({name: each for name, each in item.items() if name not in self.hides})

    async def _page(self, caller, query):  # noqa: ARG002
        return read_page({"results": list(self.items), "next": None})

    async def find(self, target: str, number: int = 1, *, sent=SENT, hidden=()) -> str | None:
        """The id that a lost creation of this target finds; None if it never arrived, "unknown" if that is
        unknown."""
        how = {"reference": f"gen_{number}.1", "since": time.time(), "hidden": hidden}
        with self.creations.begin(ADMIN, target, fingerprint(sent), **how) as creation:
            try:
                return (await creation.find()).id
            except (TryAgain, OutcomeUnknown) as error:
                self.late.expect(creation, _ignore)
                return None if isinstance(error, TryAgain) else "unknown"

    async def find_all(self, *targets: str) -> list[str | None]:
        found = await asyncio.gather(*(self.find(each, number) for number, each in enumerate(targets)))
        await self.late.aclose()
        await self.creations.aclose()
        return found


async def _ignore(_prediction) -> None: ...


def found(account: Account, *targets: str) -> list[str | None]:
    return virtual_time.run(account.find_all(*targets))


@pytest.mark.parametrize("target", SHOWN)
def test_a_lost_creation_of_any_target_finds_its_prediction_among_all_others(target):
    account = Account()
    for each in SHOWN:
        account.make(ident(each), each)

    assert [ident(target)] == found(account, target)


@pytest.mark.parametrize("target", [f"a/b:{ONE}", f"a/b:{TWO}", f"c/d:{ONE}"])
def test_a_version_that_never_arrived_takes_no_prediction_of_another(target):
    account = Account()
    for each in SHOWN.keys() - {target, "a/b"}:
        account.make(ident(each), each)

    assert [None] == found(account, target)


def test_all_versions_lost_at_once_are_told_apart():
    account = Account()
    for each in SHOWN:
        account.make(ident(each), each)

    assert [ident(each) for each in SHOWN] == found(account, *SHOWN)


def test_of_two_versions_that_the_list_does_not_tell_apart_neither_takes_the_prediction():
    account = Account(hides=("version",))
    account.make("p1", f"a/b:{ONE}")

    assert ["unknown", "unknown"] == found(account, f"a/b:{ONE}", f"a/b:{TWO}")


def test_the_only_version_in_doubt_takes_a_prediction_that_hides_its_version():
    account = Account(hides=("version",))
    account.make("p1", f"a/b:{ONE}")

    assert ["p1"] == found(account, f"a/b:{ONE}")


@pytest.mark.parametrize("caller", [ADMIN, KEYS[0]])
def test_a_version_that_an_earlier_process_left_in_doubt_counts_for_any_caller_of_the_account(caller):
    async def scenario():
        account.creations.register_uncertain(
            UncertainCreation("gen_9.1", caller.id, f"a/b:{TWO}", fingerprint(SENT), time.time())
        )
        return await account.find_all(f"a/b:{ONE}")

    account = Account(hides=("version",))
    account.make("p1", f"a/b:{ONE}")

    assert ["unknown"] == virtual_time.run(scenario())


def test_a_deployment_takes_no_prediction_that_does_not_name_it_and_is_not_repeated():
    account = Account(hides=("deployment",))
    account.make("p1", "deployments/me/app")

    assert ["unknown"] == found(account, "deployments/me/app")


def test_a_deployment_is_repeated_if_all_that_is_listed_was_made_otherwise():
    account = Account()
    account.make("p1", "a/b")
    account.make("p2", "deployments/me/other")

    assert [None] == found(account, "deployments/me/app")


def test_a_version_that_still_waits_for_its_answer_is_waited_for():
    async def scenario():
        how = {"reference": "gen_9.1", "since": time.time()}
        with account.creations.begin(ADMIN, f"a/b:{TWO}", fingerprint(SENT), **how) as other:
            search = asyncio.create_task(account.find(f"a/b:{ONE}"))
            await asyncio.sleep(20)
            was_over = search.done()
            other.answered(Prediction("p2", "starting"))
        return was_over, await search

    account = Account(hides=("version",))
    account.make("p1", f"a/b:{ONE}")
    account.make("p2", f"a/b:{TWO}")

    assert (False, "p1") == virtual_time.run(scenario())


class Elsewhere:
    """Another process, with one creation of this input in doubt until `until` (seconds). From then on `known` are its
    predictions."""

    def __init__(self, target: str, *, until: float = math.inf, known=()) -> None:
        self._rival = Rival(time.time(), False, target)
        self._until = until
        self._known = set(known)

    async def look(self, caller_id, content, *, ids=(), since=0.0):  # noqa: ARG002
        if asyncio.get_running_loop().time() < self._until:
            return Seen({"gen_9.1": self._rival})
        return Seen({}, self._known & set(ids))


def test_a_version_in_doubt_at_another_process_counts():
    account = Account(hides=("version",), elsewhere=Elsewhere(f"a/b:{TWO}"))
    account.make("p1", f"a/b:{ONE}")

    assert ["unknown"] == found(account, f"a/b:{ONE}")


def test_a_version_that_another_process_answers_leaves_the_other_prediction():
    account = Account(hides=("version",), elsewhere=Elsewhere(f"a/b:{TWO}", until=20.0, known=["p2"]))
    account.make("p1", f"a/b:{ONE}")
    account.make("p2", f"a/b:{TWO}")

    assert ["p1"] == found(account, f"a/b:{ONE}")


def test_a_version_in_doubt_at_another_process_does_not_count_if_versions_are_shown():
    account = Account(elsewhere=Elsewhere(f"a/b:{TWO}"))
    account.make("p1", f"a/b:{ONE}")
    account.make("p2", f"a/b:{TWO}")

    assert ["p1"] == found(account, f"a/b:{ONE}")


@pytest.mark.parametrize("shown", [{"hf_token": "hf_secret"}, {"hf_token": "[REDACTED]"}, {}])
def test_a_creation_with_a_secret_finds_its_prediction_whatever_is_shown_of_the_secret(shown):
    account = Account()
    account.make("p1", "a/b", input=SENT | shown)

    assert "p1" == virtual_time.run(account.find("a/b", hidden=["hf_token"]))


def test_creations_with_and_without_a_secret_are_told_apart():
    async def scenario():
        return await asyncio.gather(account.find("a/b", 1, hidden=["hf_token"]), account.find("a/b", 2))

    account = Account()
    account.make("without", "a/b")
    account.make("with", "a/b", input=SENT | {"hf_token": "hf_secret"})

    assert ["with", "without"] == virtual_time.run(scenario())


@pytest.mark.parametrize(
    ("origin", "is_taken"),
    [
        (Origin("a/b", ONE, None, SENT), True),
        (Origin("a/b", None, None, SENT), True),
        (Origin("a/b", TWO, None, SENT), False),
        (Origin("a/b", ONE, None, {"prompt": "a cat"}), False),
        (Origin("a/b", ONE, None, None), False),
        (Origin("a/b", ONE, None, SENT | {"hf_token": "hf_secret"}), True),
    ],
)
def test_a_webhook_ends_the_search_of_its_own_version_alone(origin, is_taken):
    async def scenario():
        account = Account()
        how = {"reference": "gen_a.1", "since": time.time(), "hidden": ["hf_token"]}
        with account.creations.begin(ADMIN, f"a/b:{ONE}", fingerprint(SENT), **how) as creation:
            creation.receive_push(PushedResult(Prediction("p1", "succeeded", (Url("https://a"),)), origin))
            try:
                return (await creation.find()).id == "p1"
            except TryAgain:
                return False

    assert is_taken == virtual_time.run(scenario())


OLDER = "f3b507dfe625a7b19b2ed7b55513e8b8ba42502b6da407ab3103fcacd564d713"
LATEST = "5766e5ce83be12035ddc4e4558c2093ff98632382b1ae204ab3ab036ca0b362b"


def test_lost_answers_of_versions_and_official_models_with_one_input_are_found_before_the_simulator():
    targets = [
        f"acme/watercolor:{OLDER}", f"acme/watercolor:{LATEST}", "black-forest-labs/flux-dev",
        "black-forest-labs/flux-schnell", f"acme/watercolor:{OLDER}",
    ]  # fmt: skip

    async def scenario():
        chance = random.Random(1)
        options = Options(prediction_seconds=5, jitter=0, answer_delay=(0.1, 0.9), seed=1)
        async with replicate(
            options, line=lambda loopback: Losing(loopback, chance, answers=1.0), search=SearchTiming()
        ) as (service, world):

            async def create(number, target):
                with await service.gate.acquire("admin") as lease:
                    how = {"cancel_after": 600, "reference": f"gen_{number}.1", "lease": lease}
                    created = await service.provider.create(
                        ADMIN, target, SENT, content=fingerprint(SENT), **how
                    )
                return created.prediction.id

            ids = await asyncio.gather(*(create(*each) for each in enumerate(targets)))
            made = {each.id: each.body["version"] for each in (each.record() for each in world.predictions)}
        return [made[each] for each in ids], len(set(ids))

    assert (targets, len(targets)) == virtual_time.run(scenario())


@settings(deadline=None)
@given(
    arrived=st.lists(st.tuples(st.sampled_from(list(SHOWN)), st.booleans()), min_size=1, max_size=5),
    hides=st.sampled_from([(), ("version",)]),
)
def test_each_lost_creation_finds_its_own_prediction_or_none_of_another(arrived, hides):
    """Creations with the same input, of which some arrived."""
    account, makers = Account(hides=hides), {}
    for number, (target, has_arrived) in enumerate(arrived):
        if has_arrived:
            account.make(f"p{number}", target)
            makers[f"p{number}"] = target

    ends = found(account, *(target for target, _ in arrived))

    adopted = [end for end in ends if end in makers]
    assert len(set(adopted)) == len(adopted)
    for (target, _), end in zip(arrived, ends, strict=True):
        assert end is None or end == "unknown" or makers[end] == target
    for target in dict.fromkeys(target for target, _ in arrived):
        mine = [end for (each, _), end in zip(arrived, ends, strict=True) if each == target]
        made = sum(each == target for each in makers.values())
        # One that is repeated never arrived: the others of this target account for all that did.
        assert mine.count(None) <= len(mine) - made
        assert hides or mine.count(None) == len(mine) - made or target.startswith("deployments/")
