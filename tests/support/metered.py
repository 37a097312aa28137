"""Short forms for tests of metered admission."""

from collections.abc import Iterable

from admission.durations import Durations
from admission.metered.demand import Demand
from admission.metered.limits import MeteredLimits, ModelLimits
from admission.metered.policy import MeteredPolicy
from admission.semaphores import Semaphores


def need(
    caller: str = "ann",
    tokens: int = 0,
    micro_usd: int = 0,
    model: str = "lite",
    account: str = "ours",
    **more: str | int | None,
) -> Demand:
    """What a ticket needs."""
    return Demand(
        caller=caller, account=account, model=model, tokens=tokens, micro_usd=micro_usd, **more  # type: ignore[arg-type]
    )  # fmt: skip


class Metered(MeteredPolicy):
    """A policy with numbers from 0 as tickets, in the order in which they were added. Windows are wide unless a limit
    is set. A day has 1,000 seconds."""

    def __init__(
        self,
        slots: int = 1000,
        rpm: int = 1_000_000,
        tpm: int = 1_000_000_000,
        rpd: int | None = None,
        money: int = 10**12,
        models: dict[str, ModelLimits] | None = None,
    ) -> None:
        super().__init__(
            concurrent_limit=slots,
            limits=MeteredLimits({"*": ModelLimits(rpm, tpm, rpd), **(models or {})}, money),
            day_ends=lambda moment: (moment // 1000 + 1) * 1000,
            semaphores=Semaphores(),
            durations=Durations(),
        )
        self.tickets = 0

    def add(self, times: int = 1, **needed: str | int | None) -> list[int]:
        """Enqueue so many tickets with these needs."""
        tickets = list(range(self.tickets, self.tickets + times))
        self.tickets += times
        for ticket in tickets:
            self.enqueue(ticket, need(**needed))  # type: ignore[arg-type]
        return tickets

    def go(self, now: float = 0.0) -> list[int]:
        """The tickets that are admitted at this moment."""
        return self.step(now).admitted

    def done(self, *tickets: int, now: float = 0.0) -> None:
        """These tickets were answered and have ended."""
        for ticket in tickets:
            self.answered(ticket, now)
            self.release(ticket, now)


def heaviest(entries: Iterable[tuple[float, int]], span: float = 60.0) -> int:
    """The most weight in any half-open interval of `span` seconds. An entry is its moment and its weight."""
    ordered = sorted(entries)
    most = weight = first = 0
    for moment, added in ordered:
        weight += added
        while moment - ordered[first][0] >= span:
            weight -= ordered[first][1]
            first += 1
        most = max(most, weight)
    return most
