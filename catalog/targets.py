"""Targets: the texts that say what a provider runs.

| target | runs |
| --- | --- |
| `owner/name` | an official model, by its name |
| `owner/name:<64 hex digits>` | a version of a model |
| `<64 hex digits>` | a version of a model that is not known |
| `deployments/owner/name` | a deployment, whose owner chooses its model and version |
"""

import re
from dataclasses import dataclass
from typing import Final

_DEPLOYMENTS: Final = "deployments/"
_MODEL: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}/[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_VERSION: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Target:
    """A target in its parts. `name` is without the version, and with the prefix of a deployment."""

    name: str
    version: str | None = None

    @classmethod
    def parse(cls, target: str) -> "Target":
        """Never raises: a text of another form is a name."""
        name, _, version = target.partition(":")
        return cls(name, version) if version and is_version(version) else cls(target)

    def __str__(self) -> str:
        return self.name if self.version is None else f"{self.name}:{self.version}"

    @property
    def version_id(self) -> str | None:
        """The id of the version that runs, also without the name of its model. None if it is not fixed."""
        return self.name if is_version(self.name) else self.version

    @property
    def is_name(self) -> bool:
        """Whether it is a model that runs by its name: an official one."""
        return self.version_id is None and self.deployment is None

    @property
    def deployment(self) -> str | None:
        """The `owner/name` of a deployment, without the prefix. None if it is no deployment."""
        if not self.name.startswith(_DEPLOYMENTS):
            return None
        name = self.name.removeprefix(_DEPLOYMENTS)
        return name if is_model_name(name) else None


def is_model_name(text: str) -> bool:
    """Whether this is an `owner/name`. Such a name fits into a path."""
    return _MODEL.fullmatch(text) is not None


def is_version(text: object) -> bool:
    """Whether this is the id of a version."""
    return isinstance(text, str) and len(text) == 64 and _VERSION.fullmatch(text) is not None
