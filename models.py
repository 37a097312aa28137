"""The declared models, each with its aliases, its price and the rules that its schema does not say.

The inputs of a model are its published schema, saved in `catalog/schemas/<owner>/<name>.json` (from
replicate.com/<owner>/<name>/api/schema). Prices are those of the models' pages. If a model's launch page and its live
schema disagree, the stricter value counts: the launch page of qwen-image allows 100 steps, but the model refuses 51.
The defaults are documentation: a parameter that the caller leaves out is not sent, so that the defaults of Replicate
apply. `python -m models --check` compares the saved schemas with Replicate's. To add a model, follow
docs/architecture.md.

Tiers and credits belong to this service, for operators who sell plans. Credits follow the price of an ordinary call.
"""

import sys

from catalog.model import Fallback, References, declare
from catalog.prices import Price
from catalog.registry import Registry, Rules
from catalog.rules import AtMostWith, OnlyWith, SameLength
from catalog.tariff import PUBLISHED, Tariff

_SIDE = {"multipleOf": 32}

MODELS = (
    declare(
        "black-forest-labs/flux-schnell",
        aliases=("flux-schnell",),
        kind="image",
        price=Price(0.003, per="image"),
        tier="free",
        credits=1,
        usual_seconds=0.8,
        example={"prompt": "A paper boat on a puddle", "num_outputs": 2},
    ),
    declare(
        "black-forest-labs/flux-dev",
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
    declare(
        "black-forest-labs/flux-1.1-pro",
        aliases=("flux-1.1-pro",),
        kind="image",
        price=Price(0.04, per="image"),
        tier="premium",
        credits=5,
        usual_seconds=3.0,
        references=References("image_prompt"),
        limits={"width": _SIDE, "height": _SIDE},
        rules=(OnlyWith(("width", "height"), "aspect_ratio", "custom"),),
        example={
            "prompt": "A red lighthouse in fog",
            "aspect_ratio": "custom",
            "width": 1024,
            "height": 768,
            "safety_tolerance": 2,
        },
    ),
    declare(
        "black-forest-labs/flux-kontext-max",
        aliases=("flux-kontext-max", "kontext-max"),
        kind="image",
        price=Price(0.08, per="image"),
        tier="premium",
        credits=10,
        usual_seconds=4.0,
        references=References("input_image", preferred=True),
        rules=(AtMostWith("safety_tolerance", 2, "input_image", "with an input image"),),
        fallbacks=(Fallback("qwen/qwen-image", on=("content_refused",)),),
        example={"prompt": "Make it a watercolour", "input_image": "https://example.com/street.png"},
    ),
    declare(
        "qwen/qwen-image",
        aliases=("qwen-image",),
        kind="image",
        price=Price(0.025, per="image"),
        tier="basic",
        credits=2,
        usual_seconds=4.0,
        references=References("image"),
        fallbacks=(Fallback("black-forest-labs/flux-dev"),),
        rules=(SameLength("extra_lora_scale", "extra_lora_weights"),),
        example={"prompt": "A shop sign that reads OPEN", "aspect_ratio": "4:3"},
    ),
    declare(
        "google/imagen-4-ultra",
        aliases=("imagen-4-ultra",),
        kind="image",
        price=Price(0.06, per="image"),
        tier="premium",
        credits=8,
        usual_seconds=8.0,
        example={"prompt": "A macro photograph of a dew drop", "aspect_ratio": "3:4", "image_size": "2K"},
    ),
    declare(
        "google/nano-banana",
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
    declare(
        "google/veo-3-fast",
        aliases=("veo-3-fast",),
        kind="video",
        price=Price(3.32, per="call"),
        tier="premium",
        credits=400,
        usual_seconds=20.0,
        references=References("image"),
        example={"prompt": "Waves roll over a pebble beach", "duration": 4, "resolution": "720p"},
    ),
    declare(
        "kwaivgi/kling-v2.1-master",
        aliases=("kling-v2.1-master",),
        kind="video",
        price=Price(0.28, per="second"),
        tier="premium",
        credits=180,
        usual_seconds=20.0,
        references=References("start_image"),
        limits={"aspect_ratio": {"description": "Ignored with a start_image, which has its own."}},
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
