"""From a file or a list to the rows of a batch, with the schemas that the service has of their models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, TextIO

from replicate_concurrent import filenames
from replicate_concurrent.batches import planning, rows, tables
from replicate_concurrent.batches.rows import Row
from replicate_concurrent.client import Client

FIELDS: Final = ("index", "slug", "model", "prompt")
"""The fields of file names that each row has, beside its columns."""


def rows_of(
    client: Client,
    source: str | Path | Iterable[str | Mapping[str, Any]],
    common: Mapping[str, Any],
    *,
    prompt: str | None = None,
    name: str = filenames.BATCH,
    form: str | None = None,
    typed: bool = True,
    stdin: TextIO | None = None,
) -> list[Row]:
    """The rows of a file, of `stdin` if the source is `-`, or of a list of prompts or mappings.

    Args:
        client: Gets the schemas from the service.
        source: The path of a `.txt`, `.csv`, `.tsv` or `.jsonl`, or a list.
        common: Parameters of all rows, with `model`; a row's own come first. They are texts if `typed` is false.
        prompt: The prompt of all rows, with `{column}`, or with `{prompt}` for that of the row.
        name: The template of the names of files, which may have columns in it.
        form: One of `tables.FORMATS`, if the ending does not tell.

    Raises:
        ValueError: If the source cannot be read, a row lacks something, or `name` is no template.
        ReplicateConcurrentError: If the service does not know a model, or cannot be reached.
    """
    directory = Path()
    if isinstance(source, (str, Path)):
        entries = tables.read(source, form=form, stdin=stdin)
        directory = Path() if str(source) == "-" else Path(source).parent
    else:
        entries = tables.of(source)
    columns = frozenset[str]().union(*(entry.columns for entry in entries))
    filenames.check(name, [*FIELDS, *columns])
    schemas = planning.schemas(client, rows.models(entries, common))
    shape = rows.Shape(common, name, schemas, prompt=prompt, typed=typed, directory=directory)
    return rows.made(entries, shape)
