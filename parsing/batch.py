"""Parses the body of `POST /generate-batch`: a list of requests, or one request with many prompts or inputs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from pydantic import TypeAdapter

from errors import ABSENT, Problem
from files.names import DownloadName, distinct_names, first_collision
from parsing.content import checked
from parsing.context import ParseContext
from parsing.generation import PROMPT, item_fields, read_normalised, read_webhook, request_fields
from parsing.normal import normalised_batch
from parsing.pairs import MOST_PAIRS
from parsing.params import INPUT, LONGEST_INPUT, input_size, too_long, without_secrets
from parsing.shapes import BatchFields, BatchRequest, GenerationRequest, ItemFields
from parsing.validation import (
    MAX_PROBLEMS,
    not_a_field,
    problems_with,
    refuse,
    refuse_if_any,
    unusable_reasons,
    validated,
)

MAX_BATCH_ITEMS = 10_000

KEY = "idempotency_key"

_NAME: TypeAdapter[str] = TypeAdapter(DownloadName)


def parse_batch(body: Any, context: ParseContext) -> BatchRequest:
    """The batch that the body of `POST /generate-batch` asks for. Raises InvalidRequest."""
    refuse_if_any(unusable_reasons("body", body))
    body = normalised_batch(body, context.registry)
    own = {name: body[name] for name in BatchFields.model_fields if name in body}
    rest = {name: value for name, value in body.items() if name not in own}
    problems: list[Problem] = []
    fields = validated(BatchFields, own, problems)
    webhook = read_webhook(own.get("webhook"), context, problems)
    if "requests" in rest:
        read, apart, list_name = _read_whole, set(rest), "requests"
    elif "inputs" in rest:
        read, apart, list_name = _read_inputs, {"inputs"}, "inputs"
    else:  # each prompt goes into the parameters of its item
        read, apart, list_name = _read_prompts, {"prompts", "file_names", INPUT}, "prompts"
    requests: Sequence[GenerationRequest] = read(rest, context, problems)
    if problems or fields is None:
        refuse(problems)
    requests = checked(requests, context, list_name=list_name)
    if fields.metadata:
        requests = _with_metadata(requests, fields.metadata)
    secret = {
        name for each in requests[:1] for name in each.secrets
    }  # in a batch of prompts, the same for all
    shared = without_secrets(secret, {name: value for name, value in rest.items() if name not in apart})
    bound = fields.max_concurrent and min(fields.max_concurrent, MAX_BATCH_ITEMS)  # more has no effect
    return BatchRequest(
        requests,
        bound,
        fields.dry_run,
        webhook,
        fields.metadata or {},
        fields.max_cost_usd,
        fields.external_semaphore_id,
        shared,
    )


def _with_metadata(
    requests: Sequence[GenerationRequest], shared: Mapping[str, str]
) -> Sequence[GenerationRequest]:
    """The requests with the metadata of their batch, unless a request has another value for a name. Raises
    InvalidRequest if one has too many pairs then."""
    found = [replace(each, metadata={**shared, **each.metadata}) for each in requests]
    why = f"has more than {MOST_PAIRS} pairs with those of the batch"
    too_many = (index for index, each in enumerate(found) if len(each.metadata) > MOST_PAIRS)
    refuse_if_any([Problem(f"requests[{index}].metadata", why) for index in islice(too_many, MAX_PROBLEMS)])
    return found


def _read_whole(
    body: dict[str, Any], context: ParseContext, problems: list[Problem]
) -> list[GenerationRequest]:
    """`{"requests": [{…}, …]}`"""
    parameters = context.registry.takers
    known = {*request_fields(parameters), *_fields_beside_prompts(parameters)}
    own = ("requests", *BatchFields.model_fields)
    problems.extend(
        Problem(
            name,
            "cannot stand beside `requests`; put it into each of them"
            if name in known
            else not_a_field(name, own),
            body[name],
        )
        for name in body
        if name != "requests"
    )
    requests = []
    for index, item in enumerate(_listed("requests", body["requests"], problems)):
        where = f"requests[{index}]"
        if unusable := unusable_reasons(where, item):
            problems += unusable
        elif isinstance(
            found := read_normalised(item, context, request_fields, own_fields=ItemFields), GenerationRequest
        ):
            requests.append(found if found.idempotency_key is None else _without_key(found))
        else:
            problems.extend(problem.within(where) for problem in found)
        if len(problems) > MAX_PROBLEMS:
            break
    problems += _repeated_keys(requests) if not problems else ()
    names = distinct_names([(each.file_name, each.outputs) if each.file_name else None for each in requests])
    return [
        each if name == each.file_name or name is None else each.named(name)
        for each, name in zip(requests, names, strict=True)
    ]


def _without_key(request: GenerationRequest) -> GenerationRequest:
    """The request, with what is read again after a restart: the key has been claimed then."""
    return replace(request, given={name: each for name, each in request.given.items() if name != KEY})


def _repeated_keys(requests: Sequence[GenerationRequest]) -> list[Problem]:
    """The problems of idempotency keys that an earlier item has."""
    first: dict[str, int] = {}
    keys = ((index, each.idempotency_key) for index, each in enumerate(requests))
    problems = [
        Problem(f"requests[{index}].{KEY}", f"is that of requests[{first[key]}], too", key)
        for index, key in keys
        if key is not None and first.setdefault(key, index) != index
    ]
    return problems[: MAX_PROBLEMS + 1]


def _read_inputs(
    body: dict[str, Any], context: ParseContext, problems: list[Problem]
) -> list[GenerationRequest]:
    """`{"model_name": "…", "inputs": [{…}, {…}], …}`: each item has all parameters of its generation."""
    shared = {name: value for name, value in body.items() if name != "inputs"}
    own = set(_fields_beside_prompts(())) - {"prompts", "file_names"}
    problems.extend(
        Problem(name, "cannot stand beside `inputs`; put it into each of them", shared.pop(name))
        for name in list(shared)
        if name not in own
    )
    requests = []
    for index, item in enumerate(_listed("inputs", body["inputs"], problems)):
        found = read_normalised({**shared, INPUT: item}, context, item_fields)
        if isinstance(found, GenerationRequest):
            requests.append(replace(found, given={INPUT: without_secrets(found.secrets, item)}))
        else:
            problems.extend(_of_item(index, problem) for problem in found if problem not in problems)
        if len(problems) > MAX_PROBLEMS:
            break
    return requests


def _of_item(index: int, problem: Problem) -> Problem:
    """The problem of one of the `inputs`, or the same problem if it is one of the shared fields."""
    field = problem.field
    if field != INPUT and not field.startswith(f"{INPUT}."):
        return problem
    return replace(problem, field=f"inputs[{index}]{field.removeprefix(INPUT)}")


def _read_prompts(
    body: dict[str, Any], context: ParseContext, problems: list[Problem]
) -> list[GenerationRequest]:
    """`{"model_name": "…", "prompts": ["…", …], …}`: the shared fields are read once."""
    shared = {name: value for name, value in body.items() if name not in {"prompts", "file_names"}}
    for name, several in (("prompt", "prompts"), ("file_name", "file_names")):
        if name in shared:
            why = (
                "cannot stand beside `prompts`"
                if "prompts" in body
                else f"is for one; a batch has `{several}`"
            )
            problems.append(Problem(name, why, shared.pop(name)))
    found = read_normalised(_with_prompt(shared, "a stand-in"), context, _fields_beside_prompts)
    if not isinstance(found, GenerationRequest):
        found = [_about_prompts(each) for each in found]
    prompts = list(_listed("prompts", body.get("prompts", ABSENT), problems))
    beside = input_size(found.first.input) if isinstance(found, GenerationRequest) else 0
    for index, prompt in enumerate(prompts):
        where = f"prompts[{index}]"
        problems += problems_with(PROMPT, where, prompt) or too_long(where, prompt, LONGEST_INPUT - beside)
        if len(problems) > MAX_PROBLEMS:
            break
    outputs = found.outputs if isinstance(found, GenerationRequest) else 1
    names = _file_names(body.get("file_names"), prompts, outputs, problems)
    if not isinstance(found, GenerationRequest):
        problems += found
        return []
    if problems:
        return []
    inside = shared.get(INPUT)
    inside = without_secrets(found.secrets, inside) if isinstance(inside, dict) else None
    return [
        found.with_prompt(prompt, file_name=name, inside=inside)
        for prompt, name in zip(prompts, names, strict=True)
    ]


def _with_prompt(shared: Mapping[str, Any], prompt: str) -> dict[str, Any]:
    """The shared fields with a prompt among the parameters of the model."""
    inside = shared.get(INPUT)
    if isinstance(inside, dict) and "prompt" not in inside:
        return {**shared, INPUT: {**inside, "prompt": prompt}}
    return {**shared, "prompt": prompt}


def _about_prompts(problem: Problem) -> Problem:
    """The problem of a stand-in for the prompts, as one of the prompts: the model takes none."""
    if problem.field not in {"prompt", f"{INPUT}.prompt"}:
        return problem
    return Problem("prompts", "are not taken by this model; list its parameters in `inputs`")


def _fields_beside_prompts(inputs: Iterable[str]) -> tuple[str, ...]:
    """The fields of a batch of prompts for a model with these inputs."""
    fields = (*item_fields(inputs), *BatchFields.model_fields, "prompts", "file_names")
    return tuple(name for name in fields if name not in {"prompt", "file_name"})


def _file_names(
    given: Any, prompts: Sequence[Any], outputs: int, problems: list[Problem]
) -> Sequence[str | None]:
    """The file name of each prompt, or None. Each prompt makes so many `outputs`."""
    if given is None:
        return [None] * len(prompts)
    if not isinstance(given, list) or len(given) != len(prompts):
        problems.append(Problem("file_names", "must be a list of one name for each prompt", given))
        return ()
    for index, name in enumerate(given):
        problems += problems_with(_NAME, f"file_names[{index}]", name)
        if len(problems) > MAX_PROBLEMS:
            return ()
    met = None if problems else first_collision((name, outputs) for name in given)
    if met is not None:
        numbers = f" with the numbers of {outputs} outputs" if outputs > 1 else ""
        why = f"must be distinct as they are saved, without their endings{numbers}"
        problems.append(Problem("file_names", f"{why}; {met[0]} and {met[1]} are not", given))
    return given


def _listed(name: str, given: Any, problems: list[Problem]) -> Iterable[Any]:
    if given is ABSENT:
        problems.append(Problem(name, "is required, or `requests` in its place"))
    elif not isinstance(given, list):
        problems.append(Problem(name, "must be a list", given))
    elif not given:
        problems.append(Problem(name, "must hold at least one item"))
    elif len(given) > MAX_BATCH_ITEMS:
        problems.append(Problem(name, f"must hold at most {MAX_BATCH_ITEMS} items", given))
    else:
        return given
    return ()
