"""A local Replicate: a real HTTP server with Replicate's API, for tests and demos.

It accepts and refuses the requests that Replicate accepts and refuses, with the same messages. It applies the same
limits to each account, takes realistic time, and signs webhooks. It runs any model whose published schema it has:
official ones by name, others by version, and deployments. It trains models, which then run. Its outputs have the form
of the schema and are real files: images with the prompt written on them, videos, sounds and more. So tests need no
mocks: the service and the official client use this server over a socket.

It also does what Replicate cannot:

- **Faults on request.** Refusals, resets before and after a request was handled, hangs, truncated and garbled
  responses (`faults`). A prompt can choose the end of its own prediction (`directives`).
- **Counts at the receiving side.** It counts the requests that arrived, by its own clock, and knows the densest minute
  of creations (`counts`). It bills by its own price list (`billing`).

A request passes these modules: `server` routes it, `middleware` counts and admits it, `api` handles it, `creation`
parses it and finds its model in the `registry`, which has those of `catalog`, `official` and `loading`, each with
its `schemas`. `state` holds everything known, `stores` run `predictions` on timers, `outputs` makes what they put out,
`representations` turns them into JSON, and `sending` sends the response or damages it. `delivery` serves the `files`.
`training_api` is the same for `trainings`, which are predictions too: `trainers` describes the results, `training_logs`
and `weights` make it, and `destinations` parses the models that get it.
`controls` has the HTTP calls that only a simulator has, and `threaded` the same for Python.

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
    # Imported on first use. `python -m simulator` imports this package first, and must still be able to report a
    # missing Pillow or jsonschema in one sentence.
    if name == "Options":
        from simulator.options import Options

        return Options
    if name in ("Simulator", "running"):
        from simulator import threaded

        return getattr(threaded, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
