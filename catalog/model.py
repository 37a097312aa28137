"""The declaration of a model: its inputs as one pydantic class, and facts such as its price and its fallbacks.

`models.py` declares the models with this. Validation, `/models`, OpenAPI, `/docs` and the README's table all follow
from those declarations.
"""

import math
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
)

from catalog import references
from catalog.prices import LONGEST, NOTHING, USD_PER_RUNNING_SECOND, Basis, Price
from errors import Problem

Kind = Literal["image", "video"]
Tier = Literal["free", "basic", "premium"]

KINDS: tuple[str, ...] = get_args(Kind)
TIERS: tuple[str, ...] = get_args(Tier)


ACCEPTED: Final = {"accepted": True}
"""The validation context of a request that an earlier version may have accepted: rules that came later must not
end running work."""

_BLANK_LETTERS: Final = frozenset("\u115f\u1160\u3164\uffa0\u2800")
"""Hangul fillers and the empty Braille pattern: invisible, though Unicode classes them as letters and symbols."""


def was_accepted(info: ValidationInfo) -> bool:
    """Whether the request was accepted before."""
    return info.context is ACCEPTED


def is_blank(text: str) -> bool:
    """Whether the text has no visible character: only spaces, controls, format characters, marks, blank letters."""
    return all(
        character in _BLANK_LETTERS
        or unicodedata.category(character)[0] in "ZM"
        or unicodedata.category(character) in {"Cc", "Cf"}
        for character in set(text)
    )


def _text(value: str) -> str:
    if "\0" in value:
        raise ValueError("must not contain NUL")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("must not contain lone surrogates") from None
    return value


def _prompt(value: str, info: ValidationInfo) -> str:
    if is_blank(value) and not was_accepted(info):
        raise ValueError("must not be empty")
    return value


def _image(value: Any, info: ValidationInfo) -> str | references.Upload:
    return references.reference(value, accepted=was_accepted(info))


Text = Annotated[str, AfterValidator(_text), WithJsonSchema({"type": "string", "pattern": r"^[^\u0000]*$"})]
Prompt = Annotated[
    Text,
    AfterValidator(_prompt),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^[^\u0000]*[^\s\u0000][^\u0000]*$",
            "description": "With at least one visible character.",
        }
    ),
]
Image = Annotated[str | references.Upload, PlainValidator(_image), WithJsonSchema(references.JSON_SCHEMA)]
Images = Annotated[list[Image], Field(max_length=3)]
Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Percent = Annotated[int, Field(ge=0, le=100)]
Side = Annotated[int, Field(ge=256, le=1440, multiple_of=32)]


class Inputs(BaseModel):
    """The parameters of a model, under its own names. Only `prompt` is required."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, allow_inf_nan=False, arbitrary_types_allowed=True
    )

    prompt: Prompt

    @classmethod
    def rules(cls, given: Mapping[str, Any]) -> Iterator[Problem]:  # noqa: ARG003 - most models have none
        """The problems between parameters. `given` has only values that are valid by themselves."""
        yield from ()


@dataclass(frozen=True, slots=True)
class References:
    """The parameter that takes reference images, and how many at most. Images that the requested model does not take go
    to a `preferred` model."""

    parameter: str
    most: int = 1
    preferred: bool = False


@dataclass(frozen=True, slots=True)
class Fallback:
    """A model to try after another has failed: always, or only with or without reference images, or only after errors
    with these codes."""

    to: str
    references: bool | None = None
    on: tuple[str, ...] = ()

    def applies(self, *, code: str, has_references: bool) -> bool:
        return self.references in {None, has_references} and (not self.on or code in self.on)


@dataclass(frozen=True, eq=False)
class Model:
    """One entry of the registry. `asks_for` has the values to send for parameters that the caller leaves out. `credits`
    is the cost of one generation in a plan. `usual_seconds` is an estimate until generations have been measured. The
    inputs of an image model have `output_format`, by whose default its files are named.

    A model without a price costs at most `running_usd` for each second that it runs. If it `bills_setup`, as private
    models and deployments do, Replicate also bills its setup, its failures, and the time in which it is idle."""

    name: str
    aliases: tuple[str, ...]
    kind: Kind
    price: Price | None
    tier: Tier
    credits: int
    usual_seconds: float
    inputs: type[Inputs]
    example: Mapping[str, Any]
    references: References | None = None
    fallbacks: tuple[Fallback, ...] = ()
    asks_for: Mapping[str, Any] = field(default_factory=dict)
    running_usd: float = USD_PER_RUNNING_SECOND
    bills_setup: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)

    @property
    def target(self) -> str:
        """What the provider runs."""
        return self.name

    @property
    def short_name(self) -> str:
        """The first alias, or the name."""
        return (*self.aliases, self.name)[0]

    @property
    def most_references(self) -> int:
        return self.references.most if self.references else 0

    @property
    def extension(self) -> str:
        """The extension of this model's files if the request names no format."""
        if self.kind == "video":
            return ".mp4"
        return "." + str(self.input_schema["properties"]["output_format"]["default"])

    @cached_property
    def input_schema(self) -> dict[str, Any]:
        """JSON Schema (2020-12) of the model's inputs. The defaults are those that a caller sees, so `asks_for`
        overrides the model's own. An optional parameter may be `null`, which means that it is left out."""
        schema = self.inputs.model_json_schema()
        for name, value in self.asks_for.items():
            schema["properties"][name]["default"] = value
        return nullable(schema)

    def default(self, name: str) -> Any:
        """The model's own default of a parameter."""
        return self.inputs.model_fields[name].default if name in self.inputs.model_fields else None

    @property
    def billing(self) -> Price:
        """Its price, or the one by which it counts without: the most that a second may cost in which it runs."""
        return self.price or Price(self.running_usd, "running_second")

    @property
    def bills_running(self) -> bool:
        """Whether it is billed for the seconds in which it runs, and not for what it makes."""
        return self.billing.per == "running_second"

    def bound(self, sent: Mapping[str, Any], *, longest: float = LONGEST) -> float:
        """The most USD that a prediction with this input may cost, if it may take `longest` seconds."""
        most = self.billing.bound(sent, self, longest=longest)
        return most if math.isfinite(most) else round(self.running_usd * longest, 6)

    def cost(
        self,
        sent: Mapping[str, Any],
        *,
        outputs: int | None = None,
        metrics: Mapping[str, Any] = NOTHING,
        longest: float = LONGEST,
    ) -> float:
        """USD for a prediction with this input and this number of outputs, by default the number in the input. What
        Replicate has counted (`metrics`) comes first, and it is never more than the bound."""
        usd = self.billing.cost(sent, self, outputs=outputs, metrics=metrics, longest=longest)
        return min(usd, self.bound(sent, longest=longest))

    def basis(self, metrics: Mapping[str, Any] = NOTHING) -> Basis:
        """How the cost of a prediction with these metrics is known."""
        if not self.bills_running:
            return "declared"
        if self.billing.counted(metrics) is None:
            return "bounded"
        return "learned" if self.price is None else "declared"

    def takes(self, name: str) -> bool:
        return name in self.inputs.model_fields

    def choices(self, name: str) -> Sequence[Any]:
        """The values of an input, if it has a list of them."""
        values: Sequence[Any] = self._plain(name).get("enum", ())
        return values

    def maximum(self, name: str) -> float | None:
        """The greatest number that an input takes, None without a maximum."""
        return self._plain(name).get("maximum")

    def _plain(self, name: str) -> Mapping[str, Any]:
        schema = self.input_schema["properties"].get(name, {})
        return next((each for each in schema.get("anyOf", ()) if each.get("type") != "null"), schema)

    def as_json(self) -> dict[str, Any]:
        """The model in the body of `GET /models`."""
        takes = (
            {"parameter": self.references.parameter, "most": self.references.most}
            if self.references
            else None
        )
        return {
            "name": self.name,
            "aliases": list(self.aliases),
            "kind": self.kind,
            "price": self.price.as_json() if self.price else None,
            **({} if self.price else {"unpriced": self._unpriced()}),
            "tier": self.tier,
            "credits": self.credits,
            "references": takes,
            "fallbacks": [asdict(rule) for rule in self.fallbacks],
            "default_extension": self.extension,
            "input_schema": self.input_schema,
            "example": {"model_name": self.short_name, **self.example},
        }

    def _unpriced(self) -> dict[str, Any]:
        """How a model without a price counts, in the body of `GET /models`."""
        return {"usd_per_running_second": self.running_usd, "bills_setup_and_idle": self.bills_setup}


def nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """The JSON Schema of an object whose optional properties may be null."""
    for name, each in schema["properties"].items():
        if name not in schema.get("required", ()) and {"type": "null"} not in each.get("anyOf", ()):
            about = {key: each[key] for key in ("title", "description", "default") if key in each}
            alone = {key: value for key, value in each.items() if key not in about}
            options = alone["anyOf"] if alone.keys() == {"anyOf"} else [alone]
            schema["properties"][name] = {"anyOf": [*options, {"type": "null"}], **about}
    return schema


def text_fields(schema: Mapping[str, Any]) -> set[str]:
    """The properties of a JSON Schema that hold text."""
    return {name for name, each in schema["properties"].items() if any(_texts(each))}


def free_text_fields(schema: Mapping[str, Any]) -> set[str]:
    """Those of `text_fields` that hold free text, neither one of several choices nor a URL."""
    return {
        name
        for name, each in schema["properties"].items()
        if any(not option.keys() & {"enum", "const", "format"} for option in _texts(each))
    }


def _texts(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    return (option for option in (schema, *schema.get("anyOf", ())) if option.get("type") == "string")
