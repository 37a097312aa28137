"""What callers are told of a generation, made of its facts.

The facts are what the ledger has of it, so it is told the same whether it lives in this process or ended in another
long ago (`Recorded`). What depends on who asks, such as the address of its files, is added when it is told.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

import download_names
from errors import ServiceError, error_told

State = Literal["queued", "submitting", "running", "succeeded", "failed", "canceled"]

UNFINISHED: tuple[State, ...] = ("queued", "submitting", "running")
ENDED: tuple[State, ...] = ("succeeded", "failed", "canceled")

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class View:
    """What an answer depends on beside what happened: whether all is simulated, and the address that this service's
    files are reached by."""

    simulated: bool
    address: str


@dataclass(frozen=True, slots=True)
class Recorded:
    """A generation as the ledger has it: one that has ended, or that waits for its owner."""

    id: str
    owner: str
    """The id of the caller whose it is."""
    batch: str | None
    state: State
    cost: float
    view: View
    webhook: str | None
    waits_since: float | None
    """Unix time, while it waits for its owner."""
    stored: str
    """Its facts, as JSON: of a large batch they are only read when they are told."""

    @classmethod
    def of(cls, row: Row) -> "Recorded":
        view = View(row["simulated"], row["address"])
        return cls(
            row["id"], row["caller"], row["batch"], row["state"], row["cost_usd"], view, row["webhook"],
            row["interrupted_at"], row["facts"],
        )  # fmt: skip

    @property
    def succeeded(self) -> bool:
        return self.state == "succeeded"

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED

    @property
    def error(self) -> ServiceError | None:
        error = self.facts()["error"]
        return None if error is None else error_told(error)

    @property
    def placeholder(self) -> bool:
        placeholder: bool = self.facts()["placeholder"]
        return placeholder

    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads(self.stored)
        return facts

    def result(self, view: View) -> dict[str, Any]:
        return result(self.facts(), replace(view, simulated=self.view.simulated))

    def told(self, view: View) -> dict[str, Any]:
        body = told(self.facts(), replace(view, simulated=self.view.simulated))
        return (
            body if self.waits_since is None else body | {"waiting_for_owner_since": dated(self.waits_since)}
        )


def result(facts: Row, view: View) -> dict[str, Any]:
    """What is told of a generation that has ended, as the body of an answer."""
    body = {"success": facts["status"] == "succeeded", **told(facts, view)}
    if facts["error"] is not None:
        return body | {"error": facts["error"]}
    return body | {"output": list(facts["output"]), "count": len(facts["output"])}


def told(facts: Row, view: View) -> dict[str, Any]:
    """What is told of a generation however it stands."""
    files = [_link(name, facts, view) for name in facts["files"]]
    body = {name: facts[name] for name in _TOLD} | {"files": files, "simulated": view.simulated}
    for name in ("files_error", "batch_id"):
        if facts[name] is not None:
            body[name] = facts[name]
    return body | {"placeholder": True} if facts["placeholder"] else body


_TOLD = (
    "id", "status", "model_name", "requested_model", "prompt", "prediction_id", "attempts", "files", "cost_usd",
    "timing", "created_at",
)  # fmt: skip


def dated(moment: float) -> str:
    """A Unix time as callers are told it: ISO 8601, UTC, milliseconds."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _link(name: str, facts: Row, view: View) -> str:
    if name.startswith("data:"):
        return name
    wished = facts["file_name"]
    query = "" if wished is None else download_names.link_query(wished, int(name.partition(".")[0]))
    return f"{view.address}/files/{facts['id']}/{name}{query}"
