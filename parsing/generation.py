"""Parses the body of `POST /generate`, and each request of a batch.

Before anything is spent, all is checked strictly (`true` is no integer, `"3"` no number); all problems are reported.

With a `fallback`, a request may have parameters and reference images that its model does not take and another model
does. They are kept for that model (`catalog/fallback.py`). Without a fallback they are a problem, which names the
models that take them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from auth import Secret
from catalog.adaptation import OUTPUTS, Change, Step, preset_changes
from catalog.fallback import Route
from catalog.inputs import Input
from catalog.model import Model
from catalog.presets import SHAPE_INPUTS, shaped, why_not
from catalog.trigger_words import FIELD, put_in_front, word_of
from errors import Problem
from network.public_http import check_url
from network.urls import encoded_url
from parsing.content import checked
from parsing.context import ParseContext
from parsing.normal import normalised
from parsing.params import INPUT, FieldsOf, names_of, params_of, without_secrets
from parsing.shapes import BatchFields, GenerationRequest, ItemFields, OwnFields, SingleFields
from parsing.validation import not_a_field, problems_with, refuse, refuse_if_any, unusable_reasons, validated

PROMPT: Final = Input(name="prompt", type="string", content="prompt", required=True)


def parse_generation(body: Any, context: ParseContext) -> GenerationRequest:
    """The generation that the body of `POST /generate` asks for. Raises InvalidRequest."""
    refuse_if_any(unusable_reasons("body", body))
    lost = {name: None for name in context.registry.secrets & body.keys() if context.accepted}
    found = read_normalised(
        lost | normalised(body, context.registry), context, generation_fields, own_fields=SingleFields
    )
    if not isinstance(found, GenerationRequest):
        refuse(found)
    return checked([found], context)[0]


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
    problems = _of_batches(given, fields_of)
    fields = validated(own_fields, own, problems, context=context.validation)
    webhook = read_webhook(own.get("webhook"), context, problems)
    model = context.find(str(own.get("model_name")))
    if model is None:
        return _without_model(own.get("model_name"), given, problems, context, fields_of)
    falls_back = own.get("fallback", False) is not False
    order = _order(own.get("fallback"), model, context, problems)
    named = context.secrets_in(model, names_of(given))
    valid, turned = params_of(model, given, context, fields_of, problems, for_any=falls_back)
    added = () if fields is None else _put_in_front(fields.trigger_word, valid, problems)
    if fields is not None and not context.accepted:
        problems += _of_preset(model, fields.preset, valid, is_alone=not falls_back)
    if problems or fields is None:
        return problems
    secrets = {name: Secret(valid.pop(name)) for name in named if name in valid}
    route = Route(model, valid, context.registry, order, (*added, *turned), context.may_run, fields.preset)
    first = _first(route, context) if falls_back else _alone(route, context)
    if isinstance(first, Problem):
        return [first]
    return GenerationRequest(
        first,
        fields.model_name,
        timeout=fields.timeout,
        start_timeout=fields.start_timeout,
        route=route if falls_back else None,
        placeholder=fields.placeholder,
        file_name=fields.file_name,
        webhook=webhook,
        metadata=fields.metadata or {},
        max_cost=fields.max_cost_usd,
        **_of_kind(fields),
        longest=(fields.timeout or context.timeout) + (fields.start_timeout or context.start_timeout),
        secrets=secrets,
        lost_secrets=frozenset(named - secrets.keys()) if context.accepted else frozenset(),
        trigger_word=fields.trigger_word,
        model_word=word_of(first.model, context.trigger_words),
        given=without_secrets(secrets, body),
    )


def _of_kind(fields: OwnFields) -> dict[str, Any]:
    """What only `POST /generate` has, or only one of the `requests` of a batch."""
    if isinstance(fields, ItemFields):
        return {"idempotency_key": fields.idempotency_key}
    if not isinstance(fields, SingleFields):
        return {}
    return {"dry_run": fields.dry_run, "semaphore": fields.external_semaphore_id}


def _first(route: Route, context: ParseContext) -> Step | Problem:
    """The first step of a route, or the problem that no model fits the request."""
    first = route.first()
    if first is None:
        return route.step(route.requested) if context.accepted else _no_model_makes(route)
    if route.preset is not None and not context.accepted and shaped(first.model, route.preset) is None:
        return Problem("preset", why_not(first.model), route.preset)
    return first


def _put_in_front(word: str | None, valid: dict[str, Any], problems: list[Problem]) -> tuple[Change, ...]:
    """Put a trigger word in front of the prompt, and return that change. That there is no prompt is a problem, unless
    the prompt has one."""
    prompt = valid.get("prompt")
    if isinstance(prompt, str):
        valid["prompt"], added = put_in_front(word, prompt)
        return added
    if word is not None and not any(each.field in {"prompt", f"{INPUT}.prompt"} for each in problems):
        problems.append(Problem(FIELD, "goes into the prompt, and there is none", word))
    return ()


def _alone(route: Route, context: ParseContext) -> Step:
    """The only step of a request without a fallback, whose model has the shape unless it was accepted before."""
    model, preset = route.requested, route.preset
    sent = route.given if context.lenient else {**model.asks_for, **route.given}
    if preset is None:
        return Step(model, sent, route.changes)
    shape = shaped(model, preset) or {}
    return Step(model, {**sent, **shape}, (*route.changes, *preset_changes(preset, shape)))


def _of_preset(
    model: Model, preset: str | None, valid: Mapping[str, Any], *, is_alone: bool
) -> list[Problem]:
    """The problem of a preset beside a shape that the caller gives, or with a model that is tried alone and cannot have
    the shape."""
    if preset is None:
        return []
    shape = shaped(model, preset)
    named = dict.fromkeys([*SHAPE_INPUTS, *(shape or ())])
    beside = [name for name in named if name in valid]
    if beside:
        return [Problem("preset", f"cannot stand beside {', '.join(beside)}", preset)]
    return [Problem("preset", why_not(model), preset)] if is_alone and shape is None else []


def names_in(body: Any) -> set[str]:
    """The names of models in a body of any route, also of the fallbacks and in each of the `requests`."""
    requests = body.get("requests") if isinstance(body, dict) else None
    found: set[str] = set()
    for part in [body, *(requests if isinstance(requests, list) else ())]:
        if isinstance(part, dict):
            fallback = part.get("fallback")
            names = [part.get("model_name"), *(fallback if isinstance(fallback, list) else ())]
            found |= {name for name in names if isinstance(name, str)}
    return found


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
    """The fields of an item of a batch for a model with these inputs."""
    return (*inputs, *OwnFields.model_fields)


def request_fields(inputs: Iterable[str]) -> tuple[str, ...]:
    """The same for one of the `requests`."""
    return (*inputs, *ItemFields.model_fields)


def generation_fields(inputs: Iterable[str]) -> tuple[str, ...]:
    """The fields of `POST /generate` for a model with these inputs."""
    return (*inputs, *SingleFields.model_fields)


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
        elif None not in {found.kind, model.kind} and found.kind != model.kind:
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
    if route.asks_for_an_edit:
        edited = "it" if count == 1 else "so many"
        return Problem(name, f"asks for an edit, and none of the models that may be tried edits {edited}")
    return Problem(name, f"makes it {images}, and none of the models that may be tried takes so many")


def _of_batches(given: dict[str, Any], fields_of: FieldsOf) -> list[Problem]:
    """Take the fields out that only a batch has. Each is a problem."""
    found = [name for name in _BATCH_ONLY if name in given]
    return [Problem(name, _of_a_batch(name, fields_of), given.pop(name)) for name in found]


def _of_a_batch(name: str, fields_of: FieldsOf) -> str:
    """The message that this field belongs to a batch and not to one generation."""
    if fields_of not in {item_fields, request_fields}:
        return "is for POST /generate-batch"
    return (
        "belongs to the batch, beside `requests`"
        if name in BatchFields.model_fields
        else "cannot stand in `requests`"
    )


def _without_model(
    name: Any, given: Mapping[str, Any], problems: list[Problem], context: ParseContext, fields_of: FieldsOf
) -> list[Problem]:
    """The problems found before, and those of a request without a known model."""
    registry = context.registry
    if isinstance(name, str) and (reason := context.refusal(name)) is not None:
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
    if (reason := context.refusal(name)) is not None:
        return reason
    registry = context.registry
    near = ", ".join(registry.nearest_first(name))
    return f"is not a model known here; these are, the nearest first: {near}"


_BATCH_ONLY = (*BatchFields.model_fields, "prompts", "file_names", "requests", "inputs")
