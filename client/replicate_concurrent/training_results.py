"""Results of trainings as frozen values. `raw` is the service's own JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from replicate_concurrent.errors import ApiError, api_error
from replicate_concurrent.results import Json, strings


@dataclass(frozen=True)
class Training:
    """A training, in any state.

    Attributes:
        success: Whether it has its model; None while it has not ended.
        destination: The model at Replicate that gets the new version.
        images: The number of its images, of which `captions` have a caption.
        model: The new version, `owner/name:…`, which `generate` takes as a model.
        weights: The link to the weights, which takes the key of the client.
        progress: Per cent, while it runs.
        logs: The end of what the trainer has printed.
        cost_usd: USD over all attempts.
        error: Why it failed.
    """

    id: str
    status: str
    success: bool | None = None
    trainer: str = ""
    destination: str = ""
    trigger_word: str | None = None
    images: int = 0
    captions: int = 0
    model: str | None = None
    weights: str | None = None
    progress: float | None = None
    logs: str = ""
    cost_usd: float = 0.0
    estimated_cost_usd: float | None = None
    estimated_seconds: float | None = None
    error: ApiError | None = field(default=None, compare=False)
    warnings: tuple[str, ...] = ()
    raw: Json = field(default_factory=dict, repr=False, compare=False)

    @property
    def has_ended(self) -> bool:
        return self.success is not None or self.status in ("succeeded", "failed", "canceled")


@dataclass(frozen=True)
class TrainingPlan:
    """The forecast of a training: what it would use, seconds, and USD at most (its `timeout` long) and as expected,
    which are None if the trainer's usual time is not known."""

    trainer: str = ""
    destination: str = ""
    destination_exists: bool | None = None
    images: int = 0
    captions: int = 0
    estimated_seconds: float | None = None
    estimated_cost_usd: float | None = None
    cost_bound_usd: float | None = None
    warnings: tuple[str, ...] = ()
    raw: Json = field(default_factory=dict, repr=False, compare=False)


def training(raw: Json) -> Training:
    """A training from its JSON."""
    error = raw.get("error")
    failed = isinstance(error, Mapping)
    return Training(
        id=str(raw.get("id") or ""),
        status=str(raw.get("status") or ("failed" if failed else "")),
        success=raw.get("success"),
        trainer=str(raw.get("trainer") or ""),
        destination=str(raw.get("destination") or ""),
        trigger_word=raw.get("trigger_word"),
        images=int(raw.get("images") or 0),
        captions=int(raw.get("captions") or 0),
        model=raw.get("model"),
        weights=raw.get("weights"),
        progress=raw.get("progress"),
        logs=str(raw.get("logs") or ""),
        cost_usd=float(raw.get("cost_usd") or 0.0),
        estimated_cost_usd=raw.get("estimated_cost_usd"),
        estimated_seconds=raw.get("estimated_seconds"),
        error=api_error({"id": raw.get("id"), **error}) if isinstance(error, Mapping) else None,
        warnings=strings(raw.get("warnings")),
        raw=raw,
    )


def training_plan(raw: Json) -> TrainingPlan:
    """A forecast from the JSON of a dry run."""
    return TrainingPlan(
        trainer=str(raw.get("trainer") or ""),
        destination=str(raw.get("destination") or ""),
        destination_exists=raw.get("destination_exists"),
        images=int(raw.get("images") or 0),
        captions=int(raw.get("captions") or 0),
        estimated_seconds=raw.get("estimated_seconds"),
        estimated_cost_usd=raw.get("estimated_cost_usd"),
        cost_bound_usd=raw.get("cost_bound_usd"),
        warnings=strings(raw.get("warnings")),
        raw=raw,
    )
