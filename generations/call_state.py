"""The state of one call: its bound and its cost, and the answer so far."""

import time
from dataclasses import dataclass
from typing import Final

from catalog.texts.runnable import CallModel
from providers.calls import CallAnswer, Partial, Usage

STOPPED: Final = "The service stopped before the answer had ended."
"""The detail of the error of a call that was lost with its process."""


@dataclass(slots=True)
class CallState:
    """`tokens` are those of the prompt: an upper bound, until the upstream has counted them. `bound` is the most
    micro-dollars that it may cost, and `micro_usd` what it has cost, None until that is known. Until then it costs
    0 before it `may_be_billed`, and the bound afterwards.

    `text` is the text so far, and `began` the moment of the loop's clock at which its first piece came. `usage`,
    `version`, `finish_reason` and `response_id` are those of a whole answer.
    """

    tokens: int
    bound: int
    may_be_billed: bool = False
    micro_usd: int | None = None
    text: str = ""
    began: float | None = None
    usage: Usage | None = None
    version: str | None = None
    finish_reason: str | None = None
    response_id: str | None = None

    @property
    def usd(self) -> float:
        if self.micro_usd is not None:
            return self.micro_usd / 1_000_000
        return self.bound / 1_000_000 if self.may_be_billed else 0.0

    def take(self, answer: CallAnswer, model: CallModel) -> None:
        """The whole answer has come."""
        self.text, self.usage, self.version = answer.text, answer.usage, answer.model_version
        self.finish_reason = answer.finish_reason or answer.block_reason
        self.response_id = answer.response_id
        if not answer.usage.prompt_tokens or (self.text and not answer.usage.completion_tokens):
            self.micro_usd = self.bound  # the answer lacks its usage
            return
        self.tokens = answer.usage.prompt_tokens
        self.micro_usd = model.micro_usd(answer.usage, version=answer.model_version, at=time.time())

    def lose(self, partial: Partial) -> None:
        """The rest of the answer will not come. It costs what it may have cost."""
        self.may_be_billed = True
        self.text = partial.text or self.text
        self.version = partial.model_version
