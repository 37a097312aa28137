"""Requests for any model: declared and not, without a prompt, a deployment, text, and models that get a secret input.

The input of each generation has a name of its own, so that the audit knows what each prediction is of. Each secret is
marked: no file, row, log, response or webhook may contain `MARKED`.
"""

import json
import random
import re
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from harness.fleet_audit import Ledger
from harness.fleet_load import FleetLoad, Request, Work
from harness.postgres import Server
from simulator.predictions import PredictionRecord
from simulator.threaded import Simulator

MARKED = "hf_Marked-secret-"

SECRET = "hf_token"
"""The secret input of `_PAINTER`."""

_PAINTER, _WATERCOLOR, _UPSCALER = "acme/hub-painter", "acme/watercolor", "acme/upscaler"
_DEPLOYMENT, _STORYTELLER = "deployments/acme/fast-upscaler", "acme/storyteller"
_EARLIER = "f3b507dfe625a7b19b2ed7b55513e8b8ba42502b6da407ab3103fcacd564d713"
"""An earlier version of `_WATERCOLOR`."""

_NAME = re.compile(r"item-\d+-")
_BLOCK = 2**20


class AnyModel:
    """Makes requests. Their ends go to the address `webhook`."""

    def __init__(self, webhook: str) -> None:
        self._webhook = webhook

    def __call__(self, chance: random.Random, numbers: Iterator[int]) -> Request:
        size = chance.randint(2, 4) if chance.random() < 0.3 else 1
        names = [f"item-{next(numbers)}-" for _ in range(size)]
        body = _one(chance, names[0]) if size == 1 else _several(chance, names)
        path = "/generate" if size == 1 else "/generate-batch"
        return Request(path, body | {"webhook": self._webhook}, size, names)


def _one(chance: random.Random, name: str) -> dict[str, Any]:
    flat = {"prompt": name, SECRET: _secret(name)}
    ways: Sequence[tuple[str, dict[str, Any]]] = [
        ("flux-dev", {"prompt": name}),
        (_UPSCALER, {"input": {"img": _picture(name)}}),
        (_DEPLOYMENT, {"input": {"img": _picture(name)}}),
        (_WATERCOLOR, {"input": {"prompt": name}}),
        (f"{_WATERCOLOR}:{_EARLIER}", {"prompt": name}),
        (_STORYTELLER, {"prompt": name}),
        (_PAINTER, {"prompt": name}),
        (_PAINTER, flat),
        (_PAINTER, {"input": flat}),
        (_PAINTER, flat | {"fallback": ["flux-dev"]}),
    ]
    model, fields = chance.choice(ways)
    return {"model_name": model, **fields}


def _several(chance: random.Random, names: Sequence[str]) -> dict[str, Any]:
    shared = {SECRET: _secret(names[0])}
    return chance.choice(
        [
            {"model_name": _UPSCALER, "inputs": [{"img": _picture(each)} for each in names]},
            {"model_name": _WATERCOLOR, "prompts": names},
            {"model_name": _PAINTER, "prompts": names, **shared},
            {"model_name": _PAINTER, "prompts": names, "input": shared},
            {"model_name": _PAINTER, "inputs": [{"prompt": each, SECRET: _secret(each)} for each in names]},
            {"requests": [_one(chance, each) for each in names]},
        ]
    )


def _picture(name: str) -> str:
    return f"https://example.com/{name}.png"


def _secret(name: str) -> str:
    return f"{MARKED}{name}"


@dataclass(frozen=True, slots=True)
class ModelAudit:
    """What every prediction was made of. Every list should be empty.

    Attributes:
        with_secrets: Predictions that got a secret.
        secrets_lost: Generations that failed since their secrets were lost.
        mismatched: Inputs that were not predicted, or twice, or with another secret, model or version than accepted.
        shown: Places in which a secret was found.
    """

    with_secrets: int
    secrets_lost: int
    mismatched: Sequence[str]
    shown: Sequence[str]


def audit_models(
    ledger: Ledger, simulator: Simulator, load: FleetLoad, *places: Path, webhooks: Collection[bytes] = ()
) -> ModelAudit:
    """Audit a run whose work has ended. `places` are directories with files of the service, beside its ledger."""
    made = simulator.predictions()
    shown = [*load.shown, *found_in(ledger.directory, *places)]
    shown += ["a webhook" for each in webhooks if MARKED.encode() in each]
    if isinstance(ledger, Server):
        shown += _rows_with_secrets(ledger)
    return ModelAudit(
        with_secrets=sum(SECRET in each.input for each in made),
        secrets_lost=sum(_lost_secrets(ledger).values()),
        mismatched=[*_wrong_inputs(load, made, ledger), *_wrong_versions(ledger, made)],
        shown=shown,
    )


def found_in(*places: Path) -> list[str]:
    """The files under these directories that contain a secret."""
    files = [path for place in places for path in place.rglob("*") if path.is_file()]
    return [str(path) for path in files if _has_secret(path)]


def _has_secret(path: Path) -> bool:
    mark, rest = MARKED.encode(), b""
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                if mark in rest + block:
                    return True
                rest = block[-len(mark) :]
    except FileNotFoundError:  # deleted meanwhile
        pass
    return False


def _rows_with_secrets(server: Server) -> Iterator[str]:
    tables = server.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    for (table,) in tables:
        rows = server.execute(f"SELECT 1 FROM {table} AS it WHERE strpos(it::text, '{MARKED}') > 0")
        if rows:
            yield f"{len(rows)} rows of {table}"


def _wrong_inputs(load: FleetLoad, made: Sequence[PredictionRecord], ledger: Ledger) -> Iterator[str]:
    """Every input that was accepted must be that of one prediction, unless its secret was lost before it was sent."""
    inputs = Counter(_name_of(each) for each in made)
    yield from (f"{name} has {number} predictions" for name, number in inputs.items() if number > 1)
    lost = _lost_secrets(ledger)
    for work in load.works:
        missing = [name for name in work.request.names if not inputs[name]]
        secrets = sum(lost.get(each, 0) for each in work.ids)
        if work.ids and len(missing) != secrets:
            yield f"{work.ids}: no prediction for {missing}, and {secrets} secrets were lost"
        yield from (f"{name} had no secret" for name in missing if secrets and not _is_secret(work, name))
    work_of = {name: work for work in load.works for name in work.request.names}
    for each in made:
        name, secret = _name_of(each), each.input.get(SECRET)
        work = work_of[name]
        allowed = {_secret(name), _secret(work.request.names[0])} if _is_secret(work, name) else {None}
        if secret not in allowed:
            yield f"{name} was predicted without its own secret"


def _lost_secrets(ledger: Ledger) -> dict[str, int]:
    """How many generations failed since their secrets were lost, by the id of the work."""
    return dict(
        ledger.execute(
            "SELECT coalesce(batch_id, id), count(*) FROM generations WHERE error_code = 'secret_lost' "
            "GROUP BY coalesce(batch_id, id)"
        )
    )


def _is_secret(work: Work, name: str) -> bool:
    """Whether this item was requested with a secret."""
    body = work.request.body
    items = body.get("requests") or body.get("inputs") or ()
    own = [each for each in items if name in json.dumps(each)] or [body]
    return MARKED in json.dumps(own)


def _wrong_versions(ledger: Ledger, made: Iterable[PredictionRecord]) -> Iterator[str]:
    """All predictions of a generation must have the version in its row, and the one that was requested."""
    rows = ledger.execute(
        "SELECT attempts.prediction_id, generations.version, generations.model, generations.requested_model "
        "FROM generations JOIN attempts ON attempts.generation_id = generations.id "
        "WHERE attempts.prediction_id IS NOT NULL"
    )
    accepted = {prediction: rest for prediction, *rest in rows}
    for each in made:
        if each.id not in accepted:
            continue  # `audit` says so
        version, model, requested = accepted[each.id]
        target = each.deployment and f"deployments/{each.deployment}"
        if (target or each.model) != model:
            yield f"{each.id} is of {target or each.model}, not {model}"
        if model.partition("/")[0] != "black-forest-labs" and each.version != version:
            yield f"{each.id} has version {each.version}, not {version}"
        if ":" in requested and requested != f"{each.model}:{each.version}":
            yield f"{each.id} has version {each.version}, not {requested}"


def _name_of(made: PredictionRecord) -> str:
    found = _NAME.search(str(made.input.get("img") or made.input.get("prompt")))
    return found[0] if found else ""


@contextmanager
def webhook_receiver() -> Iterator[tuple[str, list[bytes]]]:
    """The address of a receiver of webhooks on loopback, and the bodies that it has received."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", bodies
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
