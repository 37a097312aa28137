"""Compares the texts of requests with the rules of the operator, before anything is spent.

The texts are all strings among the inputs, at any depth, but for the addresses of files, secrets and choices: the
prompt, the negative prompt, conversations, schemas and captions, under any name that a model has for them. The
names in objects are among them, since a model reads those of a schema, too.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from catalog import references
from catalog.inputs import Input
from catalog.references import Upload
from errors import InvalidFields, Problem
from errors.content import ContentRefused
from parsing.context import ParseContext
from parsing.params import INPUT
from parsing.shapes import GenerationRequest
from parsing.validation import MAX_PROBLEMS
from safety.rules import Found, Rules

_DATA: Final = re.compile(r"\s*data:[^,]{0,200};\s*base64\s*,[A-Za-z0-9+/_=%-]{200,}\s*", re.IGNORECASE)

_URL: Final = re.compile(r"\s*https?://[!-~]+\s*", re.IGNORECASE)

_NEGATIVE: Final = "negative_prompt"

_KEYWORDS: Final = frozenset({"role", "type", "format", "$ref", "pattern"})
"""The names of parts of conversations and schemas that hold no prose."""

_FILES: Final = frozenset({"image", "file"})

_A_NAME: Final = ".*"
"""The end of the path of a name in an object, which is not shown: it may be the refused text."""

_NAMING: Final = frozenset({"properties", "$defs", "definitions"})
"""The parts of a schema with names that its author has chosen."""


def checked(
    requests: Sequence[GenerationRequest], context: ParseContext, *, list_name: str | None = None
) -> Sequence[GenerationRequest]:
    """The requests, with the categories that flag them. Those of a batch stand in the list of this name. Raises
    ContentRefused with all fields that the rules block."""
    if context.rules is None or context.accepted:
        return requests
    screen = _Screen(context.rules)
    found = [screen.checked(each, index, list_name) for index, each in enumerate(requests)]
    screen.refuse()
    return found


def compared(
    request: GenerationRequest, texts: Iterable[tuple[str, str]], context: ParseContext
) -> GenerationRequest:
    """The request, with the categories that flag `texts`, too. They belong to it but are no inputs, and each has its
    field. Raises ContentRefused with all fields that the rules block."""
    if context.rules is None or context.accepted:
        return request
    screen = _Screen(context.rules)
    flagged = dict.fromkeys(request.flagged)
    for field, text in texts:
        flagged |= dict.fromkeys(screen.flags(text, field))
    screen.refuse()
    return replace(request, flagged=tuple(flagged)) if flagged else request


class _Screen:
    """Compares each distinct text once."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._known: dict[str, Found] = {}
        self._problems: dict[str, Problem] = {}
        self._category: str | None = None

    def checked(self, request: GenerationRequest, index: int, list_name: str | None) -> GenerationRequest:
        flagged = dict.fromkeys(request.flagged)
        for path, text in texts_of(request):
            field = _field(path.removesuffix(_A_NAME), request, index, list_name)
            flagged |= dict.fromkeys(self.flags(text, field))
        return replace(request, flagged=tuple(flagged)) if flagged else request

    def flags(self, text: str, field: str) -> tuple[str, ...]:
        """The categories that flag a text. If rules block it, this is a problem of its field."""
        found = self._known.get(text)
        if found is None:
            found = self._known[text] = self._rules.find(text)
        if found.blocked:
            self._category = self._category or found.blocked[0]
            why = f"is refused by a rule of this service ({', '.join(found.blocked)})"
            self._problems.setdefault(field, Problem(field, why))
        return found.flagged

    def refuse(self) -> None:
        """Raise ContentRefused if a text was blocked."""
        if self._problems:
            problems = list(self._problems.values())[:MAX_PROBLEMS]
            detail = InvalidFields(self._problems.values()).detail
            raise ContentRefused(detail, category=self._category, problems=problems)


def texts_of(request: GenerationRequest) -> Iterator[tuple[str, str]]:
    """The texts of a request, each with its path among the inputs. With a fallback, they are those for any model."""
    fields = request.first.model.inputs.fields
    for name, value in _inputs_of(request).items():
        yield from _texts(name, value, fields.get(name))


def prose_of(request: GenerationRequest) -> tuple[str, str | None]:
    """The texts of a request as a prompt and a negative prompt. Its other texts are behind the prompt: a conversation,
    the words of a schema."""
    fields = request.first.model.inputs.fields
    found = [
        text
        for path, text in texts_of(request)
        if _root(path) not in {"prompt", _NEGATIVE} and _is_prose(path, text, fields.get(_root(path)))
    ]
    negative = request.first.input.get(_NEGATIVE)
    if negative is None and request.route is not None:
        negative = request.route.given.get(_NEGATIVE)
    prompt = "\n\n".join([each for each in (request.prompt, *found) if each])
    return prompt, negative if isinstance(negative, str) and negative else None


def pictures_of(request: GenerationRequest) -> Iterator[str | Upload]:
    """The reference images of a request: addresses, `data:` URIs and uploads."""
    fields = request.first.model.inputs.fields
    for name, value in _inputs_of(request).items():
        shape = fields.get(name)
        if name == "messages" and isinstance(value, list):
            value = [image for each in value if isinstance(each, dict) for image in each.get("images") or ()]
        elif not (_contains(shape, "image") or name in references.NAMES):
            continue
        yield from (
            each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str | Upload)
        )


def _inputs_of(request: GenerationRequest) -> Mapping[str, Any]:
    return request.first.input if request.route is None else {**request.route.given, **request.first.input}


def _contains(shape: Input | None, content: str) -> bool:
    """Whether an input, or each item of its list, is declared to have this content."""
    return shape is not None and content in {shape.content, shape.items.content if shape.items else None}


def _is_prose(path: str, text: str, shape: Input | None) -> bool:
    """Whether a text is for people, and no address, name of weights or keyword of a schema."""
    if path.endswith(_A_NAME):
        return path.removesuffix(_A_NAME).rpartition(".")[2] in _NAMING
    return not (
        _contains(shape, "weights")
        or path.rpartition(".")[2] in _KEYWORDS
        or _URL.fullmatch(text)
        or ".images[" in path
    )


def _root(path: str) -> str:
    """The input that a path begins with."""
    return path.partition(".")[0].partition("[")[0]


def _texts(path: str, value: Any, shape: Input | None) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        is_declared = shape is not None and shape.unchecked is None
        if is_declared and (shape.content in _FILES or shape.choices):  # type: ignore[union-attr] # not None
            return
        if is_declared or not _DATA.fullmatch(value):
            yield path, value
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _texts(f"{path}[{index}]", each, shape.items if shape else None)
    elif isinstance(value, dict):
        for name, each in value.items():
            yield path + _A_NAME, name
            yield from _texts(f"{path}.{name}", each, None)


def _field(path: str, request: GenerationRequest, index: int, list_name: str | None) -> str:
    """The name of a field, as the caller has sent it."""
    inside = INPUT in request.given and _root(path) not in request.given
    name = f"{INPUT}.{path}" if inside else path
    if list_name == "prompts":
        return f"prompts[{index}]" if path == "prompt" else name
    if list_name == "inputs":
        return f"inputs[{index}].{path}"
    return name if list_name is None else f"{list_name}[{index}].{name}"
