"""The objects that Replicate runs for an account: predictions and trainings. Both have the same fields, the same
states, and a list."""

from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote

from auth import Caller
from concurrency import Lease
from providers import Prediction
from providers.connections import Lost
from providers.origins import Origin
from providers.redaction import Redaction
from providers.replicate.answers import Page, read_origin, read_page, read_prediction
from providers.replicate.api import Api
from providers.replicate.transport import MAX_ANSWER

MAX_PREDICTION: Final = 16 * 1024 * 1024
"""The most bytes of one prediction, which repeats its input (`parsing.params.LONGEST_INPUT`, and inline
images), or of one training, which has all its logs."""


class Resource:
    """The objects of one kind, under `path`. Every address is built from that and an id: the `urls` of a new training
    are those of predictions. `read` and `origin_of` read an object. Every method raises as `Api.call`."""

    def __init__(
        self,
        api: Api,
        path: str,
        *,
        read: Callable[[Any, Redaction], Prediction] = read_prediction,
        origin_of: Callable[[Mapping[str, Any]], Origin] = read_origin,
    ) -> None:
        self._api = api
        self._path = path
        self.read = read
        self.origin_of = origin_of

    async def get(self, caller: Caller, prediction_id: str, *, lease: Lease) -> Prediction:
        answer = await self._api.get(
            caller, f"{self._path}/{quote(prediction_id, safe='')}", lease, max_answer=MAX_PREDICTION
        )
        return _same(self.read(answer, self._api.redaction(caller)), prediction_id)

    async def list(
        self, caller: Caller, query: str, *, lease: Lease | None = None, max_answer: int = MAX_ANSWER
    ) -> Page:
        """One page of the account's list, the latest first. An empty query is that of the first page."""
        path = f"{self._path}?{query}" if query else self._path
        page = await self._api.get(caller, path, lease, max_answer=max_answer)
        return read_page(page, self._api.redaction(caller), origin_of=self.origin_of)

    async def cancel(self, caller: Caller, prediction_id: str, *, lease: Lease) -> Prediction:
        answer = await self._api.call(
            caller,
            "POST",
            f"{self._path}/{quote(prediction_id, safe='')}/cancel",
            lease,
            seconds=self._api.timeouts.cancel,
            max_answer=MAX_PREDICTION,
        )
        return _same(self.read(answer.json(), self._api.redaction(caller)), prediction_id)


def _same(prediction: Prediction, prediction_id: str) -> Prediction:
    if prediction.id != prediction_id:
        raise Lost("the answer is another prediction")
    return prediction
