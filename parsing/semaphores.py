"""Parses the bodies of the routes of named semaphores."""

import re
from typing import Annotated, Any, Final, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from errors import Problem
from parsing.validation import read_fields, refuse

MAX_LIMIT: Final = 10_000
SHORTEST_TTL: Final = 5
LONGEST_TTL: Final = 3_600

F = TypeVar("F", bound=BaseModel)

_ID: Final = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
_OF_AN_ID: Final = "1 to 100 letters, digits, dots, hyphens and underscores, the first a letter or digit"


def _id(given: str) -> str:
    if not _ID.fullmatch(given):
        raise ValueError(f"must have {_OF_AN_ID}")
    return given


class SemaphoreFields(BaseModel):
    """The body of `POST /_admin/semaphores`."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    semaphore_id: Annotated[str, AfterValidator(_id)] = Field(
        description=f"Its name: {_OF_AN_ID}.", json_schema_extra={"pattern": _ID.pattern}
    )
    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] = Field(description="Permits in use at once.")


class LeaseFields(BaseModel):
    """The body of `POST /semaphores/{id}/leases`."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    ttl: Annotated[float, Field(ge=SHORTEST_TTL, le=LONGEST_TTL)] = Field(
        description="Seconds after which the lease expires unless it is renewed. Each renewal adds as many from then."
    )


def parse_semaphore(body: Any) -> SemaphoreFields:
    """The id and limit of a semaphore. Raises InvalidRequest."""
    return _parsed(SemaphoreFields, body)


def parse_lease(body: Any) -> LeaseFields:
    """The duration of a lease. Raises InvalidRequest."""
    return _parsed(LeaseFields, body)


def _parsed(shape: type[F], body: Any) -> F:
    problems: list[Problem] = []
    fields = read_fields(shape, body, problems)
    if fields is None:
        refuse(problems)
    return fields
