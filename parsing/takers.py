"""The message about a parameter that a model does not take: which models do."""

from typing import Final

from catalog.model import Model
from catalog.registry import Registry
from parsing.validation import did_you_mean

_MOST_NAMED: Final = 5
"""So many models are named that take a parameter."""

_UP_TO: Final = {1: "one", 2: "up to two", 3: "up to three"}


def taken_by_others(name: str, model: Model, registry: Registry) -> str:
    """The message that this model does not take a parameter, and which models do."""
    if name in registry.reference_names:
        if model.references is None:
            return f"is not taken by {model.short_name}, as no reference image is{_takers_of(1, model, registry)}"
        if name == model.references.parameter:
            return f"must be one image and no list for {model.short_name}{_takers_of(2, model, registry)}"
        editors = "" if model.references.does_edit else _takers_of(1, model, registry)
        own = model.references.parameter
        return f"is not taken by {model.short_name}, whose reference image is {own}{editors}"
    takers = registry.takers[name]
    alike = [each.short_name for each in takers if each.kind == model.kind]
    named = alike or [each.short_name for each in takers]
    more = f" and {len(named) - _MOST_NAMED} more" if len(named) > _MOST_NAMED else ""
    hint = did_you_mean(name, model.inputs.fields)
    but = f"but by {', '.join(named[:_MOST_NAMED])}{more}{f'; {hint}' if hint else ''}"
    return f"is not taken by {model.short_name}, {but}"


def _takers_of(least: int, model: Model, registry: Registry) -> str:
    """Which models of this model's kind edit at least so many reference images, as the rest of a sentence."""
    takers = [
        f"{each.short_name} takes {_UP_TO.get(most, f'up to {most}')} ({each.references.parameter})"
        for each in registry.reference_models
        if each.kind == model.kind and each.references and (most := each.most_references) >= least
    ]
    return f"; {', '.join(takers)}" if takers else ""
