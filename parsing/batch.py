"""From a body to the generations of a batch, whole requests or one request with many prompts."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import TypeAdapter

from download_names import DownloadName, stem
from errors import ABSENT, Problem
from parsing.generation import PROMPT, ParseContext, check_webhook, read_generation
from parsing.shapes import BatchFields, BatchRequest, GenerationRequest
from parsing.validation import MAX_PROBLEMS, problems_with, refuse, unusable_reasons, validated

MAX_BATCH_ITEMS = 10_000

_NAME: TypeAdapter[str] = TypeAdapter(DownloadName)


def parse_batch(body: Any, context: ParseContext) -> BatchRequest:
    """The batch that the body of `POST /generate-batch` asks for. Raises InvalidRequest."""
    if unusable := unusable_reasons("body", body):
        refuse(unusable)
    own = {name: body[name] for name in BatchFields.model_fields if name in body}
    rest = {name: value for name, value in body.items() if name not in own}
    problems: list[Problem] = []
    fields = validated(BatchFields, own, problems)
    check_webhook(own.get("webhook"), context, problems)
    is_whole = "requests" in rest
    requests = (_read_whole if is_whole else _read_prompts)(rest, context, problems)
    if problems or fields is None:
        refuse(problems)
    shared = {} if is_whole else {name: rest[name] for name in rest if name not in {"prompts", "file_names"}}
    bound = fields.max_concurrent and min(fields.max_concurrent, MAX_BATCH_ITEMS)  # more bounds nothing
    return BatchRequest(requests, bound, fields.dry_run, fields.webhook, fields.max_cost_usd, shared)


def _read_whole(
    body: dict[str, Any], context: ParseContext, problems: list[Problem]
) -> list[GenerationRequest]:
    """`{"requests": [{…}, …]}`"""
    problems.extend(
        Problem(name, "cannot stand beside `requests`; put it into each of them", body[name])
        for name in body
        if name != "requests"
    )
    requests = []
    for index, item in enumerate(_listed("requests", body["requests"], problems)):
        where = f"requests[{index}]"
        if unusable := unusable_reasons(where, item):
            problems += unusable
        elif isinstance(found := read_generation(item, context), GenerationRequest):
            requests.append(found)
        else:
            problems.extend(problem.within(where) for problem in found)
        if len(problems) > MAX_PROBLEMS:
            break
    return requests


def _read_prompts(
    body: dict[str, Any], context: ParseContext, problems: list[Problem]
) -> list[GenerationRequest]:
    """`{"model_name": "…", "prompts": ["…", …], …}`: what the prompts share is read once."""
    shared = {name: value for name, value in body.items() if name not in {"prompts", "file_names"}}
    for name, several in (("prompt", "prompts"), ("file_name", "file_names")):
        if name in shared:
            why = (
                "cannot stand beside `prompts`"
                if "prompts" in body
                else f"is for one; a batch has `{several}`"
            )
            problems.append(Problem(name, why, shared.pop(name)))
    found = read_generation(shared | {"prompt": "a stand-in"}, context)
    prompts = list(_listed("prompts", body.get("prompts", ABSENT), problems))
    for index, prompt in enumerate(prompts):
        problems += problems_with(PROMPT, f"prompts[{index}]", prompt)
        if len(problems) > MAX_PROBLEMS:
            break
    names = _file_names(body.get("file_names"), prompts, problems)
    if not isinstance(found, GenerationRequest):
        problems += found
        return []
    if problems:
        return []
    return [found.with_prompt(prompt, file_name=name) for prompt, name in zip(prompts, names, strict=True)]


def _file_names(given: Any, prompts: Sequence[Any], problems: list[Problem]) -> Sequence[str | None]:
    if given is None:
        return [None] * len(prompts)
    if not isinstance(given, list) or len(given) != len(prompts):
        problems.append(Problem("file_names", "must be a list of one name for each prompt", given))
        return ()
    for index, name in enumerate(given):
        problems += problems_with(_NAME, f"file_names[{index}]", name)
        if len(problems) > MAX_PROBLEMS:
            return ()
    stems = Counter(stem(name).casefold() for name in given) if not problems else Counter()
    problems += [
        Problem(
            "file_names", f"must be distinct, also without their endings; there are {number} of {name}", given
        )
        for name, number in stems.most_common(1)
        if number > 1
    ]
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
