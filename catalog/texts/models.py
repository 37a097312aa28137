"""The declaration of a text model, and the list of all of them by name.

A provider retires models and answers with others in their place. So a retired model is sent under the name of the model
that answers for it, and an answer is priced by the version that it names.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Final, Literal

from catalog.texts import prices
from catalog.texts.prices import Prices, Tokens

Sampling = Literal["honoured", "deprecated", "ignored"]
"""How a model treats `temperature` and `top_p`: it honours them, may stop honouring them, or ignores them."""

_PREFIX: Final = "models/"
_SUFFIX: Final = re.compile(r"(?:-(?:preview|exp|latest|stable|\d{2,4}))+$")
"""The end of a version after the name of its model: `-001`, `-preview`, `-preview-06-17`."""

_LONGEST_NAME: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class TextModel:
    """One text model. Limits are in tokens. `thinking_levels` are None if they are not known, and empty if the model
    takes none. After `ends` the provider may refuse it or answer with another model. `sent_as` is the full name under
    which a retired model is sent, and then that model's limits and levels apply. A model without `prices` costs at most
    what the dearest one costs."""

    name: str
    provider: str
    aliases: tuple[str, ...] = ()
    prices: Prices = ()
    thinking_levels: tuple[str, ...] | None = None
    thinking_default: str | None = None
    sampling: Sampling = "honoured"
    input_limit: int = 1_048_576
    output_limit: int = 65_536
    ends: date | None = None
    sent_as: str | None = None
    description: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)

    def takes_thinking(self, level: str) -> bool:
        """Whether the model takes this thinking level, as far as that is known."""
        return self.thinking_levels is None or level in self.thinking_levels

    def may_be_replaced(self, at: float) -> bool:
        """Whether another model may answer in its place at this Unix time."""
        return self.ends is not None and self.ends <= datetime.fromtimestamp(at, UTC).date()

    def as_json(self) -> dict[str, Any]:
        """The fields of text models alone in the body of `GET /models`."""
        body: dict[str, Any] = {
            "provider": self.provider,
            "aliases": list(self.aliases),
            "description": self.description,
            "input_tokens": self.input_limit,
            "output_tokens": self.output_limit,
            "thinking_levels": None if self.thinking_levels is None else list(self.thinking_levels),
            "thinking_default": self.thinking_default,
            "sampling": self.sampling,
            "usd_per_million_tokens": [each.as_json() for each in self.prices],
        }
        body |= {"ends": self.ends.isoformat()} if self.ends else {}
        return body | ({"sent_as": self.sent_as} if self.sent_as else {})


@dataclass(frozen=True, slots=True)
class Cost:
    """The micro-dollars of a call: the amount that is billed if its version `is_known`, else the cost of the dearest
    model."""

    micro_usd: int
    is_known: bool = True


class TextModels:
    """The text models, in the order in which `/models` lists them. Raises ValueError if two have one name, or if one is
    sent under a name that is not another's."""

    def __init__(self, models: Iterable[TextModel]) -> None:
        self.models: tuple[TextModel, ...] = tuple(models)
        self._by_name: Mapping[str, TextModel] = _unique(
            (name, each) for each in self.models for name in each.names
        )
        self._by_version: Mapping[str, TextModel] = _unique(
            (_without_suffix(each.name), each) for each in self.models
        )
        self._priced = [each for each in self.models if each.prices]
        for each in self.models:
            if each.sent_as is not None and self._by_name[each.sent_as].sent_as is not None:
                raise ValueError(f"{each.name} is sent as {each.sent_as}, which is retired")

    def sent(self, model: TextModel) -> TextModel:
        """The model that a call to this one names when it is sent: itself, unless it is retired."""
        return model if model.sent_as is None else self._by_name[model.sent_as]

    def answered_by(self, version: str | None) -> TextModel | None:
        """The model of the version that an answer names, None if it is not known here. A version may have a suffix that
        the name has not, and the name one that the version has not."""
        plain = (version or "").removeprefix(_PREFIX)
        return self._by_name.get(plain) or self._by_version.get(_without_suffix(plain))

    def cost(self, version: str | None, tokens: Tokens, at: float) -> Cost:
        """The cost of an answer of this version that ended at a Unix time."""
        model = self.answered_by(version)
        if model is None or not model.prices:
            return Cost(prices.cost([each.prices for each in self._priced], tokens, at), is_known=False)
        return Cost(prices.cost([model.prices], tokens, at))

    def bound(
        self, model: TextModel, *, prompt_tokens: int, max_output_tokens: int, begin: float, end: float
    ) -> int:
        """The most micro-dollars that a call may cost which is sent and answered between two Unix times: the dearest
        price among the model and the models that may answer in its place. `prompt_tokens` is an upper estimate, and
        `max_output_tokens` includes thinking."""
        among = [each for each in (model, self.sent(model)) if each.prices]
        if not among or self.sent(model).may_be_replaced(end):
            among = self._priced
        return prices.bound(
            [each.prices for each in among],
            prompt_tokens=prompt_tokens,
            max_output_tokens=max_output_tokens,
            begin=begin,
            end=end,
        )


def _without_suffix(name: str) -> str:
    return _SUFFIX.sub("", name[:_LONGEST_NAME])


def _unique(pairs: Iterable[tuple[str, TextModel]]) -> dict[str, TextModel]:
    found: dict[str, TextModel] = {}
    for name, model in pairs:
        if name in found:
            raise ValueError(f"{name} is already the name of a model")
        found[name] = model
    return found
