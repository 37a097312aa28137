"""The declared models, each with its parameters, its price and its aliases.

A class declares the inputs of a model, with types, ranges, choices and defaults. An entry of `MODELS` declares its
other facts. To add a model, add both here, and follow docs/architecture.md.

Ranges, choices, defaults and prices are those of the models' published input schemas and pricing pages
(replicate.com/<owner>/<name>/api/schema). If a model's launch page and its live schema disagree, the stricter
value counts: the launch page of qwen-image allows 100 steps, but the model refuses 51. The defaults are documentation:
a parameter that the caller leaves out is not sent, so that the defaults of Replicate apply. `python -m models --check`
compares the declarations with Replicate's schemas.

Tiers and credits belong to this service, for operators who sell plans. Credits follow the price of an ordinary call.
"""

import sys
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from catalog.model import (
    Fallback,
    Fraction,
    Image,
    Images,
    Inputs,
    Model,
    Percent,
    References,
    Seed,
    Side,
    Text,
)
from catalog.prices import Price
from catalog.registry import Registry, Rules
from catalog.tariff import PUBLISHED, Tariff
from errors import Problem

FluxRatio = Literal["1:1", "16:9", "21:9", "3:2", "2:3", "4:5", "5:4", "3:4", "4:3", "9:16", "9:21"]
WebFormat = Literal["webp", "jpg", "png"]


class FluxSchnell(Inputs):
    aspect_ratio: FluxRatio = "1:1"
    num_outputs: Annotated[int, Field(ge=1, le=4)] = 1
    num_inference_steps: Annotated[int, Field(ge=1, le=4)] = 4
    seed: Seed | None = None
    output_format: WebFormat = "webp"
    output_quality: Percent = 80
    disable_safety_checker: bool = False
    go_fast: bool = True
    megapixels: Literal["1", "0.25"] = "1"


class FluxDev(Inputs):
    aspect_ratio: FluxRatio = "1:1"
    image: Image | None = None
    prompt_strength: Fraction = 0.8
    num_outputs: Annotated[int, Field(ge=1, le=4)] = 1
    num_inference_steps: Annotated[int, Field(ge=1, le=50)] = 28
    guidance: Annotated[float, Field(ge=0, le=10)] = 3
    seed: Seed | None = None
    output_format: WebFormat = "webp"
    output_quality: Percent = 80
    disable_safety_checker: bool = False
    go_fast: bool = True
    megapixels: Literal["1", "0.25"] = "1"


class Flux11Pro(Inputs):
    model_config = ConfigDict(
        json_schema_extra={  # as `rules`
            "if": {
                "not": {"required": ["aspect_ratio"], "properties": {"aspect_ratio": {"const": "custom"}}}
            },
            "then": {"properties": {"width": {"type": "null"}, "height": {"type": "null"}}},
        }
    )

    aspect_ratio: Literal["custom", "1:1", "16:9", "3:2", "2:3", "4:5", "5:4", "9:16", "3:4", "4:3"] = "1:1"
    width: Side | None = None
    height: Side | None = None
    image_prompt: Image | None = None
    output_format: WebFormat = "webp"
    output_quality: Percent = 80
    safety_tolerance: Annotated[int, Field(ge=1, le=6)] = 2
    prompt_upsampling: bool = False
    seed: Seed | None = None

    @classmethod
    def rules(cls, given: Mapping[str, Any]) -> Iterator[Problem]:
        for side in ("width", "height"):
            if given.get(side) is not None and given.get("aspect_ratio") != "custom":
                yield Problem(side, "goes only with aspect_ratio custom", given[side])


class FluxKontextMax(Inputs):
    model_config = ConfigDict(
        json_schema_extra={  # as `rules`
            "if": {"required": ["input_image"], "properties": {"input_image": {"type": "string"}}},
            "then": {"properties": {"safety_tolerance": {"maximum": 2}}},
        }
    )

    input_image: Image | None = None
    aspect_ratio: Literal[
        "match_input_image", "1:1", "16:9", "9:16", "4:3", "3:4", "3:2", "2:3", "4:5", "5:4",
        "21:9", "9:21", "2:1", "1:2",
    ] = "match_input_image"  # fmt: skip
    output_format: Literal["jpg", "png"] = "png"
    safety_tolerance: Annotated[int, Field(ge=0, le=6)] = 2
    prompt_upsampling: bool = False
    seed: Seed | None = None

    @classmethod
    def rules(cls, given: Mapping[str, Any]) -> Iterator[Problem]:
        tolerance = given.get("safety_tolerance", 0)
        if given.get("input_image") is not None and tolerance > 2:
            yield Problem("safety_tolerance", "must be at most 2 with an input image", tolerance)


class QwenImage(Inputs):
    aspect_ratio: Literal["1:1", "16:9", "9:16", "4:3", "3:4", "3:2", "2:3"] = "16:9"
    image_size: Literal["optimize_for_quality", "optimize_for_speed"] = "optimize_for_quality"
    guidance: Annotated[float, Field(ge=0, le=10)] = 3
    num_inference_steps: Annotated[int, Field(ge=1, le=50)] = 30
    go_fast: bool = True
    negative_prompt: Text = " "
    enhance_prompt: bool = False
    image: Image | None = None
    strength: Fraction = 0.9
    output_format: WebFormat = "webp"
    output_quality: Percent = 80
    seed: Seed | None = None
    lora_weights: Text | None = None
    lora_scale: float = 1
    disable_safety_checker: bool = False


class Imagen4Ultra(Inputs):
    aspect_ratio: Literal["1:1", "9:16", "16:9", "3:4", "4:3"] = "1:1"
    image_size: Literal["1K", "2K"] = "1K"
    safety_filter_level: Literal["block_low_and_above", "block_medium_and_above", "block_only_high"] = (
        "block_only_high"
    )
    output_format: Literal["jpg", "png"] = "jpg"


class NanoBanana(Inputs):
    image_input: Images = Field([])
    aspect_ratio: Literal[
        "match_input_image", "1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9"
    ] = "match_input_image"
    output_format: Literal["jpg", "png"] = "jpg"


class Veo3Fast(Inputs):
    aspect_ratio: Literal["16:9", "9:16"] = "16:9"
    duration: Literal[4, 6, 8] = 8
    image: Image | None = None
    negative_prompt: Text | None = None
    resolution: Literal["720p", "1080p"] = "1080p"
    generate_audio: bool = True
    seed: Seed | None = None


class KlingV21Master(Inputs):
    aspect_ratio: Annotated[
        Literal["16:9", "9:16", "1:1"], Field(description="Ignored with a start_image, which has its own.")
    ] = "16:9"
    duration: Literal[5, 10] = 5
    start_image: Image | None = None
    negative_prompt: Text = ""


MODELS = (
    Model(
        name="black-forest-labs/flux-schnell",
        inputs=FluxSchnell,
        aliases=("flux-schnell",),
        kind="image",
        price=Price(0.003, per="image"),
        tier="free",
        credits=1,
        usual_seconds=0.8,
        example={"prompt": "A paper boat on a puddle", "num_outputs": 2},
    ),
    Model(
        name="black-forest-labs/flux-dev",
        inputs=FluxDev,
        aliases=("flux-dev",),
        kind="image",
        price=Price(0.025, per="image"),
        tier="basic",
        credits=2,
        usual_seconds=2.5,
        references=References("image"),
        fallbacks=(
            Fallback("black-forest-labs/flux-kontext-max", references=True),
            Fallback("qwen/qwen-image", references=False),
        ),
        asks_for={"output_format": "jpg"},
        example={"prompt": "A beautiful sunset over mountains", "aspect_ratio": "16:9"},
    ),
    Model(
        name="black-forest-labs/flux-1.1-pro",
        inputs=Flux11Pro,
        aliases=("flux-1.1-pro",),
        kind="image",
        price=Price(0.04, per="image"),
        tier="premium",
        credits=5,
        usual_seconds=3.0,
        references=References("image_prompt"),
        example={
            "prompt": "A red lighthouse in fog",
            "aspect_ratio": "custom",
            "width": 1024,
            "height": 768,
            "safety_tolerance": 2,
        },
    ),
    Model(
        name="black-forest-labs/flux-kontext-max",
        inputs=FluxKontextMax,
        aliases=("flux-kontext-max", "kontext-max"),
        kind="image",
        price=Price(0.08, per="image"),
        tier="premium",
        credits=10,
        usual_seconds=4.0,
        references=References("input_image", preferred=True),
        fallbacks=(Fallback("qwen/qwen-image", on=("content_refused",)),),
        example={"prompt": "Make it a watercolour", "input_image": "https://example.com/street.png"},
    ),
    Model(
        name="qwen/qwen-image",
        inputs=QwenImage,
        aliases=("qwen-image",),
        kind="image",
        price=Price(0.025, per="image"),
        tier="basic",
        credits=2,
        usual_seconds=4.0,
        references=References("image"),
        fallbacks=(Fallback("black-forest-labs/flux-dev"),),
        example={"prompt": "A shop sign that reads OPEN", "aspect_ratio": "4:3"},
    ),
    Model(
        name="google/imagen-4-ultra",
        inputs=Imagen4Ultra,
        aliases=("imagen-4-ultra",),
        kind="image",
        price=Price(0.06, per="image"),
        tier="premium",
        credits=8,
        usual_seconds=8.0,
        example={"prompt": "A macro photograph of a dew drop", "aspect_ratio": "3:4", "image_size": "2K"},
    ),
    Model(
        name="google/nano-banana",
        inputs=NanoBanana,
        aliases=("nano-banana",),
        kind="image",
        price=Price(0.039, per="image"),
        tier="premium",
        credits=5,
        usual_seconds=6.0,
        references=References("image_input", most=3, preferred=True),
        fallbacks=(Fallback("google/imagen-4-ultra"),),
        example={
            "prompt": "Put the hat of the first picture on the fox of the second",
            "image_input": ["https://example.com/hat.png", "https://example.com/fox.jpg"],
        },
    ),
    Model(
        name="google/veo-3-fast",
        inputs=Veo3Fast,
        aliases=("veo-3-fast",),
        kind="video",
        price=Price(3.32, per="call"),
        tier="premium",
        credits=400,
        usual_seconds=20.0,
        references=References("image"),
        example={"prompt": "Waves roll over a pebble beach", "duration": 4, "resolution": "720p"},
    ),
    Model(
        name="kwaivgi/kling-v2.1-master",
        inputs=KlingV21Master,
        aliases=("kling-v2.1-master",),
        kind="video",
        price=Price(0.28, per="second"),
        tier="premium",
        credits=180,
        usual_seconds=20.0,
        references=References("start_image"),
        example={
            "prompt": "The fox turns its head",
            "start_image": "https://example.com/fox.jpg",
            "duration": 5,
        },
    ),
)


def declared(rules: Rules | None = None, tariff: Tariff = PUBLISHED) -> Registry:
    """A registry of the models above. `rules` replace the fallbacks that they declare, and a `tariff` their prices."""
    return Registry(map(tariff.priced, MODELS), rules=rules)


if __name__ == "__main__":
    from catalog import drift  # not above, since it loads httpx, which the service does not use

    sys.exit(drift.main(sys.argv[1:], declared()))
