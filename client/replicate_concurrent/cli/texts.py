"""Text models: `chat` and `extract`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from replicate_concurrent.cli.options import Json
from replicate_concurrent.cli.session import Session, emit, emit_json, emit_piece, report

if TYPE_CHECKING:
    from collections.abc import Iterator

    from replicate_concurrent.text_results import ChatDelta, TextResult

Model = Annotated[
    str | None, typer.Option("-m", "--model", help="A text model; else that of the service's settings.")
]

System = Annotated[str | None, typer.Option("--system", help="How the model is to answer.")]


def chat(
    context: typer.Context,
    prompt: Annotated[str, typer.Argument(help="What to answer; `-` reads standard input.")],
    model: Model = None,
    system: System = None,
    image: Annotated[
        list[str] | None, typer.Option("--image", help="An image: a file or a URL; may be repeated.")
    ] = None,
    json: Json = False,
) -> None:
    """Answer a prompt. The text is printed as it comes.

    Example: rcg chat "What is in this picture?" --image fox.jpg
    """
    session: Session = context.obj
    session.json = json
    named: dict[str, Any] = {"model": model, "system_prompt": system, "images": image or None}
    with session.client() as client:
        if json:
            emit_json(client.chat(_text(prompt), **named).raw)
        else:
            _print(client.chat_stream(_text(prompt), **named))


def extract(
    context: typer.Context,
    file: Annotated[str, typer.Argument(help="A file with text; `-` reads standard input.")],
    schema: Annotated[Path, typer.Option("--schema", help="A file with the JSON Schema of the answer.")],
    model: Model = None,
    system: System = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="The file for the answer.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file of this name.")] = False,
    json: Json = False,
) -> None:
    """Extract from a text what a JSON Schema describes. Prints it, or saves it with -o.

    Example: rcg extract letter.txt --schema person.json -o person-of-letter.json
    """
    from replicate_concurrent.operations.texts import INSTRUCTION

    session: Session = context.obj
    session.json = json
    if out is not None and out.exists() and not overwrite:
        raise FileExistsError(f"{out} exists; --overwrite replaces it")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
    described, content = _schema(schema), sys.stdin.read() if file == "-" else _read(Path(file))
    with session.client() as client:
        made = client.extract(content, schema=described, model=model, system_prompt=system or INSTRUCTION)
    if json:
        emit_json(made.raw)
    _warn(made)
    _write(made.data, out, is_shown=not json)


def _print(pieces: Iterator[ChatDelta]) -> None:
    """Print a text as it comes. Its line ends also if the text breaks off."""
    last, result = "", None
    try:
        for piece in pieces:
            emit_piece(piece.delta)
            last, result = piece.delta or last, piece.result
    finally:
        if last and not last.endswith("\n"):
            emit("")
    if result is not None:
        _warn(result)


def _warn(made: TextResult) -> None:
    if made.raw.get("simulated") is True:
        report("The service is simulated: this text is a fake.")
    for warning in made.warnings:
        report(f"rcg: {warning}")


def _write(data: Any, out: Path | None, *, is_shown: bool) -> None:
    """Write JSON for people into a file, or else to standard output if it `is_shown`."""
    import json

    text = json.dumps(data, indent=2, ensure_ascii=False)
    if out is not None:
        out.write_text(f"{text}\n", encoding="utf-8")
        report(str(out))
    elif is_shown:
        emit_piece(f"{text}\n")


def _schema(path: Path) -> dict[str, Any]:
    """The JSON Schema in a file. Raises ValueError if there is none."""
    import json

    try:
        found = json.loads(_read(path))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} has no JSON Schema, which is an object")
    return found


def _text(prompt: str) -> str:
    return sys.stdin.read() if prompt == "-" else prompt


def _read(path: Path) -> str:
    """The text of a file. Raises ValueError if it is none, since the command is wrong then."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8") from error
