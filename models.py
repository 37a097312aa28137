"""The registry: what each model takes, what it costs, and what a caller may call it.

A model is one declarative class: its inputs with their types, ranges, choices and defaults, and above
it the name, aliases and price. Validation, `/models`, OpenAPI, `/docs` and the README's table all follow
from it, so adding a model is adding a class here.

Ranges, choices, defaults and prices are those of the models' published input schemas and pricing pages
(replicate.com/<owner>/<name>/api/schema). Where a model's launch page and its live schema disagree the
stricter stands: qwen-image was launched with up to 100 steps, and would refuse 51 after the wait. The
defaults are documentation: what the caller did not give is not sent, so that Replicate's own apply.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

from errors import Problem

MAX_IMAGE = 256_000
"""Characters of an image's `data:` URI, or URL; beyond about 256 kB Replicate wants a URL."""


# ── The kinds of value a model takes ────────────────────────────────────────────────────────────────


def _text(value: str) -> str:
    if "\0" in value:
        raise ValueError("must not contain NUL")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("must not contain lone surrogates") from None
    return value


def _prompt(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be empty")
    return value


def _image(value: str) -> str:
    if len(value) > MAX_IMAGE:
        raise ValueError(f"must be at most {MAX_IMAGE} characters; give a URL of the image instead")
    if value.startswith("data:"):
        if not re.fullmatch(_DATA_URI, value):
            raise ValueError("must be a base64 data: URI of a PNG, JPEG, WebP or GIF image")
    elif not re.fullmatch(_URL, value) or not _has_host(value):
        raise ValueError("must be an http(s) URL or a data: URI")
    return value


def _has_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0  # reading the port checks it
    except ValueError:
        return False


_URL = r"[Hh][Tt][Tt][Pp][Ss]?://[!-~]+"
_DATA_URI = r"data:image/(png|jpeg|webp|gif);base64,[A-Za-z0-9+/]+={0,2}"

AnInputs = TypeVar("AnInputs", bound="type[Inputs]")

Text = Annotated[str, AfterValidator(_text), WithJsonSchema({"type": "string", "pattern": r"^[^\u0000]*$"})]
Prompt = Annotated[
    Text,
    AfterValidator(_prompt),
    WithJsonSchema({"type": "string", "pattern": r"^[^\u0000]*[^\s\u0000][^\u0000]*$"}),
]
Image = Annotated[
    Text,
    AfterValidator(_image),
    WithJsonSchema(
        {"type": "string", "format": "uri", "maxLength": MAX_IMAGE, "pattern": f"^({_URL}|{_DATA_URI})$"}
    ),
]
Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Percent = Annotated[int, Field(ge=0, le=100)]


class Inputs(BaseModel):
    """What a model takes: its own parameters by their own names. Only `prompt` is required."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    prompt: Prompt

    @classmethod
    def rules(cls, given: Mapping[str, Any]) -> Iterator[Problem]:  # noqa: ARG003 - most models have none
        """What holds between parameters. `given` has only values that are valid by themselves."""
        yield from ()


# ── Models ──────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Price:
    """USD for one unit of what a model makes."""

    usd: float
    per: Literal["image", "call", "second"]

    def of(self, images: int) -> float:
        """USD for a prediction that returned so many images."""
        return round(self.usd * images, 6)


@dataclass(frozen=True)
class Model:
    """One entry of the registry. `asks_for` is sent when the caller names no value of their own."""

    name: str
    aliases: tuple[str, ...]
    kind: Literal["image", "video"]
    price: Price
    inputs: type[Inputs]
    example: Mapping[str, Any]
    asks_for: Mapping[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)

    @property
    def extension(self) -> str:
        """What a file of this model ends in when the caller names no format."""
        if self.kind == "video":
            return ".mp4"
        return "." + str(self.input_schema["properties"]["output_format"]["default"])

    @cached_property
    def input_schema(self) -> dict[str, Any]:
        """JSON Schema (2020-12) of the model's inputs, as validation reads them; the defaults are those that a
        caller sees, so what is asked for counts."""
        schema = self.inputs.model_json_schema()
        for name, value in self.asks_for.items():
            schema["properties"][name]["default"] = value
        return schema

    def as_json(self) -> dict[str, Any]:
        """The model as `/models` tells it."""
        return {
            "name": self.name,
            "aliases": list(self.aliases),
            "kind": self.kind,
            "price": {"usd": self.price.usd, "per": self.price.per},
            "default_extension": self.extension,
            "input_schema": self.input_schema,
            "example": {"model_name": (*self.aliases, self.name)[0], **self.example},
        }


MODELS: dict[str, Model] = {}
"""The registry: models by full name, in the order they are declared."""


def registered(
    *,
    name: str,
    aliases: tuple[str, ...] = (),
    kind: Literal["image", "video"],
    price: Price,
    example: Mapping[str, Any],
    asks_for: Mapping[str, Any] | None = None,
) -> Callable[[AnInputs], AnInputs]:
    """Put a class of inputs into the registry, as the `Model` these say."""

    def register(inputs: AnInputs) -> AnInputs:
        MODELS[name] = Model(name, aliases, kind, price, inputs, example, asks_for or {})
        return inputs

    return register


def find(name: str) -> Model | None:
    """The model of this full name or alias."""
    return next((model for model in MODELS.values() if name in model.names), None)


@registered(
    name="black-forest-labs/flux-dev",
    aliases=("flux-dev",),
    kind="image",
    price=Price(0.025, per="image"),
    asks_for={"output_format": "jpg"},
    example={"prompt": "A beautiful sunset over mountains", "aspect_ratio": "16:9"},
)
class FluxDev(Inputs):
    aspect_ratio: Literal["1:1", "16:9", "21:9", "3:2", "2:3", "4:5", "5:4", "3:4", "4:3", "9:16", "9:21"] = (
        "1:1"
    )
    image: Image | None = None
    prompt_strength: Fraction = 0.8
    num_outputs: Annotated[int, Field(ge=1, le=4)] = 1
    num_inference_steps: Annotated[int, Field(ge=1, le=50)] = 28
    guidance: Annotated[float, Field(ge=0, le=10)] = 3
    seed: Seed | None = None
    output_format: Literal["webp", "jpg", "png"] = "webp"
    output_quality: Percent = 80
    disable_safety_checker: bool = False
    go_fast: bool = True
    megapixels: Literal["1", "0.25"] = "1"


@registered(
    name="black-forest-labs/flux-kontext-max",
    aliases=("flux-kontext-max", "kontext-max"),
    kind="image",
    price=Price(0.08, per="image"),
    example={"prompt": "The same street in winter", "input_image": "https://example.com/street.jpg"},
)
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


@registered(
    name="qwen/qwen-image",
    aliases=("qwen-image",),
    kind="image",
    price=Price(0.025, per="image"),
    example={"prompt": "A shop sign that reads OPEN", "aspect_ratio": "4:3"},
)
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
    output_format: Literal["webp", "jpg", "png"] = "webp"
    output_quality: Percent = 80
    seed: Seed | None = None
    lora_weights: Text | None = None
    lora_scale: float = 1
    disable_safety_checker: bool = False
