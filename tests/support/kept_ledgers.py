"""The ledger fixture of version 0.4.0: unpacks a copy and sends requests to the service that runs on it. Keys and
outputs expire, so every time in the copy is moved by the same whole number of seconds: the service sees a ledger that
was written a minute ago. Times in responses are compared relative to that write, and everything else exactly.
`tests/data/README.md` describes the fixture.
"""

import json
import lzma
import re
import sqlite3
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from flask import Flask
from flask.testing import FlaskClient

from app import create_app
from settings import Settings

DATA: Final = Path(__file__).parents[1] / "data"
LEDGER: Final = DATA / "ledger-0.4.0.tar.xz"
ANSWERS: Final = DATA / "ledger-0.4.0.answers.json.xz"

ADMIN_KEY: Final = "the-admin-key"
SERVER_TOKEN: Final = "r8_server"
TOKENS: Final = {"ann": "r8_ann", "bob": "r8_bob", "eve": "r8_eve"}
"""The tokens of the fixture's users. Eve owns no generation."""

_AGE: Final = 60
"""The age of the copied ledger in seconds, as the service sees it."""

_SAME_DAY: Final = 600
"""All rows of one day were written within this many seconds before the ledger was packed. A copy must not have a
midnight among them."""

_MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
_DAY: Final = 86_400

_MOMENTS: Final = {
    "generations": ("accepted_at", "ended_at", "interrupted_at"),
    "batches": ("accepted_at", "ended_at"),
    "keys": ("since",),
    "deliveries": ("since", "next_at", "delivered_at"),
}
"""The columns of 0.4.0 that hold Unix times. Its JSON columns hold further times, some of them in ISO 8601."""


ADDED: Final[frozenset[str]] = frozenset(
    {
        "account_shared",
        "calls",
        "clock_skew_seconds",
        "completion_tokens",
        "cost_basis",
        "cost_bound_usd",
        "creation_in_doubt",
        "file_name",
        "ledger",
        "prompt_tokens",
        "seed",
        "thinking_tokens",
        "training_usd",
        "trainings",
        "upstream",
    }
)
"""The fields that later versions added to responses. They are not compared, since the responses of 0.4.0 lack them."""


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """A request to the fixture. `{t-N}` in its path is the Unix time N seconds before the ledger was written."""

    who: str
    path: str
    method: str = "GET"
    key: str | None = None
    body: Any = None
    prefer: str | None = None
    timed: bool = True
    """Whether the `timing` of the body is compared too."""


@dataclass(frozen=True, slots=True)
class RecordedAnswers:
    """The responses of 0.4.0 that are stored beside the ledger. `written_at` is the Unix time of the ledger. `at_rest`
    has requests to a service without a server token, each with its response, and `other_world` those to a service that
    simulates. `resumed` maps each unfinished generation to its owner and its end at a service with a server token."""

    written_at: int
    at_rest: Sequence[tuple[RecordedRequest, Any]]
    other_world: Sequence[tuple[RecordedRequest, Any]]
    resumed: Mapping[str, Any]


def read_answers(path: Path = ANSWERS) -> RecordedAnswers:
    found = json.loads(lzma.decompress(path.read_bytes()))
    for name in ("at_rest", "other_world"):
        found[name] = [(RecordedRequest(**ask), answer) for ask, answer in found[name]]
    return RecordedAnswers(**found)


def save_answers(kept: RecordedAnswers, path: Path = ANSWERS) -> None:
    facts: dict[str, Any] = {"written_at": kept.written_at, "resumed": kept.resumed}
    for name in ("at_rest", "other_world"):
        facts[name] = [(asdict(ask), answer) for ask, answer in getattr(kept, name)]
    path.write_bytes(lzma.compress(json.dumps(facts, separators=(",", ":")).encode(), preset=9))


@dataclass(frozen=True, slots=True)
class Copy:
    """Unpack a copy of the ledger into `directory`. Its own times say that it was written at `written_at`."""

    directory: Path
    written_at: int


def unpacked(directory: Path, written_at: int, archive: Path = LEDGER) -> Copy:
    """Unpack a copy that was written a minute ago, or at the last second of yesterday if today has just begun."""
    with tarfile.open(archive) as packed:
        packed.extractall(directory, filter="data")
    recently = int(time.time()) - _AGE
    if recently % _DAY < _SAME_DAY:
        recently -= recently % _DAY + 1
    move(directory / "ledger.db", recently - written_at)
    return Copy(directory, recently)


def move(ledger: Path, seconds: int) -> None:
    """Move every time in a ledger of 0.4.0 by so many seconds. A whole number keeps the fractions."""
    with closing(sqlite3.connect(ledger)) as connection, connection:
        connection.create_function("moved", 1, lambda text: _moved(text, seconds))
        for table, columns in _MOMENTS.items():
            moved = ", ".join(f"{name} = {name} + {seconds}" for name in columns)
            connection.execute(f"UPDATE {table} SET {moved}")
        connection.execute("UPDATE generations SET tries = moved(tries), facts = moved(facts)")
        opened = "UPDATE meta SET value = CAST(CAST(CAST(value AS TEXT) + ? AS INTEGER) AS BLOB) WHERE name = 'opened'"
        connection.execute(opened, (seconds,))


def _moved(text: str, seconds: int) -> str:
    found = json.loads(text)
    if isinstance(found, list):
        for attempt in found:
            for name in ("submitted_at", "answered_at"):
                attempt[name] = attempt[name] and attempt[name] + seconds
            if attempt["created_at"]:
                at = datetime.fromisoformat(attempt["created_at"]).timestamp() + seconds
                attempt["created_at"] = datetime.fromtimestamp(at, UTC).isoformat()
    else:
        at = datetime.fromisoformat(found["created_at"]).timestamp() + seconds
        found["created_at"] = (
            datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        )
    return json.dumps(found)


@contextmanager
def service(directory: Path, url: str, *, simulate: bool = True, **settings: object) -> Iterator[Flask]:
    """Run the present service on the ledger in that directory, with the simulator at `url` as Replicate."""
    environ = {
        "CONCURRENT_DOCKER_ADMIN_API_KEY": ADMIN_KEY,
        "REPLICATE_API_TOKEN": SERVER_TOKEN,
        "REPLICATE_BASE_URL": url,
        "REPLICATE_SIMULATE": int(simulate),
        "REPLICATE_REQUESTS_PER_MINUTE": 60_000,
        "REPLICATE_CONCURRENT_LIMIT": 100,
        "RESUME_TTL": 10**9,
        "FILES_TTL": 0,
        "LOG_LEVEL": "error",
        "DATA_DIR": directory,
        **settings,
    }
    app = create_app(Settings.from_env({name: str(value) for name, value in environ.items()}))
    try:
        yield app
    finally:
        app.extensions["service"].close()


def headers_of(who: str) -> dict[str, str]:
    return {"X-Admin-API-Key": ADMIN_KEY} if who == "admin" else {"X-Replicate-API-Key": TOKENS[who]}


def send(client: FlaskClient, ask: RecordedRequest, written_at: int) -> Any:
    """Send the request. Returns the status and the body, with times relative to the write of the ledger."""
    headers = headers_of(ask.who)
    if ask.key is not None:
        headers["Idempotency-Key"] = ask.key
    if ask.prefer is not None:
        headers["Prefer"] = ask.prefer
    path = re.sub(r"\{t-(\d+)\}", lambda found: str(written_at - int(found[1])), ask.path)
    answer = client.open(path, method=ask.method, headers=headers, json=ask.body)
    if answer.mimetype == "text/event-stream":
        events = [event.split("\n") for event in answer.text.split("\n\n") if event.startswith("event: ")]
        body: Any = [[name[7:], json.loads(data[6:])] for name, data in events]
    else:
        body = answer.json
    if not ask.timed:
        del body["timing"]
    answer.close()
    return [answer.status_code, counted(body, written_at)]


def without_added(answer: Any, of_0_4_0: Any, added: frozenset[str] = ADDED) -> Any:
    """Return the response without the `added` fields that the response of 0.4.0 lacks."""
    if isinstance(answer, dict) and isinstance(of_0_4_0, dict):
        return {
            name: without_added(value, of_0_4_0.get(name), added)
            for name, value in answer.items()
            if name in of_0_4_0 or name not in added
        }
    if isinstance(answer, list) and isinstance(of_0_4_0, list) and len(answer) == len(of_0_4_0):
        return [without_added(value, then, added) for value, then in zip(answer, of_0_4_0, strict=True)]
    return answer


def without_wording(answer: Any) -> Any:
    """Return the response without the texts of its error, which later versions may change. The code stays."""
    status, body = answer
    if status < 400:
        return answer
    return [status, {name: value for name, value in body.items() if name not in {"title", "detail"}}]


def counted(value: Any, written_at: int) -> Any:
    """Return the body with times relative to the write of the ledger, and without the values that depend on the
    request."""
    if isinstance(value, list):
        return [counted(each, written_at) for each in value]
    if isinstance(value, dict):
        body = {name: _field(name, each, written_at) for name, each in value.items()}
        if "counts" in body and body["status"] != "completed":
            body["actual_seconds"] = "so far"
        return body
    if isinstance(value, str) and _MOMENT.fullmatch(value):
        return f"t{datetime.fromisoformat(value).timestamp() - written_at:+.3f}"
    return value


def _field(name: str, value: Any, written_at: int) -> Any:
    if name == "request_id":
        return "req"
    if name == "day":
        day = datetime.fromisoformat(value).replace(tzinfo=UTC).timestamp()
        return f"day {(day - written_at // _DAY * _DAY) / _DAY:+g}"
    result = counted(value, written_at)
    if name == "waiting_for_owner_since" and result.startswith("t+"):
        return "since it was opened"
    return result


def resumed(
    copy: Copy, url: str, unfinished: Mapping[str, str], expected: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Resume the unfinished generations, a mapping from id to owner, by a request of each owner. Returns the end of
    each one: state, error code, number of attempts and cost. Waits until the ends equal `expected`, at most 40 seconds.
    """
    with service(copy.directory, url, simulate=False, REPLICATE_CONCURRENT_LIMIT=40) as app:
        client, patience = app.test_client(), time.monotonic() + 40
        while True:
            found = {target: _end(client, target, owner) for target, owner in unfinished.items()}
            if found == expected or time.monotonic() > patience:
                return found
            time.sleep(0.25)


def _end(client: FlaskClient, target: str, owner: str) -> list[Any]:
    body: dict[str, Any] = client.get(f"/generations/{target}", headers=headers_of(owner)).get_json()
    attempts, error = body["attempts"], body.get("error")
    number = attempts if isinstance(attempts, int) else len(attempts)
    return [body["status"], error and error["code"], number, body["cost_usd"]]
