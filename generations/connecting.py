"""Connects the parts of this process with those that all processes on the ledger share."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from cluster.figures import ProcessFigures
from concurrency import Gate
from generations.core import Core
from generations.shared import SharedSemaphores

if TYPE_CHECKING:
    from cluster.group import Group


class Common(Protocol):
    """Compares this process with the others: `rotation.accounts.CommonAccount`."""

    def published(self) -> Mapping[str, Any]: ...

    def read(self, processes: Sequence[ProcessFigures]) -> None: ...


def connect(core: Core, group: "Group", others: Gate, common: Common) -> None:
    """Connect the parts of `core` and `common` with `group`. `others` is the gate of all requests but creations."""
    core.checks.shared = group.tokens
    if isinstance(core.semaphores, SharedSemaphores):
        group.permits = core.semaphores
        core.semaphores.holds_gate = lambda: group.holds_gate
    group.figures = lambda: {**core.published(others), **common.published()}
    group.on_figures = partial(_read, core, common)
    group.on_keys = core.key_directory.meet
    core.processes = group.processes.all
    if core.calls is not None:
        group.count_day = partial(core.calls.count_day, core.key_directory.archive)


def _read(core: Core, common: Common, processes: Sequence[ProcessFigures]) -> None:
    """Use the figures that the processes on the ledger have published."""
    core.read_published(processes)
    common.read(processes)
