"""A local Replicate: a real HTTP server that speaks Replicate's API, for tests and demos.

It accepts the predictions the real one accepts, refuses what the real one refuses in the same
words, holds accounts to the same limits, takes believable time, signs webhooks, and puts out real
images with the prompt written on them, and real videos. The service cannot tell the difference, and that is the
point: its tests patch nothing, and the official client talks to this server over a socket.

What the real one cannot do, this one can:

- **Misbehave on order.** Refusals, resets before and after a request was handled, hangs, truncated
  and garbled answers (`faults`), and outcomes a prompt asks for itself (`directives`).
- **Bear witness.** It counts what arrived, on its own clock, and knows the densest minute of
  creations (`counts`). "Never more than 600 a minute" is a claim about the receiving side. And it bills
  by prices of its own (`billing`).

A request's way through it: `server` routes it, `middleware` counts and admits it, `api` handles it with
`creation` reading what was asked, `state` holds what is known, `predictions` live their lives,
`answers` writes them down, and `wire` sends that, or spoils it. `delivery` hands out the images that
`drawing` makes and the videos of `film`. `controls` has the calls only a simulator has, and `handle` the same for
Python.

    from simulator import Options, running

    with running(Options(prediction_seconds=0.05)) as replicate:
        replicate.inject(on="create", times=2, status=503)
        ...  # point REPLICATE_BASE_URL at replicate.url
        assert replicate.counts().creations_accepted == 1

From a shell: `python -m simulator --port 8000`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simulator.options import Options
    from simulator.threaded import Simulator, running

__all__ = ["Options", "Simulator", "running"]


def __getattr__(name: str) -> Any:
    # Imported on first use: `python -m simulator` imports this package before its own first line,
    # and must still be able to say in one sentence that Pillow or jsonschema is missing.
    if name == "Options":
        from simulator.options import Options

        return Options
    if name in ("Simulator", "running"):
        from simulator import threaded

        return getattr(threaded, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
