"""Families of models: what the same trainer makes has the same inputs. So a trained model that the operator has named
can be checked while Replicate cannot be asked for its own schema.

The only family is that of Flux LoRAs (`schemas/trained-flux.json`). The others that take LoRAs are declared models.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from typing import Final

from catalog.published import Published, saved
from catalog.targets import Target

_TRAINED_FLUX: Final = "trained-flux"


@dataclass(frozen=True, slots=True)
class TrainedModels:
    """The models that the operator has named as trained: `owner/name`, or `owner/name:version`."""

    names: Collection[str]

    def target(self, asked: Target) -> Target | None:
        """The version to run if this name is asked for: the one in it, else the only one that the operator has named.
        None if there is no such version, or the model is not named at all."""
        named = [each for each in map(Target.parse, self.names) if each.name == asked.name]
        if not named or asked.version is not None:
            return asked if named else None
        versions = {each.version for each in named if each.version is not None}
        return Target(asked.name, versions.pop()) if len(versions) == 1 else None


NO_TRAINED_MODELS: Final = TrainedModels(())


@cache
def trained_flux() -> Published:
    """The form of every Flux LoRA."""
    return Published.of(saved(_TRAINED_FLUX))


def told_unread(name: str) -> str:
    """The warning that a model was checked by its family."""
    return (
        f"{name} was checked as a trained Flux LoRA, since Replicate could not be asked for its own schema."
    )
