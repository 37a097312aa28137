"""Trainings: predictions with an output of a new version of the destination, and the file of its weights.

A training is billed by the seconds that it ran, also if it failed or was cancelled. It has no limit of time.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from simulator import billing, outputs, trainers
from simulator.predictions import Creation, Prediction, PredictionRecord
from simulator.schemas import Schema

_STAGES = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingCreation(Creation):
    """The parsed request that created a training.

    Attributes:
        model: The trainer.
        destination: The `owner/name` of the model that gets the new version.
        images: The number of images: counted if they were uploaded to this server, and else supposed.
    """

    destination: str
    images: int = trainers.USUAL_IMAGES

    @property
    def schema(self) -> Schema:
        """The schema of the trainings of the version that runs."""
        found = self.release.schema.training
        if found is None:
            raise LookupError(f"{self.model.name} cannot be trained by {self.version}")
        return found

    @property
    def archive(self) -> tuple[str, str] | None:
        """The input that has the images, and its URL. None if it is not there."""
        return trainers.archive(self.schema, self.input)


@dataclass(frozen=True, slots=True)
class TrainingRecord(PredictionRecord):
    """A snapshot of a training, for tests. `model` and `version` are those of the trainer, `url` that of the images."""

    destination: str
    url: str | None


class Training(Prediction):
    """A training. Only its `Store` changes its status."""

    creation: TrainingCreation

    @property
    def longest_seconds(self) -> float:
        """No training is cut off."""
        return math.inf

    @property
    def weights(self) -> str:
        """The name of the file of its weights."""
        return trainers.file_name(self.creation.model.facts.trainer)

    @property
    def new_version(self) -> str:
        """The id of the version that it makes: 64 hexadecimal digits."""
        return trainers.version_id(self.id)

    def stages(self) -> Iterator[tuple[str, Any]]:
        """Its log grows all the time, and is sent at every tenth of its run."""
        for _ in range(_STAGES):
            yield "logs", None

    def make_output(self) -> Any:
        """The version and the weights, as planned."""
        if self.plan.outputs == "none":
            return None
        if self.plan.output is not None:
            return outputs.parsed(self.plan.output)
        version = f"{self.creation.destination}:{self.new_version}"
        return {"version": version, "weights": f"{self.files}{self.weights}"}

    def charge(self) -> float:
        """The USD that it costs: the seconds that it ran at the price of the trainer's hardware."""
        return billing.charge_by_time(self.creation.model.facts.hardware, self.ran)

    def record(self) -> TrainingRecord:
        """A snapshot of it."""
        made = Prediction.record(self)
        known: Mapping[str, Any] = {each.name: getattr(made, each.name) for each in fields(made)}
        archive = self.creation.archive
        return TrainingRecord(
            **known, destination=self.creation.destination, url=archive[1] if archive else None
        )
