"""The outcome of an answer to a call, and its error for a caller who needs a whole answer, or any text."""

from dataclasses import dataclass
from typing import Literal

from errors import GenerationFailed, ServiceError
from errors.calls import OutputTruncated
from errors.content import ContentRefused
from providers.calls import CallAnswer


@dataclass(frozen=True, slots=True)
class CallOutcome:
    """`ok` has a whole text, and `truncated` a text that ended at a token limit, which may be empty. `empty` was
    completed without a text. `reason` is the provider's word, None if it has none."""

    kind: Literal["ok", "truncated", "refused", "empty", "failed"]
    reason: str | None = None


def outcome_of(answer: CallAnswer) -> CallOutcome:
    reason = answer.block_reason or answer.finish_reason
    match answer.end:
        case "complete":
            return CallOutcome("ok" if answer.text.strip() else "empty", reason)
        case "length":
            return CallOutcome("truncated", reason)
        case "refused":
            return CallOutcome("refused", reason)
    return CallOutcome("failed", reason)


def failure_of(answer: CallAnswer, *, takes_truncated: bool) -> ServiceError | None:
    """The error of an answer, None for a success. With `takes_truncated`, a text that ended at a token limit is a
    success."""
    outcome = outcome_of(answer)
    match outcome.kind:
        case "ok":
            return None
        case "truncated":
            return None if takes_truncated and answer.text else OutputTruncated(_spent(answer))
        case "refused":
            of = "prompt" if answer.block_reason else "output"
            return ContentRefused(f"The provider refused the {of}: {outcome.reason}.")
        case "empty":
            return GenerationFailed("The model ended its answer without any text.")
    if outcome.reason is None:
        return GenerationFailed("The provider sent an answer without any text or reason.")
    return GenerationFailed(f"The model ended its answer for this reason: {outcome.reason}.")


def _spent(answer: CallAnswer) -> str:
    """How the tokens were used. Thinking counts within the limit of the output."""
    usage = answer.usage
    spent = f"thinking took {usage.thinking_tokens:,} tokens, and the text {usage.completion_tokens:,}"
    return f"The output ended at its token limit before it was complete: {spent}."
