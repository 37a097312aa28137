"""The `size` of OpenAI's requests in the inputs of a model: the size itself, the nearest aspect ratio, or a width and
a height. A size is never refused: a model without any of these gets none."""

import math
import re
from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any, Final

from catalog.adaptation import is_taken
from catalog.inputs import Input
from catalog.model import Model
from catalog.presets import lengths_of, shape_of, thinned

SIZE: Final = "size"

_PIXELS: Final = re.compile(r"\s*([1-9]\d{0,4})\s*[x*]\s*([1-9]\d{0,4})\s*", re.IGNORECASE)
_NAMES: Final = ("size", "image_size", "resolution")
"""Inputs that may have a list of sizes in pixels."""

_STEP: Final = 32
_LONGEST: Final = 4096
"""Pixels between the lengths that are tried for a side without a list of them, and the longest."""


def pixels_of(size: Any) -> tuple[int, int] | None:
    """The width and height of a size such as `1536x1024`; None for any other value."""
    found = _PIXELS.fullmatch(size) if isinstance(size, str) else None
    return (int(found[1]), int(found[2])) if found else None


def sized(model: Model, size: Any) -> Mapping[str, Any] | None:
    """The inputs of the model that are nearest to this size, which may also be an aspect ratio such as `16:9`, or any
    size that the model itself takes. None if there are none."""
    if is_taken(model, SIZE, size):
        return {SIZE: size}
    pixels = pixels_of(size)
    shape = shape_of(f"{pixels[0]}:{pixels[1]}" if pixels else size)
    if shape is None:
        return None
    if (ratio := _nearest(model.choices("aspect_ratio"), shape, pixels)) is not None:
        return {"aspect_ratio": ratio}
    if pixels and not model.choices("aspect_ratio") and "aspect_ratio" in model.inputs:
        divisor = math.gcd(*pixels)
        ratio = f"{pixels[0] // divisor}:{pixels[1] // divisor}"
        if is_taken(model, "aspect_ratio", ratio):
            return {"aspect_ratio": ratio}
    for name in _NAMES:
        if (choice := _nearest(model.choices(name), shape, pixels)) is not None:
            return {name: choice}
    if pixels and "width" in model.inputs and "height" in model.inputs:
        return _sides(model.inputs["width"], model.inputs["height"], *pixels)
    return None


def _nearest(choices: Any, shape: float, pixels: tuple[int, int] | None) -> Any:
    """The choice with the nearest shape, and of several, the one with the nearest area."""
    area = math.prod(pixels) if pixels else math.inf

    def distance(choice: str) -> tuple[float, float]:
        its = pixels_of(choice)
        return round(abs((shape_of(choice) or 0.0) - shape), 3), abs(math.prod(its) - area) if its else 0.0

    return min((each for each in choices if shape_of(each) is not None), key=distance, default=None)


def _sides(width: Input, height: Input, wide: int, high: int) -> Mapping[str, Any] | None:
    """The width and height that a model takes and that are nearest to these, first in shape and then in size."""
    if width.takes(wide) and height.takes(high):
        return {"width": wide, "height": high}
    shape, area = math.log(wide / high), wide * high
    pairs = product(list(_lengths(width)), list(_lengths(height)))

    def distance(pair: tuple[int, int]) -> tuple[float, float]:
        # Shapes within about two percent look alike, and then the size counts.
        return round(abs(math.log(pair[0] / pair[1]) - shape) / 0.02), abs(math.prod(pair) - area)

    found = min(pairs, key=distance, default=None)
    return None if found is None else {"width": found[0], "height": found[1]}


def _lengths(side: Input) -> Iterable[int]:
    """Some lengths in pixels that a side may have."""
    if side.choices:
        return lengths_of(side.choices)
    step = math.lcm(_STEP, side.multiple_of or 1)
    most = int(min(side.maximum or _LONGEST, _LONGEST))
    least = max(1, math.ceil((side.minimum or 1) / step)) * step
    return (each for each in thinned(range(least, most + 1, step)) if side.takes(each))
