"""`rcg batch`: the options of a batch. `batch_run.py` runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from replicate_concurrent.cli.options import Json, Parameters, parameters
from replicate_concurrent.cli.session import Session
from replicate_concurrent.filenames import BATCH

_INPUT_HELP = "A .txt, .csv, .tsv or .jsonl with a row for each item, or - for standard input."
_PROMPT_HELP = "The prompt of each row, with {column}, or {prompt} for that of the row."

Input = Annotated[str, typer.Argument(metavar="INPUT", help=_INPUT_HELP)]
Model = Annotated[str | None, typer.Option("-m", "--model", help="The model of rows that name none.")]
Prompt = Annotated[str | None, typer.Option(help=_PROMPT_HELP)]
Out = Annotated[Path, typer.Option("-o", "--out", help="The directory for the files and the manifest.")]
Name = Annotated[str, typer.Option(help="The names of files; also with {column}, {model} and {id}.")]
Form = Annotated[
    str | None, typer.Option("--format", help="txt, csv, tsv or jsonl, if the ending does not tell.")
]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Make rows again that failed before.")]
AtOnce = Annotated[int | None, typer.Option(min=1, help="Predictions of this batch at once.")]
MaxCost = Annotated[float | None, typer.Option(min=0, metavar="USD", help="Refuse it if it may cost more.")]
AskAbove = Annotated[float, typer.Option(min=0, metavar="USD", help="Ask first if it may cost more.")]
Yes = Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what it would cost.")]
ContactSheet = Annotated[bool, typer.Option("--contact-sheet", help="Write an HTML page with all pictures.")]


def batch(
    context: typer.Context,
    input_: Input,
    *,
    model: Model = None,
    param: Parameters = None,
    prompt: Prompt = None,
    out: Out = Path("out"),
    name: Name = BATCH,
    form: Form = None,
    retry_failed: RetryFailed = False,
    max_concurrent: AtOnce = None,
    max_cost: MaxCost = None,
    ask_above: AskAbove = 5.0,
    yes: Yes = False,
    dry_run: DryRun = False,
    contact_sheet: ContactSheet = False,
    json: Json = False,
) -> None:
    """Generate each row of a file into a directory. The same command again goes on where this one ended.

    Example: rcg batch prompts.csv -m flux-dev -p aspect_ratio=16:9 -o out/
    """
    from replicate_concurrent.cli.batch_run import BatchCommand, run

    session: Session = context.obj
    session.json = json
    options = {"max_concurrent": max_concurrent, "max_cost_usd": max_cost}
    common = parameters(param)
    if model is not None:
        common["model"] = model
    command = BatchCommand(
        input_, form, common, prompt, out, name, retry_failed,
        {key: value for key, value in options.items() if value is not None},
        None if yes else ask_above, dry_run, contact_sheet,
    )  # fmt: skip
    raise typer.Exit(run(session, command))
