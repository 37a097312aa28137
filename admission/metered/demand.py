"""What a metered ticket needs, and how that compares with the limits."""

from dataclasses import dataclass

from admission.metered.limits import MICRO, MONEY_LIMIT, ModelLimits
from admission.metered.windows import is_large


class TooLarge(ValueError):
    """A call needs more of one window than the whole window has, so it could never be admitted."""

    def __init__(self, limit: str, needed: float, most: float) -> None:
        super().__init__(f"needs {needed:,} of {limit}, whose whole window has {most:,}")
        self.limit, self.needed, self.most = limit, needed, most


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What one ticket needs: a call of this caller to a `model`, paid by an `account`.

    `tokens` are an upper bound of its prompt, and `micro_usd` an upper bound of its cost. `caller` is whose turn it
    takes. `batch`, `max_concurrent` and `semaphore` are as in `admission.policy`.
    """

    caller: str
    account: str
    model: str
    tokens: int
    micro_usd: int
    batch: str | None = None
    max_concurrent: int | None = None
    semaphore: str | None = None

    def check(self, limits: ModelLimits, micro_usd: int) -> None:
        """Raises TooLarge if it needs more than a whole window."""
        if self.tokens > limits.tpm:
            raise TooLarge("tpm", self.tokens, limits.tpm)
        if self.micro_usd > micro_usd:
            raise TooLarge(MONEY_LIMIT, self.micro_usd / MICRO, micro_usd / MICRO)

    def is_large(self, limits: ModelLimits, micro_usd: int) -> bool:
        """Whether it takes more than two per cent of the window of tokens or of money."""
        return is_large(self.tokens, limits.tpm) or is_large(self.micro_usd, micro_usd)

    def share(self, limits: ModelLimits, micro_usd: int) -> int:
        """The largest of its shares in the windows of requests, tokens and money, in millionths of a window."""
        return max(
            MICRO // limits.rpm, self.tokens * MICRO // limits.tpm, self.micro_usd * MICRO // micro_usd, 1
        )
