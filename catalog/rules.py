"""Rules between inputs that a model states in words only, and its published schema not at all."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from errors import Problem


@dataclass(frozen=True, slots=True)
class OnlyWith:
    """These inputs may be given only together with this value of another."""

    names: tuple[str, ...]
    other: str
    value: str

    def problems(self, given: Mapping[str, Any]) -> Iterator[Problem]:
        for name in self.names:
            if given.get(name) is not None and given.get(self.other) != self.value:
                yield Problem(name, f"goes only with {self.other} {self.value}", given[name])

    @property
    def schema(self) -> dict[str, Any]:
        return {
            "if": {"not": {"required": [self.other], "properties": {self.other: {"const": self.value}}}},
            "then": {"properties": {name: {"type": "null"} for name in self.names}},
        }


@dataclass(frozen=True, slots=True)
class AtMostWith:
    """An input is at most `most` if another one, a text, is given. `why` says so in words."""

    name: str
    most: int
    other: str
    why: str

    def problems(self, given: Mapping[str, Any]) -> Iterator[Problem]:
        value = given.get(self.name, 0)
        if given.get(self.other) is not None and value > self.most:
            yield Problem(self.name, f"must be at most {self.most} {self.why}", value)

    @property
    def schema(self) -> dict[str, Any]:
        return {
            "if": {"required": [self.other], "properties": {self.other: {"type": "string"}}},
            "then": {"properties": {self.name: {"maximum": self.most}}},
        }


@dataclass(frozen=True, slots=True)
class SameLength:
    """Two lists have the same length if both are given."""

    name: str
    other: str

    def problems(self, given: Mapping[str, Any]) -> Iterator[Problem]:
        mine, others = given.get(self.name), given.get(self.other)
        if isinstance(mine, list) and isinstance(others, list) and len(mine) != len(others):
            yield Problem(self.name, f"must have as many items as {self.other}", mine)

    @property
    def schema(self) -> dict[str, Any]:
        return {}  # JSON Schema cannot say it


@dataclass(frozen=True, slots=True)
class Requires:
    """An input may be given only together with another one."""

    name: str
    other: str

    def problems(self, given: Mapping[str, Any]) -> Iterator[Problem]:
        if given.get(self.name) and not given.get(self.other):
            yield Problem(self.name, f"goes only with {self.other}", given[self.name])

    @property
    def schema(self) -> dict[str, Any]:
        is_given: dict[str, Any] = {"not": {"enum": [None, []]}}
        return {
            "if": {"required": [self.name], "properties": {self.name: is_given}},
            "then": {"required": [self.other], "properties": {self.other: is_given}},
        }


@dataclass(frozen=True, slots=True)
class NotWith:
    """An input does not have this value together with this value of another one."""

    name: str
    value: Any
    other: str
    others_value: Any

    def problems(self, given: Mapping[str, Any]) -> Iterator[Problem]:
        if given.get(self.name) == self.value and given.get(self.other) == self.others_value:
            why = f"cannot be {self.value} with {self.other} {self.others_value}"
            yield Problem(self.name, why, self.value)

    @property
    def schema(self) -> dict[str, Any]:
        both = {self.name: {"const": self.value}, self.other: {"const": self.others_value}}
        return {"not": {"required": list(both), "properties": both}}


@dataclass(frozen=True, slots=True)
class AtMostTogether:
    """A number of images to make and a list of images are at most `most` together, if `switch` has this value."""

    name: str
    other: str
    most: int
    switch: str
    on: str

    def problems(self, given: Mapping[str, Any]) -> Iterator[Problem]:
        made, images = given.get(self.name), given.get(self.other) or []
        count = len(images) if isinstance(images, list) else 1
        if made is not None and given.get(self.switch) == self.on and made + count > self.most:
            yield Problem(self.name, f"must be at most {self.most} together with those in {self.other}", made)

    @property
    def schema(self) -> dict[str, Any]:
        return {}  # JSON Schema cannot say it


@dataclass(frozen=True, slots=True)
class Excludes:
    """Two inputs must not be given together."""

    name: str
    other: str

    def problems(self, given: Mapping[str, Any]) -> Iterator[Problem]:
        if given.get(self.name) and given.get(self.other):
            yield Problem(self.name, f"cannot stand beside {self.other}", given[self.name])

    @property
    def schema(self) -> dict[str, Any]:
        is_left_out: dict[str, Any] = {"enum": [None, []]}
        return {"anyOf": [{"properties": {name: is_left_out}} for name in (self.name, self.other)]}
