"""`GET /v1beta/models` and `/v1beta/models/{model}`."""

from datetime import datetime
from typing import Any

from simulator.gemini import models, refusals, replies
from simulator.gemini.models import MODELS, TextModel
from simulator.gemini.replies import ApiRequest, Reply

ROOT = "/v1beta/models"
_MOST = 1000


def answer(request: ApiRequest, at: datetime) -> Reply:
    """A page of the models that are served on a date, or one of them.

    Raises:
        Refused: 404 if there is no such model.
    """
    name = request.path.removeprefix(ROOT).strip("/")
    if name:
        found = models.find(name, at)
        if found is None or name not in MODELS:
            raise refusals.of(404, f"Model is not found: models/{name} for api version v1beta")
        return replies.of_json(_shown(MODELS[name]))
    size, begin = request.query.get("pageSize", "50"), request.query.get("pageToken", "0")
    if not size.isdecimal() or not begin.isdecimal():
        raise refusals.of(400)
    served = [each for each in MODELS.values() if models.find(each.name, at) is not None]
    first, end = int(begin), int(begin) + min(max(int(size), 1), _MOST)
    page = {"models": [_shown(each) for each in served[first:end]]}
    return replies.of_json(page | ({"nextPageToken": str(end)} if end < len(served) else {}))


def _shown(model: TextModel) -> dict[str, Any]:
    return {
        "name": f"models/{model.name}",
        "version": "001",
        "displayName": model.title,
        "description": f"A simulated {model.title}",
        "inputTokenLimit": model.prompt_limit,
        "outputTokenLimit": model.output_limit,
        "supportedGenerationMethods": ["generateContent", "countTokens", "createCachedContent"],
        "temperature": 1,
        "topP": 0.95,
        "topK": 64,
        "maxTemperature": 2,
        "thinking": model.level != "off",
    }
