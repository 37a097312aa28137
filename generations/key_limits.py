"""What named keys may use of the gate and of the queue.

The gate lets the work of a key wait for its `max_concurrent` and its `requests_per_minute`. Only `max_queued` refuses
work, when it is accepted. If several processes share the ledger, each counts its own waiting work exactly, and that of
the others as they published it, every two seconds. So more may wait only if several processes accept work of one key
within these seconds: each of them at most as much as the key had room for before.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from cluster import AnyCallGate, AnyGate
from cluster.figures import ProcessFigures
from contract.callers import KEY_PREFIX
from errors import QueueFull
from generations.generation import Generation
from ledger.access_records import ApiKeyRecord

_PUBLISHED: Final = "waiting_of_keys"


class KeyLimits:
    """The limits of all keys that are not deleted, in this process, at the gate of creations and at that of `calls`.
    `elsewhere` counts the waiting work of each key in the other processes."""

    def __init__(self, gate: AnyGate, calls: "AnyCallGate | None" = None) -> None:
        self._gates: tuple[AnyGate | AnyCallGate, ...] = (gate,) if calls is None else (gate, calls)
        self._max_queued: dict[str, int] = {}
        self._elsewhere: Counter[str] = Counter()

    def apply(self, keys: Iterable[ApiKeyRecord]) -> None:
        """Use the limits of new and changed keys. One that is deleted keeps those of the gate: its waiting work, which
        is cancelled somewhat later, must not go meanwhile."""
        for key in keys:
            if key.deleted_at is None:
                limits = {"max_concurrent": key.max_concurrent, "per_minute": key.requests_per_minute}
                for gate in self._gates:
                    gate.limit_caller(key.id, **limits)
            if key.max_queued is None or key.deleted_at is not None:
                self._max_queued.pop(key.id, None)
            else:
                self._max_queued[key.id] = key.max_queued

    def check_room(
        self, more: int, turn: str, unfinished: int, queued: Callable[[], Iterable[Generation]]
    ) -> None:
        """Raises QueueFull unless `more` generations of a caller may wait. It has so many `unfinished` ones in this
        process. `queued` are those of all callers that wait in it."""
        most = self._max_queued.get(turn)
        elsewhere = self._elsewhere[turn]
        if most is None or unfinished + elsewhere + more <= most:
            return
        waiting = sum(each.caller.turn == turn for each in queued()) + elsewhere
        too_many = waiting + more - most
        if too_many > 0:
            raise QueueFull(
                f"{waiting} generations of this key are waiting, this adds {more}, and its max_queued is {most}.",
                retry_after=max(gate.seconds_to_admit(turn, min(too_many, waiting)) for gate in self._gates),
                retryable=more <= most,
            )

    def published(self, queued: Iterable[Generation]) -> Mapping[str, Mapping[str, int]]:
        """What this process publishes to the others, if these generations wait in it."""
        turns = (each.caller.turn for each in queued if each.caller.turn.startswith(KEY_PREFIX))
        waiting = Counter(turn for turn in turns if turn in self._max_queued)
        return {_PUBLISHED: dict(waiting)} if waiting else {}

    def read(self, others: Sequence[ProcessFigures]) -> None:
        """Use what the other processes have published."""
        self._elsewhere = Counter()
        for each in others:
            self._elsewhere.update(each.figures.get(_PUBLISHED, {}))
