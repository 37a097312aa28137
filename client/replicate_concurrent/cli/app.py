"""The commands of `rcg`, put together."""

from __future__ import annotations

from typing import Annotated

import typer

from replicate_concurrent.cli import batching, here, keys, making, queries, texts, training
from replicate_concurrent.cli.session import Session, emit
from replicate_concurrent.version import VERSION

app = typer.Typer(
    help="Generate with Replicate's and Gemini's models through one service, for all scripts of a team.\n\n"
    'Example: rcg generate "A red fox" -m flux-dev -o out/',
    no_args_is_help=True,
    rich_markup_mode=None,  # rich would take a third of the start
    pretty_exceptions_enable=False,  # they print the values of variables, such as keys
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(is_set: bool) -> None:
    if is_set:
        emit(f"rcg {VERSION}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    url: Annotated[
        str | None,
        typer.Option("--url", metavar="URL", help="The address of the service; else RCG_URL or `rcg init`."),
    ] = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """The options before a command."""
    session: Session = context.obj
    session.url = url


for command in (
    *(making.generate, batching.batch, making.watch, making.get, making.cancel, making.list_),
    *(training.train, texts.chat, texts.extract),
    *(queries.models, queries.usage, queries.status, queries.configure),
    *(here.init, here.simulate, here.serve, here.stop, here.doctor, here.completion),
):
    name = command.__name__.rstrip("_")
    if name == "simulate":
        settings = {"ignore_unknown_options": True, "allow_interspersed_args": False}
        app.command(name, context_settings=settings)(command)
    else:
        app.command(name)(command)
app.add_typer(keys.app, name="keys")
