"""Parses the body of `POST /generate`, and each request of a batch.

Before anything is spent, all is checked strictly (`true` is no integer, `"3"` no number); all problems are reported.

With a `fallback`, a request may have parameters and reference images that its model does not take and another model
does. They are kept for that model (`catalog/fallback.py`). Without a fallback they are a problem, which names the
models that take them.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from catalog import references
from catalog.adaptation import OUTPUTS, Step, is_taken
from catalog.fallback import Route
from catalog.inputs import Input
from catalog.model import Model
from catalog.registry import Registry
from catalog.texts import ACCEPTED
from errors import Problem
from network.host_rules import NO_HOSTS, HostRules
from network.public_http import check_url
from network.urls import encoded_url
from parsing.normal import normalised
from parsing.shapes import MAX_TIMEOUT, BatchFields, GenerationRequest, OwnFields, SingleFields
from parsing.validation import not_a_field, problems_with, refuse, refuse_if_any, unusable_reasons, validated

FieldsOf = Callable[[Iterable[str]], tuple[str, ...]]
"""Returns all fields of a route for a model with these inputs."""

PROMPT: Final = Input(name="prompt", type="string", content="prompt", required=True)

INPUT: Final = "input"
"""The field that may hold all parameters of the model, in place of flat ones."""

LONGEST_INPUT: Final = 4_000_000
"""The most bytes of a model's input as JSON. Replicate repeats it in each response, and longer ones are not read."""

_TOO_LONG: Final = f"is too long: the input of a model may have {LONGEST_INPUT:,} bytes as JSON"

_LONGEST_ESCAPE: Final = 12
"""The most bytes of one character as JSON in ASCII."""


@dataclass(frozen=True, slots=True)
class ParseContext:
    """What parsing depends on: the models, whether webhooks may go to this machine (`loopback`), and to which hosts of
    the operator. A request that was `accepted` before, by an earlier version or under other settings, is not refused by
    newer rules. `resolved` has the other models of the request by the names that it uses, or why a name leads to
    none. `timeout` and `start_timeout` are those of requests without their own, in seconds."""

    registry: Registry
    loopback: bool = False
    webhook_hosts: HostRules = NO_HOSTS
    accepted: bool = False
    timeout: float = MAX_TIMEOUT
    start_timeout: float = 0.0
    resolved: Mapping[str, Model | str] = field(default_factory=dict)

    def find(self, name: str) -> Model | None:
        """The model of this name, declared or resolved."""
        declared = self.registry.find(name)
        if declared is not None:
            return declared
        found = self.resolved.get(name)
        return found if isinstance(found, Model) else None

    @property
    def validation(self) -> Mapping[str, Any] | None:
        return ACCEPTED if self.accepted else None


def parse_generation(body: Any, context: ParseContext) -> GenerationRequest:
    """The generation that the body of `POST /generate` asks for. Raises InvalidRequest."""
    refuse_if_any(unusable_reasons("body", body))
    found = read_normalised(
        normalised(body, context.registry), context, generation_fields, own_fields=SingleFields
    )
    if not isinstance(found, GenerationRequest):
        refuse(found)
    return replace(found, semaphore=found.given.get("external_semaphore_id"))


def read_normalised(
    body: dict[str, Any],
    context: ParseContext,
    fields_of: FieldsOf,
    *,
    own_fields: type[OwnFields] = OwnFields,
) -> GenerationRequest | list[Problem]:
    """Parse one normalised request. Returns the request or all of its problems. `own_fields` are the service's own
    fields, and `fields_of` all fields of the route for a model."""
    own = {name: body[name] for name in own_fields.model_fields if name in body}
    given = {name: value for name, value in body.items() if name not in own}
    problems = [
        Problem(name, _of_a_batch(name, fields_of), given.pop(name)) for name in _BATCH_ONLY if name in given
    ]
    fields = validated(own_fields, own, problems, context=context.validation)
    webhook = read_webhook(own.get("webhook"), context, problems)
    name = own.get("model_name")
    model = context.find(name) if isinstance(name, str) else None
    if model is None:
        return _without_model(name, given, problems, context, fields_of)
    asks_for_fallback = own.get("fallback", False) is not False
    order = _order(own.get("fallback"), model, context, problems)
    valid = _params(model, given, context, fields_of, problems, for_any=asks_for_fallback)
    if problems or fields is None:
        return problems
    route = Route(model, valid, context.registry, order) if asks_for_fallback else None
    if route is None:
        first = Step(model, {**model.asks_for, **valid})
    elif (possible := route.first()) or context.accepted:
        first = possible or route.step(model)
    else:
        return [_no_model_makes(route)]
    return GenerationRequest(
        first,
        fields.model_name,
        timeout=fields.timeout,
        start_timeout=fields.start_timeout,
        route=route,
        placeholder=fields.placeholder,
        file_name=fields.file_name,
        webhook=webhook,
        max_cost=fields.max_cost_usd,
        dry_run=isinstance(fields, SingleFields) and fields.dry_run,
        longest=(fields.timeout or context.timeout) + (fields.start_timeout or context.start_timeout),
        given=body,
    )


def names_in(body: Any) -> set[str]:
    """The names of models in a body of any route, also of the fallbacks and in each of the `requests`."""
    requests = body.get("requests") if isinstance(body, dict) else None
    parts = [body, *(requests if isinstance(requests, list) else ())]
    found: set[str] = set()
    for part in (each for each in parts if isinstance(each, dict)):
        fallback = part.get("fallback")
        names = [part.get("model_name"), *(fallback if isinstance(fallback, list) else ())]
        found.update(name for name in names if isinstance(name, str))
    return found


def _params(
    model: Model,
    given: dict[str, Any],
    context: ParseContext,
    fields_of: FieldsOf,
    problems: list[Problem],
    *,
    for_any: bool,
) -> dict[str, Any]:
    """The valid parameters, flat or in `input`, of the model or `for_any` model. Their problems are added."""
    inside = _inside(given, problems)
    found: list[Problem] = []
    reader = _Reader(model, context, fields_of, found)
    valid = (reader.for_any if for_any else reader.for_one)(given if inside is None else inside)
    if not context.accepted and input_size(valid) > LONGEST_INPUT:
        longest = max(valid, key=lambda name: input_size(valid[name]))
        found.append(Problem(longest, _TOO_LONG))
    wrong = {re.split(r"[.\[]", problem.field, maxsplit=1)[0] for problem in found}
    found += model.inputs.broken_rules({name: value for name, value in valid.items() if name not in wrong})
    problems += found if inside is None else [each.within(INPUT) for each in found]
    return valid


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


def input_size(params: object) -> int:
    """The bytes of a model's parameters as JSON, uploads not counted: these are sent as links or small images."""
    return len(json.dumps(params, default=lambda upload: ""))


def too_long(field: str, text: str, room: int) -> list[Problem]:
    """The problem of a text that has more than `room` bytes as JSON, or none."""
    if len(text) * _LONGEST_ESCAPE <= room or input_size(text) <= room:
        return []
    return [Problem(field, _TOO_LONG)]


def read_webhook(url: Any, context: ParseContext, problems: list[Problem]) -> str | None:
    """The URL of a webhook, encoded. Its problem is added, unless the field has one already."""
    if not isinstance(url, str) or any(problem.field == "webhook" for problem in problems):
        return None
    try:
        encoded = encoded_url(url)
        if context.accepted:  # the host is checked again before each delivery
            return encoded
        return check_url(encoded, loopback=context.loopback, allowed_hosts=context.webhook_hosts)
    except ValueError as wrong:
        problems.append(Problem("webhook", str(wrong), url))
        return None


def item_fields(inputs: Iterable[str]) -> tuple[str, ...]:
    """The fields of one of the `requests` of a batch for a model with these inputs."""
    return (*inputs, *OwnFields.model_fields)


def generation_fields(inputs: Iterable[str]) -> tuple[str, ...]:
    """The fields of `POST /generate` for a model with these inputs."""
    return (*inputs, *SingleFields.model_fields)


@dataclass(frozen=True, slots=True)
class _Reader:
    model: Model
    context: ParseContext
    fields_of: FieldsOf
    problems: list[Problem]

    def for_one(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The model's own parameters. A parameter of another model is a problem that names that model."""
        model, registry = self.model, self.context.registry
        if model.is_published:
            return self._checked(given, model.inputs)
        strange = {name for name in given if name not in model.inputs and name in registry.takers}
        takes = model.references
        if takes and takes.most == 1 and isinstance(given.get(takes.parameter), list):
            strange.add(takes.parameter)
        self.problems.extend(
            Problem(name, _taken_by_others(name, model, registry), given[name])
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
            if name in registry.reference_names:
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
        mine = self._checked(mine, registry.takers)
        most = registry.most_references
        if len(registry.references_in(valid)) > most:
            self.problems.append(Problem("fallback", f"takes at most {most} reference images in all"))
        return valid | mine

    def _checked(self, given: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
        """The valid values among these parameters. The others, and unknown ones, are problems; an unknown one may mean
        one of the `names`."""
        inputs, known = self.model.inputs, self.fields_of(names)
        checked = inputs.check(given, accepted=self.context.accepted)
        self.problems.extend(checked.problems)
        self.problems.extend(
            Problem(name, not_a_field(name, known), value)
            for name, value in given.items()
            if name not in inputs
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


def _order(
    given: Any, model: Model, context: ParseContext, problems: list[Problem]
) -> tuple[Model, ...] | None:
    """The models that the request lists, or None if it leaves the order to the rules."""
    if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
        return None
    most = len(context.registry.models)
    if len(given) > most:
        problems.append(Problem("fallback", f"must name at most {most} models", given))
    order = []
    for index, name in enumerate(given[:most]):
        found = context.find(name)
        if found is None:
            problems.append(Problem(f"fallback[{index}]", _unknown_model(name, context), name))
        elif found.kind != model.kind:
            problems.append(Problem(f"fallback[{index}]", f"makes {found.kind}s, not {model.kind}s", name))
        else:
            order.append(found)
    return tuple(order)


def _no_model_makes(route: Route) -> Problem:
    """The problem of a request that no model can take: too many outputs, or too many reference images."""
    given, registry = route.given, route.registry
    others = {name: value for name, value in given.items() if name != OUTPUTS}
    if replace(route, given=others).first() is not None:
        why = f"are more than {route.requested.short_name} makes, or any model that may be tried"
        return Problem(OUTPUTS, why, given[OUTPUTS])
    name = next(name for name in registry.reference_names if name in given)
    count = len(registry.references_in(given))
    images = "a reference image" if count == 1 else f"{count} reference images"
    return Problem(name, f"makes it {images}, and none of the models that may be tried takes so many")


def _of_a_batch(name: str, fields_of: FieldsOf) -> str:
    """The message that this field belongs to a batch and not to one generation."""
    if fields_of is not item_fields:
        return "is for POST /generate-batch"
    return (
        "belongs to the batch, beside `requests`"
        if name in BatchFields.model_fields
        else "cannot stand in `requests`"
    )


def _taken_by_others(name: str, model: Model, registry: Registry) -> str:
    """The message that this model does not take a parameter, and which models do."""
    if name in registry.reference_names:
        if model.references is None:
            return f"is not taken by {model.short_name}, as no reference image is{_takers_of(1, registry)}"
        if name == model.references.parameter:
            return f"must be one image and no list for {model.short_name}{_takers_of(2, registry)}"
        return f"is not taken by {model.short_name}, whose reference image is {model.references.parameter}"
    takers = registry.takers[name]
    alike = [each.short_name for each in takers if each.kind == model.kind]
    named = alike or [each.short_name for each in takers]
    return f"is not taken by {model.short_name}, but by {', '.join(named)}"


def _takers_of(least: int, registry: Registry) -> str:
    """Which models take at least so many reference images, as the rest of a sentence."""
    takers = [
        f"{each.short_name} takes {_UP_TO.get(most, f'up to {most}')} ({each.references.parameter})"
        for each in registry.reference_models
        if each.references and (most := each.references.most) >= least
    ]
    return f"; {', '.join(takers)}" if takers else ""


def _without_model(
    name: Any, given: Mapping[str, Any], problems: list[Problem], context: ParseContext, fields_of: FieldsOf
) -> list[Problem]:
    """The problems found before, and those of a request without a known model."""
    registry = context.registry
    if isinstance(name, str) and isinstance(reason := context.resolved.get(name), str):
        return [*problems, Problem("model_name", reason, name)]
    names = ", ".join(model.name for model in registry.models)
    found = [
        replace(each, message=f"{each.message}; there are {names}") if each.field == "model_name" else each
        for each in problems
    ]
    if isinstance(name, str) and len(found) == len(problems):
        found.append(Problem("model_name", _unknown_model(name, context), name))
    if "prompt" in given:
        found += problems_with(PROMPT, "prompt", given["prompt"])
    else:
        found.append(Problem("prompt", "is required"))
    known = fields_of(registry.takers)
    for each, value in given.items():
        if each not in registry.takers:
            found.append(Problem(each, not_a_field(each, known), value))
    return found


def _unknown_model(name: str, context: ParseContext) -> str:
    if isinstance(reason := context.resolved.get(name), str):
        return reason
    registry = context.registry
    near = ", ".join(registry.nearest_first(name))
    return f"is not a model known here; these are, the nearest first: {near}"


_UP_TO = {1: "one", 2: "up to two", 3: "up to three"}

_BATCH_ONLY = (*BatchFields.model_fields, "prompts", "file_names", "requests", "inputs")
