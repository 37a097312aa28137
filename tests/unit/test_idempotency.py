"""Idempotency keys and fingerprints of bodies: one work for each key, in every order of requests."""

import asyncio
import hashlib
import json
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.references import Upload
from errors import IdempotencyConflict, LedgerDown
from generations.archive import Archive
from generations.idempotency import KEPT_FOR, IdempotencyKeys
from generations.submission import BodyFingerprint, body_fingerprint
from ledger import Progress
from ledger.records import KeyRecord
from parsing import strict_json
from parsing.normal import normalised, normalised_batch
from tests.support import virtual_time
from tests.support.declarations import REGISTRY
from tests.support.virtual_time import in_virtual_time
from tests.support.wiring import AtOnce, Immediate


class Kept(Immediate):
    """A ledger in which work that is `going_on` has not ended."""

    def __init__(self) -> None:
        super().__init__()
        self.going_on: set[str] = set()

    def progress(self, work_ids):
        return {each: Progress("running", False, False) for each in work_ids if each in self.going_on}


@dataclass
class Scenario(AtOnce):
    """Idempotency keys with a ledger that answers after 10 ms of virtual time."""

    ledger: Kept = field(default_factory=Kept)
    down: bool = False
    asked: int = 0

    def __post_init__(self) -> None:
        self.keys = self.begun()

    def begun(self) -> IdempotencyKeys:
        """The keys as after a restart: only the ledger is left."""
        return IdempotencyKeys(
            ledger=self.ledger,
            archive=Archive(ledger=self.ledger, queries=self.ledger, threads=self),
            clock=lambda: asyncio.get_running_loop().time(),
        )

    async def run(self, function):
        self.asked += 1
        await asyncio.sleep(0.01)
        if self.down:
            raise LedgerDown("It cannot be read.")
        return function()

    async def claimed(self, key="k", fingerprint="f", target="gen_1", *, caller="anna") -> str:
        """Claims a key. Returns the id of its work: `target`, or the id of earlier work."""
        known = await self.keys.claim(caller, key, BodyFingerprint(fingerprint, fingerprint), target)
        if known is not None:
            return known
        self.keys.settle(caller, key)
        return target


@in_virtual_time
async def test_a_key_returns_its_first_work_while_it_runs_and_afterwards():
    scenario = Scenario()

    assert "gen_1" == await scenario.claimed(target="gen_1")
    assert "gen_1" == await scenario.claimed(target="gen_2")
    scenario.keys.release("gen_1")
    assert "gen_1" == await scenario.claimed(target="gen_3")
    scenario.keys = scenario.begun()
    assert "gen_1" == await scenario.claimed(target="gen_4")


@in_virtual_time
async def test_the_same_key_with_another_body_is_a_conflict_at_any_time_and_changes_nothing():
    scenario = Scenario()
    await scenario.claimed()

    for change in (
        lambda: None,
        lambda: scenario.keys.release("gen_1"),
        lambda: setattr(scenario, "keys", scenario.begun()),
    ):
        change()
        with pytest.raises(IdempotencyConflict):
            await scenario.claimed(fingerprint="other")
    assert "gen_1" == await scenario.claimed()


@in_virtual_time
async def test_callers_do_not_share_their_keys():
    scenario = Scenario()

    assert "gen_1" == await scenario.claimed(target="gen_1", caller="anna")
    assert "gen_2" == await scenario.claimed(target="gen_2", caller="bert", fingerprint="other")


@in_virtual_time
async def test_one_of_many_simultaneous_claims_succeeds_and_the_others_get_its_work():
    scenario = Scenario()

    shown = await asyncio.gather(*(scenario.claimed(target=f"gen_{number}") for number in range(50)))

    assert {"gen_0"} == set(shown)
    assert 1 == scenario.asked


@in_virtual_time
async def test_a_request_that_waits_for_a_refused_one_claims_the_key():
    scenario = Scenario()
    assert await scenario.keys.claim("anna", "k", BodyFingerprint("f", "f"), "gen_x") is None
    waiting = [asyncio.create_task(scenario.claimed(target=f"gen_{number}")) for number in range(3)]
    await asyncio.sleep(1)

    scenario.keys.abandon("anna", "k", "gen_x")

    assert ["gen_0"] * 3 == await asyncio.gather(*waiting)


@in_virtual_time
async def test_work_that_could_not_be_recorded_leaves_its_key_free():
    scenario = Scenario()
    await scenario.claimed(target="gen_1")

    scenario.keys.abandon("anna", "k", "gen_1")

    assert [] == scenario.ledger.all(KeyRecord)
    assert "gen_2" == await scenario.claimed(fingerprint="other", target="gen_2")


@in_virtual_time
async def test_abandoning_a_key_whose_work_has_ended_is_no_error():
    scenario = Scenario()
    await scenario.claimed(target="gen_1")
    scenario.keys.release("gen_1")

    scenario.keys.abandon("anna", "k", "gen_1")

    assert [] == scenario.ledger.all(KeyRecord)


@in_virtual_time
async def test_a_cancelled_claim_leaves_nothing_behind():
    scenario = Scenario()
    first = asyncio.create_task(scenario.claimed(target="gen_1"))
    second = asyncio.create_task(scenario.claimed(target="gen_2"))
    third = asyncio.create_task(scenario.claimed(target="gen_3"))
    await asyncio.sleep(0)

    first.cancel()
    second.cancel()

    assert "gen_3" == await third
    assert {"gen_3"} == {each.work_id for each in scenario.ledger.all(KeyRecord)}


@in_virtual_time
async def test_an_unreadable_ledger_refuses_the_claim_and_the_next_may_retry():
    scenario = Scenario(down=True)
    shown = await asyncio.gather(*(scenario.claimed() for _ in range(3)), return_exceptions=True)
    assert [LedgerDown] * 3 == [type(each) for each in shown]

    scenario.down = False
    assert "gen_1" == await scenario.claimed()


@in_virtual_time
async def test_a_key_is_kept_a_day_and_longer_if_its_work_has_not_ended():
    scenario = Scenario()
    await scenario.claimed(target="gen_1")
    scenario.keys = scenario.begun()

    await asyncio.sleep(KEPT_FOR - 1)
    assert "gen_1" == await scenario.claimed(target="gen_2")
    await asyncio.sleep(1)
    scenario.ledger.going_on.add("gen_1")
    assert "gen_1" == await scenario.claimed(target="gen_2")
    scenario.ledger.going_on.clear()
    assert "gen_2" == await scenario.claimed(fingerprint="other", target="gen_2")


@in_virtual_time
async def test_releasing_work_without_a_key_does_nothing():
    Scenario().keys.release("gen_unknown")


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["claim", "refused", "unrecorded", "cancelled", "end", "restart"]),
        st.integers(0, 1),  # the caller
        st.integers(0, 1),  # key
        st.integers(0, 1),  # body
        st.sampled_from([0.0, 0.005, 0.02]),  # seconds until the next request
    ),
    max_size=25,
)


@settings(deadline=None, max_examples=150)
@given(STEPS)
def test_no_history_assigns_two_accepted_works_to_one_key(steps):
    virtual_time.run(_history(steps))


async def _history(steps):
    history = History()
    for number, (what, who, key, body, pause) in enumerate(steps):
        place = ("anna", "bert")[who], f"k{key}"
        if what == "end":
            for target, _ in history.accepted.get(place, []):
                history.scenario.keys.release(target)
        elif what == "restart":
            await history.restart()
        else:
            history.begin(what, place, f"f{body}", f"gen_{number}")
        await asyncio.sleep(pause)
    await asyncio.gather(*history.tasks)

    assert all(1 == len(each) for each in history.accepted.values()), history.accepted
    recorded = {(each.caller_id, each.key): each.work_id for each in history.scenario.ledger.all(KeyRecord)}
    assert {place: each[0][0] for place, each in history.accepted.items()}.items() <= recorded.items()


@dataclass
class History:
    scenario: Scenario = field(default_factory=Scenario)
    accepted: dict[tuple, list[tuple[str, str]]] = field(default_factory=dict)
    """The work and the body of each caller's key."""
    tasks: list[asyncio.Task] = field(default_factory=list)

    def begin(self, what, place, fingerprint, target) -> None:
        self.tasks.append(task := asyncio.create_task(self._ask(what, place, fingerprint, target)))
        if what == "cancelled":
            asyncio.get_running_loop().call_later(0.007, task.cancel)

    async def restart(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks)
        self.scenario.keys = self.scenario.begun()

    async def _ask(self, what, place, fingerprint, target) -> None:
        keys = self.scenario.keys
        try:
            known = await keys.claim(*place, BodyFingerprint(fingerprint, fingerprint), target)
        except asyncio.CancelledError:
            return
        except IdempotencyConflict:
            assert fingerprint not in {each for _, each in self.accepted.get(place, [])}
            return
        if known is not None:
            return
        if what == "refused":
            keys.abandon(*place, target)
            return
        keys.settle(*place)
        if what == "unrecorded":
            keys.abandon(*place, target)
            return
        self.accepted.setdefault(place, []).append((target, fingerprint))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=3), JSON, max_size=4))
def test_the_order_of_fields_does_not_change_the_fingerprint(body):
    reordered = dict(reversed(body.items()))

    assert body_fingerprint("gen", body) == body_fingerprint("gen", reordered)


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("batch", {"prompt": "a", "n": 1}),
        ("gen", {"prompt": "b", "n": 1}),
        ("gen", {"prompt": "a", "n": "1"}),
        ("gen", {"prompt": "a", "n": True}),
        ("gen", {"prompt": "a", "n": 1, "seed": None}),
        ("gen", {"prompt": "a"}),
    ],
)
def test_different_requests_have_different_fingerprints(route, body):
    asked, other = body_fingerprint("gen", {"prompt": "a", "n": 1}), body_fingerprint(route, body)

    assert not asked.matches(other.current)
    assert not asked.matches(other.earlier)


NUMBERS = st.integers(-(2**53), 2**53)


@given(NUMBERS, st.lists(st.sampled_from(["[{}]", '{{"a": {}}}', '[true, "1.0", {}, null]']), max_size=4))
def test_a_whole_number_is_the_same_in_every_notation_at_any_depth(number, around):
    bodies = []
    for text in (
        f"{number}",
        f"{number}.0",
        f"{number}.000",
        f"{number}e0",
        f"{10 * number}E-1",
        f"{number}.0e+0",
    ):
        for each in around:
            text = each.format(text)
        bodies.append(strict_json.loads(f'{{"n": {text}}}'.encode()))

    assert 1 == len({body_fingerprint("gen", body).current for body in bodies})


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers())
def test_numbers_that_differ_stay_different(one, other):
    alike = body_fingerprint("gen", {"n": one}).matches(body_fingerprint("gen", {"n": other}).current)

    assert (one == other) == alike


@given(st.dictionaries(st.text(max_size=3), JSON, max_size=4))
def test_a_body_matches_its_fingerprint_from_an_earlier_version(body):
    kept = hashlib.sha256(json.dumps(["gen", body], sort_keys=True).encode()).hexdigest()

    assert body_fingerprint("gen", body).matches(kept)


@pytest.mark.parametrize("kind", ["gen", "batch"])
def test_a_normalised_body_matches_its_fingerprint_from_an_earlier_version(kind):
    body = {
        "model_name": "flux-dev",
        "prompt": "a",
        "seed": None,
        "guidance": 3.0,
        "image": Upload(BytesIO(b"x")),
    }
    sent = body if kind == "gen" else {"requests": [body], "webhook": None}
    normalise = partial(normalised if kind == "gen" else normalised_batch, registry=REGISTRY)
    text = json.dumps([kind, sent], sort_keys=True, default=lambda _: hashlib.sha256(b"x").hexdigest())

    found = body_fingerprint(kind, sent, normalise=normalise)
    least = {name: value for name, value in body.items() if value is not None} | {"guidance": 3}
    assert found.matches(hashlib.sha256(text.encode()).hexdigest())
    other = least if kind == "gen" else {"requests": [least]}
    assert found.current == body_fingerprint(kind, other, normalise=normalise).current


def test_half_a_surrogate_pair_has_a_fingerprint_too():
    assert 64 == len(body_fingerprint("gen", {"prompt": "\ud800"}).current)


def test_files_with_equal_content_have_one_fingerprint_and_keep_their_position():
    one, same, other = (
        Upload(BytesIO(content)) for content in (b"abc" * 10**6, b"abc" * 10**6, b"abd" * 10**6)
    )
    one.file.seek(5)

    first, second, third = (body_fingerprint("gen", {"image": each}) for each in (one, same, other))

    assert first == second != third
    assert b"abc" == one.file.read(3)
