"""Parts of a virtual loop that can be stopped: the callbacks of one simulated process run, wait, or never run again.

Each callback belongs to the place that its context names, and so do the tasks and timers that it starts. Without a
place, it belongs to the world, which never stops.
"""

import asyncio
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from typing import Any

from tests.support.virtual_time import VirtualLoop

_PLACE: ContextVar["Place"] = ContextVar("place")

WORLD = Context()
"""The context of everything that goes on while processes are stopped."""


class Place:
    """Runs callbacks with this `context`. While it is stopped, they wait in their order."""

    def __init__(self) -> None:
        self.context = Context()
        self.context.run(_PLACE.set, self)
        self.is_stopped = False
        self._held: list[tuple[list[Any], Callable[..., object], tuple[Any, ...]]] = []

    def stop(self) -> None:
        self.is_stopped = True

    def go_on(self) -> None:
        self.is_stopped = False
        held, self._held = self._held, []
        for call, callback, arguments in held:
            handle, context = call
            asyncio.get_running_loop().call_soon(
                _unless_cancelled, handle, callback, arguments, context=context
            )

    def run(self, call: list[Any], callback: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        if self.is_stopped:
            self._held.append((call, callback, arguments))
        else:
            callback(*arguments)


class PlacesLoop(VirtualLoop):
    """A virtual loop that knows the place of each callback."""

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        context = copy_context() if context is None else context
        place = context.get(_PLACE)
        if place is None:
            return super().call_soon(callback, *args, context=context)
        call: list[Any] = []
        handle = super().call_soon(place.run, call, callback, args, context=context)
        call += handle, context
        return handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        context = copy_context() if context is None else context
        place = context.get(_PLACE)
        if place is None:
            return super().call_at(when, callback, *args, context=context)
        call: list[Any] = []
        handle = super().call_at(when, place.run, call, callback, args, context=context)
        call += handle, context
        return handle


def _unless_cancelled(
    handle: asyncio.Handle, callback: Callable[..., object], arguments: tuple[Any, ...]
) -> None:
    if not handle.cancelled():
        callback(*arguments)
