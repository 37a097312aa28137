"""The declared models for tests: a registry, and the parsers that use it. A test that registers a model creates its own
registry.
"""

from functools import partial

from models import declared
from parsing import batch, generation
from parsing.context import ParseContext

REGISTRY = declared()
MODELS = {model.name: model for model in REGISTRY.models}
CONTEXT = ParseContext(REGISTRY)

find = REGISTRY.find
parse_generation = partial(generation.parse_generation, context=CONTEXT)
parse_batch = partial(batch.parse_batch, context=CONTEXT)
