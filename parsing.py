"""From a JSON body to requests that may be paid for.

Everything is checked before anything is spent, strictly (`true` is no integer, `"3"` no number), and all
problems are told at once, by field, in words the caller can act on.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Never

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

import models
from errors import ABSENT, InvalidRequest, Problem
from models import Model, Prompt, Text
from settings import MAX_CONCURRENT_LIMIT, MAX_REQUESTS_PER_MINUTE

MAX_BATCH_ITEMS = 10_000

MAX_TIMEOUT = 1800
"""Seconds: Replicate ends every prediction after 30 minutes."""

_MAX_PROBLEMS_TOLD = 100
_MAX_FIELDS = 100
"""Far more than any model takes. Looking for the nearest name of a million unknown ones would take minutes."""


class OwnFields(BaseModel):
    """The service's own fields, which stand beside the model's."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)

    model_name: Text = Field(description="Full name or alias of a model.")
    timeout: Annotated[float, Field(ge=1, le=MAX_TIMEOUT)] | None = Field(
        None, description="Seconds the prediction may take once it is created."
    )


class BatchFields(BaseModel):
    """What a batch says of itself."""

    model_config = ConfigDict(strict=True, frozen=True)

    max_concurrent: Annotated[int, Field(ge=1)] | None = Field(
        None, description="At most so many of the batch's items in flight at once."
    )


class Limits(BaseModel):
    """What `POST /configure` changes."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    concurrent_limit: Annotated[int, Field(ge=1, le=MAX_CONCURRENT_LIMIT)] | None = Field(
        None, description="Predictions in flight at once."
    )
    requests_per_minute: Annotated[int, Field(ge=1, le=MAX_REQUESTS_PER_MINUTE)] | None = Field(
        None, description="Creations in any 60 seconds."
    )


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One generation, valid in full. `input` is what Replicate is sent."""

    model: Model
    requested_model: str
    input: Mapping[str, Any]
    timeout: float | None = None

    @property
    def prompt(self) -> str:
        prompt: str = self.input["prompt"]
        return prompt


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """Generations in the order they were asked for."""

    requests: Sequence[GenerationRequest]
    max_concurrent: int | None = None


def parse_generation(body: Any) -> GenerationRequest:
    """The generation that the body of `POST /generate` asks for. Raises InvalidRequest."""
    if unusable := _unusable("body", body):
        _refuse(unusable)
    found = _read(body)
    if not isinstance(found, GenerationRequest):
        _refuse(found)
    return found


def parse_batch(body: Any) -> BatchRequest:
    """The batch that the body of `POST /generate-batch` asks for. Raises InvalidRequest."""
    if unusable := _unusable("body", body):
        _refuse(unusable)
    own = {name: body[name] for name in BatchFields.model_fields if name in body}
    rest = {name: value for name, value in body.items() if name not in own}
    problems = list(_invalid_fields(BatchFields, own))
    requests = (_read_whole if "requests" in rest else _read_prompts)(rest, problems)
    if problems:
        _refuse(problems)
    return BatchRequest(requests, own.get("max_concurrent"))


def parse_limits(body: Any) -> Limits:
    """The limits that the body of `POST /configure` asks for. Raises InvalidRequest."""
    if unusable := _unusable("body", body):
        _refuse(unusable)
    problems = list(_invalid_fields(Limits, body))
    if not problems and all(body.get(name) is None for name in Limits.model_fields):
        problems.append(Problem("body", "must name concurrent_limit, requests_per_minute, or both"))
    if problems:
        _refuse(problems)
    return Limits(**body)


def _read_whole(body: dict[str, Any], problems: list[Problem]) -> list[GenerationRequest]:
    """`{"requests": [{…}, …]}`"""
    problems.extend(
        Problem(name, "cannot stand beside `requests`; put it into each of them", body[name])
        for name in body
        if name != "requests"
    )
    requests = []
    for index, item in enumerate(_listed("requests", body["requests"], problems)):
        where = f"requests[{index}]"
        if unusable := _unusable(where, item):
            problems += unusable
        elif isinstance(found := _read(item), GenerationRequest):
            requests.append(found)
        else:
            problems.extend(problem.within(where) for problem in found)
        if len(problems) > _MAX_PROBLEMS_TOLD:
            break
    return requests


def _read_prompts(body: dict[str, Any], problems: list[Problem]) -> list[GenerationRequest]:
    """`{"model_name": "…", "prompts": ["…", …], …}`: what the prompts share is read once."""
    shared = {name: value for name, value in body.items() if name != "prompts"}
    if "prompt" in shared:
        problems.append(Problem("prompt", "cannot stand beside `prompts`", shared.pop("prompt")))
    found = _read(shared | {"prompt": "a stand-in"})
    prompts = list(_listed("prompts", body.get("prompts", ABSENT), problems))
    for index, prompt in enumerate(prompts):
        problems.extend(_invalid_prompt(f"prompts[{index}]", prompt))
        if len(problems) > _MAX_PROBLEMS_TOLD:
            break
    if not isinstance(found, GenerationRequest):
        problems.extend(found)
        return []
    return [
        GenerationRequest(
            found.model, found.requested_model, {**found.input, "prompt": prompt}, found.timeout
        )
        for prompt in prompts
    ]


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


def _read(body: dict[str, Any]) -> GenerationRequest | list[Problem]:
    """One whole request, or everything that is wrong with it."""
    own = {name: body[name] for name in OwnFields.model_fields if name in body}
    given = {name: value for name, value in body.items() if name not in own}
    problems = list(_invalid_fields(OwnFields, own))
    name = own.get("model_name")
    model = models.find(name) if isinstance(name, str) else None
    if model is None:
        if isinstance(name, str):
            problems.append(_unknown_model(name))
        if "prompt" in given:
            problems.extend(_invalid_prompt("prompt", given["prompt"]))
        else:
            problems.append(Problem("prompt", "is required"))
        return problems + [
            Problem(name, _not_a_field(name, _EVERY_FIELD), value)
            for name, value in given.items()
            if name not in _EVERY_FIELD
        ]
    problems += _invalid_fields(model.inputs, given)
    wrong = {re.split(r"[.\[]", problem.field, maxsplit=1)[0] for problem in problems}
    valid = {name: value for name, value in given.items() if name not in wrong and value is not None}
    problems += model.inputs.rules(valid)
    if problems:
        return problems
    return GenerationRequest(model, own["model_name"], {**model.asks_for, **valid}, own.get("timeout"))


def _refuse(problems: list[Problem]) -> Never:
    told = problems[:_MAX_PROBLEMS_TOLD]
    if len(problems) > len(told):
        told.append(Problem("body", "has more problems than these"))
    raise InvalidRequest(told)


def _unusable(where: str, given: Any) -> list[Problem]:
    """Why there is no looking at its fields."""
    if not isinstance(given, dict):
        return [Problem(where, "must be a JSON object", given)]
    if len(given) > _MAX_FIELDS:
        return [Problem(where, f"must have at most {_MAX_FIELDS} fields", given)]
    return []


def _unknown_model(name: str) -> Problem:
    every = [known for model in models.MODELS.values() for known in model.names]
    nearest = get_close_matches(name[:100], every, n=1, cutoff=0.5)
    guess = f"did you mean {nearest[0]}? " if nearest else ""
    return Problem(
        "model_name", f"is not a model known here; {guess}these are: {', '.join(models.MODELS)}", name
    )


def _invalid_prompt(where: str, given: Any) -> Iterator[Problem]:
    try:
        _PROMPT.validate_python(given, strict=True)
    except ValidationError as invalid:
        yield from (Problem(where, _message(error, ()), given) for error in invalid.errors())


_EVERY_FIELD = dict.fromkeys(
    [
        *OwnFields.model_fields,
        *(name for model in models.MODELS.values() for name in model.inputs.model_fields),
    ]
)
"""Whatever any model takes, for a request that does not say which."""

_PROMPT: TypeAdapter[str] = TypeAdapter(Prompt)


def _invalid_fields(shape: type[BaseModel], given: Mapping[str, Any]) -> Iterator[Problem]:
    try:
        shape.model_validate(given)
    except ValidationError as invalid:
        known = tuple(shape.model_fields)
        for error in invalid.errors(include_url=False):
            path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error["loc"])
            missing = error["type"] == "missing"
            yield Problem(path[1:], _message(error, known), ABSENT if missing else error["input"])


def _message(error: Any, known: Collection[str]) -> str:
    """What pydantic found, in the words of this service."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return _not_a_field(str(error["loc"][-1]), known)
    if kind == "literal_error":
        return "must be " + str(context["expected"]).replace("'", "")
    if kind in _WORDS:
        return _WORDS[kind].format_map({name: _plain(value) for name, value in context.items()})
    message: str = error["msg"].removeprefix("Value error, ")
    return message[0].lower() + message[1:]


def _not_a_field(name: str, known: Collection[str]) -> str:
    nearest = get_close_matches(name[:100], known, n=1)
    return "is not a known field; " + (
        f"did you mean {nearest[0]}?" if nearest else f"there are {', '.join(known)}"
    )


def _plain(value: Any) -> Any:
    """A bound of 10.0 reads 10."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


_WORDS = {
    "missing": "is required",
    "int_type": "must be an integer",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": "must be a string",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "too_long": "must have at most {max_length} items",
    "too_short": "must have at least {min_length} items",
    "less_than_equal": "must be at most {le}",
    "greater_than_equal": "must be at least {ge}",
}
"""Messages for the kinds of error that pydantic's own words would tell less plainly."""
