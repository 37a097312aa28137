"""The declaration of a model: its published inputs, and facts such as its price and its fallbacks.

`models.py` declares the models with `declare`. Validation, `/models`, OpenAPI, `/docs` and the README's table all
follow from those declarations.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal, get_args

from catalog.inputs import LARGEST, Inputs, Rule
from catalog.outputs import FILES, OutputForm
from catalog.prices import LONGEST, NO_METRICS, USD_PER_RUNNING_SECOND, Basis, Price
from catalog.published import Overlay, compiled, saved
from catalog.targets import Target
from contract.providers import CREATIONS
from errors import ABSENT
from media.formats import Kind

Tier = Literal["free", "basic", "premium"]

KINDS: tuple[str, ...] = get_args(Kind)
TIERS: tuple[str, ...] = get_args(Tier)

UNCOUNTED = sys.maxsize
"""The most reference images of a model that does not say how many it takes."""


@dataclass(frozen=True, slots=True)
class References:
    """The parameter that takes reference images, and how many at most, None if the model does not say. A model that
    `edits` changes what the images show. For others, an image is only a start: for a variation, or for a video. Images
    that the requested model does not take go to a `preferred` model, which edits, too."""

    parameter: str
    most: int | None = 1
    edits: bool = False
    preferred: bool = False

    @property
    def does_edit(self) -> bool:
        return self.edits or self.preferred


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
    """One entry of the registry. `document` is the OpenAPI document of its version, from which `inputs` are made.
    `asks_for` has the values to send for parameters that the caller leaves out. `credits` is the cost of one
    generation in a plan. `usual_seconds` is an estimate until generations have been measured. `output` is the form of
    its output. `kind` is None if that does not say what the model makes. `version` is the one that was checked; an
    official model has none, since it runs by its name. A `retired` model may fail any day, which the sentence explains.
    If its own schema could not be read, `unread` is a sentence with the reason. A `caution` is one about how it runs.
    `provider` is the name of the provider that runs it. `trigger_word` is that of its training, if that ran here.

    A model without a price costs at most `running_usd` for each second that it runs. If it `bills_setup`, as private
    models and deployments do, Replicate also bills its setup, its failures, and the time in which it is idle. If it
    `bills_failures`, as trainings do, also a failure is billed for the seconds that it ran."""

    name: str
    aliases: tuple[str, ...]
    kind: Kind | None
    price: Price | None
    tier: Tier | None
    credits: int
    usual_seconds: float
    document: Mapping[str, Any] = field(repr=False)
    inputs: Inputs = field(repr=False)
    example: Mapping[str, Any]
    references: References | None = None
    fallbacks: tuple[Fallback, ...] = ()
    asks_for: Mapping[str, Any] = field(default_factory=dict)
    output: OutputForm = FILES
    version: str | None = None
    description: str = ""
    running_usd: float = USD_PER_RUNNING_SECOND
    bills_setup: bool = False
    bills_failures: bool = False
    retired: str | None = None
    unread: str | None = None
    caution: str | None = None
    provider: str = CREATIONS
    trigger_word: str | None = None

    @cached_property
    def target(self) -> str:
        """What its provider runs (`targets.py`)."""
        is_deployment = Target.parse(self.name).deployment is not None
        return self.name if is_deployment else str(Target(self.name, self.version))

    @property
    def timed_as(self) -> str:
        """The name under which its durations are recorded."""
        return self.name

    @property
    def is_published(self) -> bool:
        """Whether it is not declared, but known by the schema that Replicate publishes."""
        return self.inputs.lenient

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)

    @property
    def short_name(self) -> str:
        """The first alias, or the name."""
        return (*self.aliases, self.name)[0]

    @cached_property
    def boots(self) -> str | None:
        """The version or deployment whose boot its predictions may have to wait for. None for an official model, which
        is always warm."""
        return None if Target.parse(self.target).is_name else self.target

    @property
    def most_references(self) -> int:
        if self.references is None:
            return 0
        return UNCOUNTED if self.references.most is None else self.references.most

    @property
    def extension(self) -> str:
        """The extension of this model's files if the request names no format."""
        chosen = self.asks_for.get("output_format", self.default("output_format"))
        return f".{chosen}" if isinstance(chosen, str) else (".mp4" if self.kind == "video" else "")

    @cached_property
    def input_schema(self) -> dict[str, Any]:
        """JSON Schema (2020-12) of the model's inputs. The defaults are those that a caller sees, so `asks_for`
        overrides the model's own. An optional parameter may be `null`, which means that it is left out."""
        return self.inputs.schema(self.asks_for)

    def default(self, name: str) -> Any:
        """The model's own default of a parameter, None if it has none."""
        known = self.inputs.fields.get(name)
        return None if known is None or known.default is ABSENT else known.default

    @cached_property
    def billing(self) -> Price:
        """Its price, or the one by which it counts without: the most that a second may cost in which it runs."""
        return self.price or Price(self.running_usd, "running_second")

    @cached_property
    def bills_running(self) -> bool:
        """Whether it is billed for the seconds in which it runs, and not for what it makes."""
        return self.billing.per == "running_second"

    def bound(self, sent: Mapping[str, Any], *, longest: float = LONGEST) -> float:
        """The most USD that a prediction with this input may cost, if it may take `longest` seconds."""
        return self.billing.bound(sent, self, longest=longest, otherwise=self._running_bound(longest))

    def cost(
        self,
        sent: Mapping[str, Any],
        *,
        outputs: int | None = None,
        metrics: Mapping[str, Any] = NO_METRICS,
        longest: float = LONGEST,
    ) -> float:
        """USD for a prediction with this input and this number of outputs, by default the number in the input. What
        Replicate has counted (`metrics`) comes first, and it is never more than the bound."""
        return self.billing.cost(
            sent,
            self,
            outputs=outputs,
            metrics=metrics,
            longest=longest,
            otherwise=self._running_bound(longest),
        )

    def basis(self, metrics: Mapping[str, Any] = NO_METRICS) -> Basis:
        """How the cost of a prediction with these metrics is known."""
        if not self.bills_running:
            return "declared"
        if self.billing.counted(metrics) is None:
            return "bounded"
        return "learned" if self.price is None else "declared"

    def takes(self, name: str) -> bool:
        return name in self.inputs.fields

    def takes_beside_references(self, name: str) -> bool:
        """Whether it has an input of this name that is not its parameter for reference images."""
        return name in self.inputs and (self.references is None or name != self.references.parameter)

    def choices(self, name: str) -> Sequence[Any]:
        """The values of an input, if it has a list of them."""
        return self.inputs[name].choices if name in self.inputs else ()

    def maximum(self, name: str) -> float | None:
        """The greatest number that an input takes, None without a maximum."""
        found = self.inputs[name].maximum if name in self.inputs else None
        return None if found == LARGEST else found

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
            **({} if self.retired is None else {"retired": self.retired}),
            "references": takes,
            "fallbacks": [asdict(rule) for rule in self.fallbacks],
            "default_extension": self.extension,
            "input_schema": self.input_schema,
            "example": self._example(),
            **self._of_published(),
        }

    def _example(self) -> dict[str, Any]:
        if self.is_published:
            return {"model_name": self.target, "input": dict(self.example)}
        return {"model_name": self.short_name, **self.example}

    def _of_published(self) -> dict[str, Any]:
        """Further fields of a model that is not declared."""
        if not self.is_published:
            return {}
        unchecked = {name: each.unchecked for name, each in self.inputs.fields.items() if each.unchecked}
        if self.inputs.is_open:
            unchecked["*"] = self.unread or "The published schema does not describe the inputs."
        return {
            "version": self.version,
            "versions": [{"id": self.version, "created_at": None}] if self.version else [],
            "description": self.description,
            "unchecked": unchecked,
        }

    def _running_bound(self, longest: float) -> float:
        return round(self.running_usd * longest, 6)

    def _unpriced(self) -> dict[str, Any]:
        """How a model without a price counts, in the body of `GET /models`."""
        return {"usd_per_running_second": self.running_usd, "bills_setup_and_idle": self.bills_setup}


def declare(
    name: str,
    *,
    aliases: tuple[str, ...] | None = None,
    references: References | None = None,
    limits: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    rules: tuple[Rule, ...] = (),
    document: Mapping[str, Any] | None = None,
    **facts: Any,
) -> Model:
    """A model with its published `document`, by default the one that is saved in `catalog/schemas/`, and its other
    facts. Its alias is its name without the owner, if it has no others.

    `limits` are further keywords of inputs, and `rules` rules between inputs, which the model states in words only."""
    keywords = {each: dict(limit) for each, limit in limits.items()}
    if references and references.most and references.most > 1:
        keywords.setdefault(references.parameter, {})["maxItems"] = references.most
    published = saved(name) if document is None else document
    inputs = compiled(published, overlay=Overlay(keywords, rules))
    aliases = (name.partition("/")[2],) if aliases is None else aliases
    return Model(
        name=name, aliases=aliases, document=published, inputs=inputs, references=references, **facts
    )


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


def _texts(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    return (option for option in (schema, *schema.get("anyOf", ())) if option.get("type") == "string")
