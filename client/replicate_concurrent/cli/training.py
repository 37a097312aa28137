"""`rcg train`: trains a model on a folder of images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from replicate_concurrent.cli.exits import FAILED, USAGE
from replicate_concurrent.cli.options import Json, parameters
from replicate_concurrent.cli.session import (
    Session,
    confirmed,
    duration,
    emit,
    emit_json,
    report,
    usd,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from replicate_concurrent.client import Client
    from replicate_concurrent.training_results import Training, TrainingPlan

_TRAINER = "ostris/flux-dev-lora-trainer"

Images = Annotated[
    str,
    typer.Argument(metavar="IMAGES", help="A folder of images with captions beside them, a zip, or its URL."),
]
Destination = Annotated[
    str,
    typer.Option("-d", "--destination", metavar="OWNER/NAME", help="The model that gets the new version."),
]
Trigger = Annotated[
    str | None, typer.Option("--trigger", metavar="WORD", help="The word for the subject in prompts.")
]
Inputs = Annotated[
    list[str] | None,
    typer.Option("-p", "--input", metavar="NAME=VALUE", help="An input of the trainer; may be repeated."),
]
Create = Annotated[bool, typer.Option("--create", help="Make the destination if it does not exist, private.")]
Public = Annotated[bool, typer.Option("--public", help="With --create: a public one.")]
Timeout = Annotated[
    float | None, typer.Option("--timeout", metavar="SECONDS", help="Cancel it if it runs longer.")
]
MaxCost = Annotated[
    float | None, typer.Option("--max-cost", min=0, metavar="USD", help="Refuse it if it may cost more.")
]
Out = Annotated[Path | None, typer.Option("-o", "--out", help="The directory for the weights.")]


def train(
    context: typer.Context,
    images: Images,
    *,
    destination: Destination,
    trigger: Trigger = None,
    trainer: Annotated[str, typer.Option("--trainer", help="The trainer at Replicate.")] = _TRAINER,
    inputs: Inputs = None,
    create: Create = False,
    public: Public = False,
    timeout: Timeout = None,
    max_cost: MaxCost = None,
    out: Out = None,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what it would cost.")] = False,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Print the id, and leave it to the service.")
    ] = False,
    json: Json = False,
) -> None:
    """Train a model on images. Shows what it may cost, and asks first on a terminal. Prints the model.

    Example: rcg train photos/ -d me/dog --create --trigger TOK -p steps=1000 -o out/
    """
    from replicate_concurrent.cli.waiting import ended_training

    if public and not create:
        raise typer.BadParameter("it says how --create makes the destination", param_hint="--public")
    session: Session = context.obj
    session.json = json
    source = _source(images)
    new = {"visibility": "public" if public else "private"}
    named: dict[str, Any] = {
        "trainer": trainer,
        "destination": destination,
        "trigger_word": trigger,
        "input": parameters(inputs) or None,
        "timeout": timeout,
    }
    with session.client() as client:
        plan = client.estimate_training(source, create_destination=new, **named)
        if dry_run:
            emit_json(plan.raw) if json else emit(_forecast(plan, new if create else None))
            return
        report(_forecast(plan, new if create else None))
        if plan.destination_exists is False and not create:
            raise typer.Exit(USAGE)
        if not yes and not confirmed("Begin? [y/N] "):
            report("No training was begun.")
            raise typer.Exit(FAILED)
        handle = client.train(
            source, create_destination=new if create else None, max_cost_usd=max_cost, **named
        )
        if no_wait:
            emit_json(handle.status().raw) if json else emit(handle.id)
            return
        made = ended_training(client, handle.id)
        emit_json(made.raw) if json else _show(made)
        _finish(client, made, out, json)


def _source(images: str) -> str:
    """The images, which are there if they are no address. Raises ValueError, since the command is wrong then."""
    from replicate_concurrent.schemas import is_address

    if not is_address(images) and not Path(images).expanduser().exists():
        raise ValueError(f"{images}: No such file or directory")
    return images


def _forecast(plan: TrainingPlan, new: Mapping[str, str] | None) -> str:
    """The sentences before a training. `new` is how its destination is to be made, if it does not exist."""
    lines = [
        f"{plan.trainer} trains {plan.destination} on {plan.images} images, {plan.captions} with captions."
    ]
    if plan.destination_exists is False:
        how = "--create makes it" if new is None else f"it will be made, {new['visibility']}"
        lines.append(f"{plan.destination} does not exist at Replicate: {how}.")
    most = f"at most {usd(plan.cost_bound_usd)} USD"
    if plan.estimated_seconds is None or plan.estimated_cost_usd is None:
        lines.append(f"What it will cost is not known, {most}.")
    else:
        lines.append(
            f"It will cost about {usd(plan.estimated_cost_usd)} USD, {most}, and take about "
            f"{duration(plan.estimated_seconds)}."
        )
    return "\n".join([*lines, *plan.warnings])


def _show(made: Training) -> None:
    if made.model is not None:
        emit(made.model)


def _finish(client: Client, made: Training, out: Path | None, json: bool) -> None:
    """Save the weights, and raise what went wrong."""
    if made.raw.get("simulated") is True:
        report("The service is simulated: this model is a fake.")
    for warning in made.warnings:
        report(f"rcg: {warning}")
    if made.error is not None:
        report(f"rcg: {made.id}: {made.error}")
        raise typer.Exit(FAILED)
    report(f"{made.id} has cost {usd(made.cost_usd)} USD.")
    if out is not None:
        path = client.training_handle(made.id).save_weights(out)
        (report if json else emit)(str(path))
