"""Delivery: the files predictions put out, drawn when somebody asks for them.

No token is needed, as on `replicate.delivery`; the prediction's unguessable id is in the path. A
file vanishes an hour after its prediction ended. Who sends a token all the same is counted, for
that token would have gone to a host that is none of its owner's. Faults ordered `on="delivery"`
strike here. Drawing has one thread of its own, so that a page full of pictures delays no API answer.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from aiohttp import web

from simulator import directives, drawing, sending, video
from simulator.accounts import MINUTE
from simulator.drawing import Picture
from simulator.middleware import TOKEN_PREFIX
from simulator.predictions import Prediction
from simulator.responses import ApiResponse, not_found
from simulator.state import SimulatorState

VANISH_AFTER = 60 * MINUTE

_PAGE = "<!doctype html><title>Something went wrong</title>"


class Delivery:
    """Serves `/delivery/{prediction id}/{n}.{ext}`."""

    def __init__(self, state: SimulatorState) -> None:
        self._state = state
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="simulator-drawing")

    def routes(self) -> list[web.RouteDef]:
        """The one route."""
        return [web.get("/delivery/{id}/{file}", self.deliver)]

    def close(self) -> None:
        """Let the drawing thread go."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    async def deliver(self, request: web.Request) -> web.StreamResponse:
        """The file, or 404 if the prediction has none by that name, or has it no more."""
        state = self._state
        state.counters.count_request("delivery")
        if _gives_a_token_away(request):
            state.counters.count_delivery_with_token()
        prediction = state.predictions.find(request.match_info["id"])
        fault = state.faults.take("delivery", prediction.creation.token if prediction else None)
        handle = partial(self._handled, request, prediction)
        send = partial(self._send, request)
        try:
            if fault is None:
                return await send(await handle())
            return await sending.inject_fault(
                fault, request, handle=handle, send=send, counters=state.counters
            )
        except ConnectionResetError:  # its sender is gone
            return web.Response()

    async def _handled(self, request: web.Request, prediction: Prediction | None) -> ApiResponse:
        number, _, ending = request.match_info["file"].partition(".")
        if prediction is None or not self._has(prediction, f"/{number}.{ending}"):
            return not_found().answer
        match prediction.plan.instead:
            case "gone":
                return not_found().answer
            case "blank":
                return ApiResponse(b"", content_type=drawing.CONTENT_TYPES.get(ending, video.CONTENT_TYPE))
            case "page":
                return ApiResponse(_PAGE, content_type="text/html")
        draw = partial(_file, prediction, int(number), ending)
        # On a connection without a socket there is no other caller to be delayed, nor, where time is
        # virtual, a loop that would wait for a thread.
        apart = request.transport is None or request.transport.get_extra_info("socket") is not None
        content = await asyncio.get_running_loop().run_in_executor(self._executor, draw) if apart else draw()
        kind = drawing.CONTENT_TYPES.get(ending, video.CONTENT_TYPE)
        return ApiResponse(content, content_type=kind, headers={"Cache-Control": "public, max-age=3600"})

    async def _send(self, request: web.Request, answer: ApiResponse) -> web.Response:
        return sending.counted_response(request, answer, self._state.counters)

    def _has(self, prediction: Prediction, name: str) -> bool:
        output, ended = prediction.output, prediction.settled_at
        if output is None or ended is None or self._state.clock() - ended > VANISH_AFTER:
            return False
        return any(url.endswith(name) for url in (output if isinstance(output, list) else [output]))


def _gives_a_token_away(request: web.Request) -> bool:
    said = [request.raw_path, *request.headers.values()]
    return not {"Authorization", "Cookie"}.isdisjoint(request.headers) or any(
        TOKEN_PREFIX in it for it in said
    )


def _file(prediction: Prediction, number: int, ending: str) -> bytes:
    made = prediction.creation
    given, model = made.input, made.model
    ratio = given.get("aspect_ratio", model.default("aspect_ratio"))
    if ratio == "custom":
        ratio = f"{given.get('width', 1024)}:{given.get('height', 1024)}"
    seed, quality = prediction.seed + number, given.get("output_quality", 80)
    text = directives.without(_printable(given.get("prompt", "")))
    foot = f"simulated · {model.name.rpartition('/')[2]} · seed {seed}"
    if ending == "mp4":
        seconds = int(given.get("duration", model.default("duration")))
        return video.encode(ratio, seconds, label=f"{text}\n{foot}")
    width, height = drawing.size(ratio)
    picture = Picture(
        text=text,
        foot=foot,
        seed=seed,
        width=width,
        height=height,
        format=ending,
        quality=quality if isinstance(quality, int) and 0 <= quality <= 100 else 80,
    )
    return drawing.encode(picture)


def _printable(prompt: object) -> str:
    """A prompt without the lone surrogates that JSON lets through and no font can draw."""
    return str(prompt).encode("utf-8", "replace").decode()
