"""The calls that only a simulated Gemini has, under `/simulator/gemini`. They need no key, and show none."""

from typing import Any

from aiohttp import web

from simulator.controls import changed
from simulator.gemini.service import Gemini

_SHOWN = 1000
_CHANGED = {"status": "changed"}


class GeminiControls:
    """The handlers under `/simulator/gemini`."""

    def __init__(self, gemini: Gemini) -> None:
        self._gemini = gemini

    def routes(self) -> list[web.RouteDef]:
        """The routes."""
        root = "/simulator/gemini"
        return [
            web.get(f"{root}/counts", self.counts),
            web.get(f"{root}/bills", self.bills),
            web.get(f"{root}/faults", self.faults),
            web.post(f"{root}/faults", self.inject),
            web.delete(f"{root}/faults", self.clear_faults),
            web.post(f"{root}/projects", self.project),
            web.post(f"{root}/settings", self.settings),
            web.post(f"{root}/reset", self.reset),
        ]

    async def counts(self, _request: web.Request) -> web.Response:
        """The counts."""
        return web.json_response(self._gemini.counts().as_json())

    async def bills(self, request: web.Request) -> web.Response:
        """The latest bills, newest first; `?limit=` of them."""
        limit = request.query.get("limit", str(_SHOWN))
        latest = self._gemini.bills()[-int(limit) :] if limit.isdecimal() and int(limit) else []
        return web.json_response({"bills": [each.as_json() for each in reversed(latest)]})

    async def faults(self, _request: web.Request) -> web.Response:
        """The faults that have not been used up."""
        return web.json_response(self._gemini.faults.as_json())

    async def inject(self, request: web.Request) -> web.Response:
        """Adds a list of faults."""
        return await changed(request, self._inject)

    async def clear_faults(self, _request: web.Request) -> web.Response:
        """Removes all faults."""
        self._gemini.faults.clear()
        return web.json_response([])

    async def project(self, request: web.Request) -> web.Response:
        """Configures a key and its project."""
        return await changed(request, self._configure_project)

    async def settings(self, request: web.Request) -> web.Response:
        """Changes settings."""
        return await changed(request, self._configure)

    async def reset(self, _request: web.Request) -> web.Response:
        """Returns to the state of the start."""
        self._gemini.reset()
        return web.json_response({"status": "reset"})

    def _inject(self, faults: Any) -> Any:
        self._gemini.faults.inject_all(faults)
        return _CHANGED

    def _configure_project(self, changes: Any) -> Any:
        if not isinstance(changes, dict) or "key" not in changes:
            raise ValueError("a project is configured by an object with a key")
        self._gemini.projects.configure(**changes)
        return _CHANGED

    def _configure(self, changes: Any) -> Any:
        if not isinstance(changes, dict):
            raise ValueError("the body must be a JSON object")
        self._gemini.configure(**changes)
        return _CHANGED
