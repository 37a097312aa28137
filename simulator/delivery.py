"""Serves the files that predictions put out. They are made on request.

As on `replicate.delivery`, no token is needed: the path has the prediction's unguessable id. A file vanishes an hour
after its prediction ended. Requests that send a token are counted, since a token must not go to the host of an output.
Faults with `on="delivery"` apply here. Drawing has a thread of its own, so that a page of pictures delays no API call.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from aiohttp import web

from simulator import billing, directives, files, outputs, sending
from simulator.files import Subject
from simulator.middleware import TOKEN_PREFIX
from simulator.predictions import Prediction
from simulator.responses import ApiResponse, not_found
from simulator.state import SimulatorState
from simulator.windows import MINUTE

VANISH_AFTER = 60 * MINUTE

_PAGE = "<!doctype html><title>Something went wrong</title>"


class Delivery:
    """Serves `/delivery/{prediction id}/{n}.{ext}`."""

    def __init__(self, state: SimulatorState) -> None:
        self._state = state
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="simulator-drawing")

    def routes(self) -> list[web.RouteDef]:
        """The route."""
        return [web.get("/delivery/{id}/{file}", self.deliver)]

    def close(self) -> None:
        """End the drawing thread."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    async def deliver(self, request: web.Request) -> web.StreamResponse:
        """The file, or 404 if the prediction has no such file or it has vanished."""
        state = self._state
        state.counters.count_request("delivery")
        if _has_secret(request):
            state.counters.count_delivery_with_token()
        prediction = state.predictions.find(request.match_info["id"])
        fault = state.faults.take("delivery", prediction.creation.token if prediction else None)
        handle = partial(self._response, request, prediction)
        send = partial(self._send, request)
        try:
            if fault is None:
                return await send(await handle())
            return await sending.inject_fault(
                fault, request, handle=handle, send=send, pause=state.faults.pause, counters=state.counters
            )
        except ConnectionResetError:  # the caller has disconnected
            return web.Response()

    async def _response(self, request: web.Request, prediction: Prediction | None) -> ApiResponse:
        number, _, ending = request.match_info["file"].partition(".")
        if prediction is None or not self._has(prediction, f"/{number}.{ending}"):
            return not_found().response
        match prediction.plan.content:
            case "gone":
                return not_found().response
            case "blank":
                return ApiResponse(b"", content_type=files.CONTENT_TYPES[ending])
            case "page":
                return ApiResponse(_PAGE, content_type="text/html")
        draw = partial(_draw, prediction, int(number), ending)
        # A test's connection without a socket delays no other caller, and a loop with virtual time cannot wait for a
        # thread.
        in_thread = request.transport is None or request.transport.get_extra_info("socket") is not None
        content = (
            await asyncio.get_running_loop().run_in_executor(self._executor, draw) if in_thread else draw()
        )
        kind = files.CONTENT_TYPES[ending]
        return ApiResponse(content, content_type=kind, headers={"Cache-Control": "public, max-age=3600"})

    async def _send(self, request: web.Request, response: ApiResponse) -> web.Response:
        return sending.counted_response(request, response, self._state.counters)

    def _has(self, prediction: Prediction, name: str) -> bool:
        ended = prediction.settled_at
        if ended is not None and self._state.clock() - ended > VANISH_AFTER:
            return False
        return any(url.endswith(name) for url in outputs.links(prediction.output, prediction.files))


def _has_secret(request: web.Request) -> bool:
    texts = [request.raw_path, *request.headers.values()]
    return not {"Authorization", "Cookie"}.isdisjoint(request.headers) or any(
        TOKEN_PREFIX in text for text in texts
    )


def _draw(prediction: Prediction, number: int, ending: str) -> bytes:
    made = prediction.creation
    inputs, schema = made.input, made.schema
    ratio = schema.value(inputs, "aspect_ratio")
    if ratio in (None, "custom"):
        ratio = f"{inputs.get('width', 1024)}:{inputs.get('height', 1024)}"
    seed, quality = prediction.seed + number, inputs.get("output_quality", 80)
    subject = Subject(
        text=directives.remove(_printable(outputs.said(schema, inputs))),
        foot=f"simulated · {made.model.name.rpartition('/')[2]} · seed {seed}",
        seed=seed,
        ratio=str(ratio),
        seconds=billing.length(inputs, made.release),
        quality=quality if isinstance(quality, int) and 0 <= quality <= 100 else 80,
    )
    return files.encode(subject, ending)


def _printable(prompt: str) -> str:
    """The prompt without lone surrogates, which JSON allows and no font can draw."""
    return prompt.encode("utf-8", "replace").decode()
