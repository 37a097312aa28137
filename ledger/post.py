"""What processes that share a ledger exchange: letters, and figures about themselves."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

GATE: Final = "gate"
"""The recipient of letters to the process that holds the gate."""

LEASES: Final = "leases"
"""The topic of the notices that a process gives after it has written leases of the gate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A letter of the process `sender` to the process `recipient`, or to `GATE`. `body` is JSON. `reply_to` is the id
    of the letter that this one answers."""

    id: str
    sender: str
    recipient: str
    kind: str
    body: str
    reply_to: str | None = None


class Post(Protocol):
    """The letters of this process. Use it on the loop. Every coroutine raises LedgerDown."""

    @property
    def process(self) -> str:
        """The id of this process."""

    @property
    def notices_work(self) -> bool:
        """Whether a function of `listen` is called. If not, look for letters more often."""

    async def send(self, letter: Letter) -> bool:
        """Send a letter. Returns whether its recipient is alive, which may not be known for `GATE`."""

    async def take(self, recipients: Collection[str]) -> Sequence[Letter]:
        """Take all letters to these recipients, each once. Letters that were not taken for a minute are lost."""

    async def others(self) -> Sequence[str]:
        """The other processes that are alive."""

    def listen(self, recipient: str, callback: Callable[[], object]) -> None:
        """Call this function when there may be a letter to this recipient."""

    def unlisten(self, recipient: str) -> None:
        """End that."""


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """A process that is alive. It has shared the ledger since the Unix time `since`. `figures` is JSON. `read_at` is
    when the row was read, by the clock of the database."""

    id: str
    since: float
    version: str
    figures: str
    holds_gate: bool
    read_at: float


class ProcessTable(Protocol):
    """The processes that share the ledger."""

    @property
    def process(self) -> str:
        """The id of this process."""

    async def exchange(self, figures: str) -> Sequence[ProcessRow]:
        """Publish the figures of this process, and return the rows of all that are alive, in the order of their start.
        Raises LedgerDown."""
