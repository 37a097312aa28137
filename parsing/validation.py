"""Turns pydantic's errors into problems by field."""

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, Never, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from catalog.inputs import Input, Wrong
from catalog.plain_schema import whole
from catalog.published import SECRET_NAME
from errors import ABSENT, InvalidRequest, Problem

Shape = TypeVar("Shape", bound=BaseModel)

MAX_PROBLEMS = 100

_DID_YOU_MEAN = re.compile(r"did you mean (\S+)\?$")
_PARTS = re.compile(r"(?:body|input|(?:inputs|requests)(?:\[\d+\])?)")
"""Fields that hold others."""

_MAX_FIELDS = 100
"""The most fields of a body, far more than any model takes. To find similar names for a million would take minutes."""


def validated(
    shape: type[Shape],
    given: Mapping[str, Any],
    problems: list[Problem],
    *,
    known: Collection[str] | None = None,
    context: Mapping[str, Any] | None = None,
) -> Shape | None:
    """Validate `given` as a `shape`. If it is invalid, add its errors to the problems and return None. `known` are the
    fields that an error about an unknown field names, by default those of the shape. Validators get `context`."""
    try:
        return shape.model_validate(given, context=context)
    except ValidationError as invalid:
        problems += problems_of(invalid, known=shape.model_fields if known is None else known)
        return None


def read_fields(shape: type[Shape], body: Any, problems: list[Problem]) -> Shape | None:
    """The fields of a whole body, whose numbers may be written as 3.0 for 3. If one is invalid, its errors are added to
    the problems, and None is returned. Raises InvalidRequest for a body that is no object."""
    refuse_if_any(unusable_reasons("body", body))
    return validated(shape, {name: whole(value) for name, value in body.items()}, problems)


def problems_of(
    invalid: ValidationError, *, known: Collection[str] = (), within: str = "", given: Any = ABSENT
) -> list[Problem]:
    """Each error as a problem, by the path of its field. `known` are all known fields. If only one field was validated
    instead of a body, `within` is its name and `given` its value."""
    problems = []
    for error in invalid.errors(include_url=False):
        path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error["loc"])
        found = ABSENT if error["type"] == "missing" else error["input"]
        if within:
            problems.append(Problem(within + path, _message(error, known), found if path else given))
        else:
            problems.append(Problem(path[1:], _message(error, known), found))
    return problems


def not_a_field(name: str, known: Collection[str]) -> str:
    """The message about an unknown field, which suggests the most similar known field."""
    known = list(dict.fromkeys(known))
    return "is not a known field; " + (did_you_mean(name, known) or f"there are {', '.join(known)}")


def did_you_mean(name: str, known: Collection[str]) -> str:
    """A question for the known field that is most similar, or that other services call by this name. Empty if there is
    none."""
    meant = (each for each in _MEANT.get(re.sub(r"[\W_]", "", name[:100].lower()), ()) if each in known)
    nearest = [*meant, *get_close_matches(name[:100], known, n=1)]
    return f"did you mean {nearest[0]}?" if nearest else ""


def refuse_if_any(problems: list[Problem]) -> None:
    """Raise InvalidRequest with the first of these problems, if there are any."""
    if problems:
        refuse(problems)


def refuse(problems: list[Problem]) -> Never:
    """Raise InvalidRequest with the first of these problems."""
    more = [Problem("body", "has more problems than these")] if len(problems) > MAX_PROBLEMS else []
    raise InvalidRequest([_without_secrets(each) for each in problems[:MAX_PROBLEMS]] + more)


def _without_secrets(problem: Problem) -> Problem:
    """The problem without its value, if that may be a secret or contain one."""
    name = problem.field.rpartition(".")[2]
    may_be = (
        SECRET_NAME.search(name) is not None
        or _means_secret(problem.message)
        or _PARTS.fullmatch(name) is not None
    )
    return replace(problem, given=ABSENT) if may_be and isinstance(problem.given, str) else problem


def _means_secret(message: str) -> bool:
    """Whether it says that an unknown field may mean a secret one."""
    meant = _DID_YOU_MEAN.search(message)
    return meant is not None and SECRET_NAME.search(meant[1]) is not None


def unusable_reasons(where: str, given: Any) -> list[Problem]:
    """The problems of a body, or of a part of it, that is not an object with a sensible number of fields."""
    if not isinstance(given, dict):
        return [Problem(where, "must be a JSON object", given)]
    if len(given) > _MAX_FIELDS:
        return [Problem(where, f"must have at most {_MAX_FIELDS} fields", given)]
    return []


def problems_with(shape: Input | TypeAdapter[Any], where: str, given: Any) -> list[Problem]:
    """The problems of one field, named `where`, whose value must fit a shape."""
    try:
        if isinstance(shape, Input):
            shape.read(given)
        else:
            shape.validate_python(given, strict=True)
    except Wrong as wrong:
        return [Problem(where + wrong.path, wrong.message, wrong.given)]
    except ValidationError as invalid:
        return problems_of(invalid, within=where, given=given)
    return []


def _message(error: Any, known: Collection[str]) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return not_a_field(str(error["loc"][-1]), known)
    if kind == "literal_error":
        return "must be " + str(context["expected"]).replace("'", "")
    if context.get("min_length") == 1:
        return "must not be empty"
    if kind in _WORDS:
        return _WORDS[kind].format_map({name: whole(value) for name, value in context.items()})
    message: str = error["msg"].removeprefix("Value error, ")
    return message[0].lower() + message[1:]


_OTHER_NAMES = {
    "file_name file_names": "output_filepath output_file_path output_path output_file output_filename output_name "
    "filename filepath file_path save_as save_path save_to",
    "file_names file_name": "output_filepaths output_paths output_files output_filenames filenames filepaths",
    "num_outputs max_images": "n num_images number_of_images images_count image_count num_samples samples count "
    "batch_size number_of_outputs outputs num_images_per_prompt",
    "model_name": "model model_id engine",
    "prompt prompts": "text input description positive_prompt",
    "prompts prompt": "texts inputs",
    "steps": "num_inference_steps",
    "num_inference_steps steps": "steps num_steps inference_steps sampling_steps",
    "guidance": "guidance_scale cfg cfg_scale",
    "negative_prompt": "negative uc",
    "output_format": "format response_format image_format",
    "output_quality": "quality jpeg_quality",
    "aspect_ratio": "ratio",
    "size aspect_ratio": "resolution",
    "resolution aspect_ratio": "size",
    "duration": "seconds",
    "seconds": "duration",
    "duration seconds": "length",
    "image input_image image_input image_prompt start_image": "image_url image_urls input_images images init_image "
    "source_image reference_image first_frame_image",
    "webhook": "webhook_url callback callback_url",
    "max_concurrent": "concurrency max_workers parallel",
}
"""Fields of this service, the likeliest first, and the names that other services have for them."""

_MEANT = {
    other.replace("_", ""): meant.split()
    for meant, others in _OTHER_NAMES.items()
    for other in others.split()
}

_WORDS = {
    "missing": "is required",
    "int_type": "must be an integer",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": "must be a string",
    "string_unicode": "must not contain lone surrogates",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be a JSON object",
    "too_long": "must have at most {max_length} items",
    "too_short": "must have at least {min_length} items",
    "less_than_equal": "must be at most {le}",
    "greater_than_equal": "must be at least {ge}",
    "multiple_of": "must be a multiple of {multiple_of}",
}
"""Messages in place of pydantic's."""
