"""Moves large inline files of a body to the disk.

A request may wait for hours, and an image of 16 MB would take memory three times: as text, as bytes, and in the request
that the ledger keeps. In a file it takes none. The rest of the service treats it as an upload.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from catalog.inputs import Input, Inputs
from catalog.references import NAMES, Upload, large_file, large_image
from parsing.context import ParseContext
from parsing.params import INPUT

ContentOf = Callable[[str], bytes | None]
"""Returns the content of a `data:` URI that is to be moved; else None."""


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
    return None if model is None else model.inputs


def _moved(fields: Any, directory: Path, inputs: Inputs | None) -> Any:
    """The parameters of a request with their files moved. A declared model, or none, may also have reference images by
    the names of other models."""
    if not isinstance(fields, dict):
        return fields
    if isinstance(inside := fields.get(INPUT), dict):
        fields = fields | {INPUT: _moved(inside, directory, inputs)}
    contents: dict[str, ContentOf] = {}
    if inputs is None or not inputs.lenient:
        contents = dict.fromkeys(NAMES, large_image)
    if inputs is not None:
        contents |= {name: _content_of(inputs[name]) for name in fields if inputs.holds_files(name)}
    return fields | {
        name: _file(directory, content_of, fields[name])
        for name, content_of in contents.items()
        if name in fields
    }


def _content_of(taker: Input) -> ContentOf:
    """What reads the file of an input, or of the items of a list: only images must be of a known type."""
    return large_image if "image" in {taker.content, taker.items and taker.items.content} else large_file


def _file(directory: Path, content_of: ContentOf, given: Any) -> Any:
    if isinstance(given, list):
        return [_file(directory, content_of, each) if isinstance(each, str) else each for each in given]
    content = content_of(given) if isinstance(given, str) else None
    if content is None:
        return given
    directory.mkdir(mode=0o700, exist_ok=True)  # the directory may have been deleted
    file = TemporaryFile(dir=directory)  # noqa: SIM115 - the upload closes it
    file.write(content)
    return Upload(file)
