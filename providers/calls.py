"""The protocol of providers that answer a call directly, such as a chat: one request, answered as a stream of text.

A call has no creation and no id that could be looked up later. An answer that is lost after sending is therefore lost
for good (`CallLost`), and it may be billed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

from auth import Caller
from errors import OutcomeUnknown, ServiceError

LimitScope = Literal["model", "account"]
"""Whether a limit is that of one model in the account, or that of the whole account."""

LimitKind = Literal["minute", "day", "money", "tier", "capacity"]
"""Why a provider refused a call: a window of a minute is full, the day's calls are used up, the account has no money
left, its tier does not have the model, or the provider's shared capacity is exhausted."""

AnswerEnd = Literal["complete", "length", "refused", "failed"]
"""How an answer ended: the model completed it, it reached a token limit, the provider refused the content, or anything
else."""

Role = Literal["user", "assistant"]

_PARTIAL: Final = "partial"


@dataclass(frozen=True, slots=True)
class Picture:
    """An image of a prompt, such as `image/png`, with its bytes."""

    mime_type: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    text: str
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request to a text model. `model` is the name to send, after routing of old names. `max_output_tokens`
    includes thinking. Fields that are None are not sent. With `json`, the answer is JSON. `schema` is the caller's JSON
    Schema of the answer, and the provider makes the schema that it sends from it."""

    model: str
    messages: tuple[Message, ...]
    system: str = ""
    max_output_tokens: int
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    thinking_level: str | None = None
    json: bool = False
    schema: Mapping[str, Any] | None = field(default=None, hash=False)


@dataclass(frozen=True, slots=True)
class Usage:
    """The tokens of a call. `prompt_tokens` include the cached ones. `completion_tokens` exclude thinking."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    thinking_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens + self.thinking_tokens

    @property
    def is_known(self) -> bool:
        """Whether the provider has counted them: no prompt is without tokens."""
        return self.prompt_tokens > 0


@dataclass(frozen=True, slots=True)
class CallAnswer:
    """A whole answer. `finish_reason` and `block_reason` (of a prompt that was refused) are spelled as the provider
    spells them, and `end` is their meaning. `model_version` names the model that answered."""

    text: str
    finish_reason: str | None
    model_version: str | None
    response_id: str | None
    usage: Usage
    end: AnswerEnd = "complete"
    block_reason: str | None = None


@dataclass(slots=True)
class Partial:
    """The part of an answer that came before it was lost, cut or cancelled: its text and its usage so far."""

    text: str = ""
    usage: Usage = field(default_factory=Usage)
    model_version: str | None = None


class CallLost(OutcomeUnknown):
    """The call was sent, and neither the end of its answer nor an error came. It may be billed, and cannot be looked
    up."""

    may_be_paid = True

    def __init__(self, detail: str = "", *, partial: Partial | None = None) -> None:
        super().__init__(detail)
        self.partial = partial or Partial()


class LimitHit(Exception):
    """The provider refused the call for a limit, and does not bill it.

    The limit holds for `wait` seconds, or until the Unix time `until`; both are None if that is not known. `limit` is
    its name, such as `rpm`, and `lowered_to` its value, if the provider states it. The caller gets `error` if the call
    is not tried again.
    """

    def __init__(
        self,
        error: ServiceError,
        *,
        scope: LimitScope,
        kind: LimitKind,
        wait: float | None = None,
        until: float | None = None,
        limit: str | None = None,
        lowered_to: int | None = None,
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.scope = scope
        self.kind = kind
        self.wait = wait
        self.until = until
        self.limit = limit
        self.lowered_to = lowered_to

    @property
    def is_brief(self) -> bool:
        """Whether the same call may succeed soon."""
        return self.kind in {"minute", "capacity"}


def attach_partial(error: BaseException, partial: Partial) -> None:
    """Add the part of the answer that had come to an error, such as CancelledError."""
    setattr(error, _PARTIAL, partial)


def partial_of(error: BaseException) -> Partial | None:
    """The part of the answer that had come when this error ended it, None if none was attached."""
    found = getattr(error, _PARTIAL, None)
    return found if isinstance(found, Partial) else None


class CallLease(Protocol):
    """The admission of one call. Its owner frees the slot and settles the cost."""

    def sent(self) -> None:
        """The request is sent."""

    def not_sent(self) -> None:
        """Undo `sent`: there was no connection."""

    def answered(self) -> None:
        """The head or the first byte of an answer has come. The answer may be an error."""

    def measured(self, tokens: int) -> None:
        """The prompt has this number of tokens by the first chunk of the answer."""

    def lost(self) -> None:
        """It is not known whether the request arrived."""


class CallProvider(Protocol):
    """Runs calls. Every method is called on the loop, except `tokens_bound`, which is pure."""

    def tokens_bound(self, call: Call) -> int:
        """An upper bound of the tokens of the prompt: one for each byte of text, and media by a table."""

    async def count_tokens(self, caller: Caller, call: Call) -> int:
        """The tokens of the prompt as the provider counts them. It costs no money and no place in the windows of
        calls. Raises TryAgain or ServiceError."""

    async def run(
        self,
        caller: Caller,
        call: Call,
        *,
        lease: CallLease,
        on_delta: Callable[[str], object],
        seconds: float | None = None,
    ) -> CallAnswer:
        """Send the call once, and return its whole answer. `on_delta` is called with each piece of its text. The call
        ends after so many `seconds`, and after those of the provider at the latest.

        Raises TryAgain for an error of the provider before any text, LimitHit for a limit, ServiceError for a final
        failure, and CallLost if the call was sent and its answer has no end. If it is cancelled, it closes the
        connection and attaches a Partial to the CancelledError (`partial_of`).
        """
