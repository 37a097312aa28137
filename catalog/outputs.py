"""The form of a model's output: what its published schema says about the JSON that a prediction puts out.

A prediction may put out any JSON. A text in it is the address of a file where the schema says `format: uri`. Where the
schema says nothing, or something else came than it says, it is one if its provider delivers outputs there. Everything
else is an output as it is: objects, numbers, and text, whose pieces are joined where the schema says so. Only null, an
empty text, list or object is no output, and text where the schema wants a file: models refuse so.

Facts: github.com/replicate/cog, docs/python.md (`Output`) and docs/http.md; the published schemas of models.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import chain, islice
from typing import Any, Final

from catalog.plain_schema import referred
from media.formats import Kind

_DEEPEST: Final = 16
_MOST_SCHEMAS: Final = 2_000
"""How deep the schemas of an output may be nested, and how many may be read. Real ones take less than a tenth."""

_PARTS: Final = 20
"""The keywords, properties or alternatives of a schema that count as one more schema."""

_MOST: Final = 1_000
"""The most files of one object or nested list."""


class Url(str):
    """A text of an output from which a file can be fetched: an address, or a `data:` URI with content. `is_own` says
    that its provider delivers outputs there, so that it is a file without a schema that says so."""

    __slots__ = ("is_own",)
    is_own: bool

    def __new__(cls, value: str, *, is_own: bool = False) -> "Url":
        url = super().__new__(cls, value)
        url.is_own = is_own
        return url


@dataclass(frozen=True, slots=True)
class Item:
    """One output: an address, a text, or any other JSON. `files` are the addresses in it, in order."""

    value: Any
    files: tuple[Url, ...] = ()


@dataclass(frozen=True, slots=True)
class Produced:
    """What a prediction has put out. `refusal` is the text that came where a file should be."""

    items: tuple[Item, ...] = ()
    refusal: str = ""

    @property
    def files(self) -> tuple[Url, ...]:
        """The addresses of all files, in order."""
        return tuple(chain.from_iterable(item.files for item in self.items))

    @property
    def values(self) -> tuple[Any, ...]:
        """The outputs as a caller gets them."""
        return tuple(item.value for item in self.items)

    def without(self, missing: Collection[int]) -> "Produced":
        """The same without the outputs that are files with these numbers (from 0), which do not exist. An object that
        names them stays."""
        if not missing:
            return self
        kept, number = [], 0
        for item in self.items:
            if not (isinstance(item.value, Url) and item.files and number in missing):
                kept.append(item)
            number += len(item.files)
        return Produced(tuple(kept), self.refusal)


@dataclass(frozen=True, slots=True)
class Shape:
    """What a schema says about one place in an output. Alternatives are merged: a place may have a file or text."""

    file: bool = False
    text: bool = False
    data: bool = False
    items: "Shape | None" = None
    fields: Mapping[str, "Shape"] = field(default_factory=dict)
    others: "Shape | None" = None
    """The values of an object under names that `fields` does not have."""

    def is_file(self, value: str) -> bool:
        return isinstance(value, Url) and (self.file or (value.is_own and not self.text))

    def refuses(self, value: Any) -> bool:
        """Whether this is text where a file should be."""
        return isinstance(value, str) and self.file and not self.text and not isinstance(value, Url)

    def under(self, name: str) -> "Shape":
        return self.fields.get(name) or self.others or ANYTHING

    @property
    def each(self) -> "Shape":
        """The items of a list. A list where one output should be is a list of such outputs."""
        return self.items or self

    @property
    def alone(self) -> "Shape":
        """The schema of an output that is no list, also where a list should be."""
        return self.items if self.items and not (self.file or self.text or self.fields) else self

    def __or__(self, other: "Shape") -> "Shape":
        return Shape(
            self.file or other.file,
            self.text or other.text,
            self.data or other.data,
            _either(self.items, other.items),
            {
                name: _either(self.fields.get(name), other.fields.get(name)) or ANYTHING
                for name in {**self.fields, **other.fields}
            },
            _either(self.others, other.others),
        )


ANYTHING: Final = Shape()
"""A place about which the schema says nothing."""

_TEXT: Final = Shape(text=True)
_DATA: Final = Shape(data=True)


@dataclass(frozen=True, slots=True)
class OutputForm:
    """How to read the outputs of a model.

    With `joins`, a list of texts is one text in pieces. With `streams`, the output may grow until the status shows
    that the prediction is over. With `is_media`, only pictures and films count, wherever they are, and all else is a
    refusal."""

    shape: Shape = ANYTHING
    joins: bool = False
    streams: bool = False
    is_media: bool = False

    @property
    def kind(self) -> Kind | None:
        """The kind of its outputs, as far as the schema alone says it."""
        if self.is_media or _may_have_files(self.shape):
            return None
        return "text" if _TEXT in (self.shape, self.shape.items) else "data"

    def read(self, output: Any) -> Produced:
        """What this output has. It may be any JSON, whose addresses are marked as `Url`. Never raises."""
        if self.is_media:
            return _media(output)
        shape = self.shape
        if self.joins and isinstance(output, list | tuple) and _are_pieces(output):
            output = "".join(each for each in output if each)
        if isinstance(output, list | tuple):
            # An empty item keeps the places of the others, except among files.
            values = [each for each in output if not (shape.each.file and is_empty(each))]
            shape = shape.each
        else:
            values = [] if is_empty(output) else [output]
            shape = shape.alone
        items = tuple(Item(each, _several(_files(each, shape))) for each in values if not shape.refuses(each))
        said = "".join(each for each in values if shape.refuses(each))
        return Produced(() if all(is_empty(item.value) for item in items) else items, said)


UNKNOWN: Final = OutputForm(streams=True)
"""The form of outputs that no schema describes. They may grow."""

FILES: Final = OutputForm(is_media=True)
"""The form of the declared models, all of which make pictures or films."""


def is_plain_text(value: Any) -> bool:
    """Whether this is a text that is no address."""
    return isinstance(value, str) and not isinstance(value, Url)


def with_one_text(items: list[Any], text: str, is_part: Callable[[Any], bool]) -> list[Any]:
    """A list whose texts may be parts of one: `text` replaces the first item that `is_part`, and an empty text each
    further one."""
    left = iter([text])
    return [next(left, "") if is_part(each) else each for each in items]


def is_empty(value: Any) -> bool:
    """Whether this is no output: null, or an empty text, list or object, or a list of nothing else."""
    if isinstance(value, list | tuple):
        return all(map(is_empty, value))
    return value is None or (not value and isinstance(value, str | Mapping))


def output_form(document: Mapping[str, Any]) -> OutputForm:
    """The form of the outputs of a version, by its published OpenAPI document. A part that is missing or cannot be read
    counts as not described. Never raises."""
    reader = _Reader(document)
    schema = reader.resolved({"$ref": "#/components/schemas/Output"})
    shape = reader.shape(schema)
    return OutputForm(
        shape=shape,
        joins=schema.get("x-cog-array-display") == "concatenate",
        streams=shape == ANYTHING or schema.get("x-cog-array-type") == "iterator",
    )


class _Reader:
    """Reads the schemas of a document, of which anyone may be the author. So it reads a bounded number of them, also if
    they contain each other: the rest counts as not described."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self._left = _MOST_SCHEMAS

    def shape(self, schema: Any, depth: int = _DEEPEST) -> Shape:
        schema = self.resolved(schema)
        if depth <= 0 or not schema:
            return ANYTHING
        alternatives = (*_list(schema.get("anyOf")), *_list(schema.get("oneOf")))
        if alternatives:
            shapes = [self.shape(each, depth - 1) for each in alternatives if not _is_null(each)]
        else:
            kinds = schema.get("type")
            named = kinds if isinstance(kinds, list) else [kinds]
            shapes = [self._of_type(each, schema, depth - 1) for each in named if each != "null"]
        return ANYTHING if ANYTHING in shapes or not shapes else reduce(Shape.__or__, shapes)

    def _of_type(self, kind: Any, schema: Mapping[str, Any], depth: int) -> Shape:
        if schema.get("format") == "uri" and kind in ("string", None):
            return Shape(file=True)
        if kind == "string":
            return _TEXT
        if kind in ("number", "integer", "boolean"):
            return _DATA
        if kind == "array" or (kind is None and "items" in schema):
            return Shape(items=self.shape(schema.get("items"), depth))
        if self._left < 0:
            return ANYTHING
        others = schema.get("additionalProperties")
        return Shape(
            fields={
                name: self.shape(each, depth) for name, each in _object(schema.get("properties")).items()
            },
            others=self.shape(others, depth) if isinstance(others, Mapping) else None,
        )

    def resolved(self, schema: Any, depth: int = _DEEPEST) -> Mapping[str, Any]:
        """The schema with what its `$ref` and `allOf` say. Empty if it is no schema."""
        self._left -= _count(schema)
        if not isinstance(schema, Mapping) or depth <= 0 or self._left < 0:
            return {}
        own = {name: each for name, each in schema.items() if name not in ("allOf", "$ref")}
        parts = [self.resolved(each, depth - 1) for each in _list(schema.get("allOf"))]
        if isinstance(reference := schema.get("$ref"), str):
            parts.append(self.resolved(referred(self._document, reference), depth - 1))
        if not parts:
            return own
        merged: dict[str, Any] = {}
        fields: dict[str, Any] = {}
        for part in (*parts, own):
            merged |= part
            fields |= _object(part.get("properties"))
        return {**merged, "properties": fields} if fields else merged


def _count(schema: Any) -> int:
    """For how many schemas this one counts, as its keywords are copied, and its properties and alternatives listed."""
    keywords = _object(schema)
    parts = sum(len(each) for each in keywords.values() if isinstance(each, Mapping | list))
    return 1 + (len(keywords) + parts) // _PARTS


def _may_have_files(shape: Shape) -> bool:
    below = [each for each in (shape.items, shape.others, *shape.fields.values()) if each]
    return shape.file or shape == ANYTHING or any(map(_may_have_files, below))


def _media(output: Any) -> Produced:
    """The pictures and films in an output, wherever they are. Without any, an item of it is text."""
    items: list[Item] = []
    said: list[str] = []
    for value in output if isinstance(output, list | tuple) else [output]:
        if found := _several(_files(value, None)):
            items.extend(Item(each, (each,)) for each in found)
        elif not is_empty(value):
            said.append(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    return Produced(tuple(items), "".join(said))


def _files(value: Any, shape: Shape | None) -> Iterator[Url]:
    """The addresses of files in a value. Without a shape, each address is one."""
    if isinstance(value, Url):
        if shape is None or shape.is_file(value):
            yield value
    elif isinstance(value, Mapping):
        for name, each in value.items():
            if isinstance(each, str | list | tuple | Mapping):
                yield from _files(each, shape and shape.under(name))
    elif isinstance(value, list | tuple):
        below = shape and shape.each
        for each in value:
            if isinstance(each, str | list | tuple | Mapping):  # most long lists have numbers
                yield from _files(each, below)


def _several(found: Iterator[Url]) -> tuple[Url, ...]:
    """Each address once: an object may name one twice."""
    return tuple(islice(dict.fromkeys(found), _MOST))


def _are_pieces(output: Sequence[Any]) -> bool:
    return all(each is None or isinstance(each, str) for each in output)


def _is_null(schema: Any) -> bool:
    return isinstance(schema, Mapping) and schema.get("type") == "null"


def _either(one: Shape | None, other: Shape | None) -> Shape | None:
    return one | other if one and other else one or other


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
