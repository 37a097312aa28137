"""The functions between a request and the provider are few."""

import asyncio
import sys
from pathlib import Path

from providers.memory import MemoryProvider
from tests.support.callers import USER

ROOT = Path(__file__).parents[2]
ON_FLASKS_THREAD = ["generate", "run"]
"""The view, and the bridge to the loop. What follows is seen on the loop."""


def ours(frame) -> list[str]:
    """The functions of the service on this stack, the outermost first."""
    found = []
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT) and ".venv" not in path.parts and "tests" not in path.parts:
            found.append(frame.f_code.co_name)
        frame = frame.f_back
    return found[::-1]


def test_nine_functions_stand_between_a_post_and_the_provider(make_app):
    came_by: dict[asyncio.Task, list[str]] = {}
    seen = []

    class Provider(MemoryProvider):
        async def create(self, *arguments, **named):
            seen.append(came_by[asyncio.current_task()])
            return await super().create(*arguments, **named)

    def made(loop, coroutine, **named):
        """A task that remembers by which functions it was reached, over the tasks before it."""
        task = asyncio.Task(coroutine, loop=loop, **named)
        before = asyncio.current_task(loop)
        came_by[task] = [*came_by.get(before, []), *ours(sys._getframe(1))] if before else []  # noqa: SLF001 - the caller's frame
        return task

    app = make_app(provider=Provider(answer_after=0, ends_after=0))
    app.extensions["service"].loop.call(lambda: asyncio.get_running_loop().set_task_factory(made))

    answer = app.test_client().post(
        "/generate", json={"model_name": "flux-dev", "prompt": "A fox"}, headers=USER
    )

    assert 200 == answer.status_code
    ((*on_the_loop,),) = seen
    on_the_loop = [
        name for name in on_the_loop if name not in {"_run", "call", "called", "_until_disconnect"}
    ]
    assert ["submit", "accept", "_begin", "run", "_produce", "make", "_create"] == on_the_loop
    assert 9 == len(ON_FLASKS_THREAD) + len(on_the_loop)
