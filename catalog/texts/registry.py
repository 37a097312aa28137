"""The text models as models of a registry, which parsing, budgets and `/models` use."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from catalog.model import Fallback
from catalog.outputs import UNKNOWN
from catalog.registry import Registry
from catalog.texts.declared import TEXT_MODELS
from catalog.texts.inputs import inputs_of
from catalog.texts.models import TextModel, TextModels
from catalog.texts.runnable import CallModel

USUAL_SECONDS: Final = 5.0
"""How long a call usually takes, until some have been measured."""

_FALLBACKS: Final[Mapping[str, tuple[Fallback, ...]]] = {
    "gemini-3.5-flash-lite": (Fallback("gemini-3.8-flash", on=("upstream_rate_limited", "quota_exhausted")),),
}
"""The models to try next. They have limits of their own."""


def text_registry(
    tokens_bound: Callable[[Mapping[str, Any]], int], models: TextModels = TEXT_MODELS
) -> Registry:
    """The registry of the text models. `tokens_bound` is an upper bound of the tokens of a prompt by its inputs."""
    return Registry(_runnable(each, models, tokens_bound) for each in models.models)


def _runnable(
    model: TextModel, among: TextModels, tokens_bound: Callable[[Mapping[str, Any]], int]
) -> CallModel:
    sent = among.sent(model)
    return CallModel(
        name=model.name,
        aliases=(*model.aliases, *(f"models/{name}" for name in model.names)),
        kind="text",
        price=None,
        tier=None,
        credits=0,
        usual_seconds=USUAL_SECONDS,
        document={},
        inputs=inputs_of(sent),
        example={"prompt": "Hello world"},
        fallbacks=_FALLBACKS.get(model.name, ()),
        output=UNKNOWN,
        description=model.description,
        provider=model.provider,
        text=model,
        among=among,
        tokens_bound=tokens_bound,
    )
