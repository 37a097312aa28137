"""What one call of the old library asks for, checked and translated before anything is sent."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from replicate_batch_process import config
from replicate_batch_process.catalogue import Models
from replicate_batch_process.file_names import Claims, ending, new_stem
from replicate_batch_process.translation import translated

OUTPUT_DIR = "output"

_MOST_ITEMS, _MOST_FILES, _MOST_BYTES = 10_000, 400, 128 * 2**20
"""What one batch may have. The service takes forms of 500 parts, one of them for each file, and of 320 MiB."""

_UNKNOWN = 8 * 2**20
"""The bytes for which a file counts that is none on disk, such as an image of PIL."""


@dataclass(frozen=True)
class Job:
    """One request: its model, the fields beside it, and the path of its file."""

    path: str
    model: str
    fields: Mapping[str, Any]

    @property
    def item(self) -> dict[str, Any]:
        """The request as part of a batch."""
        return {"model_name": self.model, **self.fields}

    @property
    def sizes(self) -> list[int]:
        """The bytes of each file that is sent with it."""
        values = (each if isinstance(each, list) else [each] for each in self.fields.values())
        files = (
            each for several in values for each in several if not isinstance(each, (str, int, float, dict))
        )
        return [each.stat().st_size if isinstance(each, Path) else _UNKNOWN for each in files]


class Jobs:
    """Makes the jobs of one call, which its token pays. No two of them write the same file."""

    def __init__(self, token: str | None = None) -> None:
        self._models = Models(config.REPLICATE_MODELS, token)
        self._claims = Claims(overwrite=config.OVERWRITE)

    def job(
        self, prompt: str, model_name: str, path: str | PathLike[str] | None, params: Mapping[str, Any]
    ) -> Job:
        """Raises ValueError for an unknown model, FileNotFoundError for a local file, and FileExistsError."""
        kind = self._models.kind(model_name)
        chosen = fspath(path) if path else new_stem(OUTPUT_DIR, model_name) + ending(kind)
        model, fields = translated(
            prompt,
            model_name,
            params,
            extension=Path(chosen).suffix,
            models=self._models,
            rules=config.FALLBACK_MODELS,
        )
        count = params.get("num_outputs") or 1
        self._claims.claim(chosen, count if isinstance(count, int) else 1)
        return Job(chosen, model, fields)


def portions(jobs: Mapping[int, Job]) -> Iterator[dict[int, Job]]:
    """The jobs in their order, in as few batches as the service takes."""
    portion, files = dict[int, Job](), list[int]()
    for number, job in jobs.items():
        more = [*files, *job.sizes]
        is_too_large = len(more) > _MOST_FILES or sum(more) > _MOST_BYTES
        if len(portion) == _MOST_ITEMS or (portion and is_too_large):
            yield portion
            portion, more = {}, job.sizes
        portion[number] = job
        files = more
    if portion:
        yield portion
