"""Serves the files that predictions put out, and the weights of trainings. They are made on request.

As on `replicate.delivery`, no token is needed: the path has the prediction's unguessable id. A file vanishes an hour
after its prediction ended. Requests that send a token are counted, since a token must not go to the host of an output.
With the option `weights_need_token`, weights are 401 without a token of their account, and their requests with a token
are not counted. Faults with `on="delivery"` and `on="weights"` apply here. Drawing has a thread of its own, so that a
page of pictures delays no API call.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from aiohttp import web

from simulator import billing, directives, files, outputs, sending, weights
from simulator.files import Subject
from simulator.middleware import TOKEN_PREFIX, token_of
from simulator.predictions import Prediction
from simulator.responses import ApiResponse, not_found, unauthenticated
from simulator.state import SimulatorState
from simulator.trainings import Training
from simulator.windows import MINUTE

VANISH_AFTER = 60 * MINUTE

_CONTENT_TYPES = files.CONTENT_TYPES | weights.CONTENT_TYPES
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
        """The file, or 404 if there is no such file or it has vanished."""
        state, name = self._state, request.match_info["id"]
        made: Prediction | None = state.trainings.find(name) or state.predictions.find(name)
        kind = "weights" if isinstance(made, Training) else "delivery"
        state.counters.count_request(kind)
        if _has_secret(request) and not (kind == "weights" and state.options.weights_need_token):
            state.counters.count_delivery_with_token()
        fault = state.faults.take(kind, made.creation.token if made else None)
        handle = partial(self._response, request, made)
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
        if isinstance(prediction, Training) and not self._may_read(request, prediction):
            return unauthenticated().response
        match prediction.plan.content:
            case "gone":
                return not_found().response
            case "blank":
                return ApiResponse(b"", content_type=_CONTENT_TYPES[ending])
            case "page":
                return ApiResponse(_PAGE, content_type="text/html")
        draw = (
            partial(_weights, prediction)
            if isinstance(prediction, Training)
            else partial(_draw, prediction, int(number), ending)
        )
        # A test's connection without a socket delays no other caller, and a loop with virtual time cannot wait for a
        # thread.
        in_thread = request.transport is None or request.transport.get_extra_info("socket") is not None
        content = (
            await asyncio.get_running_loop().run_in_executor(self._executor, draw) if in_thread else draw()
        )
        kind = _CONTENT_TYPES[ending]
        return ApiResponse(content, content_type=kind, headers={"Cache-Control": "public, max-age=3600"})

    async def _send(self, request: web.Request, response: ApiResponse) -> web.Response:
        return sending.counted_response(request, response, self._state.counters)

    def _may_read(self, request: web.Request, training: Training) -> bool:
        if not self._state.options.weights_need_token:
            return True
        token = token_of(request)
        return token is not None and self._state.accounts.owner(token) == training.creation.token

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


def _weights(training: Training) -> bytes:
    made = training.creation
    inputs, schema = made.input, made.schema
    rank = schema.value(inputs, "lora_rank")
    return weights.make(
        made.model.facts.trainer.family,
        rank=min(rank, 128) if isinstance(rank, int) and rank > 0 else 16,
        seed=training.seed,
        word=_printable(
            str(schema.value(inputs, "trigger_word", "token_string", "default_caption") or "TOK")
        ),
        images=made.images,
        damage=training.plan.content,
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
