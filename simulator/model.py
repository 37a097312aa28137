"""A model: its versions with their schemas, what Replicate tells about it, and what only the simulator knows.

What a caller sees is `page`, the fields of `GET /v1/models/{owner}/{name}`. What a caller can only notice is in
`Facts`: how long it runs and boots, what it costs, and who may see it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from simulator.schemas import Property, Schema

Kind = Literal["image", "video", "audio", "text", "3d", "data"]
Per = Literal["image", "call", "second"]
Family = Literal["flux", "qwen", "sdxl"]

KINDS: tuple[Kind, ...] = ("image", "video", "audio", "text", "3d", "data")
FAMILIES: tuple[Family, ...] = ("flux", "qwen", "sdxl")
HIDDEN = "hidden"
"""The version in predictions of official models."""


@dataclass(frozen=True, slots=True)
class Price:
    """A price in USD: for each image, for a call, or for each second of the output.

    With `by`, the price depends on those inputs, and `usd` has a level of choices for each: `{"1K": 0.15, "4K": 0.3}`.
    A truth value is `true` or `false` there. `each` is USD for each item of these inputs, which are lists.
    """

    usd: Any
    per: Per
    by: tuple[str, ...] = ()
    each: Mapping[str, float] = field(default_factory=dict)

    def of(self, schema: Schema, inputs: Mapping[str, Any]) -> float:
        """USD for each unit. A choice that the table lacks costs as its dearest."""
        usd = self.usd
        for name in self.by:
            choice = schema.value(inputs, name)
            usd = usd.get(str(choice).lower() if isinstance(choice, bool) else str(choice), usd)
            if not isinstance(usd, Mapping):
                break
        return float(usd) if not isinstance(usd, Mapping) else max(_leaves(usd))

    def beside(self, inputs: Mapping[str, Any]) -> float:
        """USD for the items of its inputs."""
        return sum(usd * len(inputs.get(name) or ()) for name, usd in self.each.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainer:
    """What the trainings of a model make.

    Attributes:
        family: The models that it trains. The layout of the weights and the schema of the new versions follow from it.
        seconds: The usual time from the start of a training to its end.
    """

    family: Family = "flux"
    seconds: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Facts about a model that Replicate does not publish.

    Attributes:
        kind: What its files are.
        seconds: The usual time from the start of a prediction to its end.
        price: The price of its outputs. None if it is billed by the time of its hardware.
        hardware: The hardware that it runs on, by Replicate's name for it.
        boot_seconds: How long it boots before its first prediction.
        boots_fast: Whether its boots and failures are free though it is private, as of all trained LoRAs.
        tokens: The tokens of the accounts that see it. None if all do.
        trainer: What its trainings make, if a version of it can be trained.
    """

    kind: Kind = "image"
    seconds: float = 3.0
    price: Price | None = None
    hardware: str = "gpu-h100"
    boot_seconds: float = 0.0
    boots_fast: bool = False
    tokens: frozenset[str] | None = None
    trainer: Trainer = field(default_factory=Trainer)


@dataclass(frozen=True, slots=True)
class Version:
    """A version, which never changes, but can be disabled. `created_at` is a date in Replicate's form."""

    id: str
    schema: Schema
    created_at: str = "2025-01-01T00:00:00.000000Z"
    cog_version: str | None = "0.13.7"
    is_disabled: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """A model. `versions` are newest first, and can be none; `page` has what Replicate's page of it says."""

    name: str
    versions: tuple[Version, ...]
    page: Mapping[str, Any]
    facts: Facts = field(default_factory=Facts)

    @property
    def is_official(self) -> bool:
        """Whether it runs by its name. If nothing says so, as in documents of 2024, it runs by version only."""
        return self.page.get("is_official") is True

    @property
    def is_private(self) -> bool:
        return self.page.get("visibility") == "private"

    @property
    def kind(self) -> Kind:
        return self.facts.kind

    @property
    def price(self) -> Price | None:
        return self.facts.price

    @property
    def schema(self) -> Schema:
        """The schema of the latest version."""
        return self.versions[0].schema if self.versions else Schema({})

    @property
    def inputs(self) -> Mapping[str, Property]:
        """The inputs of the latest version."""
        return self.schema.inputs

    @property
    def version(self) -> str:
        """The id of the latest version, 64 hexadecimal digits, or an empty text."""
        return self.versions[0].id if self.versions else ""

    def default(self, name: str) -> Any:
        """The default of an input of the latest version, or None."""
        return self.schema.default(name)

    def find(self, version: str) -> Version | None:
        """The version with this id, or None. `hidden` is the latest."""
        if version == HIDDEN:
            return self.versions[0] if self.versions else None
        return next((each for each in self.versions if each.id == version), None)

    def is_visible(self, token: str) -> bool:
        """Whether the account of `token` sees it."""
        return self.facts.tokens is None or token in self.facts.tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A deployment of one version of a model, on hardware of its own.

    `tokens` are those of the accounts that see it; None if all do.
    """

    name: str
    model: str
    version: str
    hardware: str = "gpu-h100"
    min_instances: int = 0
    max_instances: int = 1
    tokens: frozenset[str] | None = None


def requested_outputs(schema: Schema, inputs: Mapping[str, Any]) -> int:
    """How many outputs `inputs` ask for, as far as the schema has an input for it."""
    names = [name for name in _COUNTS if name in schema.inputs]
    if "max_images" in names and schema.value(inputs, "sequential_image_generation") != "auto":
        names.remove("max_images")
    number = schema.value(inputs, *names)
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    return int(number) if is_number and 1 <= number <= _MOST else 1


_COUNTS: Sequence[str] = ("num_outputs", "num_images", "number_of_images", "max_images")
_MOST = 15


def _leaves(table: Mapping[str, Any]) -> list[float]:
    """All prices of a table."""
    return [
        usd
        for each in table.values()
        for usd in (_leaves(each) if isinstance(each, Mapping) else [float(each)])
    ]
