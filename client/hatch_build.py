"""Puts the service and its simulator into the wheel and the sdist, so that the extra `serve` can start one.

`.dockerignore` of the checkout lists what the service consists of. An sdist has them already.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_INSIDE = "replicate_concurrent/_service"


class Service(BuildHookInterface[Any]):  # type: ignore[misc] # hatchling is there for builds only
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        is_unpacked_sdist = (Path(self.root) / _INSIDE).is_dir()
        if version == "editable" or is_unpacked_sdist:
            return
        checkout = Path(self.root).parent
        build_data["force_include"].update(
            (str(path), f"{_INSIDE}/{path.relative_to(checkout)}") for path in files(checkout)
        )


def files(checkout: Path) -> Iterator[Path]:
    """The files of the service and of the simulator."""
    listed = [
        line[1:] for line in (checkout / ".dockerignore").read_text().splitlines() if line.startswith("!")
    ]
    for pattern in sorted({*listed, "simulator"} - {"client", ".dockerignore"}):
        for found in sorted(checkout.glob(pattern.rstrip("/"))):
            inside = sorted(found.rglob("*")) if found.is_dir() else [found]
            yield from (each for each in inside if each.is_file() and "__pycache__" not in each.parts)
