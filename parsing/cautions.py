"""Warnings: sentences for the caller about a request that is valid, and may not do what it seems to."""

from collections.abc import Iterator, Sequence

from catalog.adaptation import Step
from catalog.model import Model

_OTHER_MODEL = "allow_fallback_model"
"""The input by which a model may be replaced by another one at Replicate. This service never sets it."""


def warnings_of(first: Step, order: Sequence[Model]) -> list[str]:
    """The warnings about the first model with its input, and about the models that may be tried after it."""
    return list(dict.fromkeys(_warnings(first, order)))


def _warnings(first: Step, order: Sequence[Model]) -> Iterator[str]:
    for model in (first.model, *order):
        if model.retired is not None:
            yield f"{model.short_name} is retired. {model.retired}"
        if model.unread is not None:
            yield model.unread
        if model.caution is not None:
            yield model.caution
    for name, value in first.input.items():
        known = first.model.inputs.fields.get(name)
        if known is not None and known.is_deprecated and value is not None:
            why = f": {known.description}" if known.description else "."
            yield f"{name} is deprecated{why}"
    if first.input.get(_OTHER_MODEL) is True:
        yield f"With {_OTHER_MODEL}, Replicate may have run another model than {first.model.short_name}."
