"""The unfinished work of this process: each generation and batch with the task that ends when it ends."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping

from contract.ids import is_training_id
from generations.batch import Batch, Work
from generations.generation import Generation


class RunningWork:
    """Use it on the loop. While the process `is_draining`, no new work is accepted."""

    def __init__(self) -> None:
        self.generations: dict[str, tuple[asyncio.Task[None], Generation]] = {}
        self.batches: dict[str, tuple[asyncio.Task[None], Batch]] = {}
        self._of_turn: Counter[str] = Counter()
        """The number of generations of each caller."""
        self._naming: Counter[str] = Counter()
        """The number of generations that name each semaphore."""
        self.is_draining = False

    def add(self, work: Work, task: asyncio.Task[None]) -> None:
        if isinstance(work, Batch):
            self.batches[work.id] = task, work
            return
        self.generations[work.id] = task, work
        self._of_turn[work.caller.turn] += 1
        if work.semaphore is not None:
            self._naming[work.semaphore] += 1

    def remove(self, work: Work) -> None:
        if isinstance(work, Batch):
            del self.batches[work.id]
            return
        del self.generations[work.id]
        self._of_turn -= Counter((work.caller.turn,))  # removes callers whose count is zero
        if work.semaphore is not None:
            self._naming -= Counter((work.semaphore,))

    def find(self, work_id: str) -> Work | None:
        """A generation or batch that runs in this process."""
        found = self.generations.get(work_id) or self.batches.get(work_id)
        return found[1] if found else None

    def task(self, work: Work) -> asyncio.Task[None] | None:
        """The task that ends when the work ends or is interrupted; None if it does not run in this process."""
        running = self.batches if isinstance(work, Batch) else self.generations
        return running[work.id][0] if work.id in running else None

    def tasks(self) -> list[asyncio.Task[None]]:
        return [task for task, _ in (*self.generations.values(), *self.batches.values())]

    def callers(self) -> Mapping[str, int]:
        """The unfinished generations in this process of each turn that has some."""
        return dict(self._of_turn)

    def of_turn(self, turn: str) -> int:
        """The number of unfinished generations of a turn."""
        return self._of_turn[turn]

    def names_semaphore(self, semaphore: str) -> bool:
        """Whether unfinished work in this process names it."""
        return self._naming[semaphore] > 0

    def queue_position(self, generation: Generation) -> int:
        """How many generations of the same caller, batch and provider queue before this one."""
        before = 0
        for _, other in self.generations.values():
            if other is generation:
                break
            same = (other.caller.turn, other.batch_id) == (generation.caller.turn, generation.batch_id)
            same = same and other.request.model.provider == generation.request.model.provider
            before += same and other.semaphore == generation.semaphore and other.state == "queued"
        return before

    def queued(self) -> Iterator[Generation]:
        """The generations that wait in the queue here, the oldest first."""
        return (each for _, each in self.generations.values() if each.state == "queued")

    def counts(self) -> tuple[int, int]:
        """How many generations wait in the queue here, and how many run."""
        queued = sum(1 for _ in self.queued())
        return queued, len(self.generations) - queued

    def training_counts(self) -> tuple[int, int]:
        """How many trainings wait here, and how many run."""
        states = [each.state for _, each in self.generations.values() if is_training_id(each.id)]
        queued = states.count("queued")
        return queued, len(states) - queued

    def longest_waiting(self) -> float | None:
        """Seconds since the oldest queued generation was accepted. None if the queue is empty."""
        waiting = [each.accepted_at for each in self.queued()]
        return asyncio.get_running_loop().time() - min(waiting) if waiting else None
