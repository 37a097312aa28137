"""Models are looked up once for all that ask, and each caller learns what its own token may read."""

import asyncio
import json
import tempfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from auth import Caller, credentials
from errors import LedgerDown, TokenRejected, UpstreamError
from generations.archive import Archive
from generations.published_models import FAILED_FOR, FORMS, LATEST_FOR, LONGEST, MISSING_FOR, PublishedModels
from harness.postgres import server
from ledger.memory import MemoryLedger
from ledger.model_records import LookupRecord, ModelRecord, SchemaRecord
from ledger.postgres import PostgresBackend
from ledger.queries import SqlQueries
from ledger.sqlite import SqliteBackend
from ledger.writer import SqlLedger
from loop_thread import Pool
from providers.models import ListedVersion, ModelFacts
from tests.support.ledgers import running
from tests.support.virtual_time import in_virtual_time
from tests.support.wiring import ADMIN, AtOnce, on_a_loop

V1, V2, V3 = "1" * 64, "2" * 64, "3" * 64


def user(token, account=None):
    """A caller whose account is known, or not."""
    turn = "unproven" if account is None else f"account {account}"
    return Caller("user", f"user_{token}", credentials(replicate=f"r8_{token}"), turn=turn)


ANN, ANN_TOO, BOB = user("a1", "ann"), user("a2", "ann"), user("b1", "bob")


def document(version):
    return {"openapi": "3.0.2", "of": version}


def model(name, version=V1, **facts):
    return ModelFacts(name=name, **{"version": version, "schema": document(version)} | facts)


@dataclass
class Replicate:
    """A `ModelSource` that takes 0.2 seconds. Only the accounts in `readers` of a private model can read it."""

    models: dict = field(default_factory=dict)
    versions: dict = field(default_factory=dict)
    deployments: dict = field(default_factory=dict)
    readers: dict = field(default_factory=dict)
    listed: dict = field(default_factory=dict)
    error: Exception | None = None
    errors: dict = field(default_factory=dict)
    seconds: float = 0.2
    asked: list = field(default_factory=list)

    async def find_model(self, caller, name):
        return await self._answer(caller, name, name, self.models.get(name))

    async def find_version(self, caller, name, version):
        found = self.versions.get(f"{name}:{version}")
        return await self._answer(caller, f"{name}:{version}", name, found)

    async def find_deployment(self, caller, name):
        return await self._answer(caller, f"deployments/{name}", name, self.deployments.get(name))

    async def find_versions(self, caller, name):
        return await self._answer(caller, f"{name}:versions", name, self.listed.get(name))

    async def search_models(self, caller, query):  # noqa: ARG002
        return []

    async def _answer(self, caller, asked, name, found):
        self.asked.append((caller.id, asked))
        await asyncio.sleep(self.seconds)
        if (error := self.error or self.errors.get(asked)) is not None:
            raise error
        return found if caller.turn in self.readers.get(name, [caller.turn]) else None

    def publish(self, name, version=V1, *, readers=None, **facts):
        """A new version of a model."""
        self.models[name] = model(name, version, is_private=readers is not None, **facts)
        self.versions[f"{name}:{version}"] = model(name, version)
        if readers is not None:
            self.readers[name] = readers


def away(*, is_final=False):
    error = UpstreamError("Replicate does not answer.")
    error.retryable = not is_final
    return error


@dataclass
class Process:
    """A process on a ledger in memory that others share, in virtual time."""

    replicate: Replicate
    rows: dict = field(default_factory=lambda: MemoryLedger().rows)
    name: str = "one"
    simulated: bool = False

    def __post_init__(self):
        self.compiled = []
        self.ledger = MemoryLedger(self.rows, commit_seconds=0.001, process=self.name)
        self.models = PublishedModels(
            ledger=self.ledger,
            archive=Archive(ledger=self.ledger, queries=self.ledger, threads=AtOnce()),
            source=self.replicate,
            compiled=self._compile,
            simulated=self.simulated,
            clock=lambda: asyncio.get_running_loop().time(),
        )

    def _compile(self, found):
        if isinstance(found, str):
            return f"form of {found}"
        self.compiled.append(found["of"])
        return f"form of {found['of'][0]}"

    async def ask(self, name, caller=ADMIN):
        return await self.models.facts(caller, name)

    def beside(self, name="other"):
        """Another process on the same ledger, or this one after a restart."""
        return Process(self.replicate, self.rows, name)


def a_process(*names, **facts):
    replicate = Replicate()
    for name in names:
        replicate.publish(name, **facts)
    return Process(replicate)


@in_virtual_time
async def test_a_model_is_described_as_replicate_describes_it():
    facts = {"is_official": True, "description": "Half: \ud83d", "example": {"prompt": "x"}, "run_count": 7}
    process = a_process("a/b", **facts)

    known = await process.ask("a/b")

    assert ("a/b", "a/b", V1, "form of 1") == (known.name, known.model, known.version, known.form)
    assert (True, "Half: ?") == (known.is_official, known.description)
    assert ({"prompt": "x"}, 7) == (known.example, known.run_count)
    assert (False, False, False) == (known.is_missing, known.is_stale, known.is_private)
    assert known == await process.beside().ask("a/b")


@in_virtual_time
async def test_a_model_without_a_version_has_no_form_and_so_has_a_version_without_a_schema():
    process = a_process()
    process.replicate.models = {
        "a/new": model("a/new", None, schema=None),
        "a/old": model("a/old", schema=None),
    }

    new, old = await process.ask("a/new"), await process.ask("a/old")

    assert (None, None) == (new.version, new.form)
    assert (V1, None) == (old.version, old.form)


@in_virtual_time
async def test_of_a_schema_that_cannot_be_read_the_reason_is_kept():
    process = a_process("a/b", schema="it is too large.")

    assert "form of it is too large." == (await process.ask("a/b")).form
    assert "form of it is too large." == (await process.beside().ask("a/b")).form
    [kept] = process.rows[SchemaRecord].values()
    assert "it is too large." == json.loads(zlib.decompress(kept.document))


@in_virtual_time
async def test_a_list_of_versions_is_looked_up_once_in_ten_minutes_for_all():
    process = a_process("a/b")
    process.replicate.listed["a/b"] = listed = (
        ListedVersion(V2, "2026-02-01T00:00:00.000Z"),
        ListedVersion(V1),
    )
    await process.ask("a/b")
    process.replicate.asked.clear()

    for _ in range(2):
        assert listed == await process.models.versions(ADMIN, "a/b")
        assert listed == await process.beside().models.versions(BOB, "a/b")
    assert listed == await process.models.versions(None, "a/b")
    assert [(ADMIN.id, "a/b:versions")] == process.replicate.asked
    assert ["a/b"] == [each.name for each in await process.models.search("", limit=9)]

    process.replicate.listed["a/b"] = newer = (ListedVersion(V3), *listed)
    await asyncio.sleep(LATEST_FOR)
    assert newer == await process.models.versions(ADMIN, "a/b")
    assert ["a/b:versions", "a/b", "a/b:versions"] == [what for _, what in process.replicate.asked]


@in_virtual_time
async def test_a_model_without_a_list_of_versions_is_not_asked_for_it_again_within_ten_minutes():
    process = a_process("a/b")

    for _ in range(2):
        assert () == await process.models.versions(ADMIN, "a/b")
        await asyncio.sleep(LATEST_FOR - 1)
    assert ["a/b", "a/b:versions"] == [what for _, what in process.replicate.asked]


@in_virtual_time
async def test_the_versions_of_a_private_model_are_known_to_its_account_alone():
    process = a_process("a/b", readers=["account ann"])
    process.replicate.listed["a/b"] = (ListedVersion(V1),)
    await process.ask("a/b", ANN)

    assert (ListedVersion(V1),) == await process.models.versions(ANN, "a/b")
    assert (ListedVersion(V1),) == await process.models.versions(ANN_TOO, "a/b")
    assert () == await process.models.versions(BOB, "a/b")
    assert () == await process.models.versions(None, "a/b")
    assert [ANN.id] == [who for who, what in process.replicate.asked if what == "a/b:versions"]


@in_virtual_time
async def test_a_fresh_row_is_read_once_and_shown_to_its_readers_alone():
    process = a_process("a/b", readers=["account ann"])
    await process.ask("a/b", ANN)
    await process.ask("a/b", ANN)
    read, known_model = [], process.ledger.known_model
    process.ledger.known_model = lambda *given, **more: read.append(given[1]) or known_model(*given, **more)

    for caller in (ANN, ANN_TOO, ANN):
        assert V1 == (await process.ask("a/b", caller)).version
    assert [] == read
    assert await process.models.public("a/b") is None
    assert (await process.ask("a/b", BOB)).is_missing
    assert read

    read.clear()
    process.replicate.publish("a/b", V2, readers=["account ann"])
    await asyncio.sleep(LATEST_FOR)
    assert V2 == (await process.ask("a/b", ANN)).version
    assert read


@in_virtual_time
async def test_a_version_is_looked_up_once_and_compiled_once():
    process = a_process("a/b")

    for _ in range(3):
        known = await process.ask(f"a/b:{V1}")
        await asyncio.sleep(100 * LATEST_FOR)
    process.replicate.error = away()

    assert (f"a/b:{V1}", V1, "form of 1", False) == (known.name, known.version, known.form, known.is_stale)
    assert known == await process.beside().ask(f"a/b:{V1}")
    assert [(ADMIN.id, "a/b")] == process.replicate.asked, "the answer about the model has its latest version"
    assert [V1] == process.compiled


@in_virtual_time
async def test_the_compiled_schemas_in_memory_are_those_that_were_used_last():
    process = a_process("a/b")
    await process.ask("a/b")
    for number in range(FORMS):
        process.replicate.publish(f"c/{number}", f"{number:064x}")
        assert "form of 0" == (await process.ask(f"c/{number}")).form
    process.compiled.clear()

    for number in reversed(range(FORMS)):
        await process.ask(f"c/{number}")
    assert [] == process.compiled
    assert "form of 1" == (await process.ask("a/b")).form
    assert [V1] == process.compiled


@in_virtual_time
async def test_the_latest_version_is_asked_for_again_after_ten_minutes_and_the_one_before_stays_known():
    process = a_process("a/b")
    await process.ask("a/b")
    process.replicate.publish("a/b", V2)

    await asyncio.sleep(LATEST_FOR - 0.5)
    assert V1 == (await process.ask("a/b")).version
    await asyncio.sleep(0.5)
    assert (V2, "form of 2") == ((found := await process.ask("a/b")).version, found.form)

    assert "form of 1" == (await process.ask(f"a/b:{V1}")).form
    assert 2 == len(process.replicate.asked)


@in_virtual_time
async def test_an_older_answer_is_used_while_replicate_does_not_answer_and_is_marked_as_stale():
    process = a_process("a/b")
    first = await process.ask("a/b")
    await asyncio.sleep(LATEST_FOR)
    process.replicate.error = away()

    for _ in range(5):  # only the first of them is another look-up
        assert replace(first, is_stale=True) == await process.ask("a/b")
        assert replace(first, is_stale=True) == await process.beside().ask("a/b", BOB)
    assert 2 == len(process.replicate.asked)

    await asyncio.sleep(FAILED_FOR)
    process.replicate.error = None
    assert not (await process.ask("a/b")).is_stale
    assert 3 == len(process.replicate.asked)


@pytest.mark.parametrize("error", [away(), away(is_final=True), TokenRejected()])
@in_virtual_time
async def test_a_failed_look_up_is_told_if_nothing_is_known_or_the_failure_is_final(error):
    process = a_process("a/b", "a/c")
    await process.ask("a/b")
    await asyncio.sleep(LATEST_FOR)
    process.replicate.error = error

    with pytest.raises(type(error)):
        await process.ask("a/c")
    if not error.retryable:
        with pytest.raises(type(error)):
            await process.ask("a/b")

    process.replicate.error = None
    assert V1 == (await process.ask("a/c")).version, "it is asked again at once"


@in_virtual_time
async def test_a_model_is_missing_for_a_minute():
    process = a_process()

    for _ in range(2):
        assert (await process.ask("a/b")).is_missing
        assert (await process.ask(f"a/b:{V1}")).is_missing
    assert 1 == len(process.replicate.asked)
    process.replicate.publish("a/b")
    await asyncio.sleep(MISSING_FOR - 1)
    assert (await process.beside().ask("a/b")).is_missing
    await asyncio.sleep(2)

    assert [V1, V1] == [(await process.ask(name)).version for name in ("a/b", f"a/b:{V1}")]


# ── Who may know it


@in_virtual_time
async def test_a_private_model_is_known_to_the_account_that_has_read_it_and_to_no_other():
    process = a_process("ann/her", readers=["account ann"])

    mine = await process.ask("ann/her", ANN)

    assert (V1, "form of 1", True) == (mine.version, mine.form, mine.is_private)
    assert mine == await process.beside().ask("ann/her", ANN_TOO)
    assert V1 == (await process.models.version(ANN_TOO, V1)).version
    assert 1 == len(process.replicate.asked)
    for stranger in (BOB, user("x"), ADMIN):
        assert (await process.ask("ann/her", stranger)).is_missing
        assert (await process.ask(f"ann/her:{V1}", stranger)).is_missing
        assert await process.models.version(stranger, V1) is None
    assert 4 == len(process.replicate.asked)
    assert await process.models.public("ann/her") is None
    assert [] == list(await process.models.search("", limit=9))


@in_virtual_time
async def test_callers_of_unknown_accounts_share_nothing_private():
    one, other = user("x"), user("y")
    process = a_process("z/z", readers=["unproven"])

    assert not (await process.ask("z/z", one)).is_missing
    process.replicate.readers["z/z"] = []

    assert (await process.ask("z/z", other)).is_missing
    assert V1 == (await process.ask("z/z", one)).version
    assert V1 == (await process.ask("z/z", replace(one, turn="account one"))).version


@in_virtual_time
async def test_a_public_model_is_known_to_all_and_without_a_key():
    process = a_process("a/b", description="It draws.")

    known = await process.ask("a/b", ANN)

    assert known == await process.ask("a/b", BOB) == await process.models.public("a/b")
    assert known.form == (await process.models.public(f"a/b:{V1}")).form
    assert known.form == (await process.models.version(BOB, V1)).form
    assert [replace(known, form=None)] == list(await process.models.search("draws", limit=9))
    assert 1 == len(process.replicate.asked)


@in_virtual_time
async def test_a_version_is_as_public_and_as_official_as_its_model_which_is_looked_up_with_it():
    process = a_process("a/b", is_official=True)
    process.replicate.publish("a/c", readers=["account ann"])
    process.replicate.versions |= {f"a/b:{V2}": model("a/b", V2), f"a/c:{V2}": model("a/c", V2)}

    assert (await process.ask(f"a/b:{V2}", ANN)).is_official
    assert (V2, False) == ((known := await process.models.public(f"a/b:{V2}")).version, known.is_private)
    assert (await process.ask(f"a/c:{V2}", ANN)).is_private
    assert await process.models.public(f"a/c:{V2}") is None
    assert ["a/b", f"a/b:{V2}", "a/c", f"a/c:{V2}"] == [what for _, what in process.replicate.asked]


@in_virtual_time
async def test_no_version_is_asked_for_of_a_model_that_is_missing():
    process = a_process()

    assert (await process.ask(f"a/b:{V2}")).is_missing
    assert [(ADMIN.id, "a/b")] == process.replicate.asked


@in_virtual_time
async def test_a_version_is_found_although_the_answer_about_its_model_cannot_be_read():
    process = a_process("a/b")
    process.replicate.errors["a/b"] = away(is_final=True)

    known = await process.ask(f"a/b:{V1}")

    assert (V1, None, True) == (known.version, known.is_official, known.is_private)


@pytest.mark.parametrize("end", ["becomes private", "is deleted"])
@in_virtual_time
async def test_a_model_that_is_public_no_more_is_not_shown_without_a_key(end):
    process = a_process("ann/her")
    await process.ask("ann/her", BOB)
    await asyncio.sleep(LATEST_FOR)
    if end == "is deleted":
        del process.replicate.models["ann/her"]
    else:
        process.replicate.publish("ann/her", readers=["account ann"])

    assert (await process.ask("ann/her", ANN)).is_missing == (end == "is deleted")

    assert await process.models.public("ann/her") is None
    assert [] == list(await process.models.search("", limit=9))


@in_virtual_time
async def test_a_deployment_belongs_to_its_account_and_has_the_schema_of_its_release():
    process = a_process("a/b")
    process.replicate.deployments["ann/fast"] = model(
        "deployments/ann/fast", V1, schema=None, release=("a/b", V1)
    )
    process.replicate.readers["ann/fast"] = ["account ann"]

    mine = await process.ask("deployments/ann/fast", ANN)

    assert ("deployments/ann/fast", "a/b", V1, "form of 1") == (
        mine.name,
        mine.model,
        mine.version,
        mine.form,
    )
    assert mine.is_private
    assert (await process.ask("deployments/ann/fast", BOB)).is_missing
    assert mine == await process.ask("deployments/ann/fast", ANN_TOO)
    assert ["deployments/ann/fast", "a/b", "deployments/ann/fast"] == [
        name for _, name in process.replicate.asked
    ]


@in_virtual_time
async def test_a_deployment_without_a_usable_release_changes_no_schema():
    process = a_process("a/b")
    process.replicate.deployments["ann/fast"] = model("deployments/ann/fast", V1, schema=None)
    await process.ask("a/b")

    assert (await process.ask("deployments/ann/fast")).is_private

    assert "form of 1" == (await process.beside().ask("a/b")).form


@in_virtual_time
async def test_what_the_simulator_says_is_not_used_for_replicate():
    process = a_process("a/b")
    simulating = Process(process.replicate, process.rows, simulated=True)

    await simulating.ask("a/b")
    process.replicate.publish("a/b", V2)

    assert V2 == (await process.ask("a/b")).version
    assert await process.models.version(ADMIN, V1) is None


# ── Once for all that ask


@in_virtual_time
async def test_all_that_ask_at_once_in_several_processes_share_one_look_up():
    one = a_process("a/b")
    other = one.beside()

    found = await asyncio.gather(
        *(
            each.ask("a/b", caller)
            for each in (one, other)
            for caller in (ADMIN, ANN, ANN_TOO, BOB, user("x"))
        )
    )

    assert {V1} == {each.version for each in found}
    assert 1 == len(one.replicate.asked)


@in_virtual_time
async def test_the_look_up_of_a_process_that_died_is_taken_over():
    one = a_process("a/b")
    other = one.beside()
    looking = asyncio.create_task(one.ask("a/b"))
    await asyncio.sleep(0.1)
    one.ledger.crash()

    began = asyncio.get_running_loop().time()
    assert V1 == (await other.ask("a/b")).version

    assert LONGEST == pytest.approx(asyncio.get_running_loop().time() - began, abs=0.5)
    assert 2 == len(one.replicate.asked)
    looking.cancel()


@in_virtual_time
async def test_a_slow_look_up_that_was_taken_over_leaves_the_other_one_alone():
    one = a_process("a/b")
    other, third = one.beside(), one.beside("third")
    one.replicate.seconds = LONGEST + 1
    slow = asyncio.create_task(one.ask("a/b"))
    await asyncio.sleep(0.1)
    second = asyncio.create_task(other.ask("a/b"))
    await asyncio.sleep(LONGEST + 2)

    assert slow.done()
    assert not second.done()
    assert V1 == (await third.ask("a/b")).version
    assert 2 == len(one.replicate.asked)
    await second


@in_virtual_time
async def test_a_caller_waits_for_at_most_one_look_up_of_a_stranger():
    """However many strangers look it up in vain."""
    process = a_process("ann/her", readers=["account ann"])
    process.replicate.seconds = 5.0
    strangers = [
        asyncio.create_task(process.ask("ann/her", user(str(number), f"s{number}"))) for number in range(50)
    ]
    await asyncio.sleep(0.1)

    began = asyncio.get_running_loop().time()
    assert V1 == (await process.ask("ann/her", ANN)).version

    assert asyncio.get_running_loop().time() - began < 11.0
    assert all(each.is_missing for each in await asyncio.gather(*strangers))


@in_virtual_time
async def test_a_caller_who_leaves_does_not_end_the_look_up_of_the_others():
    process = a_process("a/b")
    first, second = (asyncio.create_task(process.ask("a/b")) for _ in range(2))
    await asyncio.sleep(0.1)

    first.cancel()

    assert V1 == (await second).version
    assert 1 == len(process.replicate.asked)


# ── The ledger


@in_virtual_time
async def test_a_look_up_is_refused_while_the_ledger_cannot_be_written_and_what_is_known_is_not():
    process = a_process("a/b", "a/c")
    await process.ask("a/b")
    process.ledger.trouble = "The disk is full."

    assert V1 == (await process.ask("a/b")).version
    with pytest.raises(LedgerDown):
        await process.ask("a/c")
    assert 1 == len(process.replicate.asked)


@in_virtual_time
async def test_an_answer_that_cannot_be_written_is_not_used():
    process = a_process("a/b")
    asking = asyncio.create_task(process.ask("a/b"))
    await asyncio.sleep(0.1)
    process.ledger.trouble = "The disk is full."

    with pytest.raises(LedgerDown):
        await asking


@in_virtual_time
async def test_missing_models_and_ended_look_ups_are_deleted_after_an_hour_and_nothing_else():
    process = a_process("a/b")
    tidying = asyncio.create_task(process.models.run())
    await process.ask("a/b")
    await process.ask("a/missing")
    await process.ask("ann/her", ANN)
    await asyncio.sleep(4000)
    await process.ask("a/later")

    await asyncio.sleep(3300)

    assert {"a/b", f"a/b:{V1}", "a/later"} == {each.name for each in process.ledger.all(ModelRecord)}
    assert {"a/later"} == {each.name for each in process.ledger.all(LookupRecord)}
    tidying.cancel()


# ── A thousand calls


@contextmanager
def on_sqlite(count):
    assert count == 1
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        url = f"sqlite:///{Path(directory) / 'ledger.db'}"
        yield [stack.enter_context(running(SqlLedger(SqliteBackend(url))))]


@contextmanager
def on_postgres(count):
    with server().schema() as schema, ExitStack() as stack:
        yield [
            stack.enter_context(running(SqlLedger(PostgresBackend(server().url(schema=schema), alone=False))))
            for _ in range(count)
        ]


@pytest.mark.parametrize(("ledgers", "count"), [(on_sqlite, 1), (on_postgres, 3)])
@on_a_loop
async def test_a_thousand_calls_of_twenty_models_are_twenty_look_ups(ledgers, count):
    replicate = Replicate()
    for number in range(20):
        replicate.publish(f"a/{number}", f"{number:064}")
    names = [f"a/{number}" if number < 15 else f"a/{number}:{number:064}" for number in range(20)]
    with ledgers(count) as opened:
        threads = Pool(ThreadPoolExecutor(4))
        processes = [
            PublishedModels(
                ledger=ledger,
                archive=Archive(ledger=ledger, queries=SqlQueries(ledger.engine), threads=threads),
                source=replicate,
                compiled=lambda found: found["of"],
                simulated=False,
            )
            for ledger in opened
        ]

        async def call(number):
            name = names[number % 20]
            caller = (ADMIN, ANN, BOB, user("x"))[number // 20 % 4] if ":" not in name else ADMIN
            await asyncio.sleep(number % 7 / 20)
            return await processes[number % count].facts(caller, name)

        found = await asyncio.gather(*map(call, range(1000)))
        threads.close()

    assert {f"{number:064}" for number in range(20)} == {each.form for each in found}
    assert sorted(f"a/{number}" for number in range(20)) == sorted(name for _, name in replicate.asked)
