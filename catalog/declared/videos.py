"""The declared models that make videos. `models.py` says where their facts are from."""

from functools import partial
from typing import Final

from catalog.model import Model, References, declare
from catalog.prices import Price, Rate, rates
from catalog.rules import Excludes, NotWith, Requires

video = partial(declare, kind="video")

_FOX = "https://example.com/fox.jpg"
_SHAPE_OF_START: Final = {"description": "Ignored with a start_image, which has its own."}
_WAN: Final = Price(0.15, "second", by=rates("resolution", {"720p": 0.1, "1080p": 0.15}))

VIDEOS: Final[tuple[Model, ...]] = (
    video(
        "google/veo-3-fast",
        price=Price(3.32, "call"),
        tier="premium",
        credits=400,
        usual_seconds=20.0,
        references=References("image"),
        retired="Google shut down Veo 3 on 30 June 2026, so this model may fail; veo-3.1-fast follows it.",
        example={"prompt": "Waves roll over a pebble beach", "duration": 4, "resolution": "720p"},
    ),
    video(
        "google/veo-3.1-fast",
        price=Price(0.15, "second", by=rates("generate_audio", {True: 0.15, False: 0.1})),
        tier="premium",
        credits=150,
        usual_seconds=60.0,
        references=References("image"),
        example={"prompt": "Rain on a tin roof", "duration": 4, "generate_audio": False},
    ),
    video(
        "kwaivgi/kling-v2.1-master",
        price=Price(0.28, "second"),
        tier="premium",
        credits=180,
        usual_seconds=20.0,
        references=References("start_image"),
        limits={"aspect_ratio": _SHAPE_OF_START},
        example={"prompt": "The fox turns its head", "start_image": _FOX, "duration": 5},
    ),
    video(
        "kwaivgi/kling-v3-video",
        price=Price(
            0.224,
            "second",
            by=(
                Rate(0.168, {"mode": "standard", "generate_audio": False}),
                Rate(0.252, {"mode": "standard", "generate_audio": True}),
                Rate(0.224, {"mode": "pro", "generate_audio": False}),
                Rate(0.336, {"mode": "pro", "generate_audio": True}),
            ),
        ),
        tier="premium",
        credits=140,
        usual_seconds=120.0,
        references=References("start_image"),
        limits={
            "aspect_ratio": _SHAPE_OF_START,
            "prompt": {"maxLength": 2500},
            "negative_prompt": {"maxLength": 2500},
        },
        rules=(Requires("end_image", "start_image"),),
        example={"prompt": "A kite rises over dunes", "duration": 3, "mode": "standard"},
    ),
    video(
        "kwaivgi/kling-v2.6",
        price=Price(0.14, "second", by=rates("generate_audio", {True: 0.14, False: 0.07})),
        tier="premium",
        credits=90,
        usual_seconds=100.0,
        references=References("start_image"),
        limits={"aspect_ratio": _SHAPE_OF_START},
        example={"prompt": "A street musician plays", "duration": 5, "generate_audio": True},
    ),
    video(
        "kwaivgi/kling-v2.5-turbo-pro",
        price=Price(0.07, "second"),
        tier="premium",
        credits=45,
        usual_seconds=100.0,
        references=References("start_image"),
        limits={
            "aspect_ratio": _SHAPE_OF_START,
            "image": {"description": "The old name of start_image."},
        },
        example={"prompt": "The fox runs away", "start_image": _FOX, "duration": 5},
    ),
    video(
        "bytedance/seedance-2.0",
        price=Price(0.17, "second", by=rates("resolution", {"480p": 0.07, "720p": 0.17})),
        tier="premium",
        credits=105,
        usual_seconds=90.0,
        references=References("image"),
        limits={
            "reference_images": {"maxItems": 9},
            "reference_videos": {"maxItems": 3},
            "reference_audios": {"maxItems": 3},
        },
        rules=(
            Requires("last_frame_image", "image"),
            Excludes("reference_images", "image"),
            Excludes("reference_images", "last_frame_image"),
        ),
        example={"prompt": "A paper boat drifts", "duration": 5, "resolution": "480p"},
    ),
    video(
        "wan-video/wan-2.7-t2v",
        price=_WAN,
        tier="premium",
        credits=95,
        usual_seconds=90.0,
        example={"prompt": "Snow falls on a railway station", "duration": 5, "resolution": "720p"},
    ),
    video(
        "wan-video/wan-2.7-i2v",
        price=_WAN,
        tier="premium",
        credits=95,
        usual_seconds=90.0,
        references=References("first_frame"),
        rules=(Requires("last_frame", "first_frame"), Excludes("first_clip", "first_frame")),
        example={"prompt": "The fox yawns", "first_frame": _FOX, "duration": 5},
    ),
    video(
        "wan-video/wan-2.7-r2v",
        price=_WAN,
        tier="premium",
        credits=95,
        usual_seconds=90.0,
        references=References("reference_images", most=None),
        example={"prompt": "The fox walks on a beach", "reference_images": [_FOX], "duration": 5},
    ),
    video(
        "minimax/hailuo-2.3",
        price=Price(0.0466, "second", by=rates("resolution", {"768p": 0.0466, "1080p": 0.0816})),
        tier="premium",
        credits=35,
        usual_seconds=90.0,
        references=References("first_frame_image"),
        rules=(NotWith("duration", 10, "resolution", "1080p"),),
        example={"prompt": "A dancer turns", "duration": 6, "resolution": "768p"},
    ),
    video(
        "openai/sora-2",
        price=Price(0.1, "second"),
        tier="premium",
        credits=50,
        usual_seconds=90.0,
        references=References("input_reference"),
        example={"prompt": "A train crosses a bridge", "seconds": 4, "aspect_ratio": "landscape"},
    ),
)
