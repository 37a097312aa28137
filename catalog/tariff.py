"""The operator's prices, from PRICES_FILE, and what a model without a price counts as.

A model has a price if the registry declares one, or if the operator does. A model of the operator's own, and each
deployment, can only have one from the operator.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from catalog.model import Model
from catalog.prices import NO_METRICS, USD_PER_RUNNING_SECOND, Price, Rate, Unit
from catalog.registry import Registry
from settings import SettingsError
from settings.tables import read_table

_NAME: Final = re.compile(r"(deployments/)?[\w.-]+/[\w.-]+")


@dataclass(frozen=True, slots=True)
class Tariff:
    """What models cost by the operator: `prices` by the full name of a model or deployment, which come before declared
    ones, and `unpriced`, USD for each second in which a model without a price runs."""

    prices: Mapping[str, Price] = field(default_factory=dict)
    unpriced: float = USD_PER_RUNNING_SECOND

    def priced(self, model: Model) -> Model:
        """The same model at these prices."""
        price = self.prices.get(model.name, model.price)
        if price is model.price and model.running_usd == self.unpriced:
            return model
        return replace(model, price=price, running_usd=self.unpriced)


PUBLISHED: Final = Tariff()
"""The prices that the registry declares."""

_Usd = Annotated[float, Field(ge=0)]
_Value = str | int | float | bool


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class _Rate(_Strict):
    """One `Rate` in the operator's file."""

    usd: _Usd
    when: Annotated[dict[str, _Value | list[_Value]], Field(min_length=1)]


class _Price(_Strict):
    """One `Price` in the operator's file. Without `usd`, that is the dearest of the rates."""

    usd: _Usd | None = None
    per: Unit
    by: list[_Rate] = []
    units: str | None = None
    each: dict[str, _Usd] = {}


def read_prices(path: Path, registry: Registry) -> Mapping[str, Price]:
    """The prices of a TOML or JSON file, by full name. They come before those of declared models:

        flux-dev = {usd = 0.02, per = "image"}
        "deployments/acme/portraits" = {usd = 0.0014, per = "running_second"}

        ["acme/films"]
        per = "second"
        by = [{usd = 0.07, when = {resolution = "480p"}}, {usd = 0.17, when = {resolution = "720p"}}]

    Raises SettingsError that lists all mistakes.
    """
    wrong: list[str] = []
    prices: dict[str, Price] = {}
    for name, entry in read_table("PRICES_FILE", path).items():
        model = registry.find(name)
        full_name = model.name if model else name
        if full_name in prices:
            wrong.append(f"{name} is another name of {full_name}, which has a price already")
        elif model is None and not _NAME.fullmatch(name):
            wrong.append(f"{name} is neither owner/name nor deployments/owner/name, nor a known model")
        elif (price := _read_price(name, entry, wrong)) is not None:
            wrong += [f"{name}: {mistake}" for mistake in ([] if model is None else _misfits(price, model))]
            prices[full_name] = price
    if wrong:
        raise SettingsError("\n".join(f"PRICES_FILE: {sentence}." for sentence in wrong))
    return prices


def _read_price(name: str, entry: Any, wrong: list[str]) -> Price | None:
    try:
        read = _Price.model_validate(entry)
    except ValidationError as invalid:
        places = dict.fromkeys(" ".join(map(str, error["loc"])) for error in invalid.errors())
        reason = "is not what it should be; there are usd, per, by, units and each"
        wrong += [f"{name}: {place or 'the price'} {reason}" for place in places]
        return None
    by = tuple(Rate(rate.usd, rate.when) for rate in read.by)
    usd = max((rate.usd for rate in by), default=None) if read.usd is None else read.usd
    if usd is None:
        wrong.append(f"{name}: usd is missing")
        return None
    return Price(usd, read.per, by, read.units, read.each)


def _misfits(price: Price, model: Model) -> list[str]:
    """Why this cannot be the price of a declared model."""
    named = dict.fromkeys([*(name for rate in price.by for name in rate.when), *price.each])
    named |= {} if price.units is None else {price.units: None}
    unknown = [f"{model.short_name} has no input {name}" for name in named if not model.takes(name)]
    if not unknown and math.isinf(price.bound(NO_METRICS, model)):
        return ["no input says how many units are made; name one as units"]
    return unknown
