"""SIGKILL to processes while they run any model: without a prompt, by version, deployments, text, and with secrets."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from bench.report import Claim, Section, claimed, counted
from bench.scale.stage import CALLERS, JITTERY, Scale, audited, staged
from harness.any_model import MARKED, AnyModel, audit_models, webhook_receiver
from harness.fleet_load import FleetLoad

SIZE = 3
KILLS = 100
_SLOTS = 4
"""Few, so that work with secrets waits at a kill."""

_NOTE = f"""\
{SIZE} processes. {KILLS} times, 1 to 5 s apart, a process is killed, also the holder of the gate's role, or two at
once. Each is started again at once. The work is of declared models and of others: without a prompt, by name
and by version, a deployment, text, and one that gets a secret, in single requests and in batches. Secrets are
searched for in all files of the service and of PostgreSQL (WAL included), in all rows, in logs at the level
debug, in answers and in webhooks."""


def any_model(scale: Scale) -> Section:
    number = scale.number(KILLS)
    return claimed(f"{number} kills with any model among the work", _claims(number), note=_NOTE)


def _claims(number: int) -> Iterator[Claim]:
    with TemporaryDirectory(prefix="any-model-") as folder, webhook_receiver() as (address, received):
        settings: dict[str, Any] = {
            "DATA_DIR": folder,
            "FILES_TTL": 3600,
            "LOG_LEVEL": "debug",
            "REPLICATE_CONCURRENT_LIMIT": _SLOTS,
            "WEBHOOK_HOSTS": urlsplit(address).netloc,
        }
        with staged(SIZE, JITTERY, **settings) as stage:
            load = FleetLoad(stage.fleet, CALLERS, request=AnyModel(address), pause=3.0, hidden=MARKED)
            disturb = partial(stage.fleet.kill_at_random, number, interval=(1.0, 5.0))
            yield from audited(stage, f"{number} kills", disturb, load=load, slots=_SLOTS)
            places = (Path(folder), stage.fleet.logs)
            found = audit_models(stage.server, stage.simulator, load, *places, webhooks=received)
    for sentence in [*found.mismatched, *found.shown][:20]:
        print(f"     {sentence}", flush=True)
    yield Claim("… predictions that got a secret", f"{found.with_secrets}", "≥ 1", found.with_secrets > 0)
    yield Claim("… failed as `secret_lost`, and were never sent", f"{found.secrets_lost}")
    yield Claim(
        "… inputs not predicted once, with their own secret, and by the version accepted",
        f"{len(found.mismatched)}",
        "0",
        not found.mismatched,
    )
    yield Claim("… webhooks delivered to callers", f"{len(received)}", "≥ 1", len(received) > 0)
    yield counted("… places with a secret", len(found.shown))
