"""The declared models for tests: a registry, and the parsers that use it. A test that registers a model creates its own
registry.
"""

from functools import partial
from typing import Any

from catalog.model import Model
from models import declared
from parsing import batch, generation
from parsing.context import ParseContext

REGISTRY = declared()
MODELS = {model.name: model for model in REGISTRY.models}
CONTEXT = ParseContext(REGISTRY)

find = REGISTRY.find


def least(model: Model) -> dict[str, Any]:
    """The least body of a request for a model: what it requires, and a prompt."""
    required = {name: model.example[name] for name, each in model.inputs.fields.items() if each.required}
    return {"model_name": model.name, **required, "prompt": "a"}


parse_generation = partial(generation.parse_generation, context=CONTEXT)
parse_batch = partial(batch.parse_batch, context=CONTEXT)
