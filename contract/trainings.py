"""Trainings: the words of their route, and the facts of one beside its generation."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Self

TRAINING: Final = "training"
"""The interface by which a training came (`GenerationRecord.door`)."""

LONGEST: Final = 86_400
"""The most seconds of a training."""

USUAL: Final = 7_200
"""The most seconds of a training that names no `timeout`."""

MOST_LOGS: Final = 10_000
"""Characters at the end of the logs that are kept and shown."""


def weights_path(training_id: str, file: str) -> str:
    """The path of the kept weights of a training, by the name of their file."""
    return f"/trainings/{training_id}/weights/{file}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingFacts:
    """`destination` is the model that gets the new version, `owner/name`. `images` and `captions` count the files of
    the zip, and `input` are the other inputs of the trainer, without secrets. The estimates are of a whole run. `logs`
    are the end of its logs. `call` has the facts of its call, as JSON, if it came by the Replicate door."""

    destination: str
    trigger_word: str | None = None
    images: int = 0
    captions: int = 0
    input: Mapping[str, Any] = field(default_factory=dict)
    estimated_seconds: float | None = None
    estimated_usd: float | None = None
    logs: str | None = None
    call: Mapping[str, Any] | None = None

    def as_json(self) -> str:
        """The text of `GenerationRecord.door_facts`."""
        return json.dumps({name: value for name, value in asdict(self).items() if value is not None})

    @classmethod
    def read(cls, text: str | None) -> Self:
        """The facts in a record. Fields that another version has added are left out."""
        found: Mapping[str, Any] = json.loads(text or "{}")
        known = {name: value for name, value in found.items() if name in cls.__dataclass_fields__}
        return cls(**{"destination": "", **known})

    def changed(self, **changes: Any) -> Self:
        """The same with other values."""
        return replace(self, **changes)
