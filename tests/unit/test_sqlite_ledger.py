"""The ledger's writer: a flushed record is on disk, and records that cannot be written are kept until they can."""

import asyncio
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import event
from structlog.testing import capture_logs

from errors import LedgerDown
from harness.service_process import until
from ledger import Page, Period
from ledger.migrations import STEPS, TooNew, migrate
from ledger.queries import SqlQueries
from ledger.records import BatchRecord, GenerationRecord
from ledger.sqlite import SqliteBackend
from ledger.tables import METADATA
from ledger.writer import SqlLedger
from tests.support.ledgers import running, write
from tests.support.records import generation

PRESENT = 1 + len(STEPS)
"""The version of a new ledger."""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "there" / "ledger.db"


def opened(path, *, connections=None, backend=SqliteBackend, **options):
    """A ledger that runs while the block does. All its connections are added to `connections`."""
    ledger = SqlLedger(backend(f"sqlite:///{path}"))
    if connections is not None:
        event.listen(ledger.engine, "connect", lambda connection, _: connections.append(connection))
    return running(ledger, **options)


def on_disk(path) -> dict[str, str]:
    """The state of each generation, as another process reads it."""
    with closing(sqlite3.connect(path)) as other:
        return dict(other.execute("SELECT id, state FROM generations ORDER BY seq"))


@contextmanager
def locked(path):
    """Hold an exclusive lock on the file from another connection."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


def test_a_flushed_record_is_read_by_another_process(path):
    with opened(path) as ledger:
        write(ledger, generation("a"), generation("b"))

        assert {"a": "queued", "b": "queued"} == on_disk(path)


def test_every_commit_waits_for_the_disk(path):
    connections = []
    with opened(path, connections=connections):
        (writer,) = connections
        assert (2, "wal") == (
            writer.execute("PRAGMA synchronous").fetchone()[0],
            writer.execute("PRAGMA journal_mode").fetchone()[0],
        )


def test_a_later_row_replaces_an_earlier_one_with_its_id_and_keeps_its_order(path):
    with opened(path) as ledger:
        write(ledger, generation("a"), generation("b"))
        write(ledger, generation("a", state="running"), generation("a", state="succeeded"))

        assert [("a", "succeeded"), ("b", "queued")] == list(on_disk(path).items())


def test_a_burst_is_one_transaction(path):
    connections, statements = [], []
    with opened(path, connections=connections) as ledger:
        connections[0].set_trace_callback(statements.append)
        write(ledger, *(generation(f"g{number}") for number in range(1000)))

        assert 1000 == len(on_disk(path))
        assert 2 >= sum(statement == "COMMIT" for statement in statements)


def test_a_change_is_written_soon_without_a_flush(path):
    with opened(path) as ledger:

        async def story():
            ledger.upsert(generation("a"))
            while not on_disk(path):  # noqa: ASYNC110 - written in another thread
                await asyncio.sleep(0.001)

        asyncio.run(asyncio.wait_for(story(), 10))


def test_close_writes_pending_records(path):
    with opened(path) as ledger:

        async def story():
            ledger.upsert(generation("a"))

        asyncio.run(story())

    assert {"a": "queued"} == on_disk(path)


def test_close_writes_works_marked_as_dirty(path):
    with opened(path) as ledger:

        async def story():
            ledger.mark_dirty(SimpleNamespace(id="a", record=lambda: generation("a", state="running")))

        asyncio.run(story())

    assert {"a": "running"} == on_disk(path)


def test_a_row_is_removed_whether_it_was_written_or_not(path):
    with opened(path) as ledger:
        write(ledger, generation("a"))

        async def story():
            ledger.upsert(generation("b"))
            ledger.delete(GenerationRecord, "a")
            ledger.delete(GenerationRecord, "b")
            await ledger.flush()

        asyncio.run(story())

        assert {} == on_disk(path)


def test_each_of_many_concurrent_flushes_waits_for_its_own_record(path):
    with opened(path) as ledger:

        async def one(name):
            ledger.upsert(generation(name))
            await ledger.flush()
            return name in on_disk(path)

        async def story():
            return await asyncio.gather(*(one(f"g{number}") for number in range(50)))

        assert [True] * 50 == asyncio.run(story())


# ── Failed writes


def test_flush_fails_while_the_file_is_locked_and_the_record_is_written_afterwards(path):
    with opened(path) as ledger:
        with locked(path):
            with pytest.raises(LedgerDown, match="database is locked"):
                write(ledger, generation("a"))
            assert "database is locked" in ledger.trouble
        until(lambda: ledger.trouble is None)

        until(lambda: on_disk(path) == {"a": "queued"})


def test_a_record_refused_by_a_full_disk_is_written_once_there_is_space(path):
    connections = []
    with opened(path, connections=connections) as ledger:
        (writer,) = connections
        pages = writer.execute("PRAGMA page_count").fetchone()[0]
        writer.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(LedgerDown, match="disk is full"):
            write(ledger, generation("a", request="x" * 100_000))

        until(lambda: on_disk(path) == {"a": "queued"})
        until(lambda: ledger.trouble is None)


def test_a_corrupt_file_is_left_unchanged_and_the_ledger_opens_once_it_is_removed(path):
    path.parent.mkdir()
    path.write_bytes(b"no database at all" * 1000)
    taken_up = threading.Event()
    with opened(path, on_open=taken_up.set) as ledger:
        assert "file is not a database" in ledger.trouble
        with pytest.raises(LedgerDown):
            write(ledger, generation("a"))
        assert path.read_bytes() == b"no database at all" * 1000
        assert not taken_up.is_set()

        path.unlink()

        until(taken_up.is_set)
        until(lambda: on_disk(path) == {"a": "queued"})


def gone(path):
    for each in path.parent.glob("ledger.db*"):
        if each.suffix != ".lock":
            each.unlink(missing_ok=True)


def another(path):
    gone(path)
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE something (of TEXT)")


def another_ledger(path):
    gone(path)
    ledger = SqlLedger(SqliteBackend(f"sqlite:///{path.with_name('another.db')}"))
    ledger.start()
    ledger.close()
    path.with_name("another.db").rename(path)


def removed(log):
    log.unlink()


def another_log(log):
    log.with_name("other").write_bytes(log.read_bytes())
    log.with_name("other").rename(log)


def moved_away_and_an_empty_one_made(log):
    log.rename(log.with_name("away"))
    log.touch()


@pytest.mark.slow
@pytest.mark.parametrize("lost", [removed, another_log, moved_away_and_an_empty_one_made])
@pytest.mark.parametrize("is_read", [False, True])
def test_a_removed_or_replaced_write_ahead_log_loses_no_record(path, lost, is_read):
    """SQLite would go on writing into the nameless log, and a crash would lose all of it."""
    with opened(path) as ledger, capture_logs() as logs:
        write(ledger, generation("a"), generation("b"))
        reading = ledger.engine.connect() if is_read else nullcontext()
        with reading as reader:
            if is_read:
                reader.exec_driver_sql("SELECT * FROM generations").all()
            lost(path.with_name("ledger.db-wal"))
            # The writer checks the files every second. On a slow machine it may have repaired the ledger before this
            # write.
            with suppress(LedgerDown):
                write(ledger, generation("c"))

        until(lambda: "ledger_recovered" in [each["event"] for each in logs])
        assert "ledger.db-wal was removed or replaced" in logs[0]["reason"]
        write(ledger, generation("d"))
        copy = path.with_name("crashed.db")  # the files that a crash would leave
        for end in ("", "-wal"):
            Path(f"{copy}{end}").write_bytes(Path(f"{path}{end}").read_bytes())
        assert dict.fromkeys("abcd", "queued") == on_disk(copy) == on_disk(path)


@pytest.mark.slow
def test_missing_files_are_noticed_without_a_write(path):
    with opened(path) as ledger:
        write(ledger, generation("a"))
        path.with_name("ledger.db-wal").unlink()
        until(lambda: ledger.trouble is not None)
        until(lambda: ledger.trouble is None)

        path.rename(path.with_name("away"))
        until(lambda: ledger.trouble is not None)
        path.with_name("away").rename(path)
        until(lambda: ledger.trouble is None)


@pytest.mark.slow
def test_recovery_of_a_removed_log_waits_for_the_end_of_a_read_transaction(path):
    with opened(path) as ledger:
        write(ledger, generation("a"))
        with ledger.engine.connect() as reader:
            reader.exec_driver_sql("BEGIN")
            reader.exec_driver_sql("SELECT * FROM generations").all()
            write(ledger, generation("b"))
            path.with_name("ledger.db-wal").unlink()
            for name in ("c", "d"):
                with pytest.raises(LedgerDown):
                    write(ledger, generation(name))
            reader.exec_driver_sql("ROLLBACK")

        until(lambda: ledger.trouble is None)
        assert dict.fromkeys("abcd", "queued") == on_disk(path)


@pytest.mark.slow
@pytest.mark.parametrize("lost", [gone, another, another_ledger])
@pytest.mark.parametrize("is_read", [False, True])
def test_a_missing_ledger_is_not_recreated_and_is_used_again_once_restored(path, lost, is_read):
    """With an empty ledger in its place, the service would forget idempotency keys and accepted generations."""
    with opened(path) as ledger:
        write(ledger, generation("a"))
        if is_read:
            assert "queued" == SqlQueries(ledger.engine).generation("a").state
        copy = path.with_name("copy.db")
        with closing(sqlite3.connect(path)) as other:
            other.execute("VACUUM INTO ?", [str(copy)])
        lost(path)
        for name in ("b", "c"):
            with pytest.raises(LedgerDown):
                write(ledger, generation(name))
            ledger.wake()
        assert "start the service again to go on with what is there" in ledger.trouble

        gone(path)
        copy.rename(path)

        until(lambda: ledger.trouble is None)
        write(ledger, generation("d"))
        assert {"a": "queued", "b": "queued", "c": "queued", "d": "queued"} == on_disk(path)


def test_a_restart_without_the_file_begins_an_empty_ledger(path):
    with opened(path) as ledger:
        write(ledger, generation("a"))
    gone(path)

    with opened(path) as ledger:
        write(ledger, generation("b"))
        assert {"b": "queued"} == on_disk(path)


def test_a_directory_that_cannot_be_created_is_reported_as_trouble(tmp_path):
    (tmp_path / "a file").touch()
    with opened(tmp_path / "a file" / "ledger.db") as ledger:
        assert ledger.trouble.startswith("The ledger cannot be written: ")


def test_a_second_process_opens_the_ledger_only_after_the_first_closes_it(path):
    with opened(path) as first:
        second = SqlLedger(SqliteBackend(f"sqlite:///{path}"))
        second.start()
        assert "The ledger cannot be written: another process has it." == second.trouble
        write(first, generation("a"))
    try:
        until(lambda: second.trouble is None)
        write(second, generation("b"))
    finally:
        second.close()

    assert {"a": "queued", "b": "queued"} == on_disk(path)


def test_an_error_while_opening_is_reported_as_trouble_and_retried(path):
    tries = []

    def fails_once():
        tries.append(time.monotonic())
        if len(tries) == 1:
            raise RuntimeError("once")

    with opened(path, on_open=fails_once) as ledger:
        assert ledger.trouble is not None
        until(lambda: ledger.trouble is None)

    assert 2 == len(tries)


@pytest.mark.parametrize(
    "wrong", [{"position": 10**20}, {"caller_id": None}, {"model": object()}, {"state": "\ud800"}]
)
def test_a_refused_row_fails_its_flush_and_blocks_no_other_row(path, wrong):
    with opened(path) as ledger:
        with pytest.raises(LedgerDown, match="1 of 2 changes cannot be written"):
            write(ledger, generation("a", **wrong), generation("b"))
        write(ledger, generation("c"))

        assert {"b": "queued", "c": "queued"} == on_disk(path)
        assert ledger.trouble is None


def test_a_refused_row_does_not_prolong_an_outage(path):
    with opened(path) as ledger:
        with locked(path), pytest.raises(LedgerDown, match="locked"):
            write(ledger, generation("a", caller_id=None), generation("b"))
        until(lambda: ledger.trouble is None)
        write(ledger, generation("c"))

        assert {"b": "queued", "c": "queued"} == on_disk(path)


def test_records_and_dirty_works_of_one_loop_step_are_written_in_one_transaction(path):
    work = SimpleNamespace(id="b", record=lambda: generation("b"))
    with opened(path) as ledger:

        async def story():
            ledger.upsert(generation("a"))
            ledger.mark_dirty(work)
            ledger.wake()
            time.sleep(0.1)  # noqa: ASYNC251 - gives the writer's thread time to write
            before = on_disk(path)
            await ledger.flush()
            return before

        assert {} == asyncio.run(story())
        assert {"a": "queued", "b": "queued"} == on_disk(path)


def test_reopening_the_ledger_keeps_the_locks_of_its_readers(path):
    """If the service gave up those locks, another process that closes its copy would take itself for the last reader
    and remove the log of writes."""
    copy = f"import sqlite3; d = sqlite3.connect({str(path)!r}); d.execute(\"VACUUM INTO '{path}.copy'\"); d.close()"
    with opened(path) as ledger, closing(sqlite3.connect(path)) as reader:
        write(ledger, generation("a"))
        with locked(path), pytest.raises(LedgerDown):
            write(ledger, generation("b"))
        assert 1 == reader.execute("SELECT count(*) FROM generations").fetchone()[0]
        until(lambda: ledger.trouble is None)

        subprocess.run([sys.executable, "-c", copy], check=True)
        write(ledger, generation("c"))

        assert path.with_name("ledger.db-wal").exists()
        counted = "import sqlite3; print(*sqlite3.connect(%r).execute('SELECT count(*) FROM generations').fetchone())"
        told = subprocess.run(
            [sys.executable, "-c", counted % str(path)], check=True, capture_output=True, text=True
        )
        assert "3" == told.stdout.strip()


def test_only_the_user_of_the_service_can_read_a_ledger(path):
    with opened(path) as ledger:
        write(ledger, generation("a"))

        assert {0o600} == {each.stat().st_mode & 0o777 for each in path.parent.iterdir()}
        assert 0o700 == path.parent.stat().st_mode & 0o777


def test_a_work_that_cannot_build_its_record_blocks_no_other_record(path):
    class Broken:
        id = "a"

        def record(self):
            raise RuntimeError("no")

    with opened(path) as ledger:

        async def story():
            ledger.mark_dirty(Broken())
            ledger.upsert(generation("b"))
            await ledger.flush()

        asyncio.run(story())

        assert {"b": "queued"} == on_disk(path)


def test_writes_to_a_full_disk_are_retried_once_a_second_and_close_still_ends(path):
    tries = []

    class Full(SqliteBackend):
        def write(self, changes, claims=()):
            if any(kind is GenerationRecord for kind, _ in changes):
                tries.append(time.monotonic())
                raise sqlite3.OperationalError("database or disk is full")
            return super().write(changes, claims)

    with opened(path, backend=Full) as ledger:
        with pytest.raises(LedgerDown, match="disk is full"):
            write(ledger, generation("a"))
        until(lambda: len(tries) >= 3)

        assert "disk is full" in ledger.trouble
        assert 0.9 <= tries[2] - tries[1]
        ledger.close()
        assert not {each.name for each in threading.enumerate()} & {"ledger"}


# ── Deletions


def ended(name, **facts):
    return generation(name, state="failed", ended_at=9.0, **facts)


def delete(ledger, *works) -> None:
    """Delete these works and flush the deletions to disk. Raises LedgerDown."""

    async def story():
        for kind, work_id in works:
            ledger.delete(kind, work_id)
        await ledger.flush()

    asyncio.run(story())


def counted(ledger) -> int:
    """The number of generations in the usage totals."""
    return SqlQueries(ledger.engine).usage(Period(simulated=True), by=())[0]["generations"]


def test_a_failed_deletion_is_rolled_back_and_its_repetition_counts_once(path):
    with opened(path) as ledger:
        write(ledger, *(ended(f"g{number}") for number in range(3)))
        with ledger.engine.connect() as other:
            other.exec_driver_sql(
                "CREATE TRIGGER no BEFORE DELETE ON generations WHEN old.id = 'g1'"
                " BEGIN SELECT RAISE(ROLLBACK, 'no'); END"
            )
            with pytest.raises(LedgerDown):
                delete(ledger, (GenerationRecord, "g1"))
            assert (3, 3) == (counted(ledger), len(on_disk(path)))
            other.exec_driver_sql("DROP TRIGGER no")

        delete(ledger, *((GenerationRecord, f"g{number}") for number in range(3)))
        delete(ledger, (GenerationRecord, "g1"))

        assert (3, 0) == (counted(ledger), len(on_disk(path)))


@pytest.mark.parametrize("work", [(GenerationRecord, "g"), (BatchRecord, "b")])
def test_a_deletion_and_its_usage_count_are_one_transaction(path, work):
    connections, statements = [], []
    with opened(path, connections=connections) as ledger:
        write(ledger, ended("g", batch_id="b"))
        connections[0].set_trace_callback(statements.append)
        delete(ledger, work)

        first = statements.index("BEGIN IMMEDIATE")
        last = statements.index("COMMIT")
        changing = [at for at, each in enumerate(statements) if each.startswith(("INSERT", "DELETE"))]
        assert changing
        assert first < min(changing) <= max(changing) < last
        assert (1, {}) == (counted(ledger), on_disk(path))


def test_the_space_of_deleted_rows_is_reused(path):
    def pages():
        with closing(sqlite3.connect(path)) as other:
            return other.execute("PRAGMA page_count").fetchone()[0]

    with opened(path) as ledger:
        write(ledger, *(ended(f"a{number:04}", prompt="x" * 500) for number in range(500)))
        before = pages()
        delete(ledger, *((GenerationRecord, f"a{number:04}") for number in range(500)))
        write(ledger, *(ended(f"b{number:04}", prompt="x" * 500) for number in range(500)))

        assert 1.05 * before > pages()


# ── Versions


def tables(connection) -> set[str]:
    return {
        name for (name,) in connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type='table'")
    }


def version(connection) -> int:
    return connection.exec_driver_sql("PRAGMA user_version").scalar_one()


def test_a_new_ledger_has_all_tables_and_the_current_version(path):
    with opened(path) as ledger, ledger.engine.connect() as connection:
        assert set(METADATA.tables) <= tables(connection)
        assert PRESENT == version(connection)


def test_migration_runs_each_step_once_and_keeps_the_rows(path):
    steps = (
        lambda driver: driver.execute("ALTER TABLE generations ADD COLUMN mood TEXT"),
        lambda driver: driver.execute("UPDATE generations SET mood = 'calm'"),
    )
    with opened(path) as ledger:
        write(ledger, generation("a"))
        with ledger.engine.connect() as connection:
            migrate(connection, (*STEPS, *steps))
            migrate(connection, (*STEPS, *steps))

            assert [("a", "calm")] == list(connection.exec_driver_sql("SELECT id, mood FROM generations"))
            assert PRESENT + 2 == version(connection)


def test_a_failed_migration_step_is_rolled_back(path):
    def fails(driver):
        driver.execute("ALTER TABLE generations ADD COLUMN mood TEXT")
        raise RuntimeError("half way")

    with opened(path) as ledger, ledger.engine.connect() as connection:
        with pytest.raises(RuntimeError):
            migrate(connection, (*STEPS, fails))

        assert PRESENT == version(connection)
        columns = [name for _, name, *_ in connection.exec_driver_sql("PRAGMA table_info(generations)")]
        assert "mood" not in columns


def test_a_ledger_of_a_later_version_is_refused(path):
    with opened(path) as ledger, ledger.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA user_version = 999")
        with pytest.raises(TooNew):
            migrate(connection)
    with opened(path) as ledger:
        assert f"it is of version 999, and this service knows {PRESENT}" in ledger.trouble


# ── Queries


def test_a_query_of_an_unreadable_ledger_raises_ledgerdown(path):
    with opened(path) as ledger:
        queries = SqlQueries(ledger.engine)
        with ledger.engine.connect() as connection:
            connection.exec_driver_sql("DROP TABLE generations")

        with pytest.raises(LedgerDown, match="The ledger cannot be read"):
            queries.generation("a")


def test_a_page_has_only_the_latest_generations_of_its_caller(path):
    with opened(path) as ledger:
        write(
            ledger,
            generation("a"),
            generation("b", caller_id="other"),
            generation("c", state="failed"),
            generation("d", model="n"),
        )
        queries = SqlQueries(ledger.engine)

        def ids(**wanted):
            return [each.id for each in queries.page(Page("admin", **{"limit": 9, **wanted}))]

        assert ["d", "c", "a"] == ids()
        assert ["d", "c"] == ids(limit=2)
        assert ["a"] == ids(before=queries.generation("c").seq)
        assert ["c"] == ids(state="failed")
        assert ["d"] == ids(model="n")
        assert [] == ids(since=2.0)
