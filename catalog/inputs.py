"""The inputs of a model in a small form of our own, and the check of a request against it.

`published.py` makes the form from the schema that Replicate publishes. The keywords that Replicate uses are few, so
each check is written here, and no general validator is needed. What a schema contradicts is not checked
(`Input.unchecked`): a request must never be refused that Replicate would accept.

Checks are strict (`true` is no integer, `"3"` no number), except that a whole float is an integer, since serializers
write both. Models that are only known by their published schema are also `lenient`: a text that is exactly a number,
`true` or `false` becomes that where the type says so. Of the predictions that succeed at Replicate, 3.6 % need this.
"""

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import Any, Final, Literal, Protocol

from catalog import references
from catalog.plain_schema import whole
from catalog.text_values import PROMPT_SCHEMA, TEXT_SCHEMA, FormText, is_blank, usable_text
from errors import ABSENT, Problem

Schema = dict[str, Any]

Content = Literal["text", "prompt", "image", "file", "weights"]
"""What the texts of an input hold: free text, text with a visible character, the address of an image or of any file, or
text that may also name an uploaded file of weights."""

SMALLEST, LARGEST = -(2**63), 2**63 - 1
"""The bounds of an integer whose schema has none."""

_MOST_CHOICES_SHOWN: Final = 30
_MOST_COMPARED: Final = 500
_LONGEST_CHOICE: Final = 100

_NUMBER: Final = re.compile(r"-?(?:0|[1-9]\d{0,18})(?:\.\d{1,30})?(?:[eE][+-]?\d{1,2})?")
_FLAGS: Final = {"true": True, "false": False}


class Wrong(ValueError):
    """A value does not fit. `path` leads from the input to the wrong part of a list, and is usually empty."""

    def __init__(self, message: str, given: Any, path: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.given = given
        self.path = path


class Rule(Protocol):
    """A rule between inputs, which no published schema says."""

    @property
    def schema(self) -> Schema:
        """The rule as keywords of the JSON Schema of all inputs, empty if it has none."""

    def problems(self, given: Mapping[str, Any]) -> Iterator[Problem]:
        """The problems of these inputs, each of which is valid by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One input of a model. `type` is None if any value fits, and then no bound applies. Of `options` one must fit.
    Bounds are inclusive. `unchecked` says why the value is passed on unchecked."""

    name: str
    type: Literal["string", "integer", "number", "boolean", "array", "object"] | None = None
    choices: tuple[Any, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    multiple_of: int | None = None
    shortest: int = 0
    longest: int | None = None
    most_items: int | None = None
    items: "Input | None" = None
    options: "tuple[Input, ...]" = ()
    required: bool = False
    nullable: bool = False
    default: Any = ABSENT
    content: Content = "text"
    is_secret: bool = False
    is_deprecated: bool = False
    description: str = ""
    unchecked: str | None = None

    @property
    def takes_files(self) -> bool:
        """Whether it takes uploaded files, one or a list of them."""
        return self._holds_files or (self.items is not None and self.items.takes_files)

    @property
    def is_list(self) -> bool:
        return self.type == "array"

    @property
    def is_text(self) -> bool:
        """Whether it takes a text. Any value of an unchecked input may be one."""
        return self.type == "string" or any(each.is_text for each in self.options)

    @property
    def is_free_text(self) -> bool:
        """Whether it takes text that is neither a choice nor the address of a file."""
        return self.is_text and not self.choices and self.content not in {"image", "file"}

    @property
    def _holds_files(self) -> bool:
        return self.content in {"image", "file", "weights"}

    def takes(self, value: Any) -> bool:
        """Whether this value fits as it is."""
        try:
            self.read(value, accepted=True)
        except Wrong:
            return False
        return True

    def read(self, value: Any, *, lenient: bool = False, accepted: bool = False) -> Any:
        """The value to send. With `lenient`, a text may become a number or a boolean. A request that was `accepted`
        before is not refused for rules that came later. Raises Wrong."""
        if self.unchecked is not None or (value is None and self.nullable):
            return value
        if self.options:
            return self._option(value, lenient=lenient, accepted=accepted)
        if lenient and isinstance(value, str):
            value = self._turned(value)
        return self._choice(value) if self.choices else self._typed(value, lenient, accepted)

    def _typed(self, value: Any, lenient: bool, accepted: bool) -> Any:
        match self.type:
            case "string":
                return self._text(value, accepted=accepted)
            case "integer" | "number":
                return self._number(value)
            case "array":
                return self._list(value, lenient=lenient, accepted=accepted)
            case "boolean" if not isinstance(value, bool):
                raise Wrong("must be true or false", value)
            case "object" if not isinstance(value, dict):
                raise Wrong("must be an object", value)
        return value

    def _turned(self, text: str) -> Any:
        """The number or boolean that a text is exactly, if this input takes that and no text."""
        if self.type == "boolean":
            return _FLAGS.get(text, text)
        if self.type not in {"integer", "number"} or not _NUMBER.fullmatch(text):
            return text
        try:
            return int(text)
        except ValueError:
            return float(text)

    def _choice(self, value: Any) -> Any:
        found = whole(value)
        for choice in self.choices:
            if choice == found and isinstance(choice, bool) == isinstance(found, bool):
                return choice
        raise Wrong(f"must be {self._choices_shown(value)}", value)

    def _choices_shown(self, given: Any) -> str:
        shown = [str(each)[:_LONGEST_CHOICE] for each in self.choices]
        if len(shown) > _MOST_CHOICES_SHOWN:
            near = get_close_matches(str(given)[:100], shown[:_MOST_COMPARED], n=3, cutoff=0.0)
            return f"one of {len(shown)} choices; the nearest are {', '.join(near)}"
        return " or ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else shown[0]

    def _text(self, value: Any, *, accepted: bool) -> str | references.Upload:
        try:
            if self.content == "image":
                return references.reference(value, accepted=accepted)
            if self.content == "file":
                return references.file(value)
            if self.content == "weights" and (upload := references.weights(value)) is not None:
                return upload
            if isinstance(value, references.Upload):
                raise ValueError("takes no file")
            if not isinstance(value, str):
                raise ValueError("must be a string")
            usable_text(value)
            if self.content == "prompt" and is_blank(value) and not accepted:
                raise ValueError("must not be empty")
        except ValueError as wrong:
            raise Wrong(str(wrong), value) from None
        if len(value) < self.shortest:
            raise Wrong(f"must have at least {self.shortest} characters", value)
        if self.longest is not None and len(value) > self.longest:
            raise Wrong(f"must have at most {self.longest} characters", value)
        return value

    def _number(self, value: Any) -> int | float:
        kind = "an integer" if self.type == "integer" else "a number"
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Wrong(f"must be {kind}", value)
        number: int | float = whole(value)
        if self.type == "number":
            if isinstance(number, float) and not math.isfinite(number):
                raise Wrong("must be a finite number", value)
            if isinstance(number, int) and abs(number) > 10**300:
                raise Wrong("must be a number", value)
        elif not isinstance(number, int):
            raise Wrong("must be an integer", value)
        if self.multiple_of is not None and number % self.multiple_of:
            raise Wrong(f"must be a multiple of {self.multiple_of}", value)
        if self.maximum is not None and number > self.maximum:
            raise Wrong(f"must be at most {whole(self.maximum)}", value)
        if self.minimum is not None and number < self.minimum:
            raise Wrong(f"must be at least {whole(self.minimum)}", value)
        return number

    def _list(self, value: Any, *, lenient: bool, accepted: bool) -> list[Any]:
        if isinstance(value, FormText | references.Upload) and lenient:
            value = [value]  # in a form, a list of one
        if not isinstance(value, list):
            raise Wrong("must be a list", value)
        if self.most_items is not None and len(value) > self.most_items:
            raise Wrong(f"must have at most {self.most_items} items", value)
        if len(value) < self.shortest:
            raise Wrong(f"must have at least {self.shortest} items", value)
        if self.items is None:
            return value
        read = []
        for index, each in enumerate(value):
            try:
                read.append(self.items.read(each, lenient=lenient, accepted=accepted))
            except Wrong as wrong:
                raise Wrong(wrong.message, wrong.given, f"[{index}]{wrong.path}") from None
        return read

    def _option(self, value: Any, *, lenient: bool, accepted: bool) -> Any:
        failed: list[Wrong] = []
        for is_lenient in (False, True) if lenient else (False,):
            for each in self.options:
                try:
                    return each.read(value, lenient=is_lenient, accepted=accepted)
                except Wrong as wrong:
                    failed.append(wrong)
        inside = next((wrong for wrong in failed if wrong.path), None)
        if inside is not None:
            raise inside
        messages = list(dict.fromkeys(wrong.message for wrong in failed))
        raise Wrong(" or ".join(messages[:_MOST_CHOICES_SHOWN]), value)

    @property
    def schema(self) -> Schema:
        """JSON Schema (2020-12) of the values that fit."""
        about: Schema = {"description": self.description} if self.description else {}
        alone = self._schema_of_values()
        if not self.required or self.nullable:
            options = alone["anyOf"] if alone.keys() == {"anyOf"} else [alone]
            alone = {"anyOf": [*options, {"type": "null"}]}
        if not self.required:
            about["default"] = None if self.default is ABSENT else self.default
        flags = {"writeOnly": self.is_secret, "deprecated": self.is_deprecated}
        shown = {name: True for name, is_set in flags.items() if is_set}
        return {**alone, **about, **shown, "title": self.name.replace("_", " ").title()}

    def _schema_of_values(self) -> Schema:
        if self.unchecked is not None or (self.type is None and not self.options and not self.choices):
            return {}
        if self.options:
            return {"anyOf": [each._schema_of_values() for each in self.options]}  # noqa: SLF001
        schema: Schema = {} if self.type is None else {"type": self.type}
        if self.choices:
            return schema | {"enum": list(self.choices)}
        if self.type == "string":
            schema = dict(_TEXTS[self.content])
        bounds = {
            "minimum": self.minimum,
            "maximum": self.maximum,
            "multipleOf": self.multiple_of,
            "maxItems": self.most_items,
            "maxLength": self.longest,
            "minItems" if self.is_list else "minLength": self.shortest or None,
        }
        schema |= {name: whole(bound) for name, bound in bounds.items() if bound is not None}
        return schema | ({"items": self.items._schema_of_values()} if self.items else {})  # noqa: SLF001


_TEXTS: Final[Mapping[Content, Schema]] = {
    "text": TEXT_SCHEMA,
    "prompt": PROMPT_SCHEMA,
    "image": references.JSON_SCHEMA,
    "file": references.FILE_SCHEMA,
    "weights": TEXT_SCHEMA,
}


@dataclass(frozen=True, slots=True)
class Turned:
    """A text that became a number or a boolean."""

    name: str
    given: Any
    sent: Any


@dataclass(frozen=True, slots=True)
class Checked:
    """The valid `values` of a request, its `problems`, and what was `turned`."""

    values: Mapping[str, Any]
    problems: Sequence[Problem]
    turned: Sequence[Turned]


@dataclass(frozen=True)
class Inputs:
    """All inputs of a model, by name and in Replicate's order."""

    fields: Mapping[str, Input]
    rules: tuple[Rule, ...] = ()
    lenient: bool = False
    is_open: bool = False
    """Whether the inputs are not known, so that any input is passed on unchecked."""

    def __contains__(self, name: object) -> bool:
        return name in self.fields

    def __iter__(self) -> Iterator[str]:
        return iter(self.fields)

    def __getitem__(self, name: str) -> Input:
        return self.fields[name]

    def holds_files(self, name: str) -> bool:
        """Whether an input of this name takes files."""
        return name in self.fields and self.fields[name].takes_files

    @cached_property
    def secrets(self) -> Set[str]:
        """The names of the inputs that hold a secret."""
        return {name for name, each in self.fields.items() if each.is_secret}

    def check(
        self,
        given: Mapping[str, Any],
        *,
        accepted: bool = False,
        lenient: bool = False,
        elsewhere: Collection[str] = (),
    ) -> Checked:
        """Check these inputs. An input that is null counts as left out, unless it is nullable, and one that is required
        may be sent `elsewhere`. Those that the model does not have are left out, but passed on by a `lenient` check.
        Rules between inputs are not checked (`broken_rules`)."""
        passes_others = lenient or self.is_open
        lenient = lenient or self.lenient
        values: dict[str, Any] = {}
        problems, turned = [], []
        for name, each in self.fields.items():
            if name not in given:
                if each.required and not accepted and name not in elsewhere:
                    problems.append(Problem(name, "is required"))
                continue
            value = given[name]
            if value is None and not each.nullable and not each.required:
                continue
            if isinstance(value, FormText) and not value and not each.is_free_text:
                continue  # an empty field of a form
            try:
                values[name] = each.read(value, lenient=lenient, accepted=accepted)
            except Wrong as wrong:
                shown = ABSENT if each.is_secret else wrong.given
                problems.append(Problem(name + wrong.path, wrong.message, shown))
                continue
            if lenient and not each.is_secret and _is_turned(value, values[name]):
                turned.append(Turned(name, value, values[name]))
        if passes_others:
            values |= {name: value for name, value in given.items() if name not in self.fields}
        ordered = {name: values[name] for name in given if name in values}
        return Checked(ordered, problems, turned)

    def broken_rules(self, given: Mapping[str, Any]) -> Iterator[Problem]:
        """The problems between inputs. `given` has only values that are valid by themselves."""
        for rule in self.rules:
            yield from rule.problems(given)

    def schema(self, defaults: Mapping[str, Any]) -> Schema:
        """JSON Schema (2020-12) of the inputs. `defaults` replace those of the model. An optional input may be null,
        which means that it is left out."""
        properties = {name: each.schema for name, each in self.fields.items()}
        for name, value in defaults.items():
            properties[name]["default"] = value
        schema: Schema = {
            "type": "object",
            "properties": properties,
            "required": [name for name, each in self.fields.items() if each.required],
            "additionalProperties": self.is_open,
        }
        rules = [rule.schema for rule in self.rules if rule.schema]
        return schema | ({"allOf": rules} if rules else {})


def _is_turned(given: Any, sent: Any) -> bool:
    if isinstance(given, list) and isinstance(sent, list):
        return any(_is_turned(*pair) for pair in zip(given, sent, strict=True))
    is_text = isinstance(given, str) and not isinstance(given, FormText)  # which says nothing of its type
    return is_text and not isinstance(sent, str | references.Upload)
