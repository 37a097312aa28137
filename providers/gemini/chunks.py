"""Reads an answer of Google's, chunk by chunk.

`streamGenerateContent?alt=sse` sends each chunk as `data: {…}`. Without `alt=sse` the answer is one JSON array of the
chunks, and one that is not streamed is a single object; both are read as well. Each chunk has the usage so far, and the
last one the reason of the end. Recorded answers of 2026-02 and 2026-08 look so.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

from providers.calls import AnswerEnd, CallAnswer, Partial, Usage
from providers.connections import Lost, TooLarge
from providers.gemini.refusals import Refusal, error_in_object

MAX_ANSWER: Final = 32 * 1024 * 1024
"""The most bytes of an answer. One with 65,536 tokens of text, each in a chunk of its own, is smaller."""

LONGEST_CHUNK: Final = 8 * 1024 * 1024
"""The most bytes of one chunk, and of an answer that is one JSON document."""

_MOST_TOKENS: Final = 1_000_000_000

_COMPLETE: Final = "STOP"
_LENGTH: Final = frozenset({"MAX_TOKENS", "CONTINUATION"})
_REFUSED: Final = frozenset(
    {
        "SAFETY",
        "RECITATION",
        "BLOCKLIST",
        "PROHIBITED_CONTENT",
        "SPII",
        "IMAGE_SAFETY",
        "IMAGE_PROHIBITED_CONTENT",
        "IMAGE_RECITATION",
    }
)
"""Reasons of an end that are about the content. All others, known or not, are failures."""

_REASON: Final = re.compile(r"[A-Za-z0-9_]{1,100}")
_NAME: Final = re.compile(r"[A-Za-z0-9_./:@-]{1,200}")
_COUNTS: Final = (
    "promptTokenCount",
    "toolUsePromptTokenCount",
    "cachedContentTokenCount",
    "candidatesTokenCount",
    "thoughtsTokenCount",
)


class ChunkDecoder:
    """Cuts the bytes of an answer into its chunks. Raises Lost for a chunk that is not JSON, and TooLarge."""

    def __init__(self) -> None:
        self._buffer = b""
        self._data: list[bytes] = []
        self._size = 0
        self._is_document: bool | None = None

    def feed(self, part: bytes) -> Iterator[Any]:
        """The chunks that this part completes."""
        self._size += len(part)
        self._buffer += part
        if self._is_document is None and (start := self._buffer.lstrip(b"\xef\xbb\xbf \t\r\n")):
            self._buffer, self._is_document = start, start[:1] in {b"{", b"["}
        pending = len(self._buffer) + sum(map(len, self._data))
        if self._size > MAX_ANSWER or (self._is_document and pending > LONGEST_CHUNK):
            raise TooLarge("the answer is too large")
        if self._is_document is False:
            *lines, self._buffer = self._buffer.split(b"\n")
            for line in lines:
                yield from self._line(line)
            if len(self._buffer) + sum(map(len, self._data)) > LONGEST_CHUNK:
                raise TooLarge("a chunk of the answer is too large")

    def end(self) -> Iterator[Any]:
        """The chunks that the end of the answer completes. A last chunk that was cut is left out."""
        if self._is_document:
            document = _json(self._buffer)
            yield from document if isinstance(document, list) else [document]
        elif self._is_document is False:
            with suppress(Lost):
                yield from self._line(self._buffer)
                yield from self._line(b"")

    def _line(self, line: bytes) -> Iterator[Any]:
        """A line of server-sent events. An empty one ends a chunk, and others than data are ignored."""
        line = line.rstrip(b"\r")
        if line.startswith(b"data:"):
            self._data.append(line[5:])
        elif not line and self._data:
            data, self._data = b"\n".join(self._data), []
            if data.strip() != b"[DONE]":
                yield _json(data)


class AnswerReader:
    """Puts an answer together. `on_delta` is called with each piece of its text, and `on_prompt` with the tokens of the
    prompt once they are known. Its methods raise Refusal for an error within the answer, and Lost."""

    def __init__(self, on_delta: Callable[[str], object], on_prompt: Callable[[int], object]) -> None:
        self._on_delta = on_delta
        self._on_prompt = on_prompt
        self._decoder = ChunkDecoder()
        self._pieces: list[str] = []
        self._held = ""  # the first half of a surrogate pair that a chunk ended with
        self._counts = dict.fromkeys(_COUNTS, 0)
        self._finish_reason: str | None = None
        self._block_reason: str | None = None
        self._model_version: str | None = None
        self._response_id: str | None = None
        self._has_chunks = self._has_candidates = False

    @property
    def has_text(self) -> bool:
        """Whether any text was passed on."""
        return bool(self._pieces)

    @property
    def is_finished(self) -> bool:
        """Whether the reason of its end has come, so that it is whole even if its connection is lost."""
        return (self._finish_reason or self._block_reason) is not None

    @property
    def partial(self) -> Partial:
        """The answer so far."""
        return Partial("".join(self._pieces), self._usage, self._model_version)

    def feed(self, part: bytes) -> None:
        for chunk in self._decoder.feed(part):
            self._add(chunk)

    def answer(self) -> CallAnswer:
        """The answer after its last byte. Raises Lost if it has no end."""
        if not self.is_finished:
            for chunk in self._decoder.end():
                self._add(chunk)
        if self._held:
            self._pass_on("\ufffd")
            self._held = ""
        # An answer without candidates is whole: Google sends it when the model has written no text.
        if not self.is_finished and (self._has_candidates or not self._has_chunks):
            raise Lost("the answer has no end")
        return CallAnswer(
            text="".join(self._pieces),
            finish_reason=self._finish_reason,
            model_version=self._model_version,
            response_id=self._response_id,
            usage=self._usage,
            end=self._end,
            block_reason=self._block_reason,
        )

    @property
    def _end(self) -> AnswerEnd:
        reason = self._finish_reason
        if self._block_reason is not None or reason in _REFUSED:
            return "refused"
        if reason == _COMPLETE:
            return "complete"
        return "length" if reason in _LENGTH else "failed"

    @property
    def _usage(self) -> Usage:
        prompt, tools, cached, candidates, thoughts = self._counts.values()
        return Usage(prompt + tools, cached, candidates, thoughts)

    def _add(self, chunk: Any) -> None:
        if not isinstance(chunk, dict):
            raise Lost("a chunk of the answer is no object")
        if (error := error_in_object(chunk)) is not None:
            raise Refusal.of_chunk(error)
        self._has_chunks = True
        self._model_version = _matching(chunk.get("modelVersion"), _NAME) or self._model_version
        self._response_id = _matching(chunk.get("responseId"), _NAME) or self._response_id
        self._count(_mapping(chunk.get("usageMetadata")))
        self._block_reason = (
            _reason(_mapping(chunk.get("promptFeedback")).get("blockReason")) or self._block_reason
        )
        candidates = chunk.get("candidates")
        for candidate in candidates[:1] if isinstance(candidates, list) else ():
            self._has_candidates = True
            self._add_candidate(_mapping(candidate))

    def _add_candidate(self, candidate: Mapping[str, Any]) -> None:
        parts = _mapping(candidate.get("content")).get("parts")
        for part in map(_mapping, parts if isinstance(parts, list) else ()):
            text = part.get("text")
            if isinstance(text, str) and text and not part.get("thought"):
                self._add_text(text)
        self._finish_reason = _reason(candidate.get("finishReason")) or self._finish_reason

    def _add_text(self, text: str) -> None:
        """NUL and single surrogates are replaced: a database takes neither. A pair may come in two pieces."""
        text, self._held = self._held + text, ""
        if not text.isascii() or "\0" in text:
            if "\ud800" <= text[-1] <= "\udbff":
                text, self._held = text[:-1], text[-1]
            text = (
                text.encode("utf-16-le", "surrogatepass")
                .decode("utf-16-le", "replace")
                .replace("\0", "\ufffd")
            )
        if text:
            self._pass_on(text)

    def _pass_on(self, text: str) -> None:
        self._pieces.append(text)
        self._on_delta(text)

    def _count(self, usage: Mapping[str, Any]) -> None:
        """The usage so far, which replaces the earlier one."""
        was_known = self._counts["promptTokenCount"] > 0
        for name in _COUNTS:
            value = usage.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_TOKENS:
                self._counts[name] = value
        if not was_known and self._counts["promptTokenCount"]:
            self._on_prompt(self._usage.prompt_tokens)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _matching(value: Any, pattern: re.Pattern[str]) -> str | None:
    return value if isinstance(value, str) and pattern.fullmatch(value) else None


def _reason(value: Any) -> str | None:
    """A reason as Google spells it. None for the one that stands for none."""
    reason = _matching(value, _REASON)
    return None if reason is None or reason.endswith("_UNSPECIFIED") else reason


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Lost("the answer is not JSON") from error
