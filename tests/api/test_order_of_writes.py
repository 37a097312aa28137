"""The rows on the disk when a creation is sent, when a prediction is cancelled, and when a caller gets a response. And
the number of transactions that this takes.

With `synchronous=FULL`, other connections see a transaction once it is synchronized to the disk, so each look is by a
connection of its own. The order of syncs of an output is in `tests/unit/test_files_spool.py` and `test_files.py`.
"""

import re
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from sqlalchemy import Engine, event

from harness.service_process import until
from providers.memory import MemoryProvider
from tests.support.callers import PICTURE, USER

LATER = USER | {"Prefer": "respond-async"}

MOST_TRANSACTIONS = 3
"""For a generation whose caller waits: before it is sent, when it has ended, and one for the id of its prediction,
unless it ends before that is written."""


WRITE = re.compile("INSERT|UPDATE|DELETE")

SLOWNESS = 0.05
"""Seconds that each write takes longer, so that an act that does not wait for one comes before it."""


class Disk:
    """Records and delays the statements of the ledger. A write with the text `held` lasts until `goes_on` is set."""

    def __init__(self):
        self.statements = []
        self.held = None
        self.goes_on = threading.Event()

    def trace(self, statement):
        self.statements.append(statement)
        if WRITE.match(statement):
            time.sleep(SLOWNESS)
            if self.held is not None and self.held in statement:
                self.goes_on.wait(10)

    def transactions(self):
        """How many transactions wrote something: explicit ones, and statements outside of them."""
        number, inside = 0, False
        for statement in self.statements:
            if statement.startswith("BEGIN"):
                inside = True
            elif statement.startswith("COMMIT"):
                number, inside = number + 1, False
            elif not inside and WRITE.match(statement):
                number += 1
        return number


@pytest.fixture(autouse=True)
def disk():
    disk = Disk()

    def watch(connection, _record):
        connection.set_trace_callback(disk.trace)

    event.listen(Engine, "connect", watch)
    yield disk
    event.remove(Engine, "connect", watch)
    disk.goes_on.set()


class Watching(MemoryProvider):
    """A provider that looks at the ledger when a creation or a cancellation reaches it."""

    def __init__(self, ledger, *outcomes):
        super().__init__(*outcomes, answer_after=0, ends_after=0)
        self._ledger = ledger
        self.at_creation = []
        self.at_cancellation = []
        self.is_watching = threading.Event()

    async def create(self, *arguments, reference, **named):
        self.at_creation.append((reference.partition(".")[0], self.look()))
        return await super().create(*arguments, reference=reference, **named)

    async def wait(self, *arguments, **named):
        self.is_watching.set()
        return await super().wait(*arguments, **named)

    async def cancel(self, *arguments):
        self.at_cancellation.append(self.look())
        return await super().cancel(*arguments)

    def predictions(self):
        """The ids of the predictions on the disk."""
        with closing(sqlite3.connect(f"file:{self._ledger}?mode=ro", uri=True)) as opened:
            return [each for (each,) in opened.execute("SELECT prediction_id FROM attempts")]

    def look(self):
        """The state of each generation on the disk, whether it is cancelled, and the keys."""
        with closing(sqlite3.connect(f"file:{self._ledger}?mode=ro", uri=True)) as opened:
            rows = opened.execute("SELECT id, state, cancelled FROM generations").fetchall()
            keys = opened.execute("SELECT key, work_id FROM idempotency_keys").fetchall()
        return {row[0]: row[1:] for row in rows}, dict(keys)


@pytest.fixture
def watching(make_app, tmp_path):
    """Makes a provider and a client of a service before it, which keeps no outputs."""

    def make(*outcomes):
        provider = Watching(tmp_path / "ledger.db", *outcomes)
        return provider, make_app(provider=provider, FILES_TTL=0)

    return make


def test_every_connection_synchronizes_each_transaction(watching):
    _, app = watching()
    with app.extensions["service"].ledger.engine.connect() as connection:
        pragmas = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("synchronous", "journal_mode")
        ]

    full = 2
    assert [full, "wal"] == pragmas


def test_a_waiting_generation_is_on_the_disk_before_it_is_sent_and_its_end_before_the_response(
    disk, watching
):
    provider, app = watching()
    client = app.test_client()
    disk.statements.clear()

    body = client.post("/generate", json=PICTURE, headers=USER).json

    assert [(body["id"], ({body["id"]: ("submitting", 0)}, {}))] == provider.at_creation
    assert ({body["id"]: ("succeeded", 0)}, {}) == provider.look()
    assert 2 <= disk.transactions() <= MOST_TRANSACTIONS


def test_an_idempotency_key_is_on_the_disk_before_its_creation_is_sent(watching):
    provider, app = watching()

    body = app.test_client().post("/generate", json=PICTURE, headers=USER | {"Idempotency-Key": "k"}).json

    ((_, (_, keys)),) = provider.at_creation
    assert [body["id"]] == list(keys.values())


@pytest.mark.parametrize(
    ("path", "body", "size"),
    [("/generate", PICTURE, 1), ("/generate-batch", {"requests": [PICTURE, PICTURE]}, 2)],
)
def test_work_is_on_the_disk_before_its_caller_gets_a_202(watching, path, body, size):
    provider, app = watching(*[None] * size)

    response = app.test_client().post(path, json=body, headers=LATER)
    on_disk, _ = provider.look()

    assert 202 == response.status_code
    assert size == len(on_disk)


def test_each_item_of_a_batch_is_on_the_disk_before_it_is_sent_and_its_end_before_the_response(watching):
    provider, app = watching()

    body = app.test_client().post("/generate-batch", json={"requests": [PICTURE] * 3}, headers=USER).json

    assert ["submitting"] * 3 == [states[target][0] for target, (states, _) in provider.at_creation]
    states, _ = provider.look()
    assert {each["id"]: ("succeeded", 0) for each in body["results"]} == states


def test_the_id_of_a_prediction_is_written_soon_although_nothing_needs_it(watching):
    provider, app = watching(None)

    app.test_client().post("/generate", json=PICTURE, headers=LATER)

    until(lambda: provider.predictions() == ["p1"])


def test_a_prediction_is_watched_before_its_id_is_on_the_disk(disk, watching):
    provider, app = watching(None)
    disk.held = "'p1'"

    with ThreadPoolExecutor(1) as executor:
        executor.submit(app.test_client().post, "/generate", json=PICTURE, headers=LATER)
        is_watching, on_disk = provider.is_watching.wait(5), provider.predictions()
        disk.goes_on.set()

    assert (True, [None]) == (is_watching, on_disk)


def test_a_cancellation_is_on_the_disk_before_it_is_sent(watching):
    provider, app = watching(None)
    client = app.test_client()
    target = client.post("/generate", json=PICTURE, headers=LATER).json["id"]
    until(lambda: client.get(f"/generations/{target}", headers=USER).json["status"] == "running")

    client.delete(f"/generations/{target}", headers=USER)

    ((states, _),) = provider.at_cancellation
    assert (("running", 1), ("canceled", 1)) == (states[target], provider.look()[0][target])
