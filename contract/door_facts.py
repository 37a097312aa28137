"""What the Replicate door remembers of a call, beside the request that it became."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Protocol

from contract.trainings import TRAINING, TrainingFacts

REPLICATE: Final = "replicate"
"""The name of the Replicate door in `GenerationRecord.door`."""

KEPT: Final = "$kept"
"""The only name of an object that stands for a file in an output. Its value is the number of the kept file, or null if
the file is not kept."""

LARGE: Final = "$large"
"""The only name of an object that stands for a whole output. Its value is the number of the kept file with its JSON."""

LARGE_TEXT: Final = "$large_text"
"""The same for an output that is a text, or is a list of its pieces."""


@dataclass(frozen=True, slots=True)
class DoorFacts:
    """`target` is the model or version that the caller named, and `input` the input as answers show it. Events of
    `webhook_events` go to the `webhook`. `deadline` is the Unix time at which it is cancelled. `output` is the
    output as the model returned it, once there is one, with the objects above in place of files."""

    target: str
    input: Mapping[str, Any] = field(default_factory=dict)
    webhook: str | None = None
    webhook_events: tuple[str, ...] = ()
    deadline: float | None = None
    output: Any = None

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> "DoorFacts":
        return cls(**{**found, "webhook_events": tuple(found["webhook_events"])})

    @classmethod
    def from_json(cls, text: str) -> "DoorFacts":
        return cls.of(json.loads(text))

    def as_object(self) -> dict[str, Any]:
        return asdict(self)

    def as_json(self) -> str:
        return json.dumps(self.as_object())


class HasDoorFacts(Protocol):
    """A generation, in memory or in the ledger."""

    @property
    def door(self) -> str | None: ...

    @property
    def door_facts(self) -> str | None: ...


def facts_of(generation: HasDoorFacts) -> DoorFacts | None:
    """The facts of the call that became a generation or a training; None if it did not come by the Replicate door."""
    if generation.door == TRAINING:
        call = TrainingFacts.read(generation.door_facts).call
        return None if call is None else DoorFacts.of(call)
    if generation.door != REPLICATE or generation.door_facts is None:
        return None
    return DoorFacts.from_json(generation.door_facts)
