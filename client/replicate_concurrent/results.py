"""Results as frozen values. `raw` is the service's own JSON.

A field that an older service does not send has its default, and fields of a newer one are in `raw` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from replicate_concurrent.errors import ApiError, api_error

Json = Mapping[str, Any]

Saver = Callable[..., "list[Path]"]


@dataclass(frozen=True)
class Generation:
    """A generation, in any state.

    Attributes:
        success: Whether it has its outputs; None while it has not ended.
        files: Links to the outputs that the service keeps.
        output: What Replicate answered: links, texts or other JSON.
        cost_usd: USD over all attempts.
        error: Why it failed.
        seed: The seed that the model has used, where it is known.
        changes: What was changed in the inputs for the model that ran.
        index: Its place in its batch, from 0.
    """

    id: str
    status: str
    success: bool | None = None
    model_name: str = ""
    prompt: str | None = None
    files: tuple[str, ...] = ()
    output: tuple[Any, ...] = ()
    cost_usd: float = 0.0
    kind: str | None = None
    seed: int | None = None
    error: ApiError | None = field(default=None, compare=False)
    changes: tuple[Any, ...] = ()
    warnings: tuple[str, ...] = ()
    batch_id: str | None = None
    index: int | None = None
    estimated_seconds: float | None = None
    placeholder: bool = False
    raw: Json = field(default_factory=dict, repr=False, compare=False)
    saver: Saver | None = field(default=None, repr=False, compare=False)

    @property
    def has_ended(self) -> bool:
        return self.success is not None or self.status in ("succeeded", "failed", "canceled")

    @property
    def text(self) -> str:
        """The text that the model wrote; empty if it made files."""
        return "" if self.files else "".join(each for each in self.output if isinstance(each, str))

    def save(
        self, directory: str | Path = ".", name: str = "{id}.{ext}", *, overwrite: bool = False
    ) -> list[Path]:
        """Write the outputs into a directory, which is made. Returns their paths.

        `name` may have `{id}`, `{ext}`, `{slug}` (of the prompt), `{model}`, `{index}` (in a batch, from 1) and
        `{number}` (of several outputs, from 1; without it the second gets `-2` before its extension, and so on).

        Raises FileExistsError unless `overwrite`, OutputLost, BadOutput, and the error of a generation that failed.
        """
        if self.saver is None:
            raise TypeError(
                "This result has no client to fetch its files. AsyncClient: await client.save(result, …)."
            )
        return self.saver(self, directory, name, overwrite=overwrite)


@dataclass(frozen=True)
class Batch:
    """A batch. `results` are those so far, in input order; each knows its `index`."""

    id: str
    status: str = ""
    success: bool | None = None
    total: int = 0
    succeeded: int = 0
    failed: int = 0
    cost_usd: float = 0.0
    estimated_seconds: float | None = None
    results: tuple[Generation, ...] = ()
    raw: Json = field(default_factory=dict, repr=False, compare=False)

    @property
    def has_ended(self) -> bool:
        return self.success is not None or self.status == "completed"

    def __iter__(self) -> Iterator[Generation]:
        return iter(self.results)


@dataclass(frozen=True)
class Plan:
    """The forecast of a dry run: seconds, and USD at most and as expected."""

    total: int = 1
    strategy: str = ""
    estimated_seconds: float | None = None
    estimated_cost_usd: float | None = None
    cost_bound_usd: float | None = None
    raw: Json = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class Event:
    """An event of a generation: `queued`, `running`, `progress`, `done`, `shutting_down` or `interrupted`."""

    name: str
    data: Json = field(default_factory=dict)

    @property
    def raw(self) -> Json:
        """The service's own JSON of the event, as `data` has it."""
        return self.data

    @property
    def progress(self) -> float | None:
        """Per cent, where the model reports it."""
        value = self.data.get("progress", self.data.get("percent"))
        return float(value) if isinstance(value, (int, float)) else None


@dataclass(frozen=True)
class Model:
    """A model: its parameters are the properties of `input_schema`, a JSON Schema."""

    name: str
    aliases: tuple[str, ...] = ()
    kind: str | None = None
    tier: str | None = None
    price: Json | None = None
    input_schema: Json = field(default_factory=dict, repr=False)
    raw: Json = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class Usage:
    """The number and the cost of ended generations: in `groups`, and in total."""

    groups: tuple[Json, ...] = ()
    total: Json = field(default_factory=dict)
    raw: Json = field(default_factory=dict, repr=False, compare=False)

    @property
    def usd(self) -> float:
        """USD in total."""
        return float(self.total.get("usd", 0.0))

    @property
    def calls(self) -> int:
        """Calls to text models in total."""
        return int(self.total.get("calls") or 0)

    @property
    def tokens(self) -> int:
        """Their tokens in total: of prompts, thinking and answers."""
        counted = ("prompt_tokens", "thinking_tokens", "completion_tokens")
        return sum(int(self.total.get(name) or 0) for name in counted)


@dataclass(frozen=True)
class Status:
    """The state of the service: its slots and its window."""

    version: str | None = None
    simulated: bool | None = None
    ledger: str | None = None
    concurrent_limit: int | None = None
    current_concurrent: int | None = None
    available_slots: int | None = None
    waiting: int | None = None
    requests_per_minute_limit: int | None = None
    current_rate_per_minute: int | None = None
    raw: Json = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class Key:
    """A named key. `key` is its text, which only the answer to its creation or rotation has; the `repr` hides it."""

    id: str
    name: str = ""
    role: str | None = None
    prefix: str | None = None
    max_concurrent: int | None = None
    requests_per_minute: int | None = None
    max_queued: int | None = None
    budget_usd: float | None = None
    budget_period: str | None = None
    models: tuple[str, ...] | None = None
    safety: str = "on"
    tags: Json = field(default_factory=dict)
    expires_at: str | None = None
    deleted_at: str | None = None
    key: str | None = field(default=None, repr=False, compare=False)
    raw: Json = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class Upload:
    """A file that the service keeps until `expires_at`, for its caller's generations. `url` is its address, and `size`
    is in bytes."""

    id: str
    url: str
    name: str = ""
    size: int = 0
    expires_at: str | None = None
    raw: Json = field(default_factory=dict, repr=False, compare=False)


def generation(raw: Json) -> Generation:
    """A generation from its JSON."""
    error = raw.get("error")
    failed = isinstance(error, Mapping)
    return Generation(
        id=str(raw.get("id") or ""),
        status=str(raw.get("status") or ("failed" if failed else "")),
        success=raw.get("success"),
        model_name=str(raw.get("model_name") or raw.get("requested_model") or ""),
        prompt=raw.get("prompt"),
        files=strings(raw.get("files")),
        output=_tuple(raw.get("output")),
        cost_usd=float(raw.get("cost_usd") or 0.0),
        kind=raw.get("kind"),
        seed=raw.get("seed"),
        error=api_error({"id": raw.get("id"), **error}) if isinstance(error, Mapping) else None,
        changes=_tuple(raw.get("changes")),
        warnings=strings(raw.get("warnings")),
        batch_id=raw.get("batch_id"),
        index=raw.get("index"),
        estimated_seconds=raw.get("estimated_seconds"),
        placeholder=raw.get("placeholder") is True,
        raw=raw,
    )


def batch(raw: Json) -> Batch:
    """A batch from its JSON."""
    found = [generation(each) for each in _tuple(raw.get("results")) if isinstance(each, Mapping)]
    return Batch(
        id=str(raw.get("id") or ""),
        status=str(raw.get("status") or ("completed" if "success" in raw else "")),
        success=raw.get("success"),
        total=int(raw.get("total") or len(found)),
        succeeded=int(raw.get("succeeded") or 0),
        failed=int(raw.get("failed") or 0),
        cost_usd=float(raw.get("actual_cost_usd") or 0.0),
        estimated_seconds=raw.get("estimated_seconds"),
        results=tuple(sorted(found, key=lambda each: each.index if each.index is not None else 0)),
        raw=raw,
    )


def savable(made: Generation, saver: Saver) -> Generation:
    """The same generation, which can save its files."""
    return replace(made, saver=saver)


def savable_batch(made: Batch, saver: Saver) -> Batch:
    """The same batch, whose results can save their files."""
    return replace(made, results=tuple(savable(each, saver) for each in made.results))


def plan(raw: Json) -> Plan:
    return Plan(
        total=int(raw.get("total") or 1),
        strategy=str(raw.get("strategy") or ""),
        estimated_seconds=raw.get("estimated_seconds"),
        estimated_cost_usd=raw.get("estimated_cost_usd"),
        cost_bound_usd=raw.get("cost_bound_usd"),
        raw=raw,
    )


def model(raw: Json) -> Model:
    return Model(
        name=str(raw.get("name") or ""),
        aliases=strings(raw.get("aliases")),
        kind=raw.get("kind"),
        tier=raw.get("tier"),
        price=raw.get("price"),
        input_schema=raw.get("input_schema") or {},
        raw=raw,
    )


def usage(raw: Json) -> Usage:
    return Usage(_tuple(raw.get("usage")), raw.get("total") or {}, raw)


def status(raw: Json) -> Status:
    """The status from that of `/status`, or from the answer of `/configure`."""
    gate = raw.get("concurrency") or {}
    return Status(
        version=raw.get("version"),
        simulated=raw.get("simulated"),
        ledger=raw.get("ledger"),
        concurrent_limit=gate.get("concurrent_limit"),
        current_concurrent=gate.get("current_concurrent"),
        available_slots=gate.get("available_slots"),
        waiting=gate.get("waiting"),
        requests_per_minute_limit=gate.get("requests_per_minute_limit"),
        current_rate_per_minute=gate.get("current_rate_per_minute"),
        raw=raw,
    )


def key(raw: Json) -> Key:
    return Key(
        id=str(raw.get("id") or ""),
        name=str(raw.get("name") or ""),
        role=raw.get("role"),
        prefix=raw.get("prefix"),
        max_concurrent=raw.get("max_concurrent"),
        requests_per_minute=raw.get("requests_per_minute"),
        max_queued=raw.get("max_queued"),
        budget_usd=raw.get("budget_usd"),
        budget_period=raw.get("budget_period"),
        models=strings(raw["models"]) if isinstance(raw.get("models"), list) else None,
        safety=str(raw.get("safety") or "on"),
        tags=raw.get("tags") or {},
        expires_at=raw.get("expires_at"),
        deleted_at=raw.get("deleted_at"),
        key=raw.get("key"),
        raw=raw,
    )


def uploaded(raw: Json) -> Upload:
    return Upload(
        id=str(raw.get("id") or ""),
        url=str((raw.get("urls") or {}).get("get") or ""),
        name=str(raw.get("name") or ""),
        size=int(raw.get("size") or 0),
        expires_at=raw.get("expires_at"),
        raw=raw,
    )


def _tuple(value: object) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (list, tuple)) else () if value is None else (value,)


def strings(value: object) -> tuple[str, ...]:
    """The texts of a list, or a text alone; none if it is None."""
    return tuple(str(each) for each in _tuple(value))
