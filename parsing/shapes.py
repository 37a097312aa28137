"""The fields of a body beside the parameters of a model, and the parsed requests."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema

from auth import Secret
from catalog.adaptation import Change, Step, number_of_outputs
from catalog.fallback import Route
from catalog.model import Model
from catalog.presets import Preset
from catalog.prices import LONGEST
from catalog.text_values import Text, is_blank, usable_text
from catalog.trigger_words import FIELD, has_word, put_in_front, told_missing
from files.names import DownloadName
from parsing.cautions import warnings_of
from parsing.pairs import BoundedPairs

_KEY = re.compile(r"[!-~]{1,255}")

MAX_TIMEOUT = 1800
"""Seconds: Replicate ends every prediction that has run for 30 minutes. A wait for its start may last as long here."""


def _fallback(value: Any) -> Any:
    if isinstance(value, bool) or (isinstance(value, list) and all(isinstance(each, str) for each in value)):
        return value
    raise ValueError("must be true, false, or a list of models in the order to try them")


def usable_key(value: str) -> str:
    """An idempotency key. Raises ValueError if it cannot be one."""
    if not _KEY.fullmatch(value):
        raise ValueError("must be 1 to 255 visible ASCII characters")
    return value


def usable_word(value: str) -> str:
    if is_blank(usable_text(value)) or value != value.strip():
        raise ValueError("must be a word without spaces around it")
    return value


WebhookAddress = Annotated[
    str | None,
    Field(
        description="Where the result is posted once there is one, signed if the service has a secret: an https URL of "
        "a public host. The operator may allow further hosts, also by http.",
        max_length=2048,
    ),
]
MaxCost = Annotated[
    float | None,
    Field(
        ge=0, description="USD that it may cost at the most; else it is refused, and a fallback passed over."
    ),
]


DryRun = Annotated[bool, Field(description="Only forecast how long it would take, and its cost.")]


_Semaphore = Annotated[
    str | None,
    Field(
        min_length=1,
        max_length=100,
        description="The id of a semaphore that the operator has created. Each prediction also needs a permit of it.",
    ),
]


MetadataPairs = Annotated[
    BoundedPairs | None,
    Field(
        description="At most 16 pairs of texts, with names of 1 to 64 characters and values of at most 512. They are "
        "kept and shown, and lists and the usage can be filtered and grouped by them. They do not reach the model."
    ),
]


class OwnFields(BaseModel):
    """The fields of one generation that belong to the service and not to its model."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)

    model_name: Text = Field(description="Full name or alias of a model.")
    timeout: Annotated[float, Field(ge=1, le=MAX_TIMEOUT)] | None = Field(
        None, description="Seconds the prediction may run."
    )
    start_timeout: Annotated[float, Field(ge=1, le=MAX_TIMEOUT)] | None = Field(
        None, description="Seconds the prediction may wait for its start, such as for the model to boot."
    )
    fallback: Annotated[
        Any,
        PlainValidator(_fallback),
        WithJsonSchema({"anyOf": [{"type": "boolean"}, {"type": "array", "items": {"type": "string"}}]}),
    ] = Field(
        False,
        description="Whether other models may be tried when this one fails, or which, in the order to try them.",
    )
    placeholder: bool = Field(
        False,
        description="Whether a black picture may stand in, marked as no success, when everything failed.",
    )
    file_name: DownloadName | None = Field(
        None, description="What the picture is called when it is downloaded; its ending follows what it is."
    )
    webhook: WebhookAddress = None
    metadata: MetadataPairs = None
    max_cost_usd: MaxCost = None
    preset: Preset | None = Field(
        None,
        description="The shape. Each model gets it in its own inputs, so no aspect ratio or size can stand beside it.",
    )
    trigger_word: Annotated[str, AfterValidator(usable_word)] | None = Field(
        None,
        max_length=100,
        description="The trigger word of a LoRA. It is put in front of the prompt, unless it is a word of it already.",
    )


class ItemFields(OwnFields):
    """The same for one of the `requests` of a batch."""

    idempotency_key: (
        Annotated[
            str,
            AfterValidator(usable_key),
            WithJsonSchema({"type": "string", "pattern": f"^{_KEY.pattern}$"}),
        ]
        | None
    ) = Field(
        None,
        description="The key of this item, as in the header `Idempotency-Key` of `POST /generate`. A generation that "
        "there is under this key is joined: it is shown in this place, not made again, and costs nothing more.",
    )


class SingleFields(OwnFields):
    """The same for `POST /generate`."""

    dry_run: DryRun = False
    external_semaphore_id: _Semaphore = None


class BatchFields(BaseModel):
    """The fields of a batch."""

    model_config = ConfigDict(strict=True, frozen=True)

    max_concurrent: Annotated[int, Field(ge=1)] | None = Field(
        None, description="At most so many of the batch's items in flight at once."
    )
    dry_run: DryRun = False
    webhook: WebhookAddress = None
    metadata: MetadataPairs = None
    max_cost_usd: MaxCost = None
    external_semaphore_id: _Semaphore = None


@dataclass(frozen=True)
class GenerationRequest:
    """One valid generation. `first` is the first model and its input, in which large images are still to be uploaded.
    `route` leads to further models if the caller chose a fallback. `longest` is how many seconds each prediction
    may take from its creation. `secrets` are inputs that must not be written anywhere, and `lost_secrets` the names of
    those that a process before a restart had. The `trigger_word` is in front of its prompt, and `model_word` is the one
    that the operator has named for the first model. `warned` has the warnings of a request that was accepted before.
    `given` is the body that the request was read from, without secrets and without the `idempotency_key` of an item. In
    a batch of prompts it is the request's own part of the body. `flagged` are the categories of rules that it matches
    and that let it pass."""

    first: Step
    requested_model: str
    timeout: float | None = None
    start_timeout: float | None = None
    route: Route | None = None
    placeholder: bool = False
    file_name: str | None = None
    webhook: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    max_cost: float | None = None
    dry_run: bool = False
    semaphore: str | None = None
    longest: float = LONGEST
    secrets: Mapping[str, Secret] = field(default_factory=dict)
    lost_secrets: Collection[str] = frozenset()
    trigger_word: str | None = None
    model_word: str | None = None
    warned: tuple[str, ...] | None = None
    given: Mapping[str, Any] = field(default_factory=dict)
    idempotency_key: str | None = None
    flagged: tuple[str, ...] = ()

    @property
    def model(self) -> Model:
        return self.first.model

    @property
    def prompt(self) -> str:
        """The prompt, empty if the model takes none."""
        prompt = self.first.input.get("prompt", "")
        return prompt if isinstance(prompt, str) else ""

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """Sentences for the caller about a request that is valid."""
        if self.warned is not None:
            return self.warned
        found = warnings_of(self.first, self.route.order if self.route and self.route.order else ())
        word, prompt = self.model_word, self.prompt
        if word is not None and self.trigger_word is None and prompt and not has_word(prompt, word):
            found.append(told_missing(word, self.model))
        if self.flagged:
            found.append(f"Rules of this service flag this request: {', '.join(self.flagged)}.")
        return tuple(found)

    @cached_property
    def metadata_json(self) -> str | None:
        """Its metadata as a JSON object, None if there is none."""
        return metadata_json(self.metadata)

    @cached_property
    def bound(self) -> float:
        """The most USD that its first prediction may cost."""
        return self.first.model.bound(self.first.input, longest=self.longest)

    def bound_of(self, model: Model, params: Mapping[str, Any]) -> float:
        """The most USD that a prediction of this model with these parameters may cost."""
        is_first = params is self.first.input and model is self.first.model
        return self.bound if is_first else model.bound(params, longest=self.longest)

    @property
    def outputs(self) -> int:
        """The requested number of outputs."""
        return number_of_outputs(self.first.input)

    def secrets_for(self, model: Model) -> Mapping[str, Secret]:
        """The secret inputs that this model takes."""
        return {name: secret for name, secret in self.secrets.items() if name in model.inputs}

    def lost_for(self, model: Model) -> Collection[str]:
        """The names of the secret inputs that this model took before a restart."""
        return {name for name in self.lost_secrets if name in model.inputs} or model.inputs.secrets

    def named(self, file_name: str) -> "GenerationRequest":
        return replace(self, file_name=file_name, given={**self.given, "file_name": file_name})

    def with_prompt(
        self, prompt: str, *, file_name: str | None, inside: Mapping[str, Any] | None = None
    ) -> "GenerationRequest":
        """The request with another prompt. `inside` are its parameters if the body has them in `input`."""
        sent, added = put_in_front(self.trigger_word, prompt)
        first = replace(
            self.first,
            input={**self.first.input, "prompt": sent},
            changes=_with_word(added, self.first.changes),
        )
        route = self.route and self.route.with_prompt(sent, _with_word(added, self.route.changes))
        given: dict[str, Any] = (
            {"prompt": prompt} if inside is None else {"input": {**inside, "prompt": prompt}}
        )
        if file_name is not None:
            given["file_name"] = file_name
        return replace(self, first=first, route=route, file_name=file_name, given=given)


def _with_word(added: tuple[Change, ...], before: tuple[Change, ...]) -> tuple[Change, ...]:
    """The changes of a request with the trigger word of another prompt."""
    return (*added, *(each for each in before if each.field != FIELD))


def metadata_json(metadata: Mapping[str, str]) -> str | None:
    """Metadata as records have it."""
    return json.dumps(dict(metadata), ensure_ascii=False) if metadata else None


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """Generations in the caller's order, each with the `metadata` of the batch as well. `shared` is the part of the
    body that holds for each of them."""

    requests: Sequence[GenerationRequest]
    max_concurrent: int | None = None
    dry_run: bool = False
    webhook: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    max_cost: float | None = None
    semaphore: str | None = None
    shared: Mapping[str, Any] = field(default_factory=dict)

    def without(self, places: Collection[int]) -> "BatchRequest":
        """The batch without the items at these places."""
        left = [each for place, each in enumerate(self.requests) if place not in places]
        return replace(self, requests=left)
