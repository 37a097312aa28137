"""What came of a request, in the shapes of the old library."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from replicate_concurrent import Generation


@dataclass
class BatchResult:
    """The outcome of one `BatchRequest`. `duration` is in seconds. Without success, `error` has the reason, and
    `file_paths` has the black picture if one was written."""

    request_id: str
    prompt: str
    model_name: str
    success: bool
    file_paths: list[str] | None = None
    error: str | None = None
    duration: float | None = None


class Files(list[str]):
    """Paths of files. Without `success`, `error` has the first reason. `results` has the outcomes of a batch."""

    def __init__(
        self, paths: Iterable[str], *, error: str | None = None, results: Iterable[BatchResult] = ()
    ) -> None:
        super().__init__(paths)
        self.error = error
        self.results = list(results)

    @property
    def success(self) -> bool:
        return self.error is None


def error_of(made: Generation) -> str | None:
    """Why a generation is no success, or None."""
    error: dict[str, Any] | None = made.raw.get("error")
    return f"{error['code']}: {error['detail']}" if error else None
