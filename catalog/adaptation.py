"""Adapts the parameters of a request for one model to another model. Each is sent unchanged, as the nearest value that
the model allows, or not at all, and every change is reported.

No safety setting is weakened. Another model gets the caller's setting, but no value more permissive than the default.
If the caller is more cautious than the default, and the other model has a different setting, that is sent at its most
cautious value. A model without any such setting, or without a value cautious enough, is unfit. So is a model that
cannot make the requested number of outputs.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from catalog.model import Model
from catalog.plain_schema import is_number
from catalog.presets import shape_of, shaped, why_not
from catalog.references import Upload
from catalog.registry import Registry

OUTPUTS = "num_outputs"
"""The parameter for the number of outputs."""

INSTEAD_OF_MATCHING = "16:9"
"""The aspect ratio that is sent when there is no image to match."""

SAFETY: Mapping[str, tuple[Any, ...]] = {
    "safety_tolerance": (0, 1, 2, 3, 4, 5, 6),
    "disable_safety_checker": (False, True),
    "safety_filter_level": ("block_low_and_above", "block_medium_and_above", "block_only_high"),
}
"""The values of each safety setting, from the most cautious to the most permissive."""

_ALIKE = {
    "strength": "prompt_strength",
    "prompt_strength": "strength",
    "duration": "seconds",
    "seconds": "duration",
}
"""Two names of one parameter: how far a picture may differ from its reference, from 0 to 1, or how long a video is."""

_STAND_INS = {"output_format": {"webp": ("jpg", "jpeg"), "jpg": ("jpeg",), "jpeg": ("jpg",)}}
"""The nearest choices, for choices that some models do not have."""


@dataclass(frozen=True, slots=True)
class Change:
    """One parameter that is changed. `sent_as` is its name in the input that is sent (None if it is not sent), and
    `sent` its value there. Reference images and other files are reported by their number, since they may be long."""

    field: str
    given: Any
    sent_as: str | None = None
    sent: Any = None
    of_references: bool = False

    @property
    def kind(self) -> str:
        if self.sent_as is None:
            return "dropped"
        if isinstance(self.given, str) and self.sent_as == self.field and not isinstance(self.sent, str):
            return "converted"
        return "clamped" if self.sent_as == self.field and is_number(self.sent) else "mapped"

    def as_json(self) -> dict[str, Any]:
        return {
            "field": self.field,
            "change": self.kind,
            "given": self._shown(self.given),
            "sent_as": self.sent_as,
            "sent": self._shown(self.sent),
        }

    def _shown(self, value: Any) -> Any:
        if value is None or not (self.of_references or _is_content(value)):
            return value
        what = "image" if self.of_references else "file"
        count = len(value) if isinstance(value, list) else 1
        return f"{'an' if self.of_references else 'a'} {what}" if count == 1 else f"{count} {what}s"


@dataclass(frozen=True, slots=True)
class Step:
    """One model to try, its input, and the changes made for it. `unfit` is the reason to skip it, if any."""

    model: Model
    input: Mapping[str, Any]
    changes: tuple[Change, ...] = ()
    unfit: str | None = None


def preset_changes(preset: str, shape: Mapping[str, Any]) -> tuple[Change, ...]:
    """The inputs that a preset sends."""
    return tuple(Change("preset", preset, name, value) for name, value in shape.items())


def is_taken(model: Model, name: str, value: Any) -> bool:
    """Whether the model has a parameter of this name that accepts this value."""
    return name in model.inputs and model.inputs[name].takes(value)


def makes_enough(model: Model, given: Mapping[str, Any]) -> bool:
    """Whether the model can make as many outputs as these parameters request."""
    return number_of_outputs(given) <= 1 or is_taken(model, OUTPUTS, given[OUTPUTS])


def number_of_outputs(given: Mapping[str, Any]) -> int:
    """How many outputs these parameters request. A model may have an input of that name that is no number."""
    count = given.get(OUTPUTS, 1)
    return int(count) if is_number(count) else 1


class Adaptation:
    """Adapts the parameters of a request for the model `requested` to `model`."""

    def __init__(self, requested: Model, model: Model, registry: Registry, preset: str | None = None) -> None:
        self._preset = preset
        self._is_other = model is not requested
        self._registry = registry
        self._model = model
        self._fields = model.inputs
        self._sent: dict[str, Any] = {}
        self._changes: list[Change] = []
        self._unfit: str | None = None

    def step(self, given: Mapping[str, Any]) -> Step:
        if not makes_enough(self._model, given):
            self._unfit = f"{self._model.short_name} does not make {given[OUTPUTS]} outputs at once."
        self._take_references(given)
        self._take_safety(given)
        for name, value in given.items():
            if not self._is_other and (self._is_own(name) or self._fields.is_open):
                self._sent[name] = value
            elif self._is_reference(name) or name in SAFETY:
                continue
            elif not self._is_other and name in self._fields:
                self._sent[name] = value
            else:
                self._take(name, value, given)
        if self._preset is not None:
            self._take_preset(self._preset)
        self._drop_what_breaks_rules()
        for name, each in self._fields.fields.items():
            if self._is_other and each.required and name not in self._sent:
                self._unfit = f"{self._model.short_name} needs {name}."
        return Step(self._model, {**self._model.asks_for, **self._sent}, tuple(self._changes), self._unfit)

    def _drop_what_breaks_rules(self) -> None:
        for problem in list(self._model.inputs.broken_rules(self._sent)):
            is_reference = problem.field in self._registry.reference_names
            if problem.field in self._sent:  # more than one rule may name it
                value = self._sent.pop(problem.field)
                self._changes.append(Change(problem.field, value, of_references=is_reference))

    def _is_own(self, name: str) -> bool:
        """Whether it is an input of a model that is known by its published schema, whose values may mean anything."""
        return self._model.is_published and name in self._fields

    def _take_preset(self, preset: str) -> None:
        shape = shaped(self._model, preset)
        if shape is None:
            self._unfit = f"preset {preset} {why_not(self._model)}."
            return
        self._sent |= shape
        self._changes += preset_changes(preset, shape)

    def _is_reference(self, name: str) -> bool:
        """Whether the model can only take this parameter as one of its reference images."""
        return name in self._registry.reference_names and not self._model.takes_beside_references(name)

    def _take_references(self, given: Mapping[str, Any]) -> None:
        """Send as many images as the model takes, in the caller's order, under the model's name for them."""
        takes, taken, most = self._model.references, list[Any](), self._model.most_references
        for name in filter(self._is_reference, given):
            images = self._registry.references_in({name: given[name]})
            fitting = images[: most - len(taken)]
            taken += fitting
            if takes is None or not fitting:
                self._changes.append(Change(name, images, of_references=True))
            elif (name, fitting) != (takes.parameter, images):
                self._changes.append(Change(name, images, takes.parameter, fitting, of_references=True))
        if takes is not None and taken:
            self._sent[takes.parameter] = taken if self._fields[takes.parameter].is_list else taken[0]

    def _take(self, name: str, value: Any, given: Mapping[str, Any]) -> None:
        """Send a parameter unchanged if the model accepts that, else as the nearest value that it accepts."""
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
        taken = self._fields[name]
        choices = taken.choices
        if value == "match_input_image" and not self._has_image():
            return INSTEAD_OF_MATCHING if INSTEAD_OF_MATCHING in choices else None
        if is_taken(self._model, name, value):
            return value
        if name == "aspect_ratio":
            return _nearest_ratio(value, given, choices)
        if is_number(value):
            if choices:
                return min(
                    filter(is_number, choices), key=lambda each: (abs(each - value), each), default=None
                )
            low = -math.inf if taken.minimum is None else taken.minimum
            high = math.inf if taken.maximum is None else taken.maximum
            clamped = min(max(value, low), high)
            return clamped if is_taken(self._model, name, clamped) else None
        stand_ins = _STAND_INS.get(name, {}).get(value, ()) if isinstance(value, str) else ()
        return next((each for each in stand_ins if each in choices), None)

    def _take_safety(self, given: Mapping[str, Any]) -> None:
        """Send each setting as this model has it. If several map to one parameter, the most cautious value is sent."""
        wishes = [
            (name, *wish)
            for name in given
            if self._is_setting(name) and (wish := self._wish(name, given[name]))
        ]
        for _, parameter, value in wishes:
            self._sent[parameter] = min(value, self._sent.get(parameter, value), key=SAFETY[parameter].index)
        for name, parameter, _ in wishes:
            if (name, given[name]) != (parameter, self._sent[parameter]):
                self._changes.append(Change(name, given[name], parameter, self._sent[parameter]))

    def _is_setting(self, name: str) -> bool:
        """Whether it is a safety setting, and not sent as it is."""
        return name in SAFETY and (self._is_other or not self._is_own(name))

    def _wish(self, name: str, value: Any) -> tuple[str, Any] | None:
        """The parameter of this model that a setting maps to, and its value. None if nothing is sent."""
        scale, usual = SAFETY[name], self._usual(name)
        if value not in scale:  # of a model that is not declared, whose values may mean anything
            value = scale[0]
        if name in self._fields:
            cautious = min(value, usual, key=scale.index) if self._is_other else value
            if is_taken(self._model, name, cautious):
                return name, cautious
            self._unfit = f"{self._model.short_name} cannot be as cautious as {name} {value} asks."
            return None
        counterpart = next((each for each in SAFETY if each in self._fields), None)
        if scale.index(value) < scale.index(usual):
            if counterpart is not None:
                return counterpart, next(
                    each for each in SAFETY[counterpart] if is_taken(self._model, counterpart, each)
                )
            self._unfit = (
                f"{self._model.short_name} has nothing that could be as cautious as {name} {value} asks."
            )
        self._changes.append(Change(name, value))
        return None

    def _usual(self, name: str) -> Any:
        """A safety setting's default, which is the same for all models that have it."""
        return self._registry.takers[name][0].default(name)

    def _has_image(self) -> bool:
        return self._model.references is not None and self._model.references.parameter in self._sent


def _nearest_ratio(value: Any, given: Mapping[str, Any], choices: Sequence[Any]) -> str | None:
    """The choice whose shape is nearest to this aspect ratio. `custom` has the shape of the `width` and `height`."""
    target = shape_of(f"{given.get('width')}:{given.get('height')}" if value == "custom" else value)
    shapes = {each: shape for each in choices if (shape := shape_of(each)) is not None}
    if target is None or not shapes:
        return None
    nearest: str = min(shapes, key=lambda each: abs(shapes[each] - target))
    return nearest


def _is_content(value: Any) -> bool:
    """Whether it is a file, or a list with one, and not only the URL of one."""
    if isinstance(value, list):
        return any(map(_is_content, value))
    return isinstance(value, Upload) or (isinstance(value, str) and value[:5].lower() == "data:")
