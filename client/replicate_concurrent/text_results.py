"""Results of text models as frozen values. `raw` is the service's own JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from replicate_concurrent.answer_schemas import built
from replicate_concurrent.errors import ApiError
from replicate_concurrent.results import Batch, Generation, generation

Json = Mapping[str, Any]

T = TypeVar("T")


@dataclass(frozen=True)
class TokenUsage:
    """The tokens of a call. `cached_tokens` are among those of the prompt."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    thinking_tokens: int = 0
    total_tokens: int = 0


@dataclass(frozen=True)
class TextResult:
    """What each call to a text model has.

    Attributes:
        success: Whether it has its answer; None while it has not ended.
        model: The model that was requested, letter for letter.
        model_version: The model that answered.
        finish_reason: Why the answer ended, in the provider's words.
        usage: Its tokens; None if they are not known.
        cost_usd: USD over all attempts.
        timing: Seconds: `queued`, `predicting` and `total`.
        error: Why it failed.
        index: Its place in its batch, from 0.
    """

    id: str
    status: str = ""
    success: bool | None = None
    model: str = ""
    model_version: str | None = None
    finish_reason: str | None = None
    usage: TokenUsage | None = None
    cost_usd: float = 0.0
    timing: Json = field(default_factory=dict, compare=False)
    warnings: tuple[str, ...] = ()
    changes: tuple[Any, ...] = ()
    error: ApiError | None = field(default=None, compare=False)
    index: int | None = None
    raw: Json = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class ChatResult(TextResult):
    """The answer to a prompt. One that is `truncated` ended at its token limit."""

    response: str = ""
    truncated: bool = False


@dataclass(frozen=True)
class ExtractResult(TextResult):
    """An answer that fits a schema. `data` is its JSON."""

    data: Any = None
    message: str = ""
    schema: Any = field(default=None, repr=False, compare=False)

    @property
    def value(self) -> Any:
        """The data as an instance of the class that was passed as the schema; for a dictionary, the data itself. Raises
        what the class raises, and the error of a call that failed."""
        if self.error is not None:
            raise self.error
        return built(self.schema, self.data)


@dataclass(frozen=True)
class ChatDelta:
    """A piece of a text. The last one has an empty `delta`, and the `result` with the whole text."""

    delta: str
    result: ChatResult | None = None


@dataclass(frozen=True)
class TextBatch(Generic[T]):
    """A batch of calls to text models. `results` are in input order."""

    id: str
    status: str = ""
    success: bool | None = None
    total: int = 0
    succeeded: int = 0
    failed: int = 0
    cost_usd: float = 0.0
    results: tuple[T, ...] = ()
    raw: Json = field(default_factory=dict, repr=False, compare=False)

    def __iter__(self) -> Iterator[T]:
        return iter(self.results)


def chat_result(raw: Json) -> ChatResult:
    """The answer to a prompt from its JSON."""
    return ChatResult(
        **_fields(raw), response=str(raw.get("response") or ""), truncated=raw.get("truncated") is True
    )


def extract_result(raw: Json, schema: Any) -> ExtractResult:
    """An answer that fits a schema from its JSON."""
    return ExtractResult(
        **_fields(raw), data=raw.get("data"), message=str(raw.get("message") or ""), schema=schema
    )


def text_batch(made: Batch, view: Callable[[Json], T]) -> TextBatch[T]:
    """A batch with the `view` of each item."""
    return TextBatch(
        id=made.id,
        status=made.status,
        success=made.success,
        total=made.total,
        succeeded=made.succeeded,
        failed=made.failed,
        cost_usd=made.cost_usd,
        results=tuple(view(each.raw) for each in made.results),
        raw=made.raw,
    )


def _fields(raw: Json) -> dict[str, Any]:
    made: Generation = generation(raw)
    return {
        "id": made.id,
        "status": made.status,
        "success": made.success,
        "model": str(raw.get("model") or raw.get("requested_model") or ""),
        "model_version": raw.get("model_version"),
        "finish_reason": raw.get("finish_reason"),
        "usage": _usage(raw.get("usage")),
        "cost_usd": made.cost_usd,
        "timing": raw.get("timing") or {},
        "warnings": made.warnings,
        "changes": made.changes,
        "error": made.error,
        "index": made.index,
        "raw": raw,
    }


def _usage(raw: object) -> TokenUsage | None:
    if not isinstance(raw, Mapping):
        return None
    return TokenUsage(**{name: int(raw.get(name) or 0) for name in TokenUsage.__dataclass_fields__})
