"""`manifest.jsonl`: all that a later run must know of each row of a batch, on disk before the row is sent.

The file only grows. A line is an object with a `type`:

| type | fields |
| --- | --- |
| `manifest` | the first line: `version`, and `id`, a random part of the keys of all items |
| `name` | before rows with another template for the names of their files than those before: `template` |
| `row` | before the POST: `digest`, `index`, `key` of the item, `name` of its files, `at` (Unix time) |
| `batch` | after the answer to the POST: `id`, and `keys` of its items in their order |
| `result` | `key`, `generation`, `status`, `files`, `cost_usd`, `seed`, `error`; `lost`: sentences about lost outputs |

Since the `id` is random, equal rows of two directories are different work. A later line about a key completes the
earlier ones. A last line that a kill has cut short is dropped.
"""

import json
import os
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final

from replicate_concurrent.batches import locking
from replicate_concurrent.filenames import same

NAME: Final = "manifest.jsonl"
UNKNOWN: Final = "unknown"
"""The status of a row that the service does not know by its ids."""

_VERSION: Final = 1


class ManifestError(ValueError):
    """A manifest that cannot be used. The message names the file."""


@dataclass(frozen=True)
class Line:
    """All that is known of one row. Its `name` may have `{ext}` and `{id}` in it, and `files` are below the directory.
    `at` is the Unix time at which the row was written; `status` is None until it has ended here."""

    key: str
    digest: str
    index: int
    name: str
    at: float
    batch: str | None = None
    place: int = 0
    """Its index in the batch."""
    generation: str | None = None
    status: str | None = None
    files: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    cost_usd: float = 0.0
    seed: int | None = None
    error: Mapping[str, Any] | None = None

    @property
    def is_done(self) -> bool:
        return self.status == "succeeded" and not self.lost

    @property
    def has_failed(self) -> bool:
        return self.status is not None and not self.is_done

    @property
    def may_appear(self) -> bool:
        """Whether it failed only since its outputs, or the row itself, were not found: perhaps at a wrong address, or
        with another key. Each run looks again."""
        return self.status == UNKNOWN or bool(self.lost)


class Manifest:
    """The manifest of a directory, open for this process alone.

    Raises:
        ManifestError: If another process has it open, or it is damaged before its last line.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / NAME
        self.id = ""
        self.template = ""
        """The template of the names of the last rows."""
        self.lines: dict[str, Line] = {}
        """By key, in the order of the file."""
        directory.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = self.path.open("a+b")
        if not locking.lock(self._file):
            self._file.close()
            raise ManifestError(f"{self.path}: another process runs this batch")
        try:
            self._load()
        except BaseException:
            self._file.close()
            raise

    def latest(self) -> dict[str, Line]:
        """The latest line of each digest."""
        return {line.digest: line for line in self.lines.values()}

    def taken(self) -> set[str]:
        """The names that rows have, as `filenames.same` compares them."""
        return {same(line.name) for line in self.lines.values()}

    def key(self, digest: str, attempt: int) -> str:
        """The key of an item: the same for the same row of this directory, another for each attempt."""
        return f"rcg-{self.id}-{digest}" + (f"-r{attempt}" if attempt else "")

    def attempts(self, digest: str) -> int:
        """How often the row was begun."""
        return sum(line.digest == digest for line in self.lines.values())

    def begin(self, lines: Sequence[Line], template: str) -> None:
        """Write the rows, with the template for the names of their files. Returns when they are on the disk."""
        if lines and template != self.template:
            self.template = template
            self._write([{"type": "name", "template": template}])
        for line in lines:
            self.lines[line.key] = line
        fields = ("digest", "index", "key", "name", "at")
        self._write({"type": "row", **{name: getattr(each, name) for name in fields}} for each in lines)
        self.sync()

    def accepted(self, batch: str, keys: Sequence[str]) -> None:
        """Write the id of a batch with these items, in its order."""
        for place, key in enumerate(keys):
            self.lines[key] = replace(self.lines[key], batch=batch, place=place)
        self._write([{"type": "batch", "id": batch, "keys": list(keys)}])

    def ended(self, line: Line) -> None:
        """Write the result of a row."""
        self.lines[line.key] = line
        facts = {
            "type": "result",
            "key": line.key,
            "generation": line.generation,
            "status": line.status,
            "files": line.files,
            "lost": line.lost or None,
            "cost_usd": line.cost_usd,
            "seed": line.seed,
            "error": line.error,
        }
        self._write([{name: value for name, value in facts.items() if value is not None}])

    def sync(self) -> None:
        """Return when all that was written is on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "Manifest":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _load(self) -> None:
        self._file.seek(0)
        content = self._file.read()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            self._file.truncate(len(whole))
        for number, text in enumerate(whole.splitlines(), 1):
            self._take(number, text)
        if not self.id:
            self.id = secrets.token_hex(6)
            self._write(
                [{"type": "manifest", "version": _VERSION, "id": self.id, "at": round(time.time(), 3)}]
            )
            self.sync()
            _sync_directory(self.path.parent)

    def _take(self, number: int, text: bytes) -> None:
        try:
            self._read(json.loads(text))
        except (ValueError, KeyError, TypeError) as reason:
            raise ManifestError(f"{self.path} line {number}: cannot be read ({reason!r})") from None

    def _read(self, facts: dict[str, Any]) -> None:
        kind = facts.pop("type")
        if kind == "manifest":
            if facts["version"] != _VERSION:
                raise ValueError(f"of version {facts['version']}, which a later rcg wrote")
            self.id = facts["id"]
        elif kind == "name":
            self.template = facts["template"]
        elif kind == "row":
            line = Line(**{name: facts[name] for name in ("key", "digest", "index", "name", "at")})
            self.lines[line.key] = line
        elif kind == "batch":
            for place, key in enumerate(facts["keys"]):
                self.lines[key] = replace(self.lines[key], batch=facts["id"], place=place)
        elif kind == "result":
            known = {name: facts.get(name) for name in ("generation", "status", "seed", "error")}
            self.lines[facts["key"]] = replace(
                self.lines[facts["key"]],
                **known,  # type: ignore[arg-type]
                files=tuple(facts.get("files") or ()),
                lost=tuple(facts.get("lost") or ()),
                cost_usd=facts.get("cost_usd") or 0.0,
            )

    def _write(self, facts: Iterable[Mapping[str, Any]]) -> None:
        self._file.write("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in facts).encode())
        self._file.flush()


def _sync_directory(directory: Path) -> None:
    """Bring the name of a new file on the disk. Windows cannot, and does so itself."""
    if os.name != "nt":
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
