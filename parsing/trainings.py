"""Parses the body of `POST /trainings`.

`images` and `trigger_word` go to the inputs that the trainer has for them, by any name. All other inputs of
the trainer stand in `input`, and are checked against its published `TrainingInput`. All problems are reported.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema

from auth import Secret
from catalog.adaptation import Change, Step
from catalog.model import Model
from catalog.references import Upload
from catalog.targets import is_model_name
from catalog.text_values import Text
from catalog.trainers import Trainer
from contract.trainings import LONGEST, USUAL
from errors import Problem
from parsing.cautions import warnings_of
from parsing.content import checked, compared
from parsing.context import ParseContext
from parsing.generation import read_webhook
from parsing.params import INPUT, LONGEST_INPUT, input_size, without_secrets
from parsing.shapes import DryRun, GenerationRequest, MaxCost, MetadataPairs, WebhookAddress, usable_word
from parsing.validation import not_a_field, refuse, refuse_if_any, unusable_reasons, validated

IMAGES: Final = "images"

START_WITHIN: Final = 3600.0
"""Seconds that a training may wait for its start at Replicate. Waiting is not billed."""

_LEAST_TIMEOUT: Final = 60

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


def _destination(value: str) -> str:
    if not (is_model_name(value) or _NAME.fullmatch(value)):
        raise ValueError("must be owner/name, or the name of a model in the account that pays")
    return value


class NewDestination(BaseModel):
    """How to make the destination, if it does not exist."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    visibility: Literal["private", "public"] = Field(
        default="private", description="Who may see the model: private or public."
    )
    hardware: str = Field(
        default="cpu",
        pattern="^[a-z0-9-]{1,50}$",
        description="The SKU of its hardware at Replicate. Fast-booting LoRAs ignore it.",
    )


def _new_destination(value: Any) -> Any:
    if isinstance(value, bool):
        return NewDestination() if value else None
    if isinstance(value, NewDestination) or (
        isinstance(value, dict) and value.keys() <= NewDestination.model_fields.keys()
    ):
        return NewDestination.model_validate(value)
    raise ValueError("must be true, false, or an object with visibility and hardware")


class TrainingFields(BaseModel):
    """The fields of a training that belong to the service."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)

    trainer: Text = Field(description="owner/name of a trainer at Replicate, or owner/name:version.")
    destination: Annotated[Text, AfterValidator(_destination)] = Field(
        description="The model that gets the new version: owner/name, or a name in the account that pays."
    )
    create_destination: Annotated[
        Any,
        PlainValidator(_new_destination),
        WithJsonSchema({"anyOf": [{"type": "boolean"}, NewDestination.model_json_schema()]}),
    ] = Field(None, description="Whether, and how, to make the destination if it does not exist.")
    trigger_word: Annotated[str, Field(max_length=100), AfterValidator(usable_word)] | None = Field(
        None, description="The word that stands for the subject in prompts of the new model."
    )
    timeout: Annotated[float, Field(ge=_LEAST_TIMEOUT, le=LONGEST)] | None = Field(
        None,
        description=f"Seconds that the training may run. This service cancels it then. {USUAL} if it is left out, or "
        "less for trainers that are quicker.",
    )
    webhook: WebhookAddress = None
    metadata: MetadataPairs = None
    max_cost_usd: MaxCost = None
    dry_run: DryRun = False


FIELDS: Final = (*TrainingFields.model_fields, IMAGES, INPUT)


def requested_trainer(body: Any) -> str | None:
    """The name of the trainer in a body, if it is a text. Raises InvalidRequest if the body is no object."""
    refuse_if_any(unusable_reasons("body", body))
    name = body.get("trainer")
    return name if isinstance(name, str) else None


def parse_training(
    body: Mapping[str, Any], trainer: Model | str | None, context: ParseContext
) -> tuple[TrainingFields, GenerationRequest]:
    """The training that a body requests. `trainer` is the one that it names, or why the name leads to none. `images`
    may be any value here, since files are checked by themselves. Raises InvalidRequest and ContentRefused."""
    body = {name: value for name, value in body.items() if value is not None}
    problems = [Problem(name, not_a_field(name, FIELDS), body[name]) for name in body if name not in FIELDS]
    own = {name: body[name] for name in TrainingFields.model_fields if name in body}
    fields = validated(TrainingFields, own, problems, context=context.validation)
    webhook = read_webhook(own.get("webhook"), context, problems)
    if isinstance(trainer, str):
        problems.append(Problem("trainer", trainer, body.get("trainer")))
    if IMAGES not in body:
        problems.append(
            Problem(IMAGES, "is required: the address of a zip, a zip, or images as files of a form")
        )
    inside = body.get(INPUT, {})
    if unusable := unusable_reasons(INPUT, inside):
        problems += unusable
        inside = {}
    if not isinstance(trainer, Model):
        refuse(problems)
    word = None if fields is None else fields.trigger_word
    sent, changes = _inputs(trainer, inside, word, body.get(IMAGES), context, problems)
    if problems or fields is None:
        refuse(problems)
    secrets = {name: Secret(sent.pop(name)) for name in trainer.inputs.secrets & sent.keys()}
    lost = trainer.inputs.secrets & inside.keys() - secrets.keys() if context.accepted else frozenset()
    step = Step(trainer, sent, changes)
    timeout = fields.timeout or (trainer.pace.timeout if isinstance(trainer, Trainer) else USUAL)
    request = GenerationRequest(
        step,
        trainer.name,
        timeout=timeout,
        start_timeout=START_WITHIN,
        webhook=webhook,
        metadata=fields.metadata or {},
        max_cost=fields.max_cost_usd,
        dry_run=fields.dry_run,
        longest=timeout,
        secrets=secrets,
        lost_secrets=frozenset(lost),
        warned=(*warnings_of(step, ()), *_cut_short(trainer, sent, timeout)),
        given=without_secrets(secrets, body),
    )
    # The word by its own name, which a trainer may not have.
    request = compared(request, [] if word is None else [("trigger_word", word)], context)
    return fields, checked([request], context)[0]


def _cut_short(trainer: Model, sent: Mapping[str, Any], timeout: float) -> tuple[str, ...]:
    """A warning if a training with this input usually runs for longer than its timeout."""
    usual = trainer.usual_run(sent) if isinstance(trainer, Trainer) else 0.0
    if usual <= timeout:
        return ()
    return (
        f"It usually runs for about {usual:,.0f} s, and will be cancelled after its timeout of {timeout:,.0f} s.",
    )


def _inputs(
    trainer: Model,
    inside: Mapping[str, Any],
    word: str | None,
    images: Any,
    context: ParseContext,
    problems: list[Problem],
) -> tuple[dict[str, Any], tuple[Change, ...]]:
    """The valid inputs of the trainer, with the trigger word and the images, and the texts that became numbers. Their
    problems are added."""
    params = dict(inside)
    zip_input, word_input = _own_names(trainer)
    for name, field in ((zip_input, IMAGES), (word_input, "trigger_word")):
        if name is not None and params.pop(name, None) is not None:
            problems.append(Problem(f"{INPUT}.{name}", f"is set by `{field}`, beside `{INPUT}`"))
    if isinstance(trainer, Trainer) and zip_input is None:
        problems.append(Problem("trainer", "takes no zip, and so no images", trainer.name))
    if word_input is not None and word is not None:
        params[word_input] = word
    found = trainer.inputs.check(params, accepted=context.accepted, elsewhere=(zip_input or "",))
    strange = (
        {} if trainer.inputs.is_open else {n: params[n] for n in params if n not in trainer.inputs.fields}
    )
    wrong = [*found.problems, *(_unknown(name, value, trainer) for name, value in strange.items())]
    problems += [
        replace(each, field="trigger_word") if each.field == word_input else each.within(INPUT)
        for each in wrong
    ]
    values = dict(found.values)
    if input_size(values) > LONGEST_INPUT:
        problems.append(Problem(INPUT, f"is too long: it may have {LONGEST_INPUT:,} bytes as JSON"))
    if zip_input is not None and isinstance(images, Upload):
        values[zip_input] = images
    return values, tuple(Change(each.name, each.given, each.name, each.sent) for each in found.turned)


def _own_names(trainer: Model) -> tuple[str | None, str | None]:
    """The inputs that the trainer has for the zip and for the trigger word."""
    return (trainer.zip_input, trainer.word_input) if isinstance(trainer, Trainer) else (None, None)


def _unknown(name: str, value: Any, trainer: Model) -> Problem:
    known = [each for each in trainer.inputs.fields if each not in _own_names(trainer)]
    return Problem(name, not_a_field(name, known), value)
