"""The access to Replicate that predictions and trainings share: its client, its knowledge of refused tokens, and the
secrets of webhooks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from yarl import URL

from auth import Caller
from concurrency import Gate
from errors import TokenRejected
from network.proxies import Proxy
from providers import Limits
from providers.replicate.absence import SearchTiming
from providers.replicate.api import Timeouts
from providers.replicate.client import ReplicateClient
from providers.replicate.clock import UNKNOWN_SKEW
from providers.replicate.push import signing_secrets
from providers.replicate.refusals import Refusals
from providers.replicate.transport import Connections, HttpConnections
from providers.replicate.uploads import FIRST_PAUSE
from providers.server_tokens import ServerTokens


@dataclass(frozen=True, slots=True)
class Timing:
    """Timeouts, and pauses between tries, in seconds."""

    timeouts: Timeouts = field(default_factory=Timeouts)
    search: SearchTiming = field(default_factory=SearchTiming)
    """The timing of the search for a lost creation."""
    cancel_pauses: Sequence[float] = (0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
    """Pauses after failed tries to cancel, unless a refusal states the wait."""
    upload_pause: float = FIRST_PAUSE
    """The longest pause before the second try to upload."""


class Access:
    """Create and close it on the loop that uses it. `others` is the window for all requests that create
    no prediction. When one of them is answered, `on_answer` is called with the time at which it was sent.
    `may_send` is called just before the first byte of a creation; by default each may be sent. `connections` carry the
    requests; by default they are opened here, through `proxy` if there is one.
    """

    def __init__(
        self,
        *,
        base_url: str,
        others: Gate,
        timing: Timing | None = None,
        on_answer: Callable[[float], object] = lambda sent: None,
        may_send: Callable[[], bool] | None = None,
        connections: Connections | None = None,
        proxy: Proxy | None = None,
        tokens: ServerTokens | None = None,
    ) -> None:
        self.base_url = URL(base_url)
        self.others = others
        self.timing = timing or Timing()
        self.tokens = tokens or ServerTokens(None)
        self.on_answer = on_answer
        self.limits = Limits(answer_timeout=self.timing.timeouts.create, clock_skew=UNKNOWN_SKEW)
        self.client = ReplicateClient(
            base_url=base_url,
            timeouts=self.timing.timeouts,
            others=others,
            on_answer=on_answer,
            may_send=may_send,
            connections=connections or HttpConnections(proxy),
            tokens=self.tokens,
        )
        self.refusals = Refusals(self.client.account, self.client.secrets.redaction)
        self.webhook_secrets = signing_secrets(self.client.default_webhook_secret, self.tokens.payer_of)

    async def account_of(self, caller: Caller) -> str | None:
        """See `providers.AccountSource`."""
        account = await self.client.account(caller)
        if account.status == "refused":
            raise TokenRejected
        return (account.username or "") if account.status == "accepted" else None

    async def aclose(self) -> None:
        """Close every connection."""
        await self.webhook_secrets.aclose()
        await self.refusals.aclose()
        await self.client.aclose()
