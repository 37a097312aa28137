"""The ledger in PostgreSQL: one process owns it, outages lose no record, and errors name the remedy."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import psycopg
import pytest
from structlog.testing import capture_logs

from app import main
from contract.trainings import TRAINING
from errors import LedgerDown
from harness.postgres import server
from harness.service_process import until
from ledger import HASH_KEY, Page, Period
from ledger.claims import ClaimKeys, ClaimSuspended
from ledger.json_rows import statements_of
from ledger.model_records import LookupRecord, ModelRecord, RunRecord, SchemaRecord, TrainedModelRecord
from ledger.postgres import PostgresBackend
from ledger.queries import SqlQueries
from ledger.records import BatchRecord, GenerationRecord, KeyRecord
from ledger.sqlite import SqliteBackend
from ledger.writer import SqlLedger
from tests.support.kept_ledgers import unpacked
from tests.support.ledgers import running, write
from tests.support.pooler import pooled
from tests.support.records import generation


@pytest.fixture
def schema():
    with server().schema() as name:
        yield name


@pytest.fixture
def url(schema):
    return server().url(schema=schema)


def backend(url, *, ttl=2.0):
    return PostgresBackend(url, ttl=ttl)


def opened(url, *, backend=backend, **hooks):
    """A ledger that runs while the block does."""
    return running(SqlLedger(backend(url)), **hooks)


def states(ledger) -> dict[str, str]:
    """The state of each generation."""
    return {each.id: each.state for each in SqlQueries(ledger.engine).page(Page("admin", 99))}


# ── Writes


@pytest.mark.parametrize(
    "wrong",
    [
        {"position": 10**20},
        {"caller_id": None},
        {"model": object()},
        {"state": "\ud800"},
        {"batch_id": "x" * 100_000 + "".join(map(chr, range(300, 9000)))},
    ],
    ids=["number", "null", "object", "surrogate", "index"],
)
def test_a_refused_row_fails_its_flush_and_blocks_no_other_row(url, wrong):
    with opened(url) as ledger:
        with pytest.raises(LedgerDown, match="1 of 2 changes cannot be written"):
            write(ledger, generation("a", **wrong), generation("b"))
        write(ledger, generation("c"))

        assert {"b", "c"} == states(ledger).keys()
        assert ledger.trouble is None


def test_nul_characters_are_replaced_in_rows_and_in_questions(url):
    with opened(url) as ledger:
        write(
            ledger,
            generation("a", prompt="a\0b", outputs=("text\0",)),
            KeyRecord("admin", "k\0", "f", "a", 1.0),
        )
        queries = SqlQueries(ledger.engine)

        found = queries.generation("a")
        assert ("a\ufffdb", ("text\0",)) == (found.prompt, found.outputs)
        assert "a" == queries.key("admin", "k\0").work_id
        assert queries.generation("a\0") is None


def test_a_burst_is_one_transaction(url, schema):
    with opened(url) as ledger:
        write(ledger, *(generation(f"g{number}") for number in range(1000)))

        (transactions,) = server().execute(f"SELECT count(DISTINCT xmin::text) FROM {schema}.generations")[0]
        assert 2 >= transactions


def test_a_commit_waits_for_the_disk_although_the_role_does_not(schema):
    server().execute(
        "CREATE ROLE hasty LOGIN",
        "ALTER ROLE hasty SET synchronous_commit = off",
        f"GRANT ALL ON SCHEMA {schema} TO hasty",
    )
    try:
        with opened(server().url(user="hasty", schema=schema)) as ledger:
            server().execute(
                f"CREATE FUNCTION {schema}.seen() RETURNS trigger LANGUAGE plpgsql AS"
                " $$ BEGIN NEW.prompt = current_setting('synchronous_commit'); RETURN NEW; END $$",
                f"CREATE TRIGGER seen BEFORE INSERT ON {schema}.generations FOR EACH ROW"
                f" EXECUTE FUNCTION {schema}.seen()",
            )
            write(ledger, generation("a"))

            assert "on" == SqlQueries(ledger.engine).generation("a").prompt
    finally:
        server().execute("DROP OWNED BY hasty", "DROP ROLE hasty")


@pytest.mark.parametrize("kind", [GenerationRecord, BatchRecord])
def test_a_generation_that_another_process_deletes_at_the_same_moment_is_not_counted_twice(url, schema, kind):
    ended = generation("a", batch_id="batch", state="succeeded", ended_at=1.0, cost_usd=0.5)
    with opened(url) as ledger, ThreadPoolExecutor(1) as threads:
        write(ledger, ended)
        with psycopg.connect(url) as other:
            other.execute("DELETE FROM generations")

            async def delete():
                ledger.delete(kind, "a" if kind is GenerationRecord else "batch")
                await ledger.flush()

            deleted = threads.submit(asyncio.run, delete())
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            until(lambda: 0 < server().execute(waiting)[0][0])
        deleted.result()

        [total] = SqlQueries(ledger.engine).usage(Period(simulated=True), by=())
        assert 0 == total["generations"]


# ── One process


def test_a_second_process_is_refused_until_the_first_closes_the_ledger(url):
    with opened(url) as first:
        second = SqlLedger(backend(url))
        second.start()
        assert "another process has it" in second.trouble
        with pytest.raises(LedgerDown, match="another process has it"):
            write(second, generation("b"))
        write(first, generation("a"))
    try:
        until(lambda: second.trouble is None)
        until(lambda: {"a", "b"} == states(second).keys())
    finally:
        second.close()


def test_of_processes_that_start_at_once_one_gets_the_ledger_and_all_agree_on_its_secret(url):
    ledgers = [SqlLedger(backend(url)) for _ in range(4)]
    secrets = []

    def start(ledger):
        ledger.start(on_open=lambda: secrets.append(SqlQueries(ledger.engine).meta(HASH_KEY)))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(start, ledgers))
    try:
        for owners in range(4):
            until(lambda: any(each.trouble is None for each in ledgers))
            (owner,) = [each for each in ledgers if each.trouble is None]
            assert owners + 1 == len(secrets)
            owner.close()
            ledgers.remove(owner)
    finally:
        for each in ledgers:
            each.close()

    assert 1 == len(set(secrets))
    assert 32 == len(secrets[0])


class Silent(PostgresBackend):
    """A process that is stopped: it writes nothing while `is_stopped` is set."""

    is_stopped = threading.Event()

    def write(self, changes, claims=()):
        while self.is_stopped.is_set():
            threading.Event().wait(0.01)
        return super().write(changes, claims)


def test_a_process_that_was_silent_for_too_long_writes_nothing_any_more_and_must_end(url):
    taken_over = threading.Event()
    with opened(url, backend=lambda url: Silent(url, ttl=2.0), on_taken_over=taken_over.set) as first:
        write(first, generation("a"))
        Silent.is_stopped.set()
        try:
            with opened(url) as second:
                until(lambda: second.trouble is None)
                write(second, generation("b"))
                Silent.is_stopped.clear()

                with pytest.raises(LedgerDown, match="another process has taken it over"):
                    write(first, generation("c"))

                assert taken_over.wait(10)
                first.wake()
                with pytest.raises(LedgerDown, match="another process has taken it over"):
                    write(first, generation("d"))
                assert {"a", "b"} == states(second).keys()
        finally:
            Silent.is_stopped.clear()


def test_a_process_has_a_minute_to_read_the_ledger_before_its_first_write(url, schema):
    seconds = []

    def on_open():
        seconds.extend(
            server().execute(f"SELECT extract(epoch FROM until - now())::float FROM {schema}.processes")[0]
        )

    with opened(url, on_open=on_open) as ledger:
        write(ledger, generation("a"))
        (left,) = server().execute(f"SELECT until < now() + interval '3 s' FROM {schema}.processes")[0]

    assert 30 < seconds[0] <= 60
    assert left


# ── Outages


def test_a_restart_of_the_server_loses_nothing_and_the_ledger_comes_back_by_itself(own_server):
    with (
        own_server.schema() as schema,
        opened(own_server.url(schema=schema), backend=PostgresBackend) as ledger,
    ):
        write(ledger, generation("a"))
        assert {"a"} == states(ledger).keys()
        own_server.stop()
        with pytest.raises(LedgerDown, match="The ledger cannot be written"):
            write(ledger, generation("b"))
        with pytest.raises(LedgerDown, match="The ledger cannot be read"):
            states(ledger)

        own_server.start()

        until(lambda: ledger.trouble is None)
        until(lambda: {"a", "b"} == states(ledger).keys())


def test_a_connection_that_died_unnoticed_fails_no_query_and_is_replaced(schema):
    with pooled(server()) as pooler, opened(through(pooler, schema)) as ledger:
        write(ledger, generation("a"))
        assert {"a"} == states(ledger).keys()
        pooler.break_all()

        assert {"a"} == states(ledger).keys()
        ledger.wake()
        until(lambda: ledger.trouble is None)
        until(lambda: _written(ledger, "b"))
        assert {"a", "b"} == states(ledger).keys()


def _written(ledger, name) -> bool:
    try:
        write(ledger, generation(name))
    except LedgerDown:
        return False
    return True


def test_an_empty_database_in_place_of_the_ledger_is_refused_and_stays_empty(url, schema):
    """With an empty ledger, the service would forget idempotency keys and accepted generations."""
    with opened(url) as ledger:
        write(ledger, generation("a"))
        server().execute(f"ALTER SCHEMA {schema} RENAME TO {schema}_away", f"CREATE SCHEMA {schema}")
        until(lambda: ledger.trouble is not None and "it is another ledger" in ledger.trouble)
        assert [] == server().execute(f"SELECT tablename FROM pg_tables WHERE schemaname = '{schema}'")

        server().execute(f"DROP SCHEMA {schema}", f"ALTER SCHEMA {schema}_away RENAME TO {schema}")

        until(lambda: ledger.trouble is None)
        assert {"a"} == states(ledger).keys()


# ── Errors that an operator has to mend


def test_a_role_that_may_not_create_tables_reads_the_grant_to_type(schema):
    server().execute("CREATE ROLE plain LOGIN", f"GRANT USAGE ON SCHEMA {schema} TO plain")
    grant = f'GRANT CREATE ON SCHEMA "{schema}" TO "plain"'
    try:
        with opened(server().url(user="plain", schema=schema)) as ledger:
            assert grant in ledger.trouble

            server().execute(grant)

            until(lambda: ledger.trouble is None)
            write(ledger, generation("a"))
    finally:
        server().execute("DROP OWNED BY plain", "DROP ROLE plain")


def test_a_schema_that_does_not_exist_is_reported():
    with opened(server().url(schema="nowhere")) as ledger:
        assert "no schema of the search path exists" in ledger.trouble


def test_too_few_connections_are_logged_at_the_start(schema):
    server().execute("CREATE ROLE narrow LOGIN CONNECTION LIMIT 3", f"GRANT ALL ON SCHEMA {schema} TO narrow")
    try:
        with capture_logs() as logs, opened(server().url(user="narrow", schema=schema)) as ledger:
            assert ledger.trouble is None
    finally:
        server().execute("DROP OWNED BY narrow", "DROP ROLE narrow")

    assert [5] == [each["needed"] for each in logs if each["event"] == "ledger_connections_few"]


# ── Poolers and the network


def test_a_pooler_that_gives_each_transaction_another_connection_serves_all(url, schema):
    with pooled(server()) as pooler:
        with opened(through(pooler, schema)) as ledger:
            before = pooler.connections
            for number in range(5):
                write(ledger, generation(f"g{number}"))
            write(ledger, *(generation(f"h{number}") for number in range(50)))
            for _ in range(5):
                assert 55 == len(states(ledger))
            assert before + 10 < pooler.connections
        with opened(url) as ledger:
            assert 55 == len(states(ledger))


def backends() -> set[int]:
    """The processes of the server that serve connections, but for this one."""
    query = "SELECT pid FROM pg_stat_activity WHERE datid IS NOT NULL AND pid <> pg_backend_pid()"
    return {pid for (pid,) in server().execute(query)}


def impatient(url):
    return PostgresBackend(url, patience=0.3)


def test_a_silent_connection_is_given_up_and_what_it_delivers_late_changes_nothing(schema):
    with pooled(server()) as pooler, opened(through(pooler, schema), backend=impatient) as ledger:
        write(ledger, generation("a"))
        assert {"a"} == states(ledger).keys()
        before = backends()
        pooler.silence()

        with pytest.raises(LedgerDown, match="the server has not answered"):
            write(ledger, generation("a", state="submitting"))
        assert {"a"} == states(ledger).keys()
        until(lambda: ledger.trouble is None)
        write(ledger, generation("a", state="running"))
        pooler.resume()
        until(lambda: not before & backends())

        assert {"a": "running"} == states(ledger)


def through(pooler, schema) -> str:
    return server().url(schema=schema, host="127.0.0.1", port=str(pooler.port))


# ── A move from SQLite


@pytest.fixture
def kept(tmp_path):
    """A ledger of 0.4.0."""
    return unpacked(tmp_path / "old", 1_800_000_000).directory / "ledger.db"


def _facts(records):
    """The records without their processes. The first one that opens a ledger takes over or suspends its work."""
    unowned = dict.fromkeys(("process", "taken_at", "suspended_at"))
    return [
        replace(each, **{name: unowned[name] for name in unowned if hasattr(each, name)}) for each in records
    ]


def everything(queries) -> list[object]:
    periods = [Period(simulated=each) for each in (True, False)]
    return [
        _facts(queries.page(Page("admin", 999))),
        _facts(queries.unfinished()),
        sorted(queries.recent_attempts(0.0), key=lambda each: (each.generation_id, each.number)),
        _facts(sorted(queries.unfinished_batches(), key=lambda each: each.id)),
        sorted(queries.expired_keys(1e12), key=lambda each: (each.caller_id, each.key)),
        _facts(sorted(queries.pending_deliveries(), key=lambda each: each.id)),
        [queries.usage(each, by=by) for each in periods for by in (("model",), ("caller",), ("day",))],
        queries.meta(HASH_KEY),
        queries.meta("name"),
        queries.known_models("", limit=99, simulated=False),
        queries.known_version(["account ann"], VERSION, simulated=False),
        queries.schema(VERSION, simulated=False),
        queries.outdated_models(1e12),
        queries.running_seconds("a/b", simulated=False),
        queries.page(Page("admin", 9, training=True)),
        queries.trained_model(VERSION, simulated=False),
    ]


VERSION = "1" * 64

MODEL = ModelRecord(
    reader="", name="a/b", simulated=False, version=VERSION, is_official=True, description="Fast ☃",
    facts='{"run_count": 3}', looked_up_at=5.5,
)  # fmt: skip

TRAINED = TrainedModelRecord(
    version=VERSION, simulated=False, name="a/b", trainer="a/trainer", work_id="trn_1", trained_at=5.5
)


def test_rows_that_several_processes_write_are_written_in_one_order():
    """Otherwise two of them would wait for each other."""
    records = [
        RunRecord("a/b", False, 7, 2.5),
        MODEL,
        SchemaRecord(VERSION, False, "a/b", b"", 5.5),
        generation("a"),
    ]

    def tables(order):
        changes = {(type(each), (number,)): each for number, each in enumerate(order)}
        return [sql.split()[2] for sql, _ in statements_of(changes)]

    assert ["generations", "schemas", "models", "runs"] == tables(records) == tables(records[::-1])


def test_a_moved_ledger_answers_every_question_as_before_and_continues(kept, url):
    with opened("", backend=lambda _: SqliteBackend(f"sqlite:///{kept}")) as ledger:
        write(
            ledger,
            MODEL,
            replace(MODEL, reader="account ann", name=f"a/b:{VERSION}"),
            replace(MODEL, name="a/c", missing=True),
            SchemaRecord(VERSION, False, "a/b", b"\0\xff", 5.5),
            LookupRecord("", "a/b", False, 6.5, is_over=True),
            RunRecord("a/b", False, 7, 2.5),
            TRAINED,
            generation(
                "trn_1", door=TRAINING, state="succeeded", ended_at=9.0, files=("a.tar",), cost_usd=2.5
            ),
            generation("later", state="failed", ended_at=9.0, outputs=({"a": [1]},), has_secrets=True),
        )

    assert 0 == main(["--move-ledger", f"sqlite:///{kept}", url])

    with opened(url) as ledger:
        assert ledger.trouble is None
        old = SqlQueries(SqliteBackend(f"sqlite:///{kept}").engine)
        assert everything(old) == everything(SqlQueries(ledger.engine))
        last = old.page(Page("admin", 1))[0]
        write(ledger, generation("new"))
        assert last.seq < SqlQueries(ledger.engine).generation("new").seq


def test_a_ledger_is_not_moved_into_one_that_is_not_empty_or_in_use(kept, url, capsys):
    with opened(url) as ledger:
        assert 2 == main(["--move-ledger", f"sqlite:///{kept}", url])
        assert "another process has it" in capsys.readouterr().err
        write(ledger, generation("a"))
    assert 2 == main(["--move-ledger", f"sqlite:///{kept}", url])

    assert "the target is not empty" in capsys.readouterr().err
    with opened(url) as ledger:
        assert {"a"} == states(ledger).keys()


def test_a_ledger_that_a_process_has_is_not_moved(kept, url, schema, capsys):
    with opened("", backend=lambda _: SqliteBackend(f"sqlite:///{kept}")):
        assert 2 == main(["--move-ledger", f"sqlite:///{kept}", url])

    assert "another process has it" in capsys.readouterr().err
    assert [] == server().execute(f"SELECT tablename FROM pg_tables WHERE schemaname = '{schema}'")


@pytest.mark.parametrize("urls", [("sqlite:////nowhere/ledger.db", None), (None, "sqlite:///x"), ("x", None)])
def test_a_move_between_other_urls_is_refused(kept, url, urls, capsys):
    source, target = urls

    assert 2 == main(["--move-ledger", source or f"sqlite:///{kept}", target or url])

    assert "--move-ledger" in capsys.readouterr().err


SECRET = "pa55word%2Fof%40mine"


@pytest.mark.parametrize(
    "rest",
    [
        "@127.0.0.1:1/x",
        "@nowhere.invalid/x",
        "@127.0.0.1:1/x?sslmode=wrong",
        "@/x?host=/nowhere",
        "@here/x?nonsense=1",
    ],
)
def test_no_trouble_and_no_log_has_the_password(rest):
    with capture_logs() as logs:
        try:
            subject = PostgresBackend(f"postgresql://me:{SECRET}{rest}")
        except ValueError as error:
            shown = repr(error)
        else:
            with opened("", backend=lambda _: subject) as ledger:
                with pytest.raises(LedgerDown) as read:
                    states(ledger)
                shown = repr(
                    (
                        ledger.trouble,
                        read.value,
                        subject.location,
                        subject.engine,
                        vars(subject)["engine"].url,
                    )
                )

    assert "pa55word" not in shown + repr(logs)


def test_of_two_equal_claims_in_one_transaction_one_is_made(url):
    one = backend(url)
    one.open()
    try:
        one.write({(GenerationRecord, ("a",)): generation("a", suspended_at=5.0)})

        assert [True, False] == one.write({}, [ClaimSuspended("a")] * 2)
    finally:
        one.close()


def test_a_transaction_that_the_server_ends_for_a_deadlock_is_made_again(url):
    key = KeyRecord("admin", "a", "f", "gen_1", 1.0)
    inserted = "INSERT INTO idempotency_keys VALUES ('admin', '{}', 'f', 'gen_2', 1.0)"
    with opened(url) as ledger, psycopg.connect(url) as other, ThreadPoolExecutor(1) as thread:
        other.execute(
            "SET deadlock_timeout = '1min'"
        )  # so that the server ends the transaction of the ledger
        other.execute(inserted.format("b"))
        asyncio.run(
            _while_claimed(ledger, key, lambda: thread.submit(other.execute, inserted.format("a")), other)
        )

        found = SqlQueries(ledger.engine).keys("admin", ["a", "b"])
        assert ledger.trouble is None
    assert {"a": "gen_1", "b": "gen_1"} == {each.key: each.work_id for each in found}


async def _while_claimed(ledger, key, block, other):
    """Claim the keys `a` and `b`, while the other session, which has locked `b`, waits for `a`, and then gives up."""
    claiming = asyncio.ensure_future(ledger.claim(ClaimKeys((key, replace(key, key="b")))))
    await asyncio.sleep(0.3)
    blocked = asyncio.wrap_future(block())
    await blocked
    other.rollback()
    assert await claiming
