"""The calls that only a simulator has: inject faults, configure accounts, read the counts.

They are under `/simulator`, need no token, and are neither counted nor limited. No response contains a token: a
prediction shows a short hash of its creator's.
"""

import json
from collections import Counter
from collections.abc import Callable
from itertools import islice
from typing import Any

from aiohttp import web

from simulator import representations, responses
from simulator.accounts import fingerprint
from simulator.predictions import Prediction, timestamp
from simulator.sending import web_response
from simulator.state import SimulatorState
from simulator.trainings import Training

_SHOWN = 1000
_WELCOME = """\
This is a simulated Replicate and a simulated Gemini. It speaks Replicate's API under /v1 and draws the pictures
itself, and Google's Gemini API under /v1beta: no model runs, and no call costs money. Any token that begins with r8_
is valid, and any Gemini key.

  GET     /simulator/counts        requests, refusals, the densest minute, the bill
  GET     /simulator/predictions   the latest predictions
  GET     /simulator/trainings     the latest trainings, and their number by the URL of their images
  POST    /simulator/faults        inject faults: [{"on": "create", "times": 2, "status": 503}]
  GET     /simulator/faults        the remaining faults; DELETE removes them
  POST    /simulator/stall         {"seconds": 60}: stop responding, then serve the requests that arrived meanwhile
  POST    /simulator/accounts      {"token": "r8_x", "credit": "low"}
  GET     /simulator/models        all models with their versions
  POST    /simulator/models        publish a model or a new version, in the form of GET /v1/models/{owner}/{name}
  POST    /simulator/reset         forget everything

  GET     /simulator/gemini/counts    requests, refusals, the densest minute, the bill; /bills has each call
  POST    /simulator/gemini/faults    [{"on": "stream", "times": 2, "marks": "[[demand]]"}]; GET, DELETE
  POST    /simulator/gemini/projects  {"key": "AQ.x", "rpm": 5}: the limits of a key's project
  POST    /simulator/gemini/settings  {"seconds": 3, "chunks": 10}
  POST    /simulator/gemini/reset     forget everything of Gemini

A prompt can choose the outcome of its prediction: [[fail]] [[nsfw]] [[transient]] [[hang]] [[slow=3]] [[boot=9]] and
more. For a model without a prompt, any text of its input can, and for a training also the name of its destination.
A prompt for Gemini has marks of its own: [[minute]] [[overloaded]] [[think=500]] [[cut]] [[lost]] and more.
"""


class Controls:
    """The handlers under `/simulator`, and the page at `/`."""

    def __init__(self, state: SimulatorState) -> None:
        self._state = state

    def routes(self) -> list[web.RouteDef]:
        """The routes."""
        return [
            web.get("/", self.welcome),
            web.get("/simulator/counts", self.counts),
            web.get("/simulator/predictions", self.predictions),
            web.get("/simulator/trainings", self.trainings),
            web.get("/simulator/faults", self.faults),
            web.post("/simulator/faults", self.inject),
            web.delete("/simulator/faults", self.clear_faults),
            web.post("/simulator/stall", self.stall),
            web.post("/simulator/accounts", self.account),
            web.get("/simulator/models", self.models),
            web.post("/simulator/models", self.publish),
            web.post("/simulator/reset", self.reset),
        ]

    async def welcome(self, _request: web.Request) -> web.Response:
        """A text that lists the calls."""
        return web.Response(text=_WELCOME)

    async def counts(self, _request: web.Request) -> web.Response:
        """The counts."""
        return web.json_response(self._state.counters.snapshot().as_json())

    async def predictions(self, _request: web.Request) -> web.Response:
        """The latest thousand predictions, newest first."""
        latest = islice(reversed(self._state.predictions), _SHOWN)
        return web.json_response({"predictions": [_shown(each) for each in latest]})

    async def trainings(self, _request: web.Request) -> web.Response:
        """The latest thousand trainings, newest first, and the number of all by the URL of their images."""
        latest = islice(reversed(self._state.trainings), _SHOWN)
        urls = Counter(found[1] for each in self._state.trainings if (found := each.creation.archive))
        return web.json_response({"trainings": [_shown_training(each) for each in latest], "by_url": urls})

    async def faults(self, _request: web.Request) -> web.Response:
        """The faults that have not been used up."""
        return web.json_response(self._state.faults.as_json())

    async def inject(self, request: web.Request) -> web.Response:
        """Adds a list of faults."""
        return await changed(request, self._inject)

    async def clear_faults(self, _request: web.Request) -> web.Response:
        """Removes all faults."""
        self._state.faults.clear()
        return web.json_response([])

    async def stall(self, request: web.Request) -> web.Response:
        """Starts a stall."""
        return await changed(request, self._stall)

    async def account(self, request: web.Request) -> web.Response:
        """Configures an account."""
        return await changed(request, self._configure)

    async def models(self, _request: web.Request) -> web.Response:
        """All models: their versions, newest first, and whether they run by name."""
        return web.json_response(
            {
                model.name: {
                    "is_official": model.is_official,
                    "visibility": model.page.get("visibility"),
                    "versions": [each.id for each in model.versions],
                }
                for model in self._state.models
            }
        )

    async def publish(self, request: web.Request) -> web.Response:
        """Publishes a model, a new version of one, or new facts about one."""
        return await changed(request, self._publish)

    async def reset(self, _request: web.Request) -> web.Response:
        """Resets the simulator to its start."""
        self._state.reset()
        return web.json_response(self._state.counters.snapshot().as_json())

    def _inject(self, faults: Any) -> Any:
        self._state.faults.inject_all(faults)
        return self._state.faults.as_json()

    def _stall(self, body: Any) -> Any:
        if not isinstance(body, dict) or set(body) != {"seconds"}:
            raise ValueError('a stall is {"seconds": how many}')
        self._state.stall(body["seconds"])
        return body

    def _configure(self, changes: Any) -> Any:
        if not isinstance(changes, dict) or not isinstance(changes.get("token"), str):
            raise ValueError("an account is an object with a token")
        self._state.accounts.configure(**changes)
        return {"token": fingerprint(changes["token"])}

    def _publish(self, document: Any) -> Any:
        model = self._state.models.publish(document)
        return {"name": model.name, "version": model.version}


async def changed(request: web.Request, change: Callable[[Any], Any]) -> web.Response:
    """The result of a change by the JSON of a request; 400 with the reason if `change` raises ValueError."""
    try:
        return web.json_response(change(json.loads(await request.read())))
    except ValueError as reason:
        return web_response(responses.malformed(str(reason)).response)


def _shown(it: Prediction) -> dict[str, Any]:
    made = it.creation
    return {
        "id": it.id,
        "model": made.model.name,
        "version": made.version,
        "deployment": made.deployment,
        "token": fingerprint(made.token),
        "input": representations.shown_input(made),
        "status": it.status,
        "created_at": timestamp(it.created_at),
        "completed_at": timestamp(it.completed_at) if it.completed_at else None,
        "webhook": made.webhook,
        "cancel_after": made.cancel_after,
        "billed_usd": it.billed_usd,
    }


def _shown_training(it: Training) -> dict[str, Any]:
    archive = it.creation.archive
    return _shown(it) | {
        "destination": it.creation.destination,
        "url": archive[1] if archive else None,
        "error": it.error,
        "output": it.output,
    }
