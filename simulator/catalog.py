"""The nine official models that the service declares first, as plain data.

Their inputs and bounds are those of Replicate's published schemas. `GET /v1/models/{owner}/{name}` shows the same
schema that validates inputs, so the two cannot disagree. Other models are files (`official`, `loading`).

Only `prompt` is required. As at Replicate, inputs that the schema does not have are ignored.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, Literal

from simulator import official
from simulator.model import Facts, Model, Price, Version
from simulator.schemas import Schema, document

Property = dict[str, Any]


def find(name: str) -> Model | None:
    """The official model with this name, or None."""
    return next((model for model in (*MODELS, *official.models()) if model.name == name), None)


def _prompt() -> Property:
    return {"type": "string", "description": "What to make"}


def _text(default: str | None = None) -> Property:
    return {"type": "string"} | ({} if default is None else {"default": default})


def _url() -> Property:
    return {"type": "string", "format": "uri"}


def _choice(default: Any, *others: Any) -> Property:
    kind = "integer" if isinstance(default, int) else "string"
    return {"type": kind, "enum": [default, *others], "default": default}


def _whole(default: int, low: int, high: int) -> Property:
    return {"type": "integer", "default": default, "minimum": low, "maximum": high}


def _number(default: float, low: float, high: float) -> Property:
    return {"type": "number", "default": default, "minimum": low, "maximum": high}


def _side() -> Property:
    return {"type": "integer", "minimum": 256, "maximum": 1440}


def _flag(default: bool) -> Property:
    return {"type": "boolean", "default": default}


def _seed() -> Property:
    return {"type": "integer", "description": "Random seed, for a repeatable picture"}


def _model(
    name: str,
    output: Literal["list", "string"],
    seconds: float,
    price: Price,
    inputs: dict[str, Property],
    *,
    kind: Literal["image", "video"] = "image",
    rules: Mapping[str, Any] | None = None,
) -> Model:
    puts_out: Property = {"type": "array", "items": _url()} if output == "list" else _url()
    schema = Schema(document({"prompt": _prompt()} | inputs, puts_out), rules)
    page = {
        "description": f"A simulated {name.partition('/')[2]}",
        "visibility": "public",
        "is_official": True,
        "run_count": 1_000_000,
        "default_example": None,
    }
    version = Version(hashlib.sha256(name.encode()).hexdigest(), schema)
    facts = Facts(kind=kind, seconds=seconds, price=price)
    return Model(name=name, versions=(version,), page=page, facts=facts)


_SQUARE_FIRST = _choice("1:1", "16:9", "21:9", "3:2", "2:3", "4:5", "5:4", "3:4", "4:3", "9:16", "9:21")
_PICTURE_FORMAT = _choice("webp", "jpg", "png")
_STEPS = {"multipleOf": 32}  # Cog cannot publish a step, so the schema does not say it
_WITH_CUSTOM = {"not": {}, "description": "Only allowed when aspect_ratio is custom"}

_SCHNELL_INPUTS: dict[str, Property] = {
    "aspect_ratio": _SQUARE_FIRST,
    "num_outputs": _whole(1, 1, 4),
    "num_inference_steps": _whole(4, 1, 4),
    "seed": _seed(),
    "output_format": _PICTURE_FORMAT,
    "output_quality": _whole(80, 0, 100),
    "disable_safety_checker": _flag(False),
    "go_fast": _flag(True),
    "megapixels": _choice("1", "0.25"),
}

MODELS = (
    _model(
        "black-forest-labs/flux-dev",
        "list",
        2.5,
        Price(0.025, "image"),
        _SCHNELL_INPUTS
        | {
            "image": _url(),
            "prompt_strength": _number(0.8, 0, 1),
            "num_inference_steps": _whole(28, 1, 50),
            "guidance": _number(3, 0, 10),
        },
    ),
    _model("black-forest-labs/flux-schnell", "list", 0.8, Price(0.003, "image"), _SCHNELL_INPUTS),
    _model(
        "black-forest-labs/flux-1.1-pro",
        "string",
        3.0,
        Price(0.04, "image"),
        {
            "aspect_ratio": _choice(
                "1:1", "custom", "16:9", "3:2", "2:3", "4:5", "5:4", "9:16", "3:4", "4:3"
            ),
            "width": _side(),
            "height": _side(),
            "image_prompt": _url(),
            "output_format": _PICTURE_FORMAT,
            "output_quality": _whole(80, 0, 100),
            "safety_tolerance": _whole(2, 1, 6),
            "prompt_upsampling": _flag(False),
            "seed": _seed(),
        },
        rules={
            "if": {"properties": {"aspect_ratio": {"const": "custom"}}, "required": ["aspect_ratio"]},
            "then": {"properties": {"width": _STEPS, "height": _STEPS}},
            "else": {"properties": {"width": _WITH_CUSTOM, "height": _WITH_CUSTOM}},
        },
    ),
    _model(
        "black-forest-labs/flux-kontext-max",
        "string",
        4.0,
        Price(0.08, "image"),
        {
            "input_image": _url(),
            "aspect_ratio": _choice(
                *("match_input_image", "1:1", "16:9", "9:16", "4:3", "3:4", "3:2"),
                *("2:3", "4:5", "5:4", "21:9", "9:21", "2:1", "1:2"),
            ),
            "output_format": _choice("png", "jpg"),
            "safety_tolerance": _whole(2, 0, 6),
            "prompt_upsampling": _flag(False),
            "seed": _seed(),
        },
        rules={
            "if": {"required": ["input_image"]},
            "then": {"properties": {"safety_tolerance": {"maximum": 2}}},
        },
    ),
    _model(
        "qwen/qwen-image",
        "list",
        4.0,
        Price(0.025, "image"),
        {
            "aspect_ratio": _choice("16:9", "1:1", "9:16", "4:3", "3:4", "3:2", "2:3"),
            "image_size": _choice("optimize_for_quality", "optimize_for_speed"),
            "guidance": _number(3, 0, 10),
            "num_inference_steps": _whole(30, 1, 50),
            "go_fast": _flag(True),
            "negative_prompt": _text(" "),
            "enhance_prompt": _flag(False),
            "image": _url(),
            "strength": _number(0.9, 0, 1),
            "output_format": _PICTURE_FORMAT,
            "output_quality": _whole(80, 0, 100),
            "seed": _seed() | {"nullable": True},
            "lora_weights": _text() | {"nullable": True},
            "replicate_weights": _text() | {"nullable": True},
            "lora_scale": {"type": "number", "default": 1},
            "extra_lora_weights": {"type": "array", "items": {"type": "string"}, "nullable": True},
            "extra_lora_scale": {"type": "array", "items": {"type": "number"}, "nullable": True},
            "disable_safety_checker": _flag(False),
        },
    ),
    _model(
        "google/imagen-4-ultra",
        "string",
        8.0,
        Price(0.06, "image"),
        {
            "aspect_ratio": _choice("1:1", "9:16", "16:9", "3:4", "4:3"),
            "image_size": _choice("1K", "2K"),
            "safety_filter_level": _choice(
                "block_only_high", "block_low_and_above", "block_medium_and_above"
            ),
            "output_format": _choice("jpg", "png"),
        },
    ),
    _model(
        "google/nano-banana",
        "string",
        6.0,
        Price(0.039, "image"),
        {
            "image_input": {"type": "array", "items": _url(), "default": []},
            "aspect_ratio": _choice(
                *("match_input_image", "1:1", "2:3", "3:2", "3:4", "4:3"),
                *("4:5", "5:4", "9:16", "16:9", "21:9"),
            ),
            "output_format": _choice("jpg", "png"),
        },
    ),
    _model(
        "google/veo-3-fast",
        "string",
        20.0,
        Price(3.32, "call"),
        {
            "aspect_ratio": _choice("16:9", "9:16"),
            "duration": _choice(8, 4, 6),
            "image": _url(),
            "negative_prompt": _text(),
            "resolution": _choice("1080p", "720p"),
            "generate_audio": _flag(True),
            "seed": _seed(),
        },
        kind="video",
    ),
    _model(
        "kwaivgi/kling-v2.1-master",
        "string",
        20.0,
        Price(0.28, "second"),
        {
            "aspect_ratio": _choice("16:9", "9:16", "1:1"),
            "duration": _choice(5, 10),
            "start_image": _url(),
            "negative_prompt": _text(""),
        },
        kind="video",
    ),
)
