"""Makes requests of calls of the old library, checked and translated before any of them is sent."""

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from replicate_batch_process import config
from replicate_batch_process.catalogue import Models
from replicate_batch_process.file_names import Claims, ending, new_stem
from replicate_batch_process.translation import translated

OUTPUT_DIR = "output"


@dataclass(frozen=True)
class Job:
    """One request: its place in the call, its model, the fields beside it, and the path of its file."""

    number: int
    path: str
    model: str
    fields: Mapping[str, Any]

    @property
    def request(self) -> dict[str, Any]:
        """The request as part of a batch."""
        return {"model_name": self.model, **self.fields}


class Jobs:
    """Makes the jobs of one call, which its token pays. No two of them write the same file."""

    def __init__(self, token: str | None = None) -> None:
        self._models = Models(config.REPLICATE_MODELS, token)
        self._claims = Claims(overwrite=config.OVERWRITE)

    def job(
        self,
        prompt: str,
        model_name: str,
        path: str | PathLike[str] | None,
        params: Mapping[str, Any],
        *,
        number: int = 0,
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
        return Job(number, chosen, model, fields)
