"""Reads the parameters of a request for one model, or for any model that a fallback may lead to.

They stand flat beside the fields of this service, or together in `input`. A parameter may have the name of a field of
this service; it can only stand in `input`.
"""

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from catalog import references
from catalog.adaptation import Change, is_taken
from catalog.inputs import Turned
from catalog.model import Model
from catalog.published import SECRET_NAME
from errors import Problem
from parsing.context import ParseContext
from parsing.takers import taken_by_others
from parsing.validation import not_a_field, problems_with, unusable_reasons

FieldsOf = Callable[[Iterable[str]], tuple[str, ...]]
"""Returns all fields of a route for a model with these inputs."""

INPUT: Final = "input"
"""The field that may hold all parameters of the model, in place of flat ones."""

LONGEST_INPUT: Final = 4_000_000
"""The most bytes of a model's input as JSON. Replicate repeats the input in each response. This service does not
read longer responses, so it would never see the prediction end."""

_TOO_LONG: Final = f"is too long: the input of a model may have {LONGEST_INPUT:,} bytes as JSON"

_UNNAMED: Final = (
    "is a secret by its name; no schema of this model says so, and it would be written to the ledger"
)

_OUTSIDE: Final = "is no parameter of the model; it stands outside, beside `model_name`"
"""The message about a field of this service among the parameters in `input`."""

_LONGEST_ESCAPE: Final = 12
"""The most bytes of one character as JSON in ASCII."""


def params_of(
    model: Model,
    given: dict[str, Any],
    context: ParseContext,
    fields_of: FieldsOf,
    problems: list[Problem],
    *,
    for_any: bool,
) -> tuple[dict[str, Any], tuple[Change, ...]]:
    """The valid parameters, flat or in `input`, of the model or `for_any` model, and those whose text became a number
    or a boolean. Their problems are added."""
    inside = _inside(given, problems)
    found: list[Problem] = []
    reader = _Reader(model, context, fields_of, found)
    params = given if inside is None else inside
    empty = {name for name in context.secrets_in(model, params) if params[name] is None}  # or lost
    params = {name: value for name, value in params.items() if name not in empty}
    valid = (reader.for_any if for_any else reader.for_one)(params)
    if not context.accepted and input_size(valid) > LONGEST_INPUT:
        longest = max(valid, key=lambda name: input_size(valid[name]))
        found.append(Problem(longest, _TOO_LONG))
    wrong = {re.split(r"[.\[]", problem.field, maxsplit=1)[0] for problem in found}
    found += model.inputs.broken_rules({name: value for name, value in valid.items() if name not in wrong})
    problems += found if inside is None else [each.within(INPUT) for each in found]
    return valid, tuple(Change(each.name, each.given, each.name, each.sent) for each in reader.turned)


def input_size(params: object) -> int:
    """The bytes of a model's parameters as JSON, uploads not counted: these are sent as links or small images."""
    return len(json.dumps(params, default=lambda upload: ""))


def too_long(field: str, text: str, room: int) -> list[Problem]:
    """The problem of a text that has more than `room` bytes as JSON, or none."""
    if len(text) * _LONGEST_ESCAPE <= room or input_size(text) <= room:
        return []
    return [Problem(field, _TOO_LONG)]


def names_of(given: Mapping[str, Any]) -> list[str]:
    """The names of the parameters of a request, which may be flat or in `input`."""
    inside = given.get(INPUT)
    return [*given, *(inside if isinstance(inside, dict) else ())]


def without_secrets(names: Collection[str], body: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a request with null in place of these secret parameters, which may be flat or in `input`. So it still
    tells which were given."""
    kept = {name: None if name in names else value for name, value in body.items()}
    inside = kept.get(INPUT)
    return {**kept, INPUT: without_secrets(names, inside)} if names and isinstance(inside, dict) else kept


def _inside(given: dict[str, Any], problems: list[Problem]) -> dict[str, Any] | None:
    """The parameters in the field `input`, None if the request has them flat. A model may have a parameter with the
    name of a field of this service, which can only stand there."""
    if INPUT not in given:
        return None
    inside = given.pop(INPUT)
    if unusable := unusable_reasons(INPUT, inside):
        problems += unusable
        return {}
    if given:
        flat = ", ".join(sorted(given)[:5])
        problems.append(
            Problem(INPUT, f"has the parameters of the model, so none can stand beside it: {flat}")
        )
    return dict(inside)


@dataclass(frozen=True, slots=True)
class _Reader:
    model: Model
    context: ParseContext
    fields_of: FieldsOf
    problems: list[Problem]
    turned: list[Turned] = field(default_factory=list)

    def for_one(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The model's own parameters. A parameter of another model is a problem that names that model."""
        model, registry = self.model, self.context.registry
        if model.is_published or self.context.lenient:
            return self._checked(given, model.inputs)
        strange = {name for name in given if name not in model.inputs.fields and name in registry.takers}
        takes = model.references
        if takes and takes.most == 1 and isinstance(given.get(takes.parameter), list):
            strange.add(takes.parameter)
        self.problems.extend(
            Problem(name, taken_by_others(name, model, registry), given[name])
            for name in given
            if name in strange
        )
        mine = {name: value for name, value in given.items() if name not in strange}
        return self._checked(mine, model.inputs)

    def for_any(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters of this model or of any other, and reference images by any name, one or several."""
        model, registry = self.model, self.context.registry
        mine, valid = {}, {}
        for name, value in given.items():
            if name in registry.reference_names and not model.takes_beside_references(name):
                found = self._references(name, value)
                if found:
                    valid[name] = found
            elif name in model.inputs or name not in registry.takers:
                mine[name] = value
            else:
                takers = registry.takers[name]
                if any(is_taken(each, name, value) for each in takers):
                    valid[name] = value
                else:
                    self.problems.extend(problems_with(takers[0].inputs[name], name, value))
        parameter = {model.references.parameter} if model.references and registry.references_in(valid) else ()
        mine = self._checked(mine, registry.takers, elsewhere=parameter)
        most = registry.most_references
        if len(registry.references_in(valid)) > most:
            self.problems.append(Problem("fallback", f"takes at most {most} reference images in all"))
        return valid | mine

    def _checked(
        self, given: Mapping[str, Any], names: Iterable[str], *, elsewhere: Collection[str] = ()
    ) -> dict[str, Any]:
        """The valid values among these parameters. The others, and unknown ones, are problems; an unknown one may mean
        one of the `names`."""
        inputs, known = self.model.inputs, self.fields_of(names)
        accepted, lenient = self.context.accepted, self.context.lenient
        checked = inputs.check(given, accepted=accepted, lenient=lenient, elsewhere=elsewhere)
        self.problems.extend(checked.problems)
        self.turned.extend(checked.turned)
        strange = {name: value for name, value in given.items() if name not in inputs.fields}
        if inputs.is_open or lenient:
            self.problems.extend(Problem(name, _UNNAMED) for name in strange if SECRET_NAME.search(name))
        else:
            self.problems.extend(
                Problem(name, _OUTSIDE if name in known else not_a_field(name, known), value)
                for name, value in strange.items()
            )
        return dict(checked.values)

    def _references(self, name: str, given: Any) -> Any:
        """Valid reference images, one or a list of them."""
        several = isinstance(given, list)
        found = []
        for index, each in enumerate(given if several else [given]):
            try:
                found.append(references.reference(each, accepted=self.context.accepted))
            except ValueError as wrong:
                self.problems.append(Problem(f"{name}[{index}]" if several else name, str(wrong), each))
        return found if several else next(iter(found), None)
