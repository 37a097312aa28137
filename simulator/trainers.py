"""The inputs and the results of trainers: images, steps, the new version with its schema, and the name of the weights.

Versions of Flux LoRAs have all one schema, and those of Qwen the schema of Qwen Image. SDXL trains versions of itself.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from simulator import official
from simulator.model import Facts, Model, Trainer, Version
from simulator.schemas import Schema, document, is_file

USUAL_IMAGES = 12
USUAL_STEPS = 1000

_NAMES_OF_STEPS = ("steps", "training_steps", "max_train_steps")
_FINISHED = "skip_training_and_use_pretrained_hf_lora_url"
_SAVED = {"flux": "trained-flux.json", "qwen": "qwen/qwen-image.json"}
_FILES = {"flux": "trained_model.tar", "qwen": "trained_model.zip", "sdxl": "trained_model.tar"}


def archive(schema: Schema, inputs: Mapping[str, Any]) -> tuple[str, str] | None:
    """The input that has the images, and its value. None if it is not there."""
    name = _images_input(schema)
    value = inputs.get(name) if name else None
    return (name, value) if name and isinstance(value, str) and value else None


def steps(schema: Schema, inputs: Mapping[str, Any]) -> int:
    """The number of steps of a training with these inputs."""
    number = schema.value(inputs, *_NAMES_OF_STEPS)
    return int(number) if isinstance(number, int | float) and number >= 1 else USUAL_STEPS


def lacks_images(schema: Schema, inputs: Mapping[str, Any], *, images: int) -> str | None:
    """The error of a training that finds no images, or None.

    Args:
        schema: The schema of its inputs. It may require no images though no training runs without.
        inputs: Its input.
        images: The number of images in its archive, 0 if that is none.
    """
    name = _images_input(schema)
    if name is None or inputs.get(_FINISHED):
        return None
    if archive(schema, inputs) is None:
        return f"{name} must be provided"
    return None if images else f"{name} must be a zip file with images"


def version_id(training: str) -> str:
    """The id of the version that a training makes, from the training's id."""
    return hashlib.sha256(training.encode()).hexdigest()


def file_name(trainer: Trainer) -> str:
    """The name of the file of the weights."""
    return _FILES[trainer.family]


def new_version(training: str, trainer: Model, version: Version, *, created_at: str) -> Version:
    """The version that a training makes.

    Args:
        training: The training's id.
        trainer: The model that trained it.
        version: The version that trained it.
        created_at: Its date in Replicate's form.
    """
    saved = _SAVED.get(trainer.facts.trainer.family)
    schema = _schema(saved) if saved else Schema(_without_training(version.schema.document))
    return Version(version_id(training), schema, created_at)


def facts() -> Facts:
    """The facts of a model with a trained latest version. Such LoRAs run on shared, warm hardware."""
    return Facts(kind="image", seconds=4.0, hardware="gpu-h100", boots_fast=True)


@cache
def _schema(path: str) -> Schema:
    saved = json.loads((official.SCHEMAS / path).read_bytes())
    inputs = saved["Input"]
    return Schema(document(inputs["properties"], saved["Output"], required=inputs.get("required", ())))


def _without_training(published: Mapping[str, Any]) -> dict[str, Any]:
    """The document without the schemas of trainings: what was trained cannot be trained further."""
    components = published["components"]
    kept = {name: each for name, each in components["schemas"].items() if not name.startswith("Training")}
    return {**published, "components": {**components, "schemas": kept}}


def _images_input(schema: Schema) -> str | None:
    """The input that takes the images: the first file of the schema."""
    return next((name for name, each in schema.inputs.items() if is_file(each)), None)
