"""The trainers of the simulator, as the service reads them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from catalog.model import Model
from catalog.published import Published
from catalog.trainers import Trainer, trainer_of
from generations.published_models import Known
from generations.resolver import published_model

PUBLISHED = Path(__file__).parent.parent.parent / "simulator" / "published"
VERSION = "1" * 64


def published(name: str) -> Model:
    """The model of this name, with the version that is pinned for a training."""
    text = (PUBLISHED / f"{name.replace('/', '--')}.json").read_text(encoding="utf-8")
    content = json.loads(text)
    version = content.get("latest_version", content)
    known = Known(
        name=name,
        looked_up_at=0.0,
        version=VERSION,
        form=Published.of(version.get("openapi_schema", version)),
        is_official=False,
    )
    return replace(published_model(known), version=VERSION)


def trainer(name: str = "ostris/flux-dev-lora-trainer") -> Trainer:
    """The trainer of this name."""
    found = trainer_of(published(name))
    assert found is not None, f"{name} is a trainer"
    return found


def trainer_with(properties: Mapping[str, Any], *, required: Sequence[str] = ()) -> Trainer | None:
    """The trainer whose `TrainingInput` has these properties."""
    schema = {"type": "object", "properties": properties, "required": [*required]}
    form = Published.of({"components": {"schemas": {"TrainingInput": schema, "Input": {}}}})
    known = Known(name="acme/trainer", looked_up_at=0.0, version=VERSION, form=form, is_official=False)
    return trainer_of(published_model(known))
