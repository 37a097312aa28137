"""Parses the body of `POST /configure`, which changes the limits of the gates."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from admission.metered.limits import MeteredLimits
from catalog.plain_schema import whole
from contract.providers import CALLS
from errors import Problem
from parsing.validation import refuse, refuse_if_any, unusable_reasons, validated
from settings.calls import MAX_CALLS_AT_ONCE
from settings.fields import MAX_CONCURRENT_LIMIT, MAX_REQUESTS_PER_MINUTE


def _metered(limits: dict[str, dict[str, Any]] | None) -> dict[str, dict[str, Any]] | None:
    if limits is not None:
        MeteredLimits.parse(limits)
    return limits


class CallLimits(BaseModel):
    """The limits of calls to text models, for each account."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    concurrency_limit: Annotated[int, Field(ge=1, le=MAX_CALLS_AT_ONCE)] | None = Field(
        None, description="Calls of one account in flight at once; null for that of the environment."
    )
    limits: Annotated[dict[str, dict[str, Any]] | None, AfterValidator(_metered)] = Field(
        None,
        description="Limits by patterns of models, and `account`, in place of all present ones; null for those of the "
        "environment.",
    )


def _sent_as(name: str) -> str:
    return CALLS if name == "calls" else name


class Limits(BaseModel):
    """The body of `POST /configure`. A limit that it does not name stays as it is."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", alias_generator=_sent_as)

    concurrent_limit: Annotated[int, Field(ge=1, le=MAX_CONCURRENT_LIMIT)] | None = Field(
        None, description="Predictions in flight at once; null for that of the environment."
    )
    requests_per_minute: Annotated[int, Field(ge=1, le=MAX_REQUESTS_PER_MINUTE)] | None = Field(
        None, description="Creations in any 60 seconds; null for that of the environment."
    )
    calls: CallLimits | None = Field(
        None, description="Those of text models; null for those of the environment."
    )

    def changes(self) -> dict[str, Any]:
        """The named limits, each by its name: those of calls are `calls.` and their name."""
        found = self.model_dump(exclude_unset=True)
        if "calls" not in found:
            return found
        of_calls = found.pop("calls")
        of_calls = dict.fromkeys(CallLimits.model_fields) if of_calls is None else of_calls
        return found | {f"calls.{name}": value for name, value in of_calls.items()}

    def as_sent(self) -> dict[str, Any]:
        """The named limits as a body."""
        return self.model_dump(exclude_unset=True, by_alias=True)


FLAT_NAMES: Final = (
    "concurrent_limit",
    "requests_per_minute",
    *(f"calls.{name}" for name in CallLimits.model_fields),
)
"""The names of all limits in `Limits.changes`."""


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Limits by their names, as a body of `POST /configure` has them."""
    found = {name: value for name, value in flat.items() if not name.startswith("calls.")}
    of_calls = {name.removeprefix("calls."): value for name, value in flat.items() if name not in found}
    return found | {CALLS: of_calls} if of_calls else found


def parse_limits(body: Any) -> Limits:
    """The limits that the body of `POST /configure` asks for. Raises InvalidRequest."""
    refuse_if_any(unusable_reasons("body", body))
    problems: list[Problem] = []
    known = ("concurrent_limit", "requests_per_minute", CALLS)
    limits = validated(Limits, {name: whole(value) for name, value in body.items()}, problems, known=known)
    if limits and not limits.changes():
        problems.append(Problem("body", f"must name {', '.join(known[:-1])} or {CALLS}"))
    if problems or limits is None:
        refuse(problems)
    return limits
