"""Plans an answer before it is sent: its chunks, its usage, its end.

Every chunk has the usage so far, thoughts complete from the first, and `finishReason` is only in the last. Thinking
counts within `maxOutputTokens`, so it can leave no room for the text.
"""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from simulator.gemini import marks as prompt_marks
from simulator.gemini import requests, stories, texts, tokens
from simulator.gemini.instances import Instances
from simulator.gemini.marks import Marks
from simulator.gemini.models import Usage
from simulator.gemini.options import GeminiOptions
from simulator.gemini.requests import CheckedRequest

_THOUGHT = "**Considering the question**\n\nI compare the question with the known facts.\n"
_ECHOED = 80


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk of an answer: its JSON, and the usage so far."""

    body: Mapping[str, Any]
    usage: Usage


@dataclass(frozen=True, slots=True)
class Names:
    """The identifiers of an answer."""

    version: str
    response_id: str
    turn_token: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The chunks of an answer, and its finish reason, if it has one."""

    chunks: tuple[Chunk, ...]
    finish_reason: str | None

    @property
    def usage(self) -> Usage:
        """The usage of the whole answer."""
        return self.chunks[-1].usage

    def whole(self) -> dict[str, Any]:
        """The answer as one body: all parts in one candidate, the rest as in the last chunk."""
        last = dict(self.chunks[-1].body)
        parts: list[dict[str, Any]] = []
        for chunk in self.chunks:
            for candidate in chunk.body.get("candidates", ()):
                for part in candidate.get("content", {}).get("parts", ()):
                    _join(parts, part)
        if parts:
            candidate = last["candidates"][0]
            last["candidates"] = [{**candidate, "content": {**candidate.get("content", {}), "parts": parts}}]
        return last


@dataclass(frozen=True, slots=True)
class _Content:
    """The text of an answer, its tokens, and its finish reason."""

    text: str
    output: int
    finish: str | None


def plan(checked: CheckedRequest, marks: Marks, names: Names, *, options: GeminiOptions, seed: int) -> Answer:
    """The answer to a call."""
    start = Usage(prompt=checked.prompt_tokens, cached=_cached(checked, marks))
    if "blocked" in marks or "no-candidates" in marks:
        feedback = (
            {"promptFeedback": {"blockReason": marks["blocked"] or "SAFETY"}} if "blocked" in marks else {}
        )
        return Answer((_chunk(feedback, start, checked, names, marks),), None)
    thoughts = min(int(prompt_marks.number(marks, "think", checked.thinking)), checked.most)
    start = replace(start, thoughts=thoughts)
    bare = _bare(marks)
    if bare is not None:
        body = {"candidates": [{**bare, "index": 0}]}
        return Answer((_chunk(body, start, checked, names, marks),), bare["finishReason"])
    content = _content(checked, marks, checked.most - thoughts, options.output_tokens, seed)
    chunks = int(prompt_marks.number(marks, "chunks", options.chunks))
    return Answer(
        tuple(_chunks(content, start, checked, names, marks, amount=chunks, seed=seed)), content.finish
    )


def _cached(checked: CheckedRequest, marks: Marks) -> int:
    value = marks.get("cached", "")
    if not value:
        return 0
    amount = float(value) * checked.prompt_tokens if "." in value else float(value)
    return min(round(amount), checked.prompt_tokens)


def _bare(marks: Marks) -> dict[str, Any] | None:
    """A candidate without text, if the marks name one."""
    if "no-image" in marks:
        return {"finishReason": "NO_IMAGE"}
    if "finish" in marks:
        reason = marks["finish"] or "OTHER"
        rating = {"category": "HARM_CATEGORY_DANGEROUS_CONTENT", "probability": "HIGH", "blocked": True}
        return {"finishReason": reason} | ({"safetyRatings": [rating]} if reason == "SAFETY" else {})
    if "empty" in marks:
        return {"content": {"role": "model"}, "finishReason": "STOP"}
    if "empty-text" in marks:
        return {"content": {"parts": [{"text": ""}], "role": "model"}, "finishReason": "STOP"}
    return None


def _content(checked: CheckedRequest, marks: Marks, room: int, usual: int, seed: int) -> _Content:
    """The text within `room` tokens."""
    if room <= 0:
        return _Content("", 0, "MAX_TOKENS")
    if "repeat" in marks:
        begin = _text(checked, marks, usual, seed)[:12] if checked.json else ""
        text = tokens.prefix(begin + " and so on" * (room // 3 + 1), room)
        return _Content(text, room, "MAX_TOKENS")
    text = _text(checked, marks, usual, seed)
    for stop in checked.stop:
        if stop:
            text = text.partition(stop)[0]
    amount = tokens.of_text(text)
    if "cut" in marks:
        room = min(room, int(prompt_marks.number(marks, "cut", amount // 2)), max(0, amount - 1))
    if amount > room:
        return _Content(tokens.prefix(text, room), room, "MAX_TOKENS")
    if "text-then" in marks:
        return _Content(tokens.prefix(text, amount // 2), amount // 2, marks["text-then"] or "OTHER")
    return _Content(text, amount, None if "no-finish" in marks else "STOP")


def _text(checked: CheckedRequest, marks: Marks, usual: int, seed: int) -> str:
    if "answer" in marks:
        return marks["answer"]
    prompt = " ".join(prompt_marks.without(checked.text).split())[:_ECHOED]
    begin = f"A simulated answer of {checked.model.name} to: {prompt}"
    if not checked.json or "not-json" in marks:
        amount = int(prompt_marks.number(marks, "out", max(usual, tokens.of_text(begin))))
        return texts.of_tokens(amount, begin=begin, seed=seed)
    value = {"answer": begin} if checked.schema is None else Instances(checked.schema, seed=seed).make()
    value = value if "untied" in marks else stories.tie(value, checked.schema)
    if "invalid" in marks:
        value = _broken(value, checked.schema)
    text = json.dumps(value, ensure_ascii=False, indent=2 if checked.schema is None else None)
    return f"```json\n{text}\n```" if "fenced" in marks else text


def _broken(value: Any, schema: Any) -> Any:
    """A value that breaks the schema: without its first required property, or of another type."""
    required = schema.get("required", ()) if isinstance(schema, dict) else ()
    if isinstance(value, dict) and required:
        return {name: each for name, each in value.items() if name != required[0]}
    return 0 if isinstance(value, str | list | dict | None) else "broken"


def _chunks(
    content: _Content,
    start: Usage,
    checked: CheckedRequest,
    names: Names,
    marks: Marks,
    *,
    amount: int,
    seed: int,
) -> list[Chunk]:
    pieces = texts.pieces(content.text, min(amount, max(1, content.output))) if content.text else []
    found = []
    for number, piece in enumerate(pieces or [None]):
        is_last = number == max(0, len(pieces) - 1)
        parts: list[dict[str, Any]] = [] if piece is None else [{"text": piece}]
        if is_last and parts and start.thoughts:
            parts[0]["thoughtSignature"] = requests.signature(start.thoughts, seed)
        if number == 0 and ((checked.thoughts_shown and start.thoughts) or "think-parts" in marks):
            parts.insert(0, {"text": _THOUGHT, "thought": True})
        if number == 0 and "strange" in marks:
            parts.append({"hologram": {"uri": "sim://hologram"}})
        candidate: dict[str, Any] = {
            "content": {"parts": parts, "role": "model"} if parts else {"role": "model"}
        }
        if is_last and content.finish is not None:
            candidate["finishReason"] = content.finish
        candidate["index"] = 0
        if "strange" in marks:
            candidate["aura"] = 0.5
        output = content.output * (number + 1) // max(1, len(pieces))
        found.append(
            _chunk({"candidates": [candidate]}, replace(start, output=output), checked, names, marks)
        )
    return found


def _chunk(body: dict[str, Any], usage: Usage, checked: CheckedRequest, names: Names, marks: Marks) -> Chunk:
    full = dict(body)
    if "no-usage" not in marks:
        full["usageMetadata"] = _usage_metadata(usage, checked, strange="strange" in marks)
    if "no-version" not in marks:
        full["modelVersion"] = names.version
    full["responseId"] = names.response_id
    full["turnToken"] = names.turn_token
    if "strange" in marks:
        full |= {"modelStatus": {"modelStage": "STAGE_OF_NO_NAME"}, "weather": "mild"}
    return Chunk(full, usage)


def _usage_metadata(usage: Usage, checked: CheckedRequest, *, strange: bool) -> dict[str, Any]:
    shown: dict[str, Any] = {"promptTokenCount": usage.prompt}
    if usage.output:
        shown["candidatesTokenCount"] = usage.output
    shown["totalTokenCount"] = usage.total
    if usage.cached:
        shown["cachedContentTokenCount"] = usage.cached
    shown["promptTokensDetails"] = [
        {"modality": modality, "tokenCount": amount} for modality, amount in checked.prompt.items() if amount
    ]
    if usage.thoughts:
        shown["thoughtsTokenCount"] = usage.thoughts
    shown |= {"serviceTier": "standard", "rawPromptTokenCount": usage.prompt * 3 // 2 + 5}
    return shown | ({"starTokenCount": 7} if strange else {})


def _join(parts: list[dict[str, Any]], part: dict[str, Any]) -> None:
    """Add a part, in one with the part before if both are text of the same kind."""
    before = parts[-1] if parts else {}
    if "text" in part and "text" in before and part.get("thought") == before.get("thought"):
        parts[-1] = {**before, **part, "text": before["text"] + part["text"]}
    else:
        parts.append(dict(part))


def names(version: str, chance: random.Random) -> Names:
    """The names of a new answer."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return Names(
        version, "".join(chance.choices(letters, k=22)), "v1_" + "".join(chance.choices(letters, k=32))
    )
