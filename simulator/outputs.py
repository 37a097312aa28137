"""Makes the output of a prediction: a value of the form that the published `Output` describes.

Each place with `format: uri` gets the link of a file of this server, numbered in the order of the output. What the file
is, follows from the name of its place (`color_video`, `srt_file`), from the input `output_format`, and else from the
kind of the model. A text is a short answer to the prompt. An output that can be anything is a link if the model makes
files, and else an object.

`[[text]]`, `[[fewer]]` and `[[empty]]` apply to all. `[[output=JSON]]` sets the output, with links for texts such as
`<png>`.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from simulator import directives, files
from simulator.directives import Plan
from simulator.model import Kind, requested_outputs
from simulator.schemas import Property, Schema, is_file

_EXTENSIONS: dict[Kind, str] = {
    "image": "webp",
    "video": "mp4",
    "audio": "wav",
    "3d": "glb",
    "text": "txt",
    "data": "json",
}
_BY_NAME = (
    ("ply", "ply"),
    ("model_file", "glb"),
    ("mesh", "glb"),
    ("glb", "glb"),
    ("srt", "srt"),
    ("svg", "svg"),
    ("csv", "csv"),
    ("txt", "txt"),
    ("json", "json"),
    ("video", "mp4"),
    ("audio", "wav"),
    ("wav", "wav"),
    ("weights", "zip"),
    ("zip", "zip"),
    ("image", "png"),
    ("mask", "png"),
)
"""A part of the name of a place, and the extension of the file there. The first that fits counts."""

_PLACEHOLDER = re.compile(r"<(\w+)>")
_MOST_VALUES = 1_000
_ITEMS = 2
_CONSTANTS = {"integer": 7, "number": 0.5, "boolean": True}


def make(schema: Schema, inputs: Mapping[str, Any], plan: Plan, *, model: str, kind: Kind, base: str) -> Any:
    """The output of a prediction with these inputs, or None if its plan has none.

    Args:
        schema: The schema of its version.
        inputs: Its input.
        plan: Its course.
        model: The name of its model.
        kind: The kind of its model.
        base: The address of its files; a number and an extension follow.
    """
    if plan.outputs == "none":
        return None
    maker = _Maker(schema, inputs, model=model, kind=kind, base=base)
    if plan.output is not None:
        return maker.filled(parsed(plan.output))
    count = requested_outputs(schema, inputs)
    form = schema.output
    is_list = form.get("type") == "array"
    if plan.text is not None:
        kept = count - 1 if plan.outputs == "fewer" and is_list else 0
        return [*maker.items(form, kept), plan.text] if is_list else plan.text
    if is_list and is_file(form.get("items", {})):
        return maker.items(form, max(1, count - 1) if plan.outputs == "fewer" else count)
    made = maker.of(form, "")
    return made[:-1] if plan.outputs == "fewer" and isinstance(made, list) and len(made) > 1 else made


def links(output: Any, base: str) -> Iterator[str]:
    """All links under `base` in an output, in their order."""
    match output:
        case str():
            if output.startswith(base):
                yield output
        case list():
            for each in output:
                yield from links(each, base)
        case dict():
            for each in output.values():
                yield from links(each, base)


def texts(inputs: Any) -> Iterator[str]:
    """All texts of an input, in their order."""
    match inputs:
        case str():
            yield inputs
        case list():
            for each in inputs:
                yield from texts(each)
        case dict():
            for each in inputs.values():
                yield from texts(each)


def said(schema: Schema, inputs: Mapping[str, Any]) -> str:
    """What the input says: the prompt, or for a model without one all texts that are no secrets."""
    prompt = inputs.get("prompt")
    if isinstance(prompt, str):
        return prompt
    return " ".join(texts({name: value for name, value in inputs.items() if name not in schema.secrets}))


def parsed(text: str) -> Any:
    """The value of a text in JSON; the text itself if it is none."""
    try:
        return json.loads(text)
    except ValueError:
        return text


class _Maker:
    """Makes one output."""

    def __init__(
        self, schema: Schema, inputs: Mapping[str, Any], *, model: str, kind: Kind, base: str
    ) -> None:
        self._schema = schema
        self._inputs = inputs
        self._kind = kind
        self._base = base
        self._is_vector = "svg" in model
        self._links = 0
        self._left = _MOST_VALUES

    def of(self, form: Property, name: str) -> Any:
        """A value of this form in the place `name`. None after a thousand of them: nested lists double each other."""
        if self._left <= 0:
            return None
        self._left -= 1
        for union in ("anyOf", "oneOf"):
            if form.get(union):
                return self.of(next((each for each in form[union] if each.get("type") != "null"), {}), name)
        if form.get("enum"):
            return form["enum"][0]
        match form.get("type"):
            case "string":
                return self.link(self._extension(name)) if is_file(form) else self._text()
            case "array":
                return self._list(form, name)
            case "object":
                return {each: self.of(inner, each) for each, inner in form.get("properties", {}).items()}
            case "integer" | "number" | "boolean" as kind:
                return _CONSTANTS[kind]
        if name or self._kind in ("text", "data"):
            return {"text": self._text(), "score": 0.5}
        return self.link(self._extension(name))

    def items(self, form: Property, count: int) -> list[Any]:
        """So many items of a list of this form."""
        return [self.of(form.get("items", {}), "") for _ in range(count)]

    def link(self, extension: str) -> str:
        """The link of the next file."""
        self._links += 1
        return f"{self._base}{self._links - 1}.{extension}"

    def filled(self, value: Any) -> Any:
        """`value` with links in place of texts such as `<png>`."""
        match value:
            case str():
                found = _PLACEHOLDER.fullmatch(value)
                return self.link(found[1]) if found and found[1] in files.CONTENT_TYPES else value
            case list():
                return [self.filled(each) for each in value]
            case dict():
                return {name: self.filled(each) for name, each in value.items()}
        return value

    def _list(self, form: Property, name: str) -> list[Any]:
        items = form.get("items", {})
        if form.get("x-cog-array-display") == "concatenate":
            return [piece for piece in re.split(r"(?<=\s)", self._text()) if piece]
        return [self.of(items, name) for _ in range(1 if items.get("type") == "object" else _ITEMS)]

    def _extension(self, name: str) -> str:
        for part, extension in _BY_NAME:
            if part in name.lower():
                return extension
        if self._kind == "image" and self._is_vector:
            return "svg"
        asked = self._schema.value(self._inputs, "output_format", "format")
        if isinstance(asked, str) and files.KINDS.get(asked) == self._kind:
            return asked
        return _EXTENSIONS[self._kind]

    def _text(self) -> str:
        asked = directives.remove(said(self._schema, self._inputs))
        return f"This is a simulated answer to: {asked[:500]}"
