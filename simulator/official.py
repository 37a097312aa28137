"""The official models beside those of `catalog`: what they make and what they cost, by the pages of the models.

Their inputs are the published schemas that are saved with the service's own models (`catalog/schemas/`), read as data.
Those hold inputs only, so the form of the output is declared here. Prices are of April 2026. A choice without a known
price costs as the dearest, and a model without a declaration is billed by time.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from simulator.model import Facts, Model, Price, Version
from simulator.schemas import Property, Schema, document, id_of

SCHEMAS = Path(__file__).parents[1] / "catalog" / "schemas"

_URI: Property = {"type": "string", "format": "uri"}
_LISTS = frozenset(
    (
        "black-forest-labs/flux-2-klein-9b",
        "black-forest-labs/flux-dev-lora",
        "black-forest-labs/flux-schnell-lora",
        "bytedance/seedream-4",
        "bytedance/seedream-4.5",
        "bytedance/seedream-5-lite",
        "qwen/qwen-image-edit-2511",
    )
)
"""The models whose output is a list of files. That of the others is one file."""


def _image(usd: Any, *by: str) -> Facts:
    return Facts(kind="image", seconds=4.0, price=Price(usd, "image", by))


def _video(usd: Any, *by: str) -> Facts:
    return Facts(kind="video", seconds=20.0, price=Price(usd, "second", by))


FACTS: Mapping[str, Facts] = {
    "black-forest-labs/flux-2-pro": _image({"0.5 MP": 0.0225, "1 MP": 0.03, "4 MP": 0.075}, "resolution"),
    "black-forest-labs/flux-2-max": _image({"0.5 MP": 0.055, "1 MP": 0.07, "4 MP": 0.16}, "resolution"),
    "black-forest-labs/flux-2-flex": _image({"0.5 MP": 0.03, "1 MP": 0.06, "4 MP": 0.24}, "resolution"),
    "black-forest-labs/flux-2-klein-9b": _image(0.015),
    "black-forest-labs/flux-dev-lora": _image(0.032),
    "bytedance/seedream-4": _image(0.03),
    "bytedance/seedream-4.5": _image(0.04),
    "bytedance/seedream-5-lite": _image(0.035),
    "google/nano-banana-2": _image(0.039),
    "google/nano-banana-pro": _image({"1K": 0.15, "2K": 0.15, "4K": 0.3}, "resolution"),
    "prunaai/p-image": _image(0.005),
    "qwen/qwen-image-edit-2511": _image(0.03),
    "recraft-ai/recraft-v4": _image(0.04),
    "bytedance/seedance-2.0": _video({"480p": 0.07, "720p": 0.17}, "resolution"),
    "google/veo-3.1-fast": _video({"true": 0.15, "false": 0.1}, "generate_audio"),
    "kwaivgi/kling-v2.5-turbo-pro": _video(0.07),
    "kwaivgi/kling-v2.6": _video({"true": 0.14, "false": 0.07}, "generate_audio"),
    "kwaivgi/kling-v3-video": _video(
        {"standard": {"false": 0.168, "true": 0.336}, "pro": 0.336}, "mode", "generate_audio"
    ),
    "minimax/hailuo-2.3": _video({"768p": 0.0466, "1080p": 0.0816}, "resolution"),
    "openai/sora-2": _video(0.1),
    "wan-video/wan-2.7-i2v": _video({"720p": 0.1, "1080p": 0.15}, "resolution"),
    "wan-video/wan-2.7-r2v": _video({"720p": 0.1, "1080p": 0.15}, "resolution"),
    "wan-video/wan-2.7-t2v": _video({"720p": 0.1, "1080p": 0.15}, "resolution"),
}


@cache
def models(directory: Path = SCHEMAS) -> tuple[Model, ...]:
    """The models whose schemas are saved in a directory, as `owner/name.json`."""
    return tuple(_model(path) for path in sorted(directory.glob("*/*.json")))


def _model(path: Path) -> Model:
    name = f"{path.parent.name}/{path.stem}"
    inputs = json.loads(path.read_bytes())["Input"]
    output = {"type": "array", "items": _URI} if name in _LISTS else _URI
    published = document(inputs["properties"], output, required=inputs.get("required", ()))
    page = {
        "description": f"A simulated {path.stem}",
        "visibility": "public",
        "is_official": True,
        "run_count": 100_000,
        "default_example": None,
    }
    version = Version(id_of(name, published), Schema(published))
    return Model(name=name, versions=(version,), page=page, facts=FACTS.get(name, Facts()))
