"""Plans an answer before it is sent: its chunks, its usage, its end.

Every chunk has the usage so far, thoughts complete from the first, and `finishReason` is only in the last. Thinking
counts within `maxOutputTokens`, so it can leave nothing for the text.
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
from simulator.gemini.requests import Ask

_THOUGHT = "**Considering the question**\n\nI compare what was asked with what can be said about it.\n"
_ECHOED = 80


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk of an answer: its JSON, and the usage that it tells."""

    body: Mapping[str, Any]
    usage: Usage


@dataclass(frozen=True, slots=True)
class Names:
    """What identifies an answer."""

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
    """What an answer says, and how it ends."""

    text: str
    output: int
    finish: str | None


def plan(ask: Ask, marks: Marks, names: Names, *, options: GeminiOptions, seed: int) -> Answer:
    """The answer to a call."""
    start = Usage(prompt=ask.prompt_tokens, cached=_cached(ask, marks))
    if "blocked" in marks or "no-candidates" in marks:
        feedback = (
            {"promptFeedback": {"blockReason": marks["blocked"] or "SAFETY"}} if "blocked" in marks else {}
        )
        return Answer((_chunk(feedback, start, ask, names, marks),), None)
    thoughts = min(int(prompt_marks.number(marks, "think", ask.thinking)), ask.most)
    start = replace(start, thoughts=thoughts)
    bare = _bare(marks)
    if bare is not None:
        body = {"candidates": [{**bare, "index": 0}]}
        return Answer((_chunk(body, start, ask, names, marks),), bare["finishReason"])
    content = _content(ask, marks, ask.most - thoughts, options.output_tokens, seed)
    chunks = int(prompt_marks.number(marks, "chunks", options.chunks))
    return Answer(tuple(_chunks(content, start, ask, names, marks, amount=chunks, seed=seed)), content.finish)


def _cached(ask: Ask, marks: Marks) -> int:
    value = marks.get("cached", "")
    if not value:
        return 0
    amount = float(value) * ask.prompt_tokens if "." in value else float(value)
    return min(round(amount), ask.prompt_tokens)


def _bare(marks: Marks) -> dict[str, Any] | None:
    """A candidate without text, if the marks ask for one."""
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


def _content(ask: Ask, marks: Marks, room: int, usual: int, seed: int) -> _Content:
    """The text within `room` tokens."""
    if room <= 0:
        return _Content("", 0, "MAX_TOKENS")
    if "repeat" in marks:
        begin = _text(ask, marks, usual, seed)[:12] if ask.json else ""
        text = tokens.prefix(begin + " and so on" * (room // 3 + 1), room)
        return _Content(text, room, "MAX_TOKENS")
    text = _text(ask, marks, usual, seed)
    for stop in ask.stop:
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


def _text(ask: Ask, marks: Marks, usual: int, seed: int) -> str:
    if "answer" in marks:
        return marks["answer"]
    said = " ".join(prompt_marks.without(ask.said).split())[:_ECHOED]
    begin = f"A simulated answer of {ask.model.name} to: {said}"
    if not ask.json or "not-json" in marks:
        amount = int(prompt_marks.number(marks, "out", max(usual, tokens.of_text(begin))))
        return texts.of_tokens(amount, begin=begin, seed=seed)
    value = {"answer": begin} if ask.schema is None else Instances(ask.schema, seed=seed).make()
    value = value if "untied" in marks else stories.tie(value, ask.schema)
    if "invalid" in marks:
        value = _broken(value, ask.schema)
    text = json.dumps(value, ensure_ascii=False, indent=2 if ask.schema is None else None)
    return f"```json\n{text}\n```" if "fenced" in marks else text


def _broken(value: Any, schema: Any) -> Any:
    """A value that breaks the schema: without its first required property, or of another type."""
    required = schema.get("required", ()) if isinstance(schema, dict) else ()
    if isinstance(value, dict) and required:
        return {name: each for name, each in value.items() if name != required[0]}
    return 0 if isinstance(value, str | list | dict | None) else "broken"


def _chunks(
    content: _Content, start: Usage, ask: Ask, names: Names, marks: Marks, *, amount: int, seed: int
) -> list[Chunk]:
    pieces = texts.pieces(content.text, min(amount, max(1, content.output))) if content.text else []
    found = []
    for number, piece in enumerate(pieces or [None]):
        is_last = number == max(0, len(pieces) - 1)
        parts: list[dict[str, Any]] = [] if piece is None else [{"text": piece}]
        if is_last and parts and start.thoughts:
            parts[0]["thoughtSignature"] = requests.signature(start.thoughts, seed)
        if number == 0 and ((ask.thoughts_shown and start.thoughts) or "think-parts" in marks):
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
        found.append(_chunk({"candidates": [candidate]}, replace(start, output=output), ask, names, marks))
    return found


def _chunk(body: dict[str, Any], usage: Usage, ask: Ask, names: Names, marks: Marks) -> Chunk:
    full = dict(body)
    if "no-usage" not in marks:
        full["usageMetadata"] = _told(usage, ask, strange="strange" in marks)
    if "no-version" not in marks:
        full["modelVersion"] = names.version
    full["responseId"] = names.response_id
    full["turnToken"] = names.turn_token
    if "strange" in marks:
        full |= {"modelStatus": {"modelStage": "STAGE_OF_NO_NAME"}, "weather": "mild"}
    return Chunk(full, usage)


def _told(usage: Usage, ask: Ask, *, strange: bool) -> dict[str, Any]:
    told: dict[str, Any] = {"promptTokenCount": usage.prompt}
    if usage.output:
        told["candidatesTokenCount"] = usage.output
    told["totalTokenCount"] = usage.total
    if usage.cached:
        told["cachedContentTokenCount"] = usage.cached
    told["promptTokensDetails"] = [
        {"modality": modality, "tokenCount": amount} for modality, amount in ask.prompt.items() if amount
    ]
    if usage.thoughts:
        told["thoughtsTokenCount"] = usage.thoughts
    told |= {"serviceTier": "standard", "rawPromptTokenCount": usage.prompt * 3 // 2 + 5}
    return told | ({"starTokenCount": 7} if strange else {})


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
