"""A post in memory: the letters of several processes on one loop."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from errors import LedgerDown
from ledger.post import Letter


@dataclass
class PostOffice:
    """The letters of all processes. Those whose ids are in `alive` live; `is_down` means that the ledger is away.
    `lost` is called for each letter and returns whether it is lost."""

    alive: set[str] = field(default_factory=set)
    letters: list[Letter] = field(default_factory=list)
    callbacks: dict[tuple[str, str], Callable[[], object]] = field(default_factory=dict)
    notices_work: bool = True
    is_down: bool = False
    lost: Callable[[Letter], bool] = lambda _: False

    def post(self, process: str) -> "MemoryPost":
        """The post of a new process."""
        self.alive.add(process)
        return MemoryPost(self, process)


class MemoryPost:
    """`ledger.post.Post` of one process."""

    def __init__(self, office: PostOffice, process: str) -> None:
        self._office = office
        self.process = process
        self.looks = 0

    @property
    def notices_work(self) -> bool:
        return self._office.notices_work

    async def send(self, letter: Letter) -> bool:
        self._raise_if_down()
        if letter.recipient not in {*self._office.alive, "gate"}:
            return False
        if not self._office.lost(letter):
            self._office.letters.append(letter)
        if self._office.notices_work:
            for (_, recipient), callback in [*self._office.callbacks.items()]:
                if recipient == letter.recipient:
                    callback()
        return True

    async def take(self, recipients: Collection[str]) -> Sequence[Letter]:
        self._raise_if_down()
        self.looks += 1
        taken = [each for each in self._office.letters if each.recipient in recipients]
        self._office.letters = [each for each in self._office.letters if each not in taken]
        return taken

    async def others(self) -> Sequence[str]:
        self._raise_if_down()
        return sorted(self._office.alive - {self.process})

    def listen(self, recipient: str, callback: Callable[[], object]) -> None:
        self._office.callbacks[self.process, recipient] = callback

    def unlisten(self, recipient: str) -> None:
        self._office.callbacks.pop((self.process, recipient), None)

    def _raise_if_down(self) -> None:
        if self._office.is_down:
            raise LedgerDown("The database is away.")
