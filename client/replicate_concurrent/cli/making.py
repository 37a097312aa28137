"""Work of one generation at a time: `generate`, `watch`, `get`, `cancel` and `list`."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from replicate_concurrent.cli.exits import FAILED
from replicate_concurrent.cli.options import Json, Parameters, Since, parameters
from replicate_concurrent.cli.session import Session, emit, emit_json, report, table, usd

if TYPE_CHECKING:
    from replicate_concurrent.client import Client
    from replicate_concurrent.results import Batch, Generation
    from replicate_concurrent.training_results import Training

_WIDE = 110
"""Columns of a terminal on which a list has all of its columns."""

_FEW = 26
"""Letters of a prompt in a list on a narrower one."""

Ids = Annotated[
    list[str],
    typer.Argument(metavar="ID...", help="A generation (gen_…), a batch (batch_…) or a training (trn_…)."),
]

Out = Annotated[Path | None, typer.Option("-o", "--out", help="The directory for the files.")]


def generate(
    context: typer.Context,
    prompt: Annotated[str | None, typer.Argument(help="What to make.")] = None,
    *,
    model: Annotated[str, typer.Option("-m", "--model", help="A model; `rcg models` lists them.")],
    param: Parameters = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="The directory for the files.")] = Path(),
    name: Annotated[
        str, typer.Option(help="The name of the file; also with {slug} and {model}.")
    ] = "{id}.{ext}",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file of this name.")] = False,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Print the id, and leave it to the service.")
    ] = False,
    json: Json = False,
) -> None:
    """Generate, and save the outputs. Prints their paths.

    Example: rcg generate "A red fox" -m flux-dev -p aspect_ratio=16:9 -o out/
    """
    from replicate_concurrent.batches import planning, rows, tables
    from replicate_concurrent.cli.waiting import ended
    from replicate_concurrent.filenames import check
    from replicate_concurrent.operations.saving import FIELDS

    session: Session = context.obj
    session.json = json
    check(name, FIELDS)
    with session.client() as client:
        schemas = planning.schemas(client, [model])
        shape = rows.Shape({"model": model, **parameters(param)}, name, schemas, typed=False)
        (row,) = rows.made(tables.of([{} if prompt is None else {"prompt": prompt}]), shape)
        inputs = {key: value for key, value in row.request.items() if key not in ("model_name", "prompt")}
        handle = client.submit(prompt, model=model, **inputs)
        if no_wait:
            emit_json(handle.status().raw) if json else emit(handle.id)
            return
        made = ended(client, handle.id)
        if json:
            emit_json(made.raw)
        _report(
            made, made.save(out, name, overwrite=overwrite) if made.success or made.placeholder else [], json
        )


def watch(context: typer.Context, ids: Ids, json: Json = False) -> None:
    """Wait for work at the service, and show how it goes on.

    Example: rcg watch gen_0123
    """
    from replicate_concurrent.cli.waiting import ended_work

    session: Session = context.obj
    session.json = json
    succeeded = True
    with session.client() as client:
        for each in ids:
            found = ended_work(client, each)
            succeeded &= found.success is True
            emit_json(found.raw) if json else emit(_shown(found.raw))
    if not succeeded:
        raise typer.Exit(FAILED)


def get(
    context: typer.Context,
    ids: Ids,
    out: Out = None,
    name: Annotated[
        str, typer.Option(help="The names of the files; also with {index} and {slug}.")
    ] = "{id}.{ext}",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files of these names.")] = False,
    json: Json = False,
) -> None:
    """Show work at the service, and save its outputs, or the weights of a training, with -o.

    Example: rcg get gen_0123 -o out/
    """
    from replicate_concurrent.training_results import Training

    session: Session = context.obj
    session.json = json
    succeeded = True
    with session.client() as client:
        for each in ids:
            found = _looked_at(client, each)
            emit_json(found.raw) if json else emit(_shown(found.raw))
            if isinstance(found, Training):
                if out is not None and found.success:
                    path = client.training_handle(each).save_weights(out, name, overwrite=overwrite)
                    (report if json else emit)(str(path))
                succeeded &= found.success is not False
                continue
            for made in _generations(found):
                if out is not None and made.has_ended and (made.success or made.placeholder):
                    _report(made, made.save(out, name, overwrite=overwrite), json)
                succeeded &= made.success is not False
    if not succeeded:
        raise typer.Exit(FAILED)


def cancel(context: typer.Context, ids: Ids, json: Json = False) -> None:
    """Cancel work at the service. What has ended stays as it is.

    Example: rcg cancel gen_0123
    """
    from replicate_concurrent.cli.waiting import kind_of

    session: Session = context.obj
    session.json = json
    with session.client() as client:
        for each in ids:
            body = session.answer(client.request("DELETE", f"/{kind_of(each)}/{each}"))
            if body is not None:
                emit(_shown(body))


def list_(
    context: typer.Context,
    state: Annotated[str | None, typer.Option(help="Such as queued, running, failed.")] = None,
    model: Annotated[str | None, typer.Option("-m", "--model", help="Only of this model.")] = None,
    batch: Annotated[str | None, typer.Option(help="Only of this batch.")] = None,
    prompt: Annotated[str | None, typer.Option(help="Only with this text in the prompt.")] = None,
    metadata: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Only with this metadata.")
    ] = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many, the latest first.")] = 20,
    trainings: Annotated[bool, typer.Option("--trainings", help="Your trainings in their place.")] = False,
    cursor: Annotated[str | None, typer.Option(help="The next page: `next_cursor` of --json.")] = None,
    json: Json = False,
) -> None:
    """List your generations, or your trainings, the latest first.

    Example: rcg list --state failed --since 2026-11-21
    """
    session: Session = context.obj
    session.json = json
    kind = "trainings" if trainings else "generations"
    filters = {
        "state": state,
        "model": model,
        "batch": batch,
        "prompt": prompt,
        "since": since,
        "cursor": cursor,
    }
    query: dict[str, Any] = {key: value for key, value in filters.items() if value is not None}
    query |= {f"metadata.{key}": value for key, value in parameters(metadata).items()}
    with session.client() as client:
        body = session.answer(client.request("GET", f"/{kind}", params={**query, "limit": limit}))
    if body is not None:
        listed = list(map(_cells, body.get(kind) or []))
        text = "trigger word" if trainings else "prompt"
        if sys.stdout.isatty() and shutil.get_terminal_size().columns < _WIDE:
            table(["id", "status", "created", text], map(_few, listed))
        else:
            table(["id", "status", "model", "USD", "created", text], listed)


def _report(made: Generation, paths: list[Path], json: bool) -> None:
    """Print where a generation was saved, or raise its error."""
    for path in paths:
        (report if json else emit)(str(path))
    if made.raw.get("simulated") is True:
        report("The service is simulated: this output is a fake.")
    for warning in (*made.warnings, *([made.raw["files_error"]] if made.raw.get("files_error") else [])):
        report(f"rcg: {warning}")
    if made.error is not None:
        report(f"rcg: {made.id}: {made.error}")
        raise typer.Exit(FAILED)


def _looked_at(client: Client, target: str) -> Generation | Batch | Training:
    from replicate_concurrent.cli.waiting import kind_of

    kind = kind_of(target)
    if kind == "trainings":
        return client.training(target)
    return client.batch_handle(target).status() if kind == "batches" else client.handle(target).status()


def _generations(found: Generation | Batch) -> list[Generation]:
    return list(found) if isinstance(found, Iterable) else [found]


def _cells(raw: Mapping[str, Any]) -> list[object]:
    prompt = " ".join(str(raw.get("prompt") or raw.get("trigger_word") or "").split())
    shown = prompt if len(prompt) <= 60 or not sys.stdout.isatty() else f"{prompt[:59]}…"
    created = str(raw.get("created_at") or "")[:19].replace("T", " ")
    model = str(raw.get("requested_model") or raw.get("model_name") or raw.get("destination") or "")
    return [raw.get("id"), raw.get("status"), model, usd(raw.get("cost_usd")), created, shown]


def _few(cells: list[object]) -> list[object]:
    """What of a row fits a narrow terminal: the time without year and seconds, and few words of the prompt."""
    target, status, _, _, created, prompt = map(str, cells)
    return [target, status, created[5:16], prompt if len(prompt) <= _FEW else f"{prompt[: _FEW - 1]}…"]


def _line(raw: Mapping[str, Any]) -> str:
    error = raw.get("error") or {}
    return "\t".join(str(each) for each in [*_cells(raw)[:4], error.get("detail", "")] if each)


def _batch_line(raw: Mapping[str, Any]) -> str:
    state = raw.get("status") or "completed"
    counts = f"{raw.get('succeeded', 0)} of {raw.get('total', 0)} succeeded, {raw.get('failed', 0)} failed"
    return f"{raw.get('id')}\t{state}\t{counts}\t{usd(raw.get('actual_cost_usd'))} USD"


def _shown(raw: Mapping[str, Any]) -> str:
    return _batch_line(raw) if str(raw.get("id")).startswith("batch_") else _line(raw)
