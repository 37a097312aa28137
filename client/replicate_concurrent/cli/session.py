"""The options before a command, and the output of a command: JSON unchanged, a table, or a sentence."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING, Any, Final

from replicate_concurrent.errors import ReplicateConcurrentError

if TYPE_CHECKING:
    import httpx

    from replicate_concurrent.client import Client
    from replicate_concurrent.errors import ApiError

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Letters that are no text, without line breaks and tabs."""


CONNECT_TIMEOUT: Final = 10.0
"""Seconds after which a command gives up an address that has never answered: someone waits for it."""


@dataclass
class Session:
    """One run of `rcg`. `json` is whether the service's own answers are printed."""

    url: str | None = None
    json: bool = False

    def client(self, url: str | None = None, key: str | None = None) -> Client:
        """A client of the service with this address and key, or of that of the command. It must be closed. Raises
        ConfigError."""
        from replicate_concurrent.client import Client

        return Client(url or self.url, key, connect_timeout=CONNECT_TIMEOUT)

    def answer(self, response: httpx.Response) -> dict[str, Any] | None:
        """Print the answer with --json, else return it. Raises BadAnswer for one of another program."""
        from replicate_concurrent.operations.sending import json_of

        body = json_of(response)
        if self.json:
            emit(response.text)
            return None
        return body

    def refused(self, error: ApiError) -> None:
        """Print the service's own JSON of an error with --json."""
        if self.json:
            emit_json(error.raw)


class OutputClosed(ReplicateConcurrentError):
    """The reader of standard output has ended, such as `head`."""


def emit(text: str) -> None:
    """Write a line to standard output. Raises OutputClosed."""
    _write(text.rstrip("\n") + "\n")


def emit_piece(text: str) -> None:
    """Write a piece of a text to standard output, where it cannot command a terminal. Raises OutputClosed."""
    _write(visible(text) if sys.stdout.isatty() else text)


def _write(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError as error:  # typer would exit with 1 for it
        raise OutputClosed from error


def emit_json(raw: Mapping[str, Any]) -> None:
    """Write an answer of the service, or a part of one, as the service has written it."""
    emit(json.dumps(raw, separators=(",", ":")))


def report(sentence: str) -> None:
    """Write sentences for people to standard error; on a terminal no word is broken."""
    if sys.stderr.isatty():
        width = max(20, shutil.get_terminal_size().columns)
        lines = (
            fill(line, width, break_long_words=False, break_on_hyphens=False) for line in sentence.split("\n")
        )
        sentence = "\n".join(lines)
    sys.stderr.write(f"{visible(sentence)}\n")
    sys.stderr.flush()


def read_answer(question: str) -> str:
    """A line from the terminal. The question is on standard error. Ctrl-C interrupts it, as anything else."""
    sys.stderr.write(question)
    sys.stderr.flush()
    return sys.stdin.readline().strip()


def has_terminal() -> bool:
    """Whether a question can be answered."""
    return sys.stderr.isatty()


def confirmed(question: str) -> bool:
    """The answer on the terminal, also if standard input is a file. Without a terminal, yes."""
    if not has_terminal():
        return True
    if sys.stdin.isatty():
        return read_answer(question).lower() in ("y", "yes")
    sys.stderr.write(question)
    sys.stderr.flush()
    try:
        with open("CON" if sys.platform == "win32" else "/dev/tty", encoding="utf-8") as terminal:  # noqa: PTH123
            return terminal.readline().strip().lower() in ("y", "yes")
    except OSError:
        return False


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> None:
    """Print a table: drawn on a terminal, else one line for each row with tabs, without the header."""
    texts = [["" if cell is None else visible(str(cell)) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in texts:
            emit("\t".join(" ".join(cell.split()) for cell in row))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for number, column in enumerate(columns):
        drawn.add_column(column, overflow="fold", no_wrap=number == 0)  # ids and names can be copied
    for row in texts:
        drawn.add_row(*(Text(cell) for cell in row))
    Console().print(drawn)


def facts(pairs: Iterable[tuple[str, object]]) -> None:
    """Print names with their values, without those that are None."""
    shown = [(name, visible(str(value))) for name, value in pairs if value is not None]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        emit(f"{name:<{width}}  {value}" if sys.stdout.isatty() else f"{name}\t{value}")


def visible(text: str) -> str:
    """A text whose letters cannot command the terminal, as a prompt of someone else might."""
    return _CONTROL.sub("�", text)


def usd(amount: object) -> str | None:
    """An amount for people; None if it is none."""
    return f"{amount:.4f}".rstrip("0").rstrip(".") if isinstance(amount, (int, float)) else None


def duration(seconds: float) -> str:
    """Seconds as 0:07 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
