"""Translates the bodies of `POST /v1/chat/completions` into those of one call to a text model.

What a model does not take as OpenAI calls it is sent as the nearest that it takes, or not at all. Each such field is in
`changes`. What cannot be left out without another answer is refused: tools, several choices, audio and the
probabilities of tokens. The inputs of text models, and the fields of this service, may stand beside OpenAI's.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any, Final

from catalog.adaptation import Change
from catalog.texts.inputs import TASK
from catalog.texts.runnable import MAX_OUTPUT, CallModel
from contract.tasks import CHAT
from doors.openai.messages import MESSAGES, Conversation
from doors.openai.users import user_as_metadata
from errors import Problem
from parsing.validation import not_a_field, refuse_if_any, unusable_reasons

LIMITS: Final = ("max_completion_tokens", "max_tokens")
"""The fields for the most tokens of the answer. Of both, the first counts."""

EFFORT: Final = "reasoning_effort"
LEVEL: Final = "thinking_level"

_LEVELS: Final = ("minimal", "low", "medium", "high")
_EFFORTS: Final[Mapping[str, str]] = {
    "none": "minimal", **{each: each for each in _LEVELS}, "xhigh": "high", "max": "high",
}  # fmt: skip
"""The thinking level that is nearest to each effort, at a model that has all of them."""

FORMAT: Final = "response_format"
_SCHEMA: Final = f"{FORMAT}.json_schema.schema"

_AS_IT_IS: Final = ("temperature", "top_p", "seed", MAX_OUTPUT, LEVEL, "on_lost")
"""Inputs of text models that have the same name here."""

OWN: Final = ("timeout", "webhook", "metadata", "max_cost_usd", "fallback", "external_semaphore_id")
"""Fields of this service."""

_UNTAKEN: Final[Mapping[str, str]] = {
    "tools": "is not taken: this service has no tools",
    "functions": "is not taken: this service has no tools",
    "audio": "is not taken: answers are texts",
    "logprobs": "is not taken: the models return no probabilities",
    "web_search_options": "is not taken: this service does not search",
    "dry_run": "is for POST /chat",
    "prompt": "is not a field here; the prompt is the last of the messages",
}
"""Fields without which the answer would be another, so they are refused unless they are empty or false."""

_NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "parallel_tool_calls": (True, False),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "tools": ([],),
    "functions": ([],),
    "dry_run": (False,),
    "top_logprobs": (0,),
}
"""Values that mean the same as no field, so leaving them out is no change."""

_ALIKE: Final = 0.85
"""How similar an unknown field must be to a known one to be a mistake in writing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatCall:
    """One call. `body` is that of `POST /generate` for a text model. `names` are the caller's names for its fields."""

    body: Mapping[str, Any]
    conversation: Conversation
    names: Mapping[str, str]
    changes: tuple[Change, ...] = ()
    streams: bool = False
    with_usage: bool = False

    @property
    def is_whole_at_once(self) -> bool:
        """Whether the text comes in one piece: it may be one of several attempts, of which only the last counts."""
        return bool(self.body.get("fallback")) or self.body.get("on_lost") == "repeat"

    def as_called(self, problems: Iterable[Problem]) -> list[Problem]:
        """Problems of the translated body by the names of the caller's fields."""
        return [replace(each, field=self._named(each.field)) for each in problems]

    def _named(self, name: str) -> str:
        if found := re.match(rf"{MESSAGES}\[(\d+)\]", name):
            return self.conversation.field_of(int(found[1])) + name[found.end() :]
        head = re.split(r"[.\[]", name, maxsplit=1)[0]
        return self.names.get(head, head) + name.removeprefix(head)


def names_of_models(body: Any) -> dict[str, Any]:
    """The names of models in a body, as the rest of the service has these fields. Raises InvalidRequest if it has no
    model, or is no object."""
    refuse_if_any(unusable_reasons("body", body))
    if body.get("model") is None:
        refuse_if_any([Problem("model", "is required")])
    return {"model_name": body["model"], "fallback": body.get("fallback")}


def translated(body: Mapping[str, Any], model: CallModel | None, *, max_output_tokens: int) -> ChatCall:
    """The call of a body. `max_output_tokens` counts if it names no limit. Raises InvalidRequest."""
    found = _Translation({name: each for name, each in body.items() if each is not None})
    found.conversation = Conversation.of(found.left.pop(MESSAGES, None))
    found.changes += found.conversation.changes
    found.problems += found.conversation.problems
    found.stream()
    found.limit(max_output_tokens)
    found.effort(model)
    found.format()
    found.further()
    call = found.call()
    refuse_if_any(found.problems)
    return call


@dataclass(slots=True)
class _Translation:
    """`left` has the fields that are not translated yet, and `sent` what others have become."""

    left: dict[str, Any]
    conversation: Conversation = field(default_factory=Conversation)
    sent: dict[str, Any] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    streams: bool = False
    with_usage: bool = False

    def stream(self) -> None:
        """Read whether the answer is a stream, and whether its usage is in it."""
        self.streams = self._flag("stream", self.left.pop("stream", False))
        options = self.left.pop("stream_options", None)
        if options is None:
            return
        if not isinstance(options, dict):
            self.problems.append(Problem("stream_options", "must be an object", options))
        elif not self.streams:
            self.problems.append(Problem("stream_options", "is only for a `stream`"))
        else:
            usage = "include_usage"
            self.with_usage = self._flag(f"stream_options.{usage}", options.get(usage) or False)
            self.changes += [
                Change(f"stream_options.{name}", value) for name, value in options.items() if name != usage
            ]

    def limit(self, default: int) -> None:
        """Translate the most tokens of the answer, which include thinking."""
        named = [name for name in (MAX_OUTPUT, *LIMITS) if name in self.left]
        if not named:
            self.sent[MAX_OUTPUT] = default
            return
        first = named[0]
        self.sent[MAX_OUTPUT] = value = self.left.pop(first)
        self.names[MAX_OUTPUT] = first
        for each in named[1:]:
            if (other := self.left.pop(each)) != value:
                self.changes.append(Change(each, other))

    def effort(self, model: CallModel | None) -> None:
        """Translate the effort to the nearest thinking level that the model has. The caller's own level comes first."""
        effort = self.left.pop(EFFORT, None)
        if effort is None:
            return
        if not isinstance(effort, str) or effort not in _EFFORTS:
            self.problems.append(Problem(EFFORT, f"must be one of {', '.join(_EFFORTS)}", effort))
            return
        levels = () if model is None else model.among.sent(model.text).thinking_levels
        if LEVEL in self.left or levels == ():
            if LEVEL in self.left or effort != "none":
                self.changes.append(Change(EFFORT, effort))
            return
        level = nearest_level(_EFFORTS[effort], _LEVELS if levels is None else levels)
        self.sent[LEVEL], self.names[LEVEL] = level, EFFORT
        if level != effort:
            self.changes.append(Change(EFFORT, effort, LEVEL, level))

    def format(self) -> None:
        """Translate the format of the answer: a text, JSON, or JSON by a schema."""
        requested = self.left.pop(FORMAT, None)
        if requested is None:
            return
        kind = requested.get("type") if isinstance(requested, dict) else None
        if kind == "json_object":
            self.sent["json"] = True
        elif kind == "json_schema":
            inside = requested.get("json_schema")
            schema = inside.get("schema") if isinstance(inside, dict) else None
            if isinstance(schema, dict):
                self.sent["json_schema"], self.names["json_schema"] = schema, _SCHEMA
            else:
                self.problems.append(Problem(_SCHEMA, "must be a JSON Schema", schema))
        elif kind != "text":
            where = f"{FORMAT}.type" if isinstance(requested, dict) else FORMAT
            self.problems.append(Problem(where, "must be text, json_object or json_schema", kind))

    def further(self) -> None:
        """Translate all other fields."""
        self._choices()
        self._modalities()
        user_as_metadata(self.left)
        stop = self.left.pop("stop", None)
        if stop:
            self.sent["stop"] = [stop] if isinstance(stop, str) else stop
        for name in (*_AS_IT_IS, *OWN):
            if name in self.left:
                self.sent[name] = self.left.pop(name)
        known = [*_AS_IT_IS, *OWN, *LIMITS, MESSAGES, EFFORT, FORMAT, "stream", "stop", *_NEUTRAL, "model"]
        for name, value in self.left.items():
            if name == "model" or value in _NEUTRAL.get(name, ()):
                continue
            if name in _UNTAKEN:
                self.problems.append(Problem(name, _UNTAKEN[name]))
            elif name not in _NEUTRAL and get_close_matches(name[:100], known, n=1, cutoff=_ALIKE):
                self.problems.append(Problem(name, not_a_field(name, known), value))
            else:
                self.changes.append(Change(name, value))

    def call(self) -> ChatCall:
        """The call, once everything is translated."""
        system = "\n\n".join(self.conversation.system)
        own_names = {"model_name": "model", "system_prompt": MESSAGES, "prompt": MESSAGES}
        return ChatCall(
            body={
                "model_name": self.left.pop("model", None),
                **self.sent,
                TASK: CHAT,
                MESSAGES: self.conversation.messages,
                **({"system_prompt": system} if system else {}),
            },
            conversation=self.conversation,
            names=own_names | self.names,
            changes=tuple(self.changes),
            streams=self.streams,
            with_usage=self.with_usage,
        )

    def _choices(self) -> None:
        choices = self.left.pop("n", 1)
        if type(choices) is not int or choices != 1:
            self.problems.append(Problem("n", "must be 1: a call has one answer", choices))

    def _modalities(self) -> None:
        requested = self.left.pop("modalities", ["text"])
        if requested != ["text"]:
            self.problems.append(Problem("modalities", 'must be ["text"]', requested))

    def _flag(self, name: str, value: Any) -> bool:
        if not isinstance(value, bool):
            self.problems.append(Problem(name, "must be true or false", value))
        return value is True


def nearest_level(level: str, levels: Iterable[str]) -> str:
    """The nearest of these thinking levels to one that a model may lack; of two, the higher one."""
    place = _LEVELS.index(level)
    among = [each for each in levels if each in _LEVELS]
    return min(
        among, key=lambda each: (abs(_LEVELS.index(each) - place), -_LEVELS.index(each)), default=level
    )
