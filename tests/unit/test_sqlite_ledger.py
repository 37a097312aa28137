"""The ledger's writer: what is synced is on the disk, and what cannot be written is kept until it can."""

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
from ledger.sqlite import SqliteLedger
from ledger.tables import METADATA
from tests.support.records import generation

PRESENT = 1 + len(STEPS)
"""The version of a new ledger."""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "there" / "ledger.db"


@contextmanager
def opened(path, *, connections=None, **options):
    """A ledger that runs while the block does. All its connections are added to `connections`."""
    ledger = SqliteLedger(f"sqlite:///{path}")
    if connections is not None:
        event.listen(ledger.engine, "connect", lambda connection, _: connections.append(connection))
    ledger.start(**options)
    try:
        yield ledger
    finally:
        ledger.close()


def write(ledger, *records) -> None:
    """See these records to the disk. Raises LedgerDown."""

    async def story():
        for each in records:
            ledger.upsert(each)
        await ledger.flush()

    asyncio.run(story())


def on_disk(path) -> dict[str, str]:
    """What another process would read: the state of each generation."""
    with closing(sqlite3.connect(path)) as other:
        return dict(other.execute("SELECT id, state FROM generations ORDER BY seq"))


@contextmanager
def locked(path):
    """Somebody else has the file for themselves."""
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


def test_the_later_row_of_a_key_takes_the_place_of_the_earlier_and_keeps_its_place_in_line(path):
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


def test_closing_writes_what_is_pending(path):
    with opened(path) as ledger:

        async def story():
            ledger.upsert(generation("a"))

        asyncio.run(story())

    assert {"a": "queued"} == on_disk(path)


def test_closing_writes_what_was_noted_a_moment_ago(path):
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


def test_many_may_await_at_once_and_each_finds_its_own_on_the_disk(path):
    with opened(path) as ledger:

        async def one(name):
            ledger.upsert(generation(name))
            await ledger.flush()
            return name in on_disk(path)

        async def story():
            return await asyncio.gather(*(one(f"g{number}") for number in range(50)))

        assert [True] * 50 == asyncio.run(story())


# ── What cannot be written


def test_flush_fails_while_the_file_is_locked_and_the_record_is_written_afterwards(path):
    with opened(path) as ledger:
        with locked(path):
            with pytest.raises(LedgerDown, match="database is locked"):
                write(ledger, generation("a"))
            assert "database is locked" in ledger.trouble
        until(lambda: ledger.trouble is None)

        until(lambda: on_disk(path) == {"a": "queued"})


def test_a_full_disk_is_trouble_until_there_is_room_and_what_was_put_is_not_lost(path):
    connections = []
    with opened(path, connections=connections) as ledger:
        (writer,) = connections
        pages = writer.execute("PRAGMA page_count").fetchone()[0]
        writer.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(LedgerDown, match="disk is full"):
            write(ledger, generation("a", request="x" * 100_000))

        until(lambda: on_disk(path) == {"a": "queued"})
        assert ledger.trouble is None


def test_a_broken_file_is_trouble_and_is_not_touched_and_taken_up_once_it_is_mended(path):
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
    ledger = SqliteLedger(f"sqlite:///{path.with_name('another.db')}")
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
def test_a_lost_log_is_noticed_and_what_it_held_is_not_lost(path, lost, is_read):
    """SQLite would keep writing into the log that has no name any more, and a crash would lose all of it."""
    with opened(path) as ledger, capture_logs() as logs:
        write(ledger, generation("a"), generation("b"))
        reading = ledger.engine.connect() if is_read else nullcontext()
        with reading as reader:
            if is_read:
                reader.exec_driver_sql("SELECT * FROM generations").all()
            lost(path.with_name("ledger.db-wal"))
            # The writer looks each second by itself. On a slow machine it may have noticed and mended this before.
            with suppress(LedgerDown):
                write(ledger, generation("c"))

        until(lambda: "ledger_recovered" in [each["event"] for each in logs])
        assert "ledger.db-wal was removed or replaced" in logs[0]["reason"]
        write(ledger, generation("d"))
        copy = path.with_name("crashed.db")  # what a crash would leave
        for end in ("", "-wal"):
            Path(f"{copy}{end}").write_bytes(Path(f"{path}{end}").read_bytes())
        assert dict.fromkeys("abcd", "queued") == on_disk(copy) == on_disk(path)


@pytest.mark.slow
def test_lost_files_are_noticed_while_nothing_is_written(path):
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
def test_a_lost_log_that_cannot_be_saved_now_is_saved_later(path):
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
def test_a_lost_ledger_is_not_begun_anew_by_itself_and_is_taken_again_once_it_is_back(path, lost, is_read):
    """With an empty one, keys would stand for nothing, and what was told would be unknown."""
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
            ledger._wake.put(True)
        assert "start the service again to go on with what is there" in ledger.trouble

        gone(path)
        copy.rename(path)

        until(lambda: ledger.trouble is None)
        write(ledger, generation("d"))
        assert {"a": "queued", "b": "queued", "c": "queued", "d": "queued"} == on_disk(path)


def test_after_a_restart_whatever_is_there_is_the_ledger(path):
    with opened(path) as ledger:
        write(ledger, generation("a"))
    gone(path)

    with opened(path) as ledger:
        write(ledger, generation("b"))
        assert {"b": "queued"} == on_disk(path)


def test_a_directory_that_cannot_be_made_is_trouble_and_no_crash(tmp_path):
    (tmp_path / "a file").touch()
    with opened(tmp_path / "a file" / "ledger.db") as ledger:
        assert ledger.trouble.startswith("The ledger cannot be written: ")


def test_one_process_at_a_time_has_a_ledger_and_the_next_takes_it_when_that_one_is_gone(path):
    with opened(path) as first:
        second = SqliteLedger(f"sqlite:///{path}")
        second.start()
        assert "The ledger cannot be written: another process has it." == second.trouble
        write(first, generation("a"))
    try:
        until(lambda: second.trouble is None)
        write(second, generation("b"))
    finally:
        second.close()

    assert {"a": "queued", "b": "queued"} == on_disk(path)


def test_an_error_while_opening_is_trouble_and_is_retried(path):
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


def test_a_row_that_cannot_be_written_does_not_keep_a_ledger_down_that_was_down_for_another_reason(path):
    with opened(path) as ledger:
        with locked(path), pytest.raises(LedgerDown, match="locked"):
            write(ledger, generation("a", caller_id=None), generation("b"))
        until(lambda: ledger.trouble is None)
        write(ledger, generation("c"))

        assert {"b": "queued", "c": "queued"} == on_disk(path)


def test_what_is_put_and_noted_in_one_go_is_written_together_or_not_at_all(path):
    work = SimpleNamespace(id="b", record=lambda: generation("b"))
    with opened(path) as ledger:

        async def story():
            ledger.upsert(generation("a"))
            ledger.mark_dirty(work)
            ledger._wake.put(True)
            time.sleep(0.1)  # noqa: ASYNC251 - the writer's thread has all the time it needs
            before = on_disk(path)
            await ledger.flush()
            return before

        assert {} == asyncio.run(story())
        assert {"a": "queued", "b": "queued"} == on_disk(path)


def test_opening_it_again_gives_up_no_lock_of_those_who_read_it(path):
    """Without one, a copy that another process makes takes the last reader for gone, and the log of writes with it."""
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


def test_a_source_whose_record_cannot_be_built_blocks_no_other(path):
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


def test_a_disk_with_room_for_little_is_tried_once_a_second_and_can_still_be_closed(path):
    with opened(path) as ledger:
        tries = []

        def full(connection, pending):
            if any(kind is GenerationRecord for kind, _ in pending):
                tries.append(time.monotonic())
                raise sqlite3.OperationalError("database or disk is full")

        ledger._write = full
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
    """See these deletions to the disk. Raises LedgerDown."""

    async def story():
        for kind, work_id in works:
            ledger.delete(kind, work_id)
        await ledger.flush()

    asyncio.run(story())


def counted(ledger) -> int:
    """How many generations usage knows of."""
    return SqlQueries(ledger.engine).usage(Period(simulated=True), by=None)[0]["generations"]


def test_a_deletion_that_fails_half_way_is_undone_and_counts_once_when_it_is_done_again(path):
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
def test_what_is_deleted_and_what_is_counted_is_one_transaction(path, work):
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


def test_the_room_of_deleted_rows_is_used_again(path):
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


def test_a_new_ledger_has_all_tables_and_the_present_version(path):
    with opened(path) as ledger, ledger.engine.connect() as connection:
        assert set(METADATA.tables) <= tables(connection)
        assert PRESENT == version(connection)


def test_an_older_ledger_is_brought_up_to_date_step_by_step_with_its_rows(path):
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


def test_a_step_that_fails_leaves_the_ledger_as_it_was(path):
    def fails(driver):
        driver.execute("ALTER TABLE generations ADD COLUMN mood TEXT")
        raise RuntimeError("half way")

    with opened(path) as ledger, ledger.engine.connect() as connection:
        with pytest.raises(RuntimeError):
            migrate(connection, (*STEPS, fails))

        assert PRESENT == version(connection)
        columns = [name for _, name, *_ in connection.exec_driver_sql("PRAGMA table_info(generations)")]
        assert "mood" not in columns


def test_a_ledger_of_a_later_version_is_left_alone(path):
    with opened(path) as ledger, ledger.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA user_version = 999")
        with pytest.raises(TooNew):
            migrate(connection)
    with opened(path) as ledger:
        assert f"it is of version 999, and this service knows {PRESENT}" in ledger.trouble


# ── What it is asked


def test_a_ledger_that_cannot_be_read_says_so(path):
    with opened(path) as ledger:
        queries = SqlQueries(ledger.engine)
        with ledger.engine.connect() as connection:
            connection.exec_driver_sql("DROP TABLE generations")

        with pytest.raises(LedgerDown, match="The ledger cannot be read"):
            queries.generation("a")


def test_a_page_has_the_latest_generations_of_its_caller_only(path):
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
