"""Presets: a shape by its name. Each model gets it in its own inputs.

The shapes are 9:16, 16:9 and 1:1, which nearly every model has under some name: as an aspect ratio, as one of its
sizes, or as a width and a height. A model without exactly this portrait or landscape gets the nearest that it has.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, get_args

from catalog.inputs import Input
from catalog.model import Model

Preset = Literal["portrait", "landscape", "square"]

PRESETS: Final[tuple[Preset, ...]] = get_args(Preset)

SHAPE_INPUTS: Final = ("aspect_ratio", "size", "width", "height")
"""The inputs that cannot be given beside a preset."""

_RATIOS: Final[Mapping[str, float]] = {"portrait": 9 / 16, "landscape": 16 / 9, "square": 1.0}
_SIZES: Final = ("size", "image_size", "resolution")
_SHAPE: Final = re.compile(r"([1-9]\d{0,8})\s*[:x*]\s*([1-9]\d{0,8})")
_USUAL_SIDE: Final = 1024
_STEP: Final = 64
"""Pixels. Models that make images take sides that are a multiple of this."""

_LONGEST_SIDE: Final = 100_000
_MOST_LENGTHS: Final = 256
"""The most lengths of one side that are tried: each with all of the other side."""


def shape_of(value: Any) -> float | None:
    """The logarithm of width / height of an aspect ratio or a size, such as `16:9`, `1024x768` or `portrait`. 16:9 and
    9:16 are equally far from a square. None for any other value."""
    if not isinstance(value, str):
        return None
    found = _SHAPE.fullmatch(value)
    ratio = int(found[1]) / int(found[2]) if found else _RATIOS.get(value)
    return None if ratio is None else math.log(ratio)


def lengths_of(choices: Iterable[Any]) -> Sequence[int]:
    """The choices of a side that are lengths in pixels, or some of them."""
    return thinned([each for each in choices if isinstance(each, int) and 0 < each <= _LONGEST_SIDE])


def thinned(lengths: Sequence[int]) -> Sequence[int]:
    """Some of these lengths of a side, evenly chosen, so that all pairs of two sides can be compared."""
    return lengths[:: max(1, math.ceil(len(lengths) / _MOST_LENGTHS))]


def shaped(model: Model, preset: str) -> Mapping[str, Any] | None:
    """The inputs that give a model this shape. None if it has none for that."""
    target = math.log(_RATIOS[preset])
    for name in ("aspect_ratio", *_SIZES):
        choice = _nearest(model.choices(name), target)
        if choice is not None:
            return {name: choice}
    if "aspect_ratio" in model.inputs and model.choices("aspect_ratio"):
        return None
    if "width" in model.inputs and "height" in model.inputs:
        return _sides(model.inputs["width"], model.inputs["height"], target)
    return None


def why_not(model: Model) -> str:
    """Why a model cannot have this shape, as the message of a problem."""
    if any(shaped(model, each) for each in PRESETS):
        return f"is not a shape of {model.short_name}"
    return f"is not possible with {model.short_name}, which has no input for the shape"


def _nearest(choices: Any, target: float) -> Any:
    """The choice with the nearest shape on the same side of a square, the largest of several."""
    shapes = [(each, shape) for each in choices if (shape := shape_of(each)) is not None]
    alike = [pair for pair in shapes if _side(pair[1]) == _side(target)]
    return min(alike, key=lambda pair: (round(abs(pair[1] - target), 3), -_area(pair[0])), default=(None,))[0]


def _side(shape: float) -> int:
    return (shape > 0) - (shape < 0)


def _area(size: str) -> int:
    found = _SHAPE.fullmatch(size)
    return int(found[1]) * int(found[2]) if found else 0


def _sides(width: Input, height: Input, target: float) -> Mapping[str, Any] | None:
    """A width and a height of this shape, of about the size that the model makes without them."""
    pairs = [
        {"width": wide, "height": high}
        for wide in _lengths(width)
        for high in _lengths(height)
        if _side(math.log(wide / high)) == _side(target)
    ]
    usual = max(_default(width), _default(height))

    def fit(pair: Mapping[str, int]) -> tuple[float, int]:
        wide, high = pair.values()
        return round(abs(math.log(wide / high) - target), 3), abs(max(wide, high) - usual)

    near = min((fit(pair)[0] for pair in pairs), default=0.0) + 0.06
    close = [pair for pair in pairs if fit(pair)[0] <= near]
    return min(close, key=lambda pair: fit(pair)[::-1], default=None)


def _default(side: Input) -> int:
    is_length = isinstance(side.default, int) and 0 < side.default <= _LONGEST_SIDE
    return side.default if is_length else _USUAL_SIDE


def _lengths(side: Input) -> Iterable[int]:
    """The lengths in pixels that a side may have, up to the usual one."""
    if side.choices:
        return lengths_of(side.choices)
    most = max(_default(side), _USUAL_SIDE)
    step = math.lcm(_STEP, side.multiple_of or 1)
    return (each for each in thinned(range(step, most + 1, step)) if side.takes(each))
