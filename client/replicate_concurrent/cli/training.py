"""`rcg train`: trains a model on a folder of images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
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
    has_terminal,
    report,
    usd,
)

if TYPE_CHECKING:
    from replicate_concurrent.client import Client
    from replicate_concurrent.training_results import TrainingPlan

Images = Annotated[
    str,
    typer.Argument(metavar="IMAGES", help="A folder of images with captions beside them, a zip, or its URL."),
]
Destination = Annotated[
    str,
    typer.Option(
        "-d", "--destination", "--name", metavar="OWNER/NAME", help="The model that gets the new version."
    ),
]
Trigger = Annotated[
    str | None, typer.Option("--trigger", metavar="WORD", help="The word for the subject in prompts.")
]
Trainer = Annotated[str, typer.Option("--trainer", help="The trainer at Replicate.")]
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
Yes = Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what it would cost.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Print the id, and leave it to the service.")]


def train(
    context: typer.Context,
    images: Images,
    *,
    destination: Destination,
    trigger: Trigger = None,
    trainer: Trainer = "ostris/flux-dev-lora-trainer",
    inputs: Inputs = None,
    create: Create = False,
    public: Public = False,
    timeout: Timeout = None,
    max_cost: MaxCost = None,
    out: Out = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    no_wait: NoWait = False,
    json: Json = False,
) -> None:
    """Train a model on images. Shows what it may cost, and asks first on a terminal. Prints the model.

    Example: rcg train photos/ -d me/dog --create --trigger TOK -p steps=1000 -o out/
    """
    if public and not create:
        raise typer.BadParameter("needs --create", param_hint="--public")
    session: Session = context.obj
    session.json = json
    named = {
        "trainer": trainer,
        "destination": destination,
        "trigger_word": trigger,
        "input": parameters(inputs) or None,
        "timeout": timeout,
    }
    visibility = "public" if public else "private"
    command = _Command(_source(images), named, create, visibility, max_cost, yes, dry_run, no_wait, out)
    with session.client() as client:
        _run(session, client, command)


@dataclass(frozen=True)
class _Command:
    """The options of `rcg train`. `named` are the arguments of a training and of its forecast, `creates` whether a
    destination that does not exist is made, and `visibility` that of such a one."""

    images: str
    named: Mapping[str, Any]
    creates: bool
    visibility: str
    max_cost: float | None
    yes: bool
    dry_run: bool
    no_wait: bool
    out: Path | None

    @property
    def new(self) -> Mapping[str, str]:
        """How a destination is made. A forecast always has it, and then shows whether the destination exists."""
        return {"visibility": self.visibility}


def _run(session: Session, client: Client, command: _Command) -> None:
    plan = client.estimate_training(command.images, **command.named, create_destination=command.new)
    if command.dry_run:
        emit_json(plan.raw) if session.json else emit(_forecast(plan, command))
        return
    command = _checked(plan, command)
    handle = client.train(
        command.images,
        **command.named,
        create_destination=command.new if command.creates else None,
        max_cost_usd=command.max_cost,
    )
    if command.no_wait:
        emit_json(handle.status().raw) if session.json else emit(handle.id)
    else:
        _follow(client, handle.id, plan, command, session.json)


def _checked(plan: TrainingPlan, command: _Command) -> _Command:
    """Show the forecast, and ask. On a terminal that may also answer whether a missing destination is made. Raises Exit
    if no training is to be begun."""
    report(_forecast(plan, command))
    lacks_destination = plan.destination_exists is False and not command.creates
    if lacks_destination and (command.yes or not has_terminal()):
        raise typer.Exit(USAGE)
    question = f"Make it, {command.visibility}, and begin? [y/N] " if lacks_destination else "Begin? [y/N] "
    if not command.yes and not confirmed(question):
        report("No training was begun.")
        raise typer.Exit(FAILED)
    return replace(command, creates=command.creates or lacks_destination)


def _source(images: str) -> str:
    """The images, which are there if they are no address. Raises ValueError, since the command is wrong then."""
    from replicate_concurrent.schemas import is_address

    if not is_address(images) and not Path(images).expanduser().exists():
        raise ValueError(f"{images}: No such file or directory")
    return images


def _forecast(plan: TrainingPlan, command: _Command) -> str:
    """The sentences before a training."""
    lines = [
        f"{plan.trainer} trains {plan.destination} on {plan.images} images, {plan.captions} with captions."
    ]
    if plan.destination_exists is False:
        how = f"it will be made, {command.visibility}" if command.creates else "--create makes it"
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


def _follow(client: Client, target: str, plan: TrainingPlan, command: _Command, json: bool) -> None:
    """Wait for the end. Print the model, and save the weights."""
    from replicate_concurrent.cli.waiting import ended_training

    made = ended_training(client, target)
    if json:
        emit_json(made.raw)
    elif made.model is not None:
        emit(made.model)
    if made.raw.get("simulated") is True:
        report("The service is simulated: this model is a fake.")
    for warning in made.warnings:
        if warning not in plan.warnings:
            report(f"rcg: {warning}")
    if made.error is not None:
        report(f"rcg: {made.id}: {made.error}")
        raise typer.Exit(FAILED)
    report(f"{made.id} has cost {usd(made.cost_usd)} USD.")
    if command.out is not None:
        path = client.training_handle(made.id).save_weights(command.out)
        (report if json else emit)(str(path))
