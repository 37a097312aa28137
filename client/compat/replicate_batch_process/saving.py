"""Writes the outputs of a generation under exactly the requested names.

The client fetches and checks them in a directory beside, so that a file of that name is always whole.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from replicate_concurrent import AsyncClient, Generation

from replicate_batch_process.file_names import numbered

_BESIDE = "{number}.{ext}"


def save(made: Generation, path: str, *, overwrite: bool) -> list[str]:
    """The paths of the outputs: the requested one, or `name_1.ext` and so on.

    Raises FileExistsError unless `overwrite`, OSError, and as `Generation.save`.
    """
    with _beside(path) as directory:
        return _moved(made.save(directory, _BESIDE), path, overwrite=overwrite)


async def save_async(client: AsyncClient, made: Generation, path: str, *, overwrite: bool) -> list[str]:
    """As `save`, with an `AsyncClient`."""
    with _beside(path) as directory:
        return _moved(await client.save(made, directory, _BESIDE), path, overwrite=overwrite)


def _beside(path: str) -> TemporaryDirectory[str]:
    """A directory on the same file system, which is removed in the end."""
    parent = Path(path).parent
    parent.mkdir(parents=True, exist_ok=True)
    return TemporaryDirectory(dir=parent, prefix=".unfinished-")


def _moved(found: Sequence[Path], path: str, *, overwrite: bool) -> list[str]:
    names = numbered(path, len(found))
    for source, name in zip(found, names, strict=True):
        _move(source, Path(name), overwrite=overwrite)
    return names


def _move(source: Path, target: Path, *, overwrite: bool) -> None:
    if overwrite:
        source.replace(target)
        return
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:  # this file system has no hard links
        if target.exists():
            raise FileExistsError(f"{target} exists") from None
        source.rename(target)
