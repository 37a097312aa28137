"""Parses the body of `POST /configure`, which changes the limits of the gate."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from errors import Problem
from parsing.validation import read_fields, refuse
from settings.fields import MAX_CONCURRENT_LIMIT, MAX_REQUESTS_PER_MINUTE


class Limits(BaseModel):
    """The body of `POST /configure`. A limit that it does not name stays as it is."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    concurrent_limit: Annotated[int, Field(ge=1, le=MAX_CONCURRENT_LIMIT)] | None = Field(
        None, description="Predictions in flight at once; null for that of the environment."
    )
    requests_per_minute: Annotated[int, Field(ge=1, le=MAX_REQUESTS_PER_MINUTE)] | None = Field(
        None, description="Creations in any 60 seconds; null for that of the environment."
    )


def parse_limits(body: Any) -> Limits:
    """The limits that the body of `POST /configure` asks for. Raises InvalidRequest."""
    problems: list[Problem] = []
    limits = read_fields(Limits, body, problems)
    if limits and not limits.model_fields_set:
        problems.append(Problem("body", "must name concurrent_limit, requests_per_minute, or both"))
    if problems or limits is None:
        refuse(problems)
    return limits
