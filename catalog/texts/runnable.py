"""A text model as the rest of the service sees models: with inputs, a bound and a cost.

Its cost is known by the tokens of an answer, and its bound by an upper estimate of the tokens of a prompt.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from catalog.model import Model
from catalog.prices import LONGEST, NO_METRICS, Basis
from catalog.texts.models import TextModel, TextModels
from catalog.texts.prices import Tokens

MAX_OUTPUT: Final = "max_output_tokens"
"""The input with the most tokens that a call may think and answer. Every call has it."""

_INTERNAL: Final = frozenset({"task", "json"})
"""Inputs that a route sets."""

_MICRO: Final = 1_000_000

_LATEST: Final = 86_400.0
"""Seconds after its acceptance by which a call is answered, as far as a change of prices is concerned."""


@dataclass(frozen=True, eq=False, kw_only=True)
class CallModel(Model):
    """A text model that can be run. `tokens_bound` is an upper bound of the tokens of the prompt with these inputs."""

    text: TextModel
    among: TextModels
    tokens_bound: Callable[[Mapping[str, Any]], int]

    @property
    def bills_running(self) -> bool:
        return False

    @property
    def boots(self) -> None:
        return None

    @property
    def target(self) -> str:
        """The name under which its calls are sent."""
        return self.among.sent(self.text).name

    @property
    def timed_as(self) -> str:
        return self.target

    def bound(self, sent: Mapping[str, Any], *, longest: float = LONGEST) -> float:  # noqa: ARG002
        return self.bound_of(sent, self.tokens_bound(sent)) / _MICRO

    def bound_of(self, sent: Mapping[str, Any], tokens: int) -> int:
        """The most micro-dollars that a call with these inputs may cost, if its prompt has at most so many tokens."""
        now = time.time()
        return self.among.bound(
            self.text,
            prompt_tokens=tokens,
            max_output_tokens=sent[MAX_OUTPUT],
            begin=now,
            end=now + _LATEST,
        )

    def cost(
        self,
        sent: Mapping[str, Any],
        *,
        outputs: int | None = None,  # noqa: ARG002
        metrics: Mapping[str, Any] = NO_METRICS,  # noqa: ARG002
        longest: float = LONGEST,
    ) -> float:
        """The most that a call with these inputs may cost, since its cost is only known by its answer."""
        return self.bound(sent, longest=longest)

    def micro_usd(self, tokens: Tokens, *, version: str | None, at: float) -> int:
        """The micro-dollars of an answer of this version that ended at a Unix time."""
        return self.among.cost(version, tokens, at).micro_usd

    def is_named_by(self, version: str) -> bool:
        """Whether an answer of this version is one of this model, and of no other that it may be sent as."""
        return self.among.answered_by(version) is self.text

    def basis(self, metrics: Mapping[str, Any] = NO_METRICS) -> Basis:
        return "declared" if metrics else "bounded"

    def as_json(self) -> dict[str, Any]:
        """The model in the body of `GET /models`: what every model has, and the facts of a text model."""
        schema = self.input_schema
        inputs = {name: each for name, each in schema["properties"].items() if name not in _INTERNAL}
        shown = {**super().as_json(), "input_schema": {**schema, "properties": inputs}}
        del shown["unpriced"]  # it has a price of its tokens
        return {**shown, **self.text.as_json()}

    def _example(self) -> dict[str, Any]:
        return {"model": self.name, **self.example}
