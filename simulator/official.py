"""The official models beside those of `catalog`: what they make and what they cost, by the pages of the models.

Their schemas are those that are saved for the service (`catalog/schemas/`), read as data, since what Replicate
publishes is the same for both. All else stands here once more, so that tests can compare it. A choice without a price
costs as the dearest.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from simulator.model import Facts, Model, Price, Version
from simulator.schemas import Schema, document, id_of

SCHEMAS = Path(__file__).parents[1] / "catalog" / "schemas"


def _image(usd: Any, *by: str, each: Mapping[str, float] | None = None, seconds: float = 3.0) -> Facts:
    return Facts(kind="image", seconds=seconds, price=Price(usd, "image", by, each or {}))


def _flux_2(sizes: Mapping[str, float], each: float) -> Facts:
    """A custom size is billed as the largest, and so is each image that is given."""
    table = {**sizes, "custom": sizes["4 MP"]}
    return _image(table, "aspect_ratio", "resolution", each={"input_images": each})


def _video(usd: Any, *by: str) -> Facts:
    return Facts(kind="video", seconds=20.0, price=Price(usd, "second", by))


_WAN = _video({"720p": 0.1, "1080p": 0.15}, "resolution")

FACTS: Mapping[str, Facts] = {
    "black-forest-labs/flux-2-pro": _flux_2(
        {"0.5 MP": 0.0225, "1 MP": 0.03, "2 MP": 0.045, "4 MP": 0.075}, 0.06
    ),
    "black-forest-labs/flux-2-max": _flux_2({"0.5 MP": 0.055, "1 MP": 0.07, "2 MP": 0.1, "4 MP": 0.16}, 0.12),
    "black-forest-labs/flux-2-flex": _flux_2(
        {"0.5 MP": 0.03, "1 MP": 0.06, "2 MP": 0.12, "4 MP": 0.24}, 0.24
    ),
    "black-forest-labs/flux-2-klein-9b": _image(
        {"0.25": 0.00375, "0.5": 0.0075, "1": 0.015, "2": 0.03, "4": 0.06},
        "megapixels",
        each={"images": 0.06},
        seconds=2.0,
    ),
    "black-forest-labs/flux-dev-lora": _image(0.032),
    "bytedance/seedream-4.5": _image(0.04),
    "bytedance/seedream-5-lite": _image(0.035),
    "google/nano-banana-2": _image({"1K": 0.039, "2K": 0.101, "4K": 0.151}, "resolution"),
    "google/nano-banana-pro": _image({"1K": 0.15, "2K": 0.15, "4K": 0.3}, "resolution"),
    "prunaai/p-image": _image(0.005, seconds=1.0),
    "qwen/qwen-image-edit-2511": _image(0.03),
    "recraft-ai/recraft-v4": _image(0.04),
    "bytedance/seedance-2.0": _video({"480p": 0.07, "720p": 0.17}, "resolution"),
    "google/veo-3.1-fast": _video({"true": 0.15, "false": 0.1}, "generate_audio"),
    "kwaivgi/kling-v2.5-turbo-pro": _video(0.07),
    "kwaivgi/kling-v2.6": _video({"true": 0.14, "false": 0.07}, "generate_audio"),
    "kwaivgi/kling-v3-video": _video(
        {"standard": {"true": 0.252, "false": 0.168}, "pro": {"true": 0.336, "false": 0.224}},
        "mode",
        "generate_audio",
    ),
    "minimax/hailuo-2.3": _video({"768p": 0.0466, "1080p": 0.0816}, "resolution"),
    "openai/sora-2": _video(0.1),
    "wan-video/wan-2.7-i2v": _WAN,
    "wan-video/wan-2.7-r2v": _WAN,
    "wan-video/wan-2.7-t2v": _WAN,
}
"""What the simulator knows of these models. Prices are those of the models' pages."""


@cache
def models(directory: Path = SCHEMAS) -> tuple[Model, ...]:
    """The models of `FACTS` whose schemas are saved in a directory, as `owner/name.json`."""
    paths = {name: directory / f"{name}.json" for name in FACTS}
    return tuple(_model(name, path) for name, path in paths.items() if path.is_file())


def _model(name: str, path: Path) -> Model:
    saved = json.loads(path.read_bytes())
    inputs = saved["Input"]
    published = document(inputs["properties"], saved["Output"], required=inputs.get("required", ()))
    page = {
        "description": f"A simulated {path.stem}",
        "visibility": "public",
        "is_official": True,
        "run_count": 100_000,
        "default_example": None,
    }
    version = Version(id_of(name, published), Schema(published))
    return Model(name=name, versions=(version,), page=page, facts=FACTS[name])
