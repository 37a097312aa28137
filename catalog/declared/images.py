"""The declared models that make images. `models.py` says where their facts are from."""

from functools import partial
from typing import Final

from catalog.model import Fallback, Model, References, declare
from catalog.prices import Price, Rate, rates
from catalog.rules import AtMostTogether, AtMostWith, OnlyWith, SameLength

image = partial(declare, kind="image")

_STEPS_OF_32: Final = {"width": {"multipleOf": 32}, "height": {"multipleOf": 32}}
_STEPS_OF_16: Final = {"width": {"multipleOf": 16}, "height": {"multipleOf": 16}}
_SIDES_ARE_CUSTOM: Final = OnlyWith(("width", "height"), "aspect_ratio", "custom")
_SERIES: Final = AtMostTogether("max_images", "image_input", 15, "sequential_image_generation", "auto")

_PICTURE = "https://example.com/street.png"
_HAT_AND_FOX = ["https://example.com/hat.png", "https://example.com/fox.jpg"]


def _flux_2(base: float, each_megapixel: float) -> Price:
    """The price of an image of FLUX.2: for a run, for each megapixel that it makes, and for each that it is given.

    The size of an image that is given is not known, so it counts as the largest, of 4 MP. So does a custom size."""
    sizes = {f"{size:g} MP": round(base + each_megapixel * size, 6) for size in (0.5, 1, 2, 4)}
    custom = Rate(sizes["4 MP"], {"aspect_ratio": "custom"})
    return Price(
        sizes["1 MP"],
        "image",
        by=(custom, *rates("resolution", sizes)),
        each={"input_images": 4 * each_megapixel},
    )


IMAGES: Final[tuple[Model, ...]] = (
    image(
        "black-forest-labs/flux-schnell",
        price=Price(0.003, "image"),
        tier="free",
        credits=1,
        usual_seconds=0.8,
        example={"prompt": "A paper boat on a puddle", "num_outputs": 2},
    ),
    image(
        "black-forest-labs/flux-dev",
        price=Price(0.025, "image"),
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
    image(
        "black-forest-labs/flux-1.1-pro",
        price=Price(0.04, "image"),
        tier="premium",
        credits=5,
        usual_seconds=3.0,
        references=References("image_prompt"),
        limits=_STEPS_OF_32,
        rules=(_SIDES_ARE_CUSTOM,),
        example={
            "prompt": "A red lighthouse in fog",
            "aspect_ratio": "custom",
            "width": 1024,
            "height": 768,
            "safety_tolerance": 2,
        },
    ),
    image(
        "black-forest-labs/flux-kontext-max",
        aliases=("flux-kontext-max", "kontext-max"),
        price=Price(0.08, "image"),
        tier="premium",
        credits=10,
        usual_seconds=4.0,
        references=References("input_image", preferred=True),
        rules=(AtMostWith("safety_tolerance", 2, "input_image", "with an input image"),),
        fallbacks=(Fallback("qwen/qwen-image", on=("content_refused",)),),
        example={"prompt": "Make it a watercolour", "input_image": _PICTURE},
    ),
    image(
        "qwen/qwen-image",
        price=Price(0.025, "image"),
        tier="basic",
        credits=2,
        usual_seconds=4.0,
        references=References("image"),
        fallbacks=(Fallback("black-forest-labs/flux-dev"),),
        rules=(SameLength("extra_lora_scale", "extra_lora_weights"),),
        example={"prompt": "A shop sign that reads OPEN", "aspect_ratio": "4:3"},
    ),
    image(
        "google/imagen-4-ultra",
        price=Price(0.06, "image"),
        tier="premium",
        credits=8,
        usual_seconds=8.0,
        retired="Google shut down Imagen 4 on 17 August 2026, so this model may fail; nano-banana-2 is the nearest.",
        example={"prompt": "A macro photograph of a dew drop", "aspect_ratio": "3:4", "image_size": "2K"},
    ),
    image(
        "google/nano-banana",
        price=Price(0.039, "image"),
        tier="premium",
        credits=5,
        usual_seconds=6.0,
        references=References("image_input", most=3, preferred=True),
        fallbacks=(Fallback("google/nano-banana-2"),),
        example={
            "prompt": "Put the hat of the first picture on the fox of the second",
            "image_input": _HAT_AND_FOX,
        },
    ),
    image(
        "google/nano-banana-2",
        # Replicate's price is known at 1K. The others are Google's own, for 1,680 and 2,520 tokens an image.
        price=Price(0.039, "image", by=rates("resolution", {"1K": 0.039, "2K": 0.101, "4K": 0.151})),
        tier="premium",
        credits=5,
        usual_seconds=12.0,
        references=References("image_input", most=14, preferred=True),
        fallbacks=(Fallback("bytedance/seedream-4.5"),),
        example={"prompt": "A map of a small island", "aspect_ratio": "4:3", "resolution": "2K"},
    ),
    image(
        "google/nano-banana-pro",
        price=Price(0.15, "image", by=rates("resolution", {"1K": 0.15, "2K": 0.15, "4K": 0.3})),
        tier="premium",
        credits=19,
        usual_seconds=20.0,
        references=References("image_input", most=14, edits=True),
        fallbacks=(Fallback("google/nano-banana-2"),),
        example={"prompt": "A poster that reads SPRING FAIR", "aspect_ratio": "2:3", "resolution": "2K"},
    ),
    image(
        "black-forest-labs/flux-2-pro",
        price=_flux_2(0.015, 0.015),
        tier="premium",
        credits=4,
        usual_seconds=12.0,
        references=References("input_images", most=8, edits=True),
        rules=(_SIDES_ARE_CUSTOM,),
        example={"prompt": "A red door in a white wall", "aspect_ratio": "3:4", "resolution": "1 MP"},
    ),
    image(
        "black-forest-labs/flux-2-max",
        price=_flux_2(0.04, 0.03),
        tier="premium",
        credits=9,
        usual_seconds=20.0,
        references=References("input_images", most=8, edits=True),
        rules=(_SIDES_ARE_CUSTOM,),
        example={"prompt": "Make it night", "input_images": [_PICTURE], "resolution": "1 MP"},
    ),
    image(
        "black-forest-labs/flux-2-flex",
        price=_flux_2(0.0, 0.06),
        tier="premium",
        credits=8,
        usual_seconds=15.0,
        references=References("input_images", most=10, edits=True),
        rules=(_SIDES_ARE_CUSTOM,),
        example={"prompt": "A ticket that reads ROW 7", "steps": 30, "guidance": 4.5},
    ),
    image(
        "black-forest-labs/flux-2-klein-9b",
        price=Price(
            0.015,
            "image",
            by=rates("megapixels", {"0.25": 0.00375, "0.5": 0.0075, "1": 0.015, "2": 0.03, "4": 0.06}),
            each={"images": 0.06},  # as of one that is made, of the largest size
        ),
        tier="basic",
        credits=2,
        usual_seconds=2.0,
        references=References("images", most=5, edits=True),
        fallbacks=(Fallback("black-forest-labs/flux-dev", references=False),),
        example={"prompt": "A bicycle against a fence", "megapixels": "1"},
    ),
    image(
        "bytedance/seedream-4.5",
        price=Price(0.04, "image"),
        tier="premium",
        credits=5,
        usual_seconds=12.0,
        references=References("image_input", most=14, edits=True),
        rules=(_SERIES,),
        example={
            "prompt": "The four seasons of one tree",
            "size": "2K",
            "aspect_ratio": "1:1",
            "sequential_image_generation": "auto",
            "max_images": 4,
        },
    ),
    image(
        "bytedance/seedream-5-lite",
        price=Price(0.035, "image"),
        tier="premium",
        credits=4,
        usual_seconds=12.0,
        references=References("image_input", most=14, edits=True),
        rules=(_SERIES,),
        fallbacks=(Fallback("bytedance/seedream-4.5"),),
        example={"prompt": "A harbour at dawn", "size": "2K", "aspect_ratio": "16:9"},
    ),
    image(
        "qwen/qwen-image-edit-2511",
        price=Price(0.03, "image"),
        tier="basic",
        credits=2,
        usual_seconds=5.0,
        references=References("image", most=None, edits=True),
        fallbacks=(Fallback("black-forest-labs/flux-kontext-max"),),
        example={"prompt": "Take the cars away", "image": [_PICTURE]},
    ),
    image(
        "recraft-ai/recraft-v4",
        price=Price(0.04, "image"),
        tier="premium",
        credits=5,
        usual_seconds=10.0,
        limits={"prompt": {"maxLength": 10_000}},
        example={"prompt": "A logo of a fern, two colours", "aspect_ratio": "1:1"},
    ),
    image(
        "prunaai/p-image",
        price=Price(0.005, "image"),
        tier="basic",
        credits=1,
        usual_seconds=1.0,
        limits=_STEPS_OF_16,
        rules=(_SIDES_ARE_CUSTOM,),
        fallbacks=(Fallback("black-forest-labs/flux-schnell"),),
        example={"prompt": "A stack of old books", "aspect_ratio": "4:3"},
    ),
    image(
        "black-forest-labs/flux-dev-lora",
        price=Price(0.032, "image"),
        tier="basic",
        credits=3,
        usual_seconds=3.0,
        references=References("image"),
        example={"prompt": "A pixel car", "lora_weights": "fofr/flux-pixar-cars", "lora_scale": 1},
    ),
)
