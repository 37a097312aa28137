"""Another model when one fails, only for those who asked for it: which is next, and what must change for it.

Which is next is data: the registry's rules, or the operator's in their place, or the caller's own list. No model comes
twice. What must change is worked out from what the caller gave, never from what an earlier attempt was sent, so
nothing is lost on the way; and every change is told.

No attempt weakens a safety setting. What the caller set for the model they asked for is sent to another at most as
permissive as that one is by itself; whoever asked for more caution than usual gets the most cautious value of the
next, and a model that cannot be as cautious as the same setting asks is passed over.
"""

import json
import math
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

import references
from errors import every_error
from models import MODELS, find
from registry import Fallback, Model
from settings import SettingsError

INSTEAD_OF_MATCHING = "16:9"
"""The aspect ratio asked for when there is no image to match."""

SAFETY: Mapping[str, tuple[Any, ...]] = {
    "safety_tolerance": (0, 1, 2, 3, 4, 5, 6),
    "disable_safety_checker": (False, True),
    "safety_filter_level": ("block_low_and_above", "block_medium_and_above", "block_only_high"),
}
"""How much a model lets through: each setting's values, from the most cautious to the least."""

_ALIKE = {"strength": "prompt_strength", "prompt_strength": "strength"}
"""How far a picture may leave its reference, from 0 to 1: one meaning, two names."""

_STAND_INS = {"output_format": {"webp": "jpg"}}
"""What comes nearest to a choice that a model does not have."""

_RATIO = re.compile(r"([1-9]\d*):([1-9]\d*)")

Rules = Mapping[str, Sequence[Fallback]]

REGISTRY: Rules = {model.name: model.fallbacks for model in MODELS.values()}

CODES = tuple(error.code for error in every_error() if error.falls_back)
"""What a failure may be for another model to be tried."""

ONE_REFERENCE = MODELS["black-forest-labs/flux-kontext-max"]
SEVERAL_REFERENCES = MODELS["google/nano-banana"]
"""Where reference images go that the model asked for does not take."""


@dataclass(frozen=True, slots=True)
class Change:
    """One parameter that is not sent as the caller gave it: under which name it is (None: not at all) and how."""

    field: str
    given: Any
    sent_as: str | None = None
    sent: Any = None

    @property
    def kind(self) -> str:
        if self.sent_as is None:
            return "dropped"
        return "clamped" if self.sent_as == self.field and _is_number(self.sent) else "mapped"

    def as_json(self) -> dict[str, Any]:
        return {
            "field": self.field,
            "change": self.kind,
            "given": _shown(self.field, self.given),
            "sent_as": self.sent_as,
            "sent": _shown(self.field, self.sent),
        }


@dataclass(frozen=True, slots=True)
class Step:
    """One model to try, what it is sent, and what was changed for it. `unfit` says why it is passed over."""

    model: Model
    input: Mapping[str, Any]
    changes: tuple[Change, ...] = ()
    unfit: str | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request may go. `given` are the caller's parameters, each valid for the model they asked for or for
    some other; `order` is their own list of models, if they gave one; `rules` apply if not."""

    asked_for: Model
    given: Mapping[str, Any]
    rules: Rules
    order: tuple[Model, ...] | None = None

    def first(self) -> Step | None:
        """The model asked for, or where its reference images lead; None if nowhere."""
        wanted = len(given_references(self.given))
        options: Sequence[Model] = (self.asked_for,)
        if wanted > self.asked_for.most_references:
            detected = ONE_REFERENCE if wanted == 1 else SEVERAL_REFERENCES
            options = self.order if self.order is not None else (detected,)
        fitting = (
            each for each in options if each.most_references >= wanted and each.kind == self.asked_for.kind
        )
        return next((self._step(model) for model in fitting), None)

    def after(self, tried: Sequence[Model], *, code: str) -> Step | None:
        """Where to go when the last of these failed with that code; None if nowhere."""
        following = self._following(tried[-1], code) if self.order is None else self.order
        return next((self._step(model) for model in following if model not in tried), None)

    def with_prompt(self, prompt: str) -> "Route":
        return replace(self, given={**self.given, "prompt": prompt})

    def _following(self, failed: Model, code: str) -> Iterator[Model]:
        has_references = bool(given_references(self.given))
        for rule in self.rules.get(failed.name, ()):
            if rule.applies(code=code, has_references=has_references) and rule.to != self.asked_for.name:
                yield MODELS[rule.to]

    def _step(self, model: Model) -> Step:
        return _Adaptation(self.asked_for, model).step(self.given)


class _Rule(BaseModel):
    """One `Fallback` as the operator's file writes it."""

    model_config = ConfigDict(strict=True, extra="forbid")

    to: str
    references: bool | None = None
    on: list[str] = []


def read_rules(path: Path) -> Rules:
    """The registry's rules with those of a file in their place, model by model. TOML or JSON, by the file's ending:

        flux-dev = ["qwen-image"]
        nano-banana = [{to = "imagen-4-ultra", on = ["content_refused"]}, {to = "flux-dev", references = true}]
        qwen-image = []

    Raises SettingsError that says everything that is wrong with it.
    """
    try:
        content = path.read_text(encoding="utf-8")
        table = json.loads(content) if path.suffix == ".json" else tomllib.loads(content)
    except (OSError, ValueError) as error:
        raise SettingsError(f"FALLBACKS_FILE: {path} cannot be read: {error}.") from None
    if not isinstance(table, dict):
        raise SettingsError(f"FALLBACKS_FILE: {path} must be a table of models.")
    wrong: list[str] = []
    rules = {**REGISTRY, **dict(_read_rule(name, entries, wrong) for name, entries in table.items())}
    if wrong:
        raise SettingsError("\n".join(f"FALLBACKS_FILE: {sentence}." for sentence in wrong))
    return rules


def _read_rule(name: str, entries: Any, wrong: list[str]) -> tuple[str, list[Fallback]]:
    model = find(name)
    if model is None:
        wrong.append(f"{name} is not a model known here")
        return name, []
    read = []
    for entry in entries if isinstance(entries, list) else [entries]:
        try:
            rule = _Rule.model_validate({"to": entry} if isinstance(entry, str) else entry)
        except ValidationError as invalid:
            where = " ".join(str(step) for step in invalid.errors()[0]["loc"])
            wrong.append(
                f"{name}: {where or 'an entry'} is not what it should be: {invalid.errors()[0]['msg']}"
            )
            continue
        target = find(rule.to)
        strange = [code for code in rule.on if code not in CODES]
        if target is None or target is model:
            wrong.append(f"{name}: {rule.to} is not another model known here")
        elif target.kind != model.kind:
            wrong.append(f"{name}: {rule.to} makes a {target.kind}, not a {model.kind}")
        elif strange:
            wrong.append(f"{name}: {strange[0]} is none of the codes that are followed: {', '.join(CODES)}")
        else:
            read.append(Fallback(target.name, rule.references, tuple(rule.on)))
    return model.name, read


def given_references(given: Mapping[str, Any]) -> list[Any]:
    """All reference images, whatever they were given as."""
    values = (given.get(name) for name in references.NAMES)
    return [image for value in values if value for image in (value if isinstance(value, list) else [value])]


def is_taken(model: Model, name: str, value: Any) -> bool:
    """Whether the model has a parameter of that name which may have this value."""
    try:
        model.inputs.model_validate({"prompt": "a", name: value})
    except ValidationError:
        return False
    return True


class _Adaptation:
    """What one model is sent of what was given for another."""

    def __init__(self, asked_for: Model, model: Model) -> None:
        self._is_other = model is not asked_for
        self._model = model
        self._fields = model.inputs.model_fields
        self._sent: dict[str, Any] = {}
        self._changes: list[Change] = []
        self._unfit: str | None = None

    def step(self, given: Mapping[str, Any]) -> Step:
        self._take_references(given)
        for name, value in given.items():
            if name in references.NAMES:
                continue
            if not self._is_other and name in self._fields:
                self._sent[name] = value
            elif name in SAFETY:
                self._take_safety(name, value)
            else:
                self._take(name, value, given)
        for problem in list(self._model.inputs.rules(self._sent)):
            self._changes.append(Change(problem.field, self._sent.pop(problem.field)))
        return Step(self._model, {**self._model.asks_for, **self._sent}, tuple(self._changes), self._unfit)

    def _take_references(self, given: Mapping[str, Any]) -> None:
        """As many images as the model takes, in the order they were given, under the name it has for them."""
        takes, taken = self._model.references, list[Any]()
        for name in (name for name in given if name in references.NAMES):
            images = given_references({name: given[name]})
            fitting = images[: takes.most - len(taken)] if takes else []
            taken += fitting
            if takes is None or not fitting:
                self._changes.append(Change(name, images))
            elif (name, fitting) != (takes.parameter, images):
                self._changes.append(Change(name, images, takes.parameter, fitting))
        if takes is not None and taken:
            self._sent[takes.parameter] = taken if takes.most > 1 else taken[0]

    def _take(self, name: str, value: Any, given: Mapping[str, Any]) -> None:
        """Send it as it is if the model takes that, else as near to it as the model can."""
        alike = _ALIKE.get(name, name)
        parameter = name if name in self._fields or alike in given else alike
        fitting = self._fitting(parameter, value, given) if parameter in self._fields else None
        if fitting is None:
            self._changes.append(Change(name, value))
            return
        self._sent[parameter] = fitting
        if (parameter, fitting) != (name, value):
            self._changes.append(Change(name, value, parameter, fitting))

    def _fitting(self, name: str, value: Any, given: Mapping[str, Any]) -> Any:
        schema = plain_schema(self._model, name)
        choices = schema.get("enum", ())
        if value == "match_input_image" and not self._has_image():
            return INSTEAD_OF_MATCHING if INSTEAD_OF_MATCHING in choices else None
        if is_taken(self._model, name, value):
            return value
        if name == "aspect_ratio":
            return _nearest_ratio(value, given, choices)
        if _is_number(value):
            if choices:
                return min(
                    filter(_is_number, choices), key=lambda each: (abs(each - value), each), default=None
                )
            clamped = min(max(value, schema.get("minimum", -math.inf)), schema.get("maximum", math.inf))
            return clamped if is_taken(self._model, name, clamped) else None
        stand_in = _STAND_INS.get(name, {}).get(value)
        return stand_in if stand_in in choices else None

    def _take_safety(self, name: str, value: Any) -> None:
        scale = SAFETY[name]
        usual = _usual(name)
        if name in self._fields:
            cautious = min(value, usual, key=scale.index)
            if not is_taken(self._model, name, cautious):
                self._unfit = f"{self._model.short_name} cannot be as cautious as {name} {value} asks."
                return
            self._sent[name] = cautious
            if cautious != value:
                self._changes.append(Change(name, value, name, cautious))
            return
        other = next((each for each in SAFETY if each in self._fields), None)
        if other is None or scale.index(value) >= scale.index(usual):
            self._changes.append(Change(name, value))
        else:
            strictest = next(each for each in SAFETY[other] if is_taken(self._model, other, each))
            self._sent[other] = strictest
            self._changes.append(Change(name, value, other, strictest))

    def _has_image(self) -> bool:
        return self._model.references is not None and self._model.references.parameter in self._sent


def plain_schema(model: Model, name: str) -> Mapping[str, Any]:
    """The JSON Schema of one parameter, without its null."""
    schema: Mapping[str, Any] = model.input_schema["properties"][name]
    return next((each for each in schema.get("anyOf", ()) if each.get("type") != "null"), schema)


def _nearest_ratio(value: Any, given: Mapping[str, Any], choices: Sequence[Any]) -> str | None:
    """The choice whose shape is most like the one asked for; `custom` is that of its width and height."""
    wanted = _shape(f"{given.get('width')}:{given.get('height')}" if value == "custom" else value)
    shapes = {each: shape for each in choices if (shape := _shape(each)) is not None}
    if wanted is None or not shapes:
        return None
    nearest: str = min(shapes, key=lambda each: abs(shapes[each] - wanted))
    return nearest


def _shape(ratio: str) -> float | None:
    """How wide for its height, as a logarithm, so that 16:9 and 9:16 are equally far from square."""
    found = _RATIO.fullmatch(ratio)
    return math.log(int(found[1]) / int(found[2])) if found else None


def _usual(name: str) -> Any:
    """A safety setting's default, which is the same wherever it is."""
    return next(model.default(name) for model in MODELS.values() if name in model.inputs.model_fields)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(name: str, value: Any) -> Any:
    """A value as it is told: images by their number, since they may be long."""
    if name not in references.NAMES or value is None:
        return value
    count = len(value) if isinstance(value, list) else 1
    return "an image" if count == 1 else f"{count} images"
