"""Prices: what a prediction costs, and the most that it may cost.

A price is USD for one unit: an image, a call, a second of video, a megapixel, or a second that the prediction runs. It
may depend on inputs, such as the resolution. Replicate publishes prices on the pages of its models; its API has none.

There are two readings. A bound is the dearest that an input allows, known before anything is sent. A cost is what a
prediction that has ended costs, by the outputs that it made and by what Replicate has counted (`metrics`). A cost is
never above the bound, whatever is counted.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal, Protocol, get_args

from catalog.plain_schema import is_number

Unit = Literal["image", "call", "second", "megapixel", "running_second"]
"""What a price counts. `second` is one of the video or sound that is made, and `running_second` one that the prediction
runs."""

Basis = Literal["declared", "learned", "bounded"]
"""How an amount is known: by a declared price, by measured seconds of a model without a price, or only as a bound."""

UNITS: Final[tuple[Unit, ...]] = get_args(Unit)
BASES: Final[tuple[Basis, ...]] = get_args(Basis)
"""The most certain first."""

USD_PER_RUNNING_SECOND: Final = 0.001525
"""What an H100 costs, the dearest single GPU of replicate.com/pricing. The hardware of a model is not in the API."""

LONGEST: Final = 1800.0
"""Seconds after which Replicate ends every prediction."""

NO_METRICS: Final[Mapping[str, Any]] = MappingProxyType({})

_COUNTS: Final = ("num_outputs", "max_images", "num_images", "number_of_images", "num_samples")
_LENGTHS: Final = ("duration", "seconds")
_SIZES: Final = ("megapixels",)
_SIDES: Final = ("width", "height")
"""The inputs that say how many images are made, how long a video is in seconds, and how large an image is."""

_COUNTS_ONLY_WITH: Final = {"max_images": ("sequential_image_generation", "disabled")}
"""Inputs that count only if another one has another value than this."""

_COUNTED: Final[Mapping[Unit, Sequence[str]]] = {
    "image": ("image_output_count", "image_count"),
    "call": (),
    "second": ("video_output_duration_seconds", "audio_output_duration_seconds"),
    "megapixel": (),
    "running_second": ("predict_time", "total_time"),
}
"""What Replicate counts of a unit, under these names in the `metrics` of a prediction, the most precise first."""

_NUMBER: Final = re.compile(r"-?\d+(\.\d+)?")


class Known(Protocol):
    """The facts about a model's inputs that a price needs."""

    def takes(self, name: str) -> bool:
        """Whether the model has this input."""

    def default(self, name: str) -> Any:
        """The value of an input that is left out, None if that is not known."""

    def choices(self, name: str) -> Sequence[Any]:
        """All values of an input, if it has a list of them."""

    def maximum(self, name: str) -> float | None:
        """The greatest number that an input takes, if that is known."""


@dataclass(frozen=True, slots=True)
class Rate:
    """USD for one unit if the inputs have these values. A value may be a list of which one must fit."""

    usd: float
    when: Mapping[str, Any]

    def fits(self, sent: Mapping[str, Any], known: Known) -> bool | None:
        """Whether it is the rate of this input; None if that depends on a value that is not known."""
        found = [_is_one_of(_value(name, sent, known), wanted) for name, wanted in self.when.items()]
        return False if False in found else None if None in found else True


def rates(name: str, usd: Mapping[Any, float]) -> tuple[Rate, ...]:
    """A rate for each value of one input."""
    return tuple(Rate(each, {name: value}) for value, each in usd.items())


@dataclass(frozen=True, slots=True)
class Price:
    """USD for one unit.

    `by` has the rates for values of inputs, and the first that fits counts; `usd` is then the rate of a usual call. An
    input that no rate fits has the dearest. `units` is the input with the number of units, if that has no usual name.
    `each` is USD for each item of these inputs, such as each reference image.
    """

    usd: float
    per: Unit
    by: tuple[Rate, ...] = ()
    units: str | None = None
    each: Mapping[str, float] = field(default_factory=dict)

    @property
    def dearest(self) -> float:
        """The highest rate, in USD."""
        return max([self.usd, *(rate.usd for rate in self.by)])

    @property
    def cheapest(self) -> float:
        """The lowest rate, in USD."""
        return min((rate.usd for rate in self.by), default=self.usd)

    def bound(
        self,
        sent: Mapping[str, Any],
        known: Known,
        *,
        longest: float = LONGEST,
        otherwise: float = math.inf,
    ) -> float:
        """The most USD that a prediction with this input may cost, if it runs for at most `longest` seconds. An input
        that is left out has its default. Whatever is not known counts as the dearest. It is `otherwise` if no input
        says how many units are made."""
        most = self._most_units(sent, known, longest)
        usd = self._usd(most, sent, known)
        return usd if math.isfinite(usd) else otherwise

    def cost(
        self,
        sent: Mapping[str, Any],
        known: Known,
        *,
        outputs: int | None = None,
        metrics: Mapping[str, Any] = NO_METRICS,
        longest: float = LONGEST,
        otherwise: float = math.inf,
    ) -> float:
        """USD for a prediction with this number of `outputs`, by default as many as the input asks for. What Replicate
        has counted in its `metrics` comes first. It is never more than the bound."""
        if outputs == 0 and self.per != "running_second":
            return 0.0
        most = self._most_units(sent, known, longest)
        counted = self.counted(metrics)
        if counted is None and outputs is not None:
            if self.per == "image":
                counted = float(outputs)
            elif self.per == "megapixel":
                counted = outputs * _size(sent, known)
        usd = self._usd(most if counted is None else min(counted, most), sent, known)
        return usd if math.isfinite(most) else min(usd, otherwise)

    def counted(self, metrics: Mapping[str, Any]) -> float | None:
        """The number of units that Replicate has counted. None if it has not, or if that is no possible number."""
        numbers = (_number(metrics[name]) for name in _COUNTED[self.per] if is_number(metrics.get(name)))
        return next((each for each in numbers if each is not None and 0 < each < math.inf), None)

    def as_json(self) -> dict[str, Any]:
        """The price in the body of `GET /models`."""
        body: dict[str, Any] = {"usd": self.usd, "per": self.per}
        if self.by:
            body["by"] = [{"usd": rate.usd, "when": dict(rate.when)} for rate in self.by]
        if self.units is not None:
            body["units"] = self.units
        return body | ({"each": dict(self.each)} if self.each else {})

    def __str__(self) -> str:
        """The price for tables in documents: `0.07 to 0.17 / second by resolution`."""
        names = dict.fromkeys(name for rate in self.by for name in rate.when)
        amount = f"{self.usd:g}" if not names else f"{self.cheapest:g} to {self.dearest:g}"
        by = f" by {', '.join(f'`{name}`' for name in names)}" if names else ""
        return f"{amount} / {self.per.replace('_', ' ')}{by}" + "".join(
            f", {usd:g} / `{name}`" for name, usd in self.each.items()
        )

    def _usd(self, units: float, sent: Mapping[str, Any], known: Known) -> float:
        rate = self._rate(sent, known)
        usd = rate * units if rate else 0.0
        if self.each:
            usd += sum(each * _items(_value(name, sent, known)) for name, each in self.each.items())
        return round(usd, 6)

    def _rate(self, sent: Mapping[str, Any], known: Known) -> float:
        if not self.by:
            return self.usd
        possible = []
        for rate in self.by:
            fits = rate.fits(sent, known)
            if fits is not False:
                possible.append(rate.usd)
            if fits:
                return max(possible)
        return self.dearest

    def _most_units(self, sent: Mapping[str, Any], known: Known, longest: float) -> float:
        match self.per:
            case "call":
                return 1.0
            case "running_second":
                return longest
            case "second":
                return _most((self.units,) if self.units else _LENGTHS, sent, known, otherwise=math.inf)
        names = (self.units,) if self.units else _COUNTS
        images = _most(names, sent, known, otherwise=math.inf if self.units else 1.0)
        return images * (_size(sent, known) if self.per == "megapixel" else 1.0)


def seconds(sent: Mapping[str, Any], known: Known, metrics: Mapping[str, Any] = NO_METRICS) -> float:
    """The length of a video with this input in seconds: as Replicate has counted it, or else the longest that it may
    be. 0 if that is not known."""
    most = _most(_LENGTHS, sent, known, otherwise=math.inf)
    counted = Price(0.0, "second").counted(metrics)
    length = most if counted is None else min(counted, most)
    return length if math.isfinite(length) else 0.0


def weakest(bases: Iterable[str], otherwise: str) -> str:
    """The least certain of these."""
    return max(bases, key=BASES.index, default=otherwise)


def _most(names: Sequence[str], sent: Mapping[str, Any], known: Known, *, otherwise: float) -> float:
    """The greatest number that the first of these inputs which the model has may stand for; `otherwise` if it has none
    of them."""
    name = next((name for name in names if name in sent or known.takes(name)), None)
    if name is None:
        return otherwise
    switch, off = _COUNTS_ONLY_WITH.get(name, (None, None))
    if switch is not None and _value(switch, sent, known) == off:
        return 1.0
    number = _number(_value(name, sent, known))
    if number is not None and number > 0:
        return number
    # A value such as -1 or auto leaves the number to the model.
    numbers = map(_number, [*known.choices(name), known.maximum(name)])
    return max((each for each in numbers if each is not None and each > 0), default=math.inf)


def _size(sent: Mapping[str, Any], known: Known) -> float:
    """The most megapixels of an image with this input; infinite if no input says how large it is."""
    found = []
    if any(name in sent or known.takes(name) for name in _SIZES):
        found.append(_most(_SIZES, sent, known, otherwise=math.inf))
    if not found or all(sent.get(side) is not None for side in _SIDES):
        found.append(math.prod(_most((side,), sent, known, otherwise=math.inf) for side in _SIDES) / 1e6)
    return max(found)


def _value(name: str, sent: Mapping[str, Any], known: Known) -> Any:
    """The value of an input, None if it is not known. A null that is sent is no default."""
    return sent[name] if name in sent else known.default(name)


def _is_one_of(value: Any, wanted: Any) -> bool | None:
    if value is None:
        return None
    options = wanted if isinstance(wanted, list | tuple) else (wanted,)
    return any(each == value and isinstance(each, bool) == isinstance(value, bool) for each in options)


def _items(value: Any) -> int:
    return len(value) if isinstance(value, list | tuple) else int(value is not None and value != "")


def _number(value: Any) -> float | None:
    """A number, also one at the start of a text, such as `8s` or `1 MP`. None if it is not a number."""
    if isinstance(value, str):
        found = _NUMBER.match(value)
        return float(found[0]) if found else None
    try:
        return float(value) if is_number(value) and not math.isnan(value) else None
    except OverflowError:
        return math.inf
