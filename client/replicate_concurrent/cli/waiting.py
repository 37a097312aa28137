"""Waits for work at the service, with what happens to it on a terminal, and Ctrl-C once or twice."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

import typer

from replicate_concurrent.cli.exits import INTERRUPTED
from replicate_concurrent.cli.session import report

if TYPE_CHECKING:
    from replicate_concurrent.client import Client
    from replicate_concurrent.results import Batch, Generation
    from replicate_concurrent.training_results import Training

Work = TypeVar("Work", "Generation", "Batch", "Training")

_FETCHED: Final = "`rcg get {0} -o DIR` fetches its files."
_FOLLOWED: Final = "`rcg watch {0}` follows it, and `rcg get {0} -o DIR` fetches its weights."

AGAIN: Final = 3.0
"""Seconds in which a second Ctrl-C cancels."""

_PAUSE: Final = (0.25, 2.0)
"""Seconds between two looks: at first, and at most."""


def kind_of(target: str) -> str:
    """The first part of the path of the work with this id."""
    kinds = {"batch": "batches", "trn": "trainings"}
    return kinds.get(target.partition("_")[0], "generations")


def ended_work(client: Client, target: str) -> Generation | Batch | Training:
    """The work with this id, once it has ended. Ctrl-C leaves it to the service."""
    kind = kind_of(target)
    if kind == "trainings":
        return ended_training(client, target)
    return ended_batch(client, target) if kind == "batches" else ended(client, target)


def ended(client: Client, target: str) -> Generation:
    """The generation, once it has ended. Ctrl-C leaves it to the service."""
    handle = client.handle(target)
    with _interruptible(client, target, _FETCHED):
        if sys.stderr.isatty():
            with _shown(target) as show:
                for event in handle.events():
                    done = "" if event.progress is None else f"  {event.progress:.0f} %"
                    show(f"{target}  {event.name}{done}")
        with _shown(target) as show:
            return _looked(handle.status, _Line(show).show)


def ended_batch(client: Client, target: str) -> Batch:
    """The batch, once it has ended. Ctrl-C leaves it to the service."""
    handle = client.batch_handle(target)
    with _interruptible(client, target, _FETCHED), _shown(target) as show:
        return _looked(handle.status, _Line(show).show)


def ended_training(client: Client, target: str) -> Training:
    """The training, once it has ended. Ctrl-C leaves it to the service."""
    handle = client.training_handle(target)
    with _interruptible(client, target, _FOLLOWED):
        if not sys.stderr.isatty():
            return _looked(handle.status, _ignore)
        from replicate_concurrent.cli.screen import TrainingBar

        with TrainingBar() as bar:
            return _looked(handle.status, bar.show)


def _looked(look: Callable[[], Work], show: Callable[[Work], object]) -> Work:
    """Look until it has ended, and show how it stands."""
    pause = _PAUSE[0]
    while not (found := look()).has_ended:
        show(found)
        time.sleep(pause)
        pause = min(_PAUSE[1], pause * 1.1)
    return found


@contextmanager
def _shown(target: str) -> Iterator[Callable[[str], object]]:
    if not sys.stderr.isatty():
        yield _ignore
        return
    from rich.console import Console

    with Console(stderr=True).status(target) as status:
        yield status.update


def _ignore(_: object) -> None:
    """Show no output."""


class _Line:
    """A line with the state of work."""

    def __init__(self, show: Callable[[str], object]) -> None:
        self._show = show

    def show(self, found: Generation | Batch) -> None:
        raw = found.raw
        parts = [str(raw.get("id")), str(raw.get("status"))]
        if raw.get("place") is not None:
            parts.append(f"place {raw['place']}")
        if raw.get("counts"):
            parts.append(", ".join(f"{count} {state}" for state, count in raw["counts"].items()))
        if raw.get("estimated_seconds") is not None:
            parts.append(f"about {raw['estimated_seconds']:.0f} s")
        self._show("  ".join(parts))


@contextmanager
def _interruptible(client: Client, target: str, how: str) -> Iterator[None]:
    """`how` has the commands that return to the work after Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        report(f"\n{target} goes on at the service; {how.format(target)}")
        if again():
            report("Cancelling…")
            client.request("DELETE", f"/{kind_of(target)}/{target}")
        raise typer.Exit(INTERRUPTED) from None


def again() -> bool:
    """Whether Ctrl-C comes a second time. Without a terminal it is not waited for."""
    if not sys.stderr.isatty():
        return False
    report(f"Ctrl-C again within {AGAIN:.0f} seconds cancels it there.")
    try:
        time.sleep(AGAIN)
    except KeyboardInterrupt:
        return True
    return False
