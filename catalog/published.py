"""Compiles the schema that Replicate publishes for a model to the small form of `inputs.py`.

The schemas of the declared models are data of this package (`schemas/`), and compiled like that of any other model.

Facts: 3,808 public models of January 2025 and 79 of 2026, as the API shows them. Choices are mostly an `allOf` with one
`$ref`. No input has `pattern`, `multipleOf`, `maxItems` or `additionalProperties`. Some schemas contradict themselves,
such as choices that are texts for an integer. Files are texts with `format: uri`, and names of weights are free text.
Secrets have `format: password`, `x-cog-secret` or `writeOnly`, or only a telling name.
"""

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, get_args

from catalog.inputs import LARGEST, SMALLEST, Content, Input, Inputs, Rule
from catalog.outputs import UNKNOWN, OutputForm, output_form
from catalog.plain_schema import NoInputs, PlainSchemas, Schema, is_number
from errors import ABSENT

SCHEMAS: Final = Path(__file__).parent / "schemas"

Type = Literal["string", "integer", "number", "boolean", "array", "object"]

_TYPES: Final[tuple[str, ...]] = get_args(Type)

SECRET_NAME: Final = re.compile(
    r"(?:^|_)(?:api_?key|api_?token|auth_?token|access_?token|secret(?:_?key)?|password)$"
    r"|^(?:hf|huggingface|civitai|openai|replicate|github|wandb)_(?:api_)?(?:token|key)$",
    re.IGNORECASE,
)
_WEIGHTS_NAME: Final = re.compile(
    r"(?:^|_)loras?\d*$|lora_weights?|weights$|lora_(?:\w+_)?(?:urls?|links?|files?|paths?|models?|inputs?)$",
    re.IGNORECASE,
)

_IMAGE_NAME: Final = re.compile(r"image|frame|input_reference")
"""The inputs of declared models whose files are images, which must be whole and of a known type."""

_PYTHON: Final[Mapping[str, tuple[type, ...]]] = {
    "string": (str,),
    "integer": (int, float),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}

_MOST_INPUTS: Final = 500
_DEEPEST: Final = 4


_ANY: Final = Inputs({}, lenient=True, is_open=True)
"""The inputs of a model, if its schema does not describe them."""


class TooComplex(NoInputs):
    """The document may describe its inputs, but it cannot be read."""


@dataclass(frozen=True, slots=True)
class Overlay:
    """What a declaration adds to a published schema: further keywords of inputs, by name, and rules between inputs."""

    keywords: Mapping[str, Mapping[str, Any]]
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True, slots=True)
class Published:
    """The published document of a version, and its compiled inputs and outputs. If the document could not be read,
    `unread` is the reason, a sentence about it, and any input is passed on."""

    document: Mapping[str, Any]
    inputs: Inputs
    output: OutputForm
    unread: str | None = None

    @classmethod
    def of(cls, document: Mapping[str, Any] | str) -> "Published":
        """If the document does not describe the inputs, any are passed on. A text in its place is the reason why it
        could not be read."""
        if isinstance(document, str):
            return cls({}, _ANY, UNKNOWN, document)
        output = output_form(document)
        try:
            return cls(document, compiled(document), output)
        except TooComplex as reason:
            return cls(document, _ANY, output, str(reason))
        except NoInputs:
            return cls(document, _ANY, output)


def compiled(document: Mapping[str, Any], *, overlay: Overlay | None = None) -> Inputs:
    """The inputs of a model from the OpenAPI document of its version. Without an `overlay`, the model is known by this
    document only, and its inputs are checked leniently. Raises NoInputs."""
    try:
        plain, required, _ = PlainSchemas(document).inputs()
    except RecursionError:
        raise TooComplex("its schemas are nested too deeply.") from None
    if len(plain) > _MOST_INPUTS:
        raise TooComplex(f"it has more than {_MOST_INPUTS} inputs.")
    described = _described(document)
    compiler = _Compiler(overlay)
    fields = {
        name: compiler.input(name, plain[name], required=name in required, about=described.get(name, {}))
        for name in sorted(plain, key=lambda name: _position(described.get(name, {})))
    }
    return Inputs(fields, overlay.rules if overlay else (), lenient=overlay is None)


@cache
def saved(name: str) -> Mapping[str, Any]:
    """The saved document of a declared model, by its full name."""
    document: Mapping[str, Any] = json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8"))
    return {"components": {"schemas": document}}


def _described(document: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """The properties as they are published, for their descriptions and their order."""
    found = document["components"]["schemas"]["Input"].get("properties", {})
    return {name: each for name, each in found.items() if isinstance(each, Mapping)}


def _position(schema: Mapping[str, Any]) -> float:
    order = schema.get("x-order")
    return order if isinstance(order, int) else float("inf")


class _Compiler:
    def __init__(self, overlay: Overlay | None) -> None:
        self._overlay = overlay

    def input(self, name: str, plain: Schema, *, required: bool, about: Mapping[str, Any]) -> Input:
        if self._overlay is not None:
            plain = {**plain, **self._overlay.keywords.get(name, {})}
        description = plain.get("description", about.get("description"))
        is_secret = (
            plain.get("x-cog-secret") is True
            or plain.get("writeOnly") is True
            or plain.get("format") == "password"
            or SECRET_NAME.search(name) is not None
        )
        return self._input(
            name,
            plain,
            depth=0,
            required=required,
            default=plain.get("default", ABSENT),
            is_secret=is_secret,
            is_deprecated=plain.get("deprecated") is True,
            description=description.strip() if isinstance(description, str) else "",
        )

    def _input(self, name: str, plain: Schema, *, depth: int, **about: Any) -> Input:
        options = plain.get("anyOf", plain.get("oneOf"))
        reason = _contradiction(plain, options, depth)
        if reason is not None:
            return Input(name=name, nullable=True, unchecked=reason, **about)
        about |= {"nullable": plain.get("nullable") is True}
        if options is not None:
            parts = tuple(self._input(name, each, depth=depth + 1) for each in options)
            if any(each.unchecked is not None for each in parts):
                about["nullable"] = True
                return Input(name=name, unchecked="One of its types is not described.", **about)
            return Input(name=name, options=parts, **about)
        kind: Type | None = plain.get("type")
        items = plain.get("items")
        return Input(
            name=name,
            type=kind,
            choices=tuple(dict.fromkeys(plain.get("enum", ()))),
            items=self._input(name, items, depth=depth + 1) if kind == "array" and items else None,
            content=self._content(name, plain, required=about.get("required", False)),
            **_bounds(plain),
            **about,
        )

    def _content(self, name: str, plain: Schema, *, required: bool) -> Content:
        if plain.get("type") != "string":
            return "text"
        if plain.get("format") == "uri":
            return "image" if self._overlay and _IMAGE_NAME.search(name) else "file"
        if self._overlay is not None and name == "prompt" and required:
            return "prompt"
        return "weights" if _WEIGHTS_NAME.search(name) and "enum" not in plain else "text"


def _bounds(plain: Schema) -> dict[str, Any]:
    kind = plain.get("type")
    low, high = plain.get("minimum"), plain.get("maximum")
    if kind == "integer":
        low, high = SMALLEST if low is None else low, LARGEST if high is None else high
    is_list = kind == "array"
    return {
        "minimum": low,
        "maximum": high,
        "multiple_of": plain.get("multipleOf"),
        "shortest": plain.get("minItems" if is_list else "minLength") or 0,
        "longest": plain.get("maxLength"),
        "most_items": plain.get("maxItems"),
    }


def _contradiction(plain: Schema, options: Any, depth: int) -> str | None:
    """Why no value can be checked against this schema. None if values can be."""
    another = next((key for key in plain if key.endswith("(another)")), None)
    if depth > _DEEPEST or "$ref" in plain or "schema" in plain:
        return "Its schema is nested too deeply or is incomplete."
    if another is not None:
        return f"Its schema has two values of {another.removesuffix(' (another)')}."
    kind = plain.get("type")
    if options is not None:
        return None if isinstance(options, list) and kind is None else "Its schema mixes types."
    if kind is not None and kind not in _TYPES:
        return f"Its type is {json.dumps(kind)[:100]}."
    if kind is None and "enum" not in plain:
        return "Its schema names no type."
    if "enum" in plain and (reason := _contradiction_of_choices(kind, plain["enum"])) is not None:
        return reason
    wrong = [key for key in _NUMBERS if key in plain and not _is_bound(plain[key])]
    if wrong:
        return f"Its {wrong[0]} is no number."
    step = plain.get("multipleOf", 1)
    if step < 1 or step != int(step):
        return "Its multipleOf is no positive integer."
    low, high = plain.get("minimum"), plain.get("maximum")
    return None if low is None or high is None or low <= high else "Its minimum is above its maximum."


def _contradiction_of_choices(kind: str | None, choices: Any) -> str | None:
    if not isinstance(choices, list) or not choices or any(isinstance(each, list | dict) for each in choices):
        return "Its choices are not a list of values."
    if kind is not None and not any(_fits(kind, each) for each in choices):
        return f"None of its choices is of its type, {kind}."
    return None


_NUMBERS: Final = (
    "minimum", "maximum", "multipleOf", "minLength", "maxLength", "minItems", "maxItems",
)  # fmt: skip


def _fits(kind: str, value: Any) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _PYTHON[kind]) and not (
        kind == "integer" and isinstance(value, float) and value % 1
    )


def _is_bound(value: Any) -> bool:
    return is_number(value) and abs(value) <= sys.float_info.max  # an integer may be no float
