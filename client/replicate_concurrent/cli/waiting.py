"""Waits for work at the service, with what happens to it on a terminal, and Ctrl-C once or twice."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

import typer

from replicate_concurrent.cli.exits import INTERRUPTED
from replicate_concurrent.cli.session import report

if TYPE_CHECKING:
    from replicate_concurrent.client import Client
    from replicate_concurrent.results import Batch, Generation

Work = TypeVar("Work", "Generation", "Batch")

AGAIN: Final = 3.0
"""Seconds in which a second Ctrl-C cancels."""

_PAUSE: Final = (0.25, 2.0)
"""Seconds between two looks: at first, and at most."""


def ended(client: Client, target: str) -> Generation:
    """The generation, once it has ended. Ctrl-C leaves it to the service."""
    handle = client.handle(target)
    with _interruptible(client, f"/generations/{target}", target):
        if sys.stderr.isatty():
            with _shown(target) as show:
                for event in handle.events():
                    done = "" if event.progress is None else f"  {event.progress:.0f} %"
                    show(f"{target}  {event.name}{done}")
        return _looked(handle.status, target)


def ended_batch(client: Client, target: str) -> Batch:
    """The batch, once it has ended. Ctrl-C leaves it to the service."""
    handle = client.batch_handle(target)
    with _interruptible(client, f"/batches/{target}", target):
        return _looked(handle.status, target)


def _looked(look: Callable[[], Work], target: str) -> Work:
    """Look until it has ended, and show on a terminal how it stands."""
    pause = _PAUSE[0]
    with _shown(target) as show:
        while not (found := look()).has_ended:
            show(_standing(found.raw))
            time.sleep(pause)
            pause = min(_PAUSE[1], pause * 1.1)
    return found


@contextmanager
def _shown(target: str) -> Iterator[Any]:
    if not sys.stderr.isatty():
        yield _ignore
        return
    from rich.console import Console

    with Console(stderr=True).status(target) as status:
        yield status.update


def _ignore(_: str) -> None:
    """Show no output."""


def _standing(raw: Mapping[str, Any]) -> str:
    parts = [str(raw.get("id")), str(raw.get("status"))]
    if raw.get("place") is not None:
        parts.append(f"place {raw['place']}")
    if raw.get("counts"):
        parts.append(", ".join(f"{count} {state}" for state, count in raw["counts"].items()))
    if raw.get("estimated_seconds") is not None:
        parts.append(f"about {raw['estimated_seconds']:.0f} s")
    return "  ".join(parts)


@contextmanager
def _interruptible(client: Client, path: str, target: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        report(f"\n{target} goes on at the service; `rcg get {target} -o DIR` fetches its files.")
        if again():
            report("Cancelling…")
            client.request("DELETE", path)
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
