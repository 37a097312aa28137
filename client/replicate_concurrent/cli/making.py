"""Work of one generation at a time: `generate`, `watch`, `get`, `cancel` and `list`."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from replicate_concurrent.cli.exits import FAILED
from replicate_concurrent.cli.options import Json, Parameters, Since, parameters
from replicate_concurrent.cli.session import Session, emit, emit_json, report, table, usd

if TYPE_CHECKING:
    from replicate_concurrent.results import Generation

_WIDE = 110
"""Columns of a terminal on which a list has all of its columns."""

_FEW = 26
"""Letters of a prompt in a list on a narrower one."""

Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="A generation (gen_…) or a batch (batch_…).")]

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
    from replicate_concurrent.cli.waiting import ended, ended_batch

    session: Session = context.obj
    session.json = json
    succeeded = True
    with session.client() as client:
        for each in ids:
            if _is_batch(each):
                batch = ended_batch(client, each)
                succeeded &= batch.success is True
                emit_json(batch.raw) if json else emit(_batch_line(batch.raw))
            else:
                made = ended(client, each)
                succeeded &= made.success is True
                emit_json(made.raw) if json else emit(_line(made.raw))
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
    """Show work at the service, and save its outputs with -o.

    Example: rcg get gen_0123 -o out/
    """
    session: Session = context.obj
    session.json = json
    succeeded = True
    with session.client() as client:
        for each in ids:
            found = client.batch_handle(each).status() if _is_batch(each) else client.handle(each).status()
            emit_json(found.raw) if json else emit(_shown(found.raw))
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
    session: Session = context.obj
    session.json = json
    with session.client() as client:
        for each in ids:
            kind = "batches" if _is_batch(each) else "generations"
            body = session.answer(client.request("DELETE", f"/{kind}/{each}"))
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
    cursor: Annotated[str | None, typer.Option(help="The next page: `next_cursor` of --json.")] = None,
    json: Json = False,
) -> None:
    """List your generations, the latest first.

    Example: rcg list --state failed --since 2026-11-21
    """
    session: Session = context.obj
    session.json = json
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
        body = session.answer(client.request("GET", "/generations", params={**query, "limit": limit}))
    if body is not None:
        listed = list(map(_cells, body.get("generations") or []))
        if sys.stdout.isatty() and shutil.get_terminal_size().columns < _WIDE:
            table(["id", "status", "created", "prompt"], map(_few, listed))
        else:
            table(["id", "status", "model", "USD", "created", "prompt"], listed)


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


def _is_batch(target: str) -> bool:
    return target.startswith("batch_")


def _generations(found: Any) -> list[Generation]:
    return list(found.results) if hasattr(found, "results") else [found]


def _cells(raw: Mapping[str, Any]) -> list[object]:
    prompt = " ".join(str(raw.get("prompt") or "").split())
    shown = prompt if len(prompt) <= 60 or not sys.stdout.isatty() else f"{prompt[:59]}…"
    created = str(raw.get("created_at") or "")[:19].replace("T", " ")
    model = str(raw.get("requested_model") or raw.get("model_name") or "")
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
    return _batch_line(raw) if _is_batch(str(raw.get("id"))) else _line(raw)
