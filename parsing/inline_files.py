"""Moves large inline files of a body to the disk.

A request may wait for hours, and an image of 16 MB would take memory three times: as text, as bytes, and in the request
that the ledger keeps. In a file it takes none. The rest of the service treats it as an upload.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from catalog.inputs import Inputs
from catalog.references import NAMES, Upload, large_file, large_image
from parsing.context import ParseContext
from parsing.params import INPUT

Move = Callable[[Any], Any]


def moved(body: Any, directory: Path | None, context: ParseContext) -> Any:
    """The body with each large `data:` file replaced by an `Upload` in `directory`, also in the `requests` or `inputs`
    of a batch. Without a directory, the body is unchanged. Raises OSError if a file cannot be written."""
    if directory is None or not isinstance(body, dict):
        return body
    own = _inputs_of(body, context)
    body = _moved(body, directory, own)
    if isinstance(requests := body.get("requests"), list):
        body = body | {"requests": [_moved(each, directory, _inputs_of(each, context)) for each in requests]}
    if isinstance(inputs := body.get("inputs"), list):
        body = body | {"inputs": [_moved(each, directory, own) for each in inputs]}
    return body


def _inputs_of(request: Any, context: ParseContext) -> Inputs | None:
    name = request.get("model_name") if isinstance(request, dict) else None
    model = context.find(name) if isinstance(name, str) else None
    return model.inputs if model is not None and model.is_published else None


def _moved(fields: Any, directory: Path, inputs: Inputs | None) -> Any:
    """The parameters of a request with their files moved. Without `inputs`, these are reference images."""
    if not isinstance(fields, dict):
        return fields
    if isinstance(inside := fields.get(INPUT), dict):
        fields = fields | {INPUT: _moved(inside, directory, inputs)}
    if inputs is None:
        move, names = partial(_file, directory, large_image), NAMES
    else:
        move = partial(_file, directory, large_file)
        names = tuple(name for name in fields if name in inputs and inputs[name].takes_files)
    return fields | {name: move(fields[name]) for name in names if name in fields}


def _file(directory: Path, content_of: Callable[[str], bytes | None], given: Any) -> Any:
    if isinstance(given, list):
        return [_file(directory, content_of, each) if isinstance(each, str) else each for each in given]
    content = content_of(given) if isinstance(given, str) else None
    if content is None:
        return given
    directory.mkdir(mode=0o700, exist_ok=True)  # the directory may have been deleted
    file = TemporaryFile(dir=directory)  # noqa: SIM115 - the upload closes it
    file.write(content)
    return Upload(file)
