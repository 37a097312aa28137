"""The validator of JSON Schema, for schemas that come from callers: jsonschema-rs, and the only module that knows it.

Patterns are matched by Rust's `regex`, which takes linear time and has no look-around and no back-references. No
reference is ever fetched. The package is imported when a schema is first used, since most processes never need it.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NoReturn

if TYPE_CHECKING:
    import jsonschema_rs

_DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"

_PATTERN_BYTES: Final = 200_000
"""The most memory of one compiled pattern, in bytes."""

_NOT_APPLIED: Final = frozenset({"$schema", "$id"})
"""Keywords of the root that name the document and the draft. Every schema is read as Draft 2020-12."""


def compiled(schema: Mapping[str, Any]) -> "jsonschema_rs.Draft202012Validator":
    """A validator of this schema. `format` is an annotation, as the draft has it. Raises ValueError if the schema is
    not valid."""
    import jsonschema_rs

    return jsonschema_rs.Draft202012Validator(
        {name: each for name, each in schema.items() if name not in _NOT_APPLIED},
        validate_formats=False,
        retriever=_refuse,
        pattern_options=jsonschema_rs.RegexOptions(_PATTERN_BYTES, _PATTERN_BYTES),
    )


def is_pattern(pattern: str) -> bool:
    """Whether the engine takes this regular expression."""
    try:
        compiled({"pattern": pattern})
    except ValueError:
        return False
    return True


def errors_of(schema: Any) -> "Iterable[jsonschema_rs.ValidationError]":
    """The errors of a schema by the schema of Draft 2020-12 itself."""
    return _meta().iter_errors(schema)


@cache
def _meta() -> "jsonschema_rs.Draft202012Validator":
    return compiled({"$ref": _DRAFT})


def _refuse(uri: str) -> NoReturn:
    raise ValueError(f"{uri} is not fetched")
