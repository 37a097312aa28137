"""The cost of the ledger: CPU beside a service that writes nothing, the time to accept much work, and the time to
migrate the ledger of an older version.

Both services get the same load in short alternating rounds, at the numbers of callers of `overhead.py`, and their CPU
is compared round by round. The ledger's part is making rows, writing them, and waiting for the disk. With one caller
the wait dominates: the machine becomes idle twice for each request, and waking up costs as much as writing. So each
number of callers has a figure, and only the total has a target.
"""

import sqlite3
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import chain
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import requests

from bench import unledgered
from bench.processes import TOKEN, prompts, service_before, simulated
from bench.report import Claim, Section, claimed
from bench.rounds import BOUNDLESS, WITHOUT_FILES, Round, Turns, failures, generating, round_of
from harness.service_process import ROOT, ServiceProcess, running_service
from ledger.queries import SqlQueries
from ledger.sqlite import SqliteBackend
from ledger.writer import SqlLedger

CALLERS = (1, 10, 50, 200)

MOST_ADDED = 0.20
"""The largest part of a request's CPU that the ledger may add."""

MOST_SECONDS = 3.0
"""Until 5,000 generations are accepted."""

MIGRATED = 100_000
MOST_MIGRATION_SECONDS = 5.0
"""Generations of 0.4.0, and seconds until the service has migrated and opened them."""

_WITH, _WITHOUT = "with the ledger", "without it"


def ledger() -> Section:
    """All claims. Takes about a minute and a half."""
    return claimed(
        "The ledger: what it adds", chain(_migrated(), _added(), _accepted(1, 5000), _accepted(10, 500))
    )


def _added() -> Iterator[Claim]:
    """CPU of a request as a multiple of that without a ledger: at each number of callers, and over all requests."""
    all_rounds: dict[str, list[Round]] = {_WITH: [], _WITHOUT: []}
    with (
        simulated("--seconds", "0", *BOUNDLESS) as simulator,
        service_before(simulator, **WITHOUT_FILES) as service,
        _unledgered_before(simulator) as other,
    ):
        targets = {_WITH: generating(service), _WITHOUT: generating(other)}
        for target in targets.values():
            round_of(target, callers=max(CALLERS))
        for callers in CALLERS:
            rounds = Turns().loaded(targets, callers=callers)
            pairs = list(zip(rounds[_WITH], rounds[_WITHOUT], strict=True))
            ratio = median(with_it.cpu / without.cpu for with_it, without in pairs)
            costs = median(with_it.cpu - without.cpu for with_it, without in pairs)
            failed = failures(chain.from_iterable(pairs))
            for name, found in rounds.items():
                all_rounds[name] += found
            what = f"CPU a request over the same without a ledger, {callers} at once ({costs:.2f} ms more)"
            yield Claim(what, f"{ratio:.2f}", "no errors" if failed else "", not failed)
    overall = _mean_cpu(all_rounds[_WITH]) / _mean_cpu(all_rounds[_WITHOUT])
    limit = 1 + MOST_ADDED
    yield Claim("… over all requests of these rounds", f"{overall:.2f}", f"≤ {limit:.2f}", overall <= limit)


def _mean_cpu(rounds: list[Round]) -> float:
    """CPU milliseconds for each of all requests."""
    return sum(each.cpu * each.load.requests for each in rounds) / sum(each.load.requests for each in rounds)


def _accepted(batches: int, size: int) -> Iterator[Claim]:
    """Batches submitted at once without waiting for results, until the last is accepted and on the disk."""
    with (
        TemporaryDirectory() as data,
        simulated("--seconds", "600") as simulator,
        service_before(simulator, DATA_DIR=data) as service,
        ThreadPoolExecutor(batches) as callers,
    ):
        began = time.perf_counter()
        batches_accepted = list(callers.map(lambda _: _accepted_by(service, size), range(batches)))
        seconds = time.perf_counter() - began
        on_disk = _on_disk(Path(data), batches_accepted)
    what = "one batch" if batches == 1 else f"{batches} batches at once"
    yield Claim(
        f"{batches * size} generations in {what}: accepted after",
        f"{seconds:.1f} s",
        f"< {MOST_SECONDS:g} s",
        seconds < MOST_SECONDS,
    )
    yield Claim("… of them on the disk", f"{on_disk}", f"{batches * size}", on_disk == batches * size)


def _accepted_by(service: ServiceProcess, size: int) -> str:
    answer = requests.post(
        f"{service.url}/generate-batch",
        json=prompts(size),
        headers={**TOKEN, "Prefer": "respond-async"},
        timeout=60,
    )
    if answer.status_code != 202:
        raise RuntimeError(f"not accepted: {answer.status_code} {answer.text[:200]}")
    accepted: dict[str, Any] = answer.json()
    return str(accepted["id"])


def _migrated() -> Iterator[Claim]:
    """A ledger of 0.4.0 with many copies of its rows, opened by this version."""
    with TemporaryDirectory() as data:
        with tarfile.open(ROOT / "tests/data/ledger-0.4.0.tar.xz") as packed:
            packed.extractall(data, filter="data")
        path = Path(data) / "ledger.db"
        with closing(sqlite3.connect(path)) as connection, connection:
            columns = [row[1] for row in connection.execute("PRAGMA table_info(generations)")]
            same = ", ".join(name for name in columns if name not in {"seq", "id"})
            (rows,) = connection.execute("SELECT count(*) FROM generations").fetchone()
            for _ in range(1, -(-MIGRATED // rows)):  # random ids, as the service makes them
                connection.execute(
                    f"INSERT INTO generations (id, {same}) SELECT 'gen_' || lower(hex(randomblob(16))), {same}"
                    f" FROM generations WHERE seq <= {rows}"
                )
        ledger = SqlLedger(SqliteBackend(f"sqlite:///{path}"))
        began = time.perf_counter()
        ledger.start()
        seconds = time.perf_counter() - began
        trouble = ledger.trouble
        with ledger.engine.connect() as opened:
            migrated = opened.exec_driver_sql("SELECT count(*) FROM generations").scalar_one()
        ledger.close()
    fits = trouble is None and migrated >= MIGRATED and seconds < MOST_MIGRATION_SECONDS
    what = f"{migrated} generations of 0.4.0 migrated, a copy made before: ready after"
    yield Claim(what, f"{seconds:.1f} s", f"< {MOST_MIGRATION_SECONDS:g} s", fits)


def _on_disk(data: Path, batches: list[str]) -> int:
    queries = SqlQueries(SqliteBackend(f"sqlite:///{data / 'ledger.db'}").engine)
    return sum(len(queries.batch_items(each)) for each in batches)


@contextmanager
def _unledgered_before(simulator: str) -> Iterator[ServiceProcess]:
    command = ("-m", unledgered.__name__)
    settings = {"PYTHONPATH": ROOT, "REPLICATE_BASE_URL": simulator, **WITHOUT_FILES}
    with running_service(_command=command, **settings) as service:
        yield service
