"""The requests about the kept ledger, and the answers of the service at hand: the other half of `write_ledger.py`."""

import itertools
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from simulator import Options, running
from tests.support.kept_ledgers import RecordedAnswers, RecordedRequest, resumed, send, service, unpacked

Keys = Sequence[tuple[str, str, str, Any, bool]]

_WHO = ("admin", "ann", "bob", "eve")
_STATES = ("queued", "submitting", "running", "succeeded", "failed", "canceled")
_NOWHERE = "http://127.0.0.1:9"
"""Nothing is sent: the service has no token of its own, and no user spends."""


def answered(written_at: int, described: Mapping[str, Sequence[str]], keys: Keys) -> RecordedAnswers:
    """Everything that is to be compared later."""
    with TemporaryDirectory() as directory:
        copy = unpacked(Path(directory), written_at)
        rows = _rows(copy.directory)
        with service(copy.directory, _NOWHERE, simulate=False, REPLICATE_API_TOKEN="") as app:
            client = app.test_client()
            at_rest = []
            for ask in _at_rest(rows, described, keys):
                answer = send(client, ask, copy.written_at)
                at_rest.append((ask, answer))
                while "cursor" in ask.path or "limit=" in ask.path:
                    if (following := answer[1].get("next_cursor")) is None:
                        break
                    ask = RecordedRequest(ask.who, f"{ask.path.partition('&cursor')[0]}&cursor={following}")
                    answer = send(client, ask, copy.written_at)
                    at_rest.append((ask, answer))
    with TemporaryDirectory() as directory:
        copy = unpacked(Path(directory), written_at)
        with service(copy.directory, _NOWHERE) as app:
            client = app.test_client()
            asks = [*_ended_in_the_other_world(rows), *_usages(), *_repeated(keys, "simulated", _WHO)]
            other_world = [(ask, send(client, ask, copy.written_at)) for ask in asks]
    with TemporaryDirectory() as directory:
        copy = unpacked(Path(directory), written_at)
        unfinished = {target: owner for target, owner, state, _ in rows if state in _STATES[:3]}
        with running(Options(prediction_seconds=0.02)) as simulator:
            ends = resumed(copy, simulator.url, unfinished)
    ends = {target: [unfinished[target], end] for target, end in ends.items()}
    return RecordedAnswers(written_at, at_rest, other_world, ends)


def _rows(directory: Path) -> list[tuple[str, str, str, str | None]]:
    """Id, owner, state and batch of each generation; a user's owner by name."""
    with closing(sqlite3.connect(directory / "ledger.db")) as ledger:
        rows = ledger.execute("SELECT id, caller, state, batch FROM generations ORDER BY seq").fetchall()
    first = {caller: min(seq for seq, row in enumerate(rows) if row[1] == caller) for _, caller, _, _ in rows}
    names = dict(zip(sorted(first, key=first.__getitem__), _WHO, strict=False))
    return [(target, names[caller], state, batch) for target, caller, state, batch in rows]


def _at_rest(
    rows: list[tuple[str, str, str, str | None]], described: Mapping[str, Sequence[str]], keys: Keys
) -> Iterator[RecordedRequest]:
    for target, _, _, _ in rows:
        yield RecordedRequest("admin", f"/generations/{target}")
    batches = dict.fromkeys(batch for *_, batch in rows if batch)
    for batch in batches:
        yield RecordedRequest("admin", f"/batches/{batch}")
    yield from _lists()
    yield from _usages()
    owners = {target: owner for target, owner, _, _ in rows} | {
        batch: owner for _, owner, _, batch in rows if batch
    }
    over = {target for target, _, state, _ in rows if state not in _STATES[:3]}
    for target in itertools.chain.from_iterable(described.values()):
        kind = "batches" if target.startswith("batch_") else "generations"
        if target in over and owners[target] != "admin":
            yield RecordedRequest(owners[target], f"/{kind}/{target}")
        if owners[target] != "ann":
            yield RecordedRequest("ann", f"/{kind}/{target}")
        yield RecordedRequest("eve", f"/{kind}/{target}")
        if target in over:
            yield RecordedRequest("admin", f"/generations/{target}/events")
    yield from _repeated(keys, "real", _WHO[1:])


def _ended_in_the_other_world(rows: list[tuple[str, str, str, str | None]]) -> Iterator[RecordedRequest]:
    for target, _, state, _ in rows:
        if state in _STATES[:3]:
            yield RecordedRequest("admin", f"/generations/{target}", timed=False)


def _repeated(keys: Keys, world: str, callers: Sequence[str]) -> Iterator[RecordedRequest]:
    for who, key, path, body, expired in keys:
        if key.startswith(world) and who in callers and not expired:
            yield RecordedRequest(who, path, "POST", key, body)
            yield RecordedRequest(who, path, "POST", key, body, prefer="respond-async")
            yield RecordedRequest(
                who, "/generate", "POST", key, {"model_name": "flux-dev", "prompt": "another body"}
            )
            yield RecordedRequest(
                who, "/generate-batch", "POST", key, {"model_name": "flux-dev", "prompts": ["another"]}
            )


def _lists() -> Iterator[RecordedRequest]:
    for who in _WHO:
        for query in (
            "limit=200", "state=succeeded&limit=90", "model=qwen-image&limit=50", "since={t-3600}&limit=5",
            "since={t-700000}&limit=200", "model=flux-dev&state=failed&limit=3",
            "limit=33&since={t-200000}&model=flux-dev",
            *(f"state={state}&limit=200" for state in _STATES if state != "succeeded"),
            "model=veo-3-fast&limit=1&since={t-100000}",
        ):  # fmt: skip
            yield RecordedRequest(who, f"/generations?{query}")
        yield RecordedRequest(who, "/generations")


def _usages() -> Iterator[RecordedRequest]:
    for who in _WHO:
        for group in ("", "group_by=model", "group_by=caller", "group_by=day"):
            for bounds in ("", "since={t-200000}", "until={t-200000}", "since={t-1000000}&until={t-600000}"):
                yield RecordedRequest(who, "/usage?" + "&".join(filter(None, (group, bounds))))
