"""Trainers: models that make a version of another model from a zip of images.

A version can be trained if its published document has the schema `TrainingInput`. A training takes that, and not
`Input`, which may be a dummy. So a trainer is a `Model` with inputs that are compiled from `TrainingInput`. The names
differ by trainer: the zip is `input_images` or `dataset`, the trigger word `trigger_word` or `token_string`, the steps
`steps`, `training_steps` or `max_train_steps`.

A training is billed for the seconds that it runs, also if it fails (replicate.com/docs/topics/models/billing). An H100
costs 0.001525 USD a second. Durations and prices below are those that users report.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

from catalog.model import Model
from catalog.outputs import OutputForm, output_form
from catalog.prices import Price
from catalog.published import Published
from contract.providers import TRAININGS
from contract.trainings import USUAL

SCHEMA: Final = "TrainingInput"

_ZIP_NAMES: Final = ("input_images", "dataset", "input_data", "images", "training_data", "input_videos")
_WORD_NAMES: Final = ("trigger_word", "token_string", "trigger")
STEP_NAMES: Final = ("steps", "training_steps", "max_train_steps", "num_train_steps", "train_steps")
"""The inputs of trainers with the number of steps."""

_OUTPUT: Final = {
    "components": {
        "schemas": {
            "Output": {
                "type": "object",
                "properties": {"version": {"type": "string"}, "weights": {"type": "string"}},
            }
        }
    }
}

FORM: Final[OutputForm] = replace(output_form(_OUTPUT), streams=True)
"""The output of a training: its new version, and the address of its weights, which is no file of the answer. Only its
status shows that it is over."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a trainer takes: some seconds for preparations, and some for each step. `timeout` is the usual bound of
    a training, and `price` that of a second, if it is not that of one H100."""

    fixed: float = 120.0
    per_step: float = 1.0
    timeout: float = USUAL
    price: Price | None = None


_PACES: Final[Mapping[str, Pace]] = {
    # About two minutes, and 1.46 to 2 USD, so it runs on eight H100. A shorter timeout keeps the bound of the cost.
    "replicate/fast-flux-trainer": Pace(30.0, 0.09, 900.0, Price(8 * 0.001525, "running_second")),
}
_USUAL_PACE: Final = Pace()

_USUAL_STEPS: Final = 1000


@dataclass(frozen=True, eq=False)
class Trainer(Model):
    """A version that can be trained. Its `inputs` are those of trainings."""

    @cached_property
    def zip_input(self) -> str | None:
        """The input that takes the zip of images, None if there is none."""
        fields = self.inputs.fields
        named = [each for each in _ZIP_NAMES if self.inputs.holds_files(each) and not fields[each].is_list]
        files = [name for name, each in fields.items() if each.content == "file"]
        required = [name for name in files if self.inputs[name].required]
        return next(iter((*named, *required, *files)), None)

    @cached_property
    def word_input(self) -> str | None:
        """The input that takes the trigger word, None if it has none."""
        return next((name for name in _WORD_NAMES if name in self.inputs.fields), None)

    @cached_property
    def steps_input(self) -> str | None:
        return next((name for name in STEP_NAMES if name in self.inputs.fields), None)

    @property
    def pace(self) -> Pace:
        return _pace_of(self.name)

    def steps(self, sent: Mapping[str, Any]) -> int:
        """How many steps a training with this input has."""
        name = self.steps_input
        found = None if name is None else sent.get(name, self.default(name))
        return int(found) if isinstance(found, int | float) and found > 0 else _USUAL_STEPS

    def usual_run(self, sent: Mapping[str, Any]) -> float:
        """How many seconds a training with this input usually runs."""
        return self.pace.fixed + self.steps(sent) * self.pace.per_step


def trainer_of(model: Model) -> Trainer | None:
    """The trainer that a model is, None if its version cannot be trained."""
    schemas = _schemas(model.document)
    if not isinstance(schemas.get(SCHEMA), Mapping):
        return None
    form = Published.of({**model.document, "components": {"schemas": {**schemas, "Input": schemas[SCHEMA]}}})
    pace = _pace_of(model.name)
    return Trainer(
        name=model.name,
        aliases=(),
        kind="data",
        price=model.price if model.price and model.price.per == "running_second" else pace.price,
        tier=None,
        credits=0,
        usual_seconds=pace.fixed + _USUAL_STEPS * pace.per_step,
        document=model.document,
        inputs=form.inputs,
        example={},
        output=FORM,
        version=model.version,
        running_usd=model.running_usd,
        bills_failures=True,
        provider=TRAININGS,
        unread=form.unread,
    )


def _pace_of(name: str) -> Pace:
    return _PACES.get(name, _USUAL_PACE)


def _schemas(document: Mapping[str, Any]) -> Mapping[str, Any]:
    components = document.get("components")
    schemas = components.get("schemas") if isinstance(components, Mapping) else None
    return schemas if isinstance(schemas, Mapping) else {}
