"""Answers in the shapes of OpenAI's chat completions: one document, or the chunks of a stream.

A refusal of the provider is an answer with the `finish_reason` of `content_filter`, as clients expect it, and not an
error. An answer that ended at its token limit has `length`, also if thinking took all tokens and there is no text.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from catalog.adaptation import Change
from doors.openai.changes import changes_of
from doors.openai.errors import in_stream

JSON = dict[str, Any]

DONE: Final = "data: [DONE]\n\n"

_FILTERED: Final = {"content_refused": "content_filter", "output_truncated": "length"}
"""The failures that are answers at this door."""


def is_answer(body: Mapping[str, Any]) -> bool:
    """Whether a call that ended so (`generations/views.py`) has an answer, and no error."""
    return bool(body["success"]) or body["error"]["code"] in _FILTERED


def text_of(body: Mapping[str, Any]) -> str | None:
    """The text of an answer; None if there is none."""
    text: str | None = body["response"] if body["success"] else body["error"].get("partial")
    return text


@dataclass(frozen=True, slots=True)
class Completion:
    """The answer to one call with the id of its generation. `created` is the Unix time of its acceptance, and `model`
    the requested one. `changes` are those of its fields."""

    id: str
    created: int
    model: str
    changes: Sequence[Change] = ()
    with_usage: bool = False

    def document(self, body: Mapping[str, Any]) -> JSON:
        """The whole answer of a call that ended with this `body`."""
        message = {"role": "assistant", "content": text_of(body), "refusal": _refusal(body)}
        if message["content"] is None and message["refusal"] is None:
            message["content"] = ""
        choice = {"index": 0, "message": message, "logprobs": None, **_reasons(body)}
        return {
            **self._head("chat.completion"),
            "choices": [choice],
            "usage": _usage(body),
            **self._facts(body),
        }

    def begin(self) -> str:
        """The first chunk of a stream."""
        return self._chunk({"role": "assistant", "content": "", "refusal": None})

    def piece(self, text: str) -> str:
        """The chunk with a piece of the text."""
        return self._chunk({"content": text})

    def end(self, body: Mapping[str, Any]) -> Iterator[str]:
        """The last chunks of a stream, after its text."""
        refusal = _refusal(body)
        if refusal is not None:
            yield self._chunk({"refusal": refusal})
        yield self._chunk({}, **_reasons(body), facts=self._facts(body))
        if self.with_usage:
            yield _event(
                {
                    **self._head("chat.completion.chunk"),
                    "choices": [],
                    "usage": _usage(body),
                    **self._facts(body),
                }
            )
        yield DONE

    def failed(self, error: Mapping[str, Any]) -> str:
        """The last event of a stream that ends with an error (`ServiceError.as_item`)."""
        return _event({**in_stream(error), "id": self.id})

    def _head(self, kind: str) -> JSON:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _chunk(
        self,
        delta: JSON,
        *,
        facts: Mapping[str, Any] | None = None,
        finish_reason: str | None = None,
        native_finish_reason: str | None = None,
    ) -> str:
        choice: JSON = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        if facts is not None:
            choice["native_finish_reason"] = native_finish_reason
        usage = {"usage": None} if self.with_usage else {}
        return _event({**self._head("chat.completion.chunk"), "choices": [choice], **usage, **(facts or {})})

    def _facts(self, body: Mapping[str, Any]) -> JSON:
        """The facts of this service that stand beside OpenAI's fields."""
        warnings = {"warnings": body["warnings"]} if "warnings" in body else {}
        return {
            "cost_usd": body["cost_usd"],
            "model_version": body.get("model_version"),
            "changes": [*(each.as_json() for each in self.changes), *changes_of(body)],
            **warnings,
        }


def _reasons(body: Mapping[str, Any]) -> JSON:
    """Why the answer ended, in OpenAI's word and in the provider's."""
    answered = "length" if body.get("truncated") else "stop"
    reason = answered if body["success"] else _FILTERED[body["error"]["code"]]
    return {"finish_reason": reason, "native_finish_reason": body.get("finish_reason")}


def _refusal(body: Mapping[str, Any]) -> str | None:
    if body["success"] or _FILTERED[body["error"]["code"]] != "content_filter":
        return None
    detail: str = body["error"]["detail"]
    return detail


def _usage(body: Mapping[str, Any]) -> JSON | None:
    """OpenAI's `completion_tokens` include those of thinking."""
    usage = body.get("usage")
    if usage is None:
        return None
    return {
        "prompt_tokens": usage["prompt_tokens"],
        "completion_tokens": usage["completion_tokens"] + usage["thinking_tokens"],
        "total_tokens": usage["total_tokens"],
        "prompt_tokens_details": {"cached_tokens": usage["cached_tokens"]},
        "completion_tokens_details": {"reasoning_tokens": usage["thinking_tokens"]},
    }


def _event(data: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"
