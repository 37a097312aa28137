"""The Python client of the service: `Client` and `AsyncClient`. Names are imported when they are first used, so that
the command `rcg` starts quickly."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from replicate_concurrent.version import VERSION

if TYPE_CHECKING:
    from replicate_concurrent.async_client import AsyncClient
    from replicate_concurrent.client import Client
    from replicate_concurrent.errors import (
        ApiError,
        BadAnswer,
        BadOutput,
        BudgetExceeded,
        Canceled,
        ConfigError,
        ConnectionLost,
        ContentRefused,
        FieldProblem,
        Forbidden,
        GeminiKeyRejected,
        GenerationFailed,
        IdempotencyConflict,
        InvalidRequest,
        ModelUnavailable,
        NoServer,
        NotFound,
        OutcomeUnknown,
        OutputInvalid,
        OutputLost,
        OutputTruncated,
        PromptTooLarge,
        QueueFull,
        QuotaExhausted,
        ReplicateConcurrentError,
        SchemaRefused,
        TimedOut,
        TooLarge,
        Unauthenticated,
        Unavailable,
    )
    from replicate_concurrent.handles import (
        AsyncBatchHandle,
        AsyncHandle,
        AsyncTrainingHandle,
        BatchHandle,
        Handle,
        TrainingHandle,
    )
    from replicate_concurrent.results import Batch, Event, Generation, Key, Model, Plan, Status, Upload, Usage
    from replicate_concurrent.text_results import ChatDelta, ChatResult, ExtractResult, TextBatch, TokenUsage
    from replicate_concurrent.training_results import Training, TrainingPlan

__version__ = VERSION

__all__ = [
    "ApiError",
    "AsyncBatchHandle",
    "AsyncClient",
    "AsyncHandle",
    "AsyncTrainingHandle",
    "BadAnswer",
    "BadOutput",
    "Batch",
    "BatchHandle",
    "BudgetExceeded",
    "Canceled",
    "ChatDelta",
    "ChatResult",
    "Client",
    "ConfigError",
    "ConnectionLost",
    "ContentRefused",
    "Event",
    "ExtractResult",
    "FieldProblem",
    "Forbidden",
    "GeminiKeyRejected",
    "Generation",
    "GenerationFailed",
    "Handle",
    "IdempotencyConflict",
    "InvalidRequest",
    "Key",
    "Model",
    "ModelUnavailable",
    "NoServer",
    "NotFound",
    "OutcomeUnknown",
    "OutputInvalid",
    "OutputLost",
    "OutputTruncated",
    "Plan",
    "PromptTooLarge",
    "QueueFull",
    "QuotaExhausted",
    "ReplicateConcurrentError",
    "SchemaRefused",
    "Status",
    "TextBatch",
    "TimedOut",
    "TokenUsage",
    "TooLarge",
    "Training",
    "TrainingHandle",
    "TrainingPlan",
    "Unauthenticated",
    "Unavailable",
    "Upload",
    "Usage",
    "__version__",
]

_MODULES = {
    "AsyncClient": "async_client",
    "Client": "client",
    **dict.fromkeys(("AsyncBatchHandle", "AsyncHandle", "BatchHandle", "Handle"), "handles"),
    **dict.fromkeys(("AsyncTrainingHandle", "TrainingHandle"), "handles"),
    **dict.fromkeys(("Training", "TrainingPlan"), "training_results"),
    **dict.fromkeys(
        ("Batch", "Event", "Generation", "Key", "Model", "Plan", "Status", "Upload", "Usage"), "results"
    ),
    **dict.fromkeys(("ChatDelta", "ChatResult", "ExtractResult", "TextBatch", "TokenUsage"), "text_results"),
}
"""Where a name is defined; all others are errors."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    return __all__
