"""The limits of metered calls: those of each model by the pattern of its name, and those of each account."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import Any, Final

DAY_LIMIT: Final = "rpd"
MONEY_LIMIT: Final = "usd_per_10_minutes"

MICRO: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """Requests in 60 seconds, tokens of prompts in 60 seconds, and requests in a day (None: any number). Raises
    ValueError for a limit below 1."""

    rpm: int = 300
    tpm: int = 1_000_000
    rpd: int | None = None

    def __post_init__(self) -> None:
        for each in fields(self):
            limit = getattr(self, each.name)
            if limit is None and each.name == DAY_LIMIT:
                continue
            if type(limit) is not int or limit < 1:
                raise ValueError(f"{each.name} must be an integer of at least 1, got {limit!r}")

    def lowered(self, name: str, value: int) -> "ModelLimits":
        """The same with one limit lowered to this value, or as it is if that is lower. Raises ValueError."""
        if name not in {each.name for each in fields(self)}:
            raise ValueError(f"{name} is not a limit of a model")
        limit = getattr(self, name)
        return replace(self, **{name: value if limit is None else min(limit, value)})

    def differing(self, other: "ModelLimits") -> tuple[str, ...]:
        """The names of the limits that another one has otherwise."""
        return tuple(
            each.name for each in fields(self) if getattr(self, each.name) != getattr(other, each.name)
        )


@dataclass(frozen=True, slots=True)
class MeteredLimits:
    """The limits of every account: those of each model by a pattern of its name, and micro-dollars in ten minutes.
    Models that no pattern matches have the defaults."""

    models: Mapping[str, ModelLimits] = field(default_factory=dict)
    micro_usd: int = 10 * MICRO

    def __post_init__(self) -> None:
        if self.micro_usd < 1:
            raise ValueError(f"{MONEY_LIMIT} must be above 0, got {self.micro_usd / MICRO}")

    @classmethod
    def parse(cls, limits: Mapping[str, Mapping[str, Any]]) -> "MeteredLimits":
        """The limits of a mapping such as `{"*": {"rpm": 300, "tpm": 1000000, "rpd": null}, "account":
        {"usd_per_10_minutes": 10}}`. What a pattern leaves out is as for `*`. Raises ValueError."""
        every = _model_limits(ModelLimits(), "*", limits.get("*", {}))
        models = {
            pattern: _model_limits(every, pattern, values)
            for pattern, values in limits.items()
            if pattern != "account"
        }
        account = dict(limits.get("account", {}))
        usd = account.pop(MONEY_LIMIT, 10)
        if account:
            raise ValueError(f"account: {', '.join(account)} is not a limit of an account")
        if isinstance(usd, bool) or not isinstance(usd, int | float):
            raise ValueError(f"{MONEY_LIMIT} must be a number, got {usd!r}")
        return cls(models, round(usd * MICRO))

    def of(self, model: str) -> ModelLimits:
        """Those of the pattern that is this name, or else of the longest pattern that matches it."""
        if model in self.models:
            return self.models[model]
        matching = [pattern for pattern in self.models if fnmatchcase(model, pattern)]
        return self.models[max(matching, key=len)] if matching else ModelLimits()


def _model_limits(base: ModelLimits, pattern: str, values: Mapping[str, Any]) -> ModelLimits:
    if unknown := values.keys() - {each.name for each in fields(ModelLimits)}:
        raise ValueError(f"{pattern}: {', '.join(sorted(unknown))} is not a limit of a model")
    try:
        return replace(base, **values)
    except ValueError as error:
        raise ValueError(f"{pattern}: {error}") from None
