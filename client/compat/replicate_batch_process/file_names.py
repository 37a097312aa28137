"""The files that a call writes: exactly the requested names, and never over a file that exists."""

import re
import secrets
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

_ENDINGS = {"image": ".jpg", "video": ".mp4", "audio": ".wav"}


def numbered(path: str, count: int) -> list[str]:
    """The names of so many outputs: the path itself, or `name_1.ext`, `name_2.ext` and so on."""
    extension = Path(path).suffix
    stem = path.removesuffix(extension)
    return [path] if count == 1 else [f"{stem}_{number}{extension}" for number in range(1, count + 1)]


def distinct(paths: Sequence[str]) -> list[str]:
    """The paths in this order. One that several requests have is numbered."""
    names = {path: iter(numbered(path, count)) for path, count in Counter(paths).items()}
    return [next(names[path]) for path in paths]


def new_stem(directory: str, model_name: str) -> str:
    """A path without an ending that no other call has, for a call that names none."""
    model = re.sub(r"\W", "_", model_name)
    return str(Path(directory, f"{model}_{int(time.time())}{secrets.token_hex(3)}"))


def ending(kind: str) -> str:
    """The ending of a file of this kind of model."""
    return _ENDINGS.get(kind, ".out")


class Claims:
    """The names that the requests of one call claim, so that no two write the same file."""

    def __init__(self, *, overwrite: bool) -> None:
        self._overwrite = overwrite
        self._claimed: set[Path] = set()

    def claim(self, path: str, count: int) -> None:
        """Claim the names of so many outputs. Raises FileExistsError if one is taken."""
        names = [Path(name).absolute() for name in numbered(path, count)]
        for name in names:
            if name in self._claimed or (not self._overwrite and name.exists()):
                raise FileExistsError(
                    f"{name} exists or belongs to another request, so no request was sent. "
                    "With `replicate_batch_process.config.OVERWRITE = True`, files are replaced."
                )
        self._claimed.update(names)
