"""Copies of the project, and the changes of `tests/data/recipes.toml` to them."""

import filecmp
import os
import shutil
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

_ROOT = Path(__file__).parents[2]

RECIPES: Final[Mapping[str, Any]] = tomllib.loads((_ROOT / "tests" / "data" / "recipes.toml").read_text())

_NOT_COPIED = {
    ".git",
    ".venv",
    ".venv-bench",
    ".pytest_cache",
    ".mypy_cache",
    ".ruff_cache",
    ".hypothesis",
}


def copied(to: Path) -> Path:
    """Copy the project there, with its compiled modules, which stay valid with the times of their sources."""
    return shutil.copytree(_ROOT, to, ignore=_ignored)


def restored(copy: Path) -> Path:
    """Undo all changes to a copy of the project. Compiled modules stay, each valid for one version of its source."""
    for directory, inner, names in os.walk(copy):
        here, original = Path(directory), _ROOT / Path(directory).relative_to(copy)
        inner[:] = [each for each in inner if each != "__pycache__"]
        for name in [each for each in inner if not (original / each).exists()]:
            shutil.rmtree(here / name)
            inner.remove(name)
        for name in names:
            if not (original / name).exists():
                (here / name).unlink()
            elif not filecmp.cmp(original / name, here / name):
                shutil.copy2(original / name, here / name)
    return copy


def edit(copy: Path, step: Mapping[str, Any]) -> None:
    """Insert the text of each edit at its anchor. An edit without an anchor is a new file."""
    for each in step.get("edits", ()):
        path, text = copy / each["file"], each["text"]
        match each:
            case {"after": anchor}:
                new = anchor + text
            case {"before": anchor}:
                new = text + anchor
            case _:
                assert not path.exists(), f"{each['file']} exists"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
                continue
        old = path.read_text()
        assert old.count(anchor) == 1, f"{each['file']} has this once: {anchor!r}"
        path.write_text(old.replace(anchor, new))


def _ignored(directory: str, names: Iterable[str]) -> set[str]:
    """What git ignores; `data/` in the root is the ledger of a service that was run here."""
    return {*_NOT_COPIED, ".env", *({"data"} if Path(directory) == _ROOT else ())} & set(names)
