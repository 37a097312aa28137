"""Trainings of a running service as HTTP clients send and follow them."""

import json
import zipfile
from collections.abc import Iterator, Mapping
from functools import cache
from io import BytesIO
from typing import Any

import requests

from media.formats import black_png

TRAINER = "ostris/flux-dev-lora-trainer"

_TIMEOUT = 30.0
"""Seconds for one answer."""


@cache
def images() -> bytes:
    """A zip with six images and their captions, always the same bytes."""
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(6):
            for ending, content in ((".png", black_png(512, 512)), (".txt", b"a dog")):
                archive.writestr(zipfile.ZipInfo(f"dog{number}{ending}"), content)
    return file.getvalue()


def send_training(
    url: str, headers: Mapping[str, str], word: str, *, destination: str = "dog", **fields: Any
) -> requests.Response:
    """The answer to a training with this trigger word, which makes its destination if it is missing. Raises
    requests.RequestException."""
    form = {"trainer": TRAINER, "destination": destination, "trigger_word": word, **fields}
    return requests.post(
        f"{url}/trainings",
        data={"create_destination": "true", **form},
        files=[("images", ("dogs.zip", images(), "application/zip"))],
        headers=dict(headers),
        timeout=_TIMEOUT,
    )


def get_training(url: str, headers: Mapping[str, str], training_id: str) -> dict[str, Any]:
    """The body of a training. Raises requests.RequestException, also if it is refused."""
    answer = requests.get(f"{url}/trainings/{training_id}", headers=dict(headers), timeout=_TIMEOUT)
    answer.raise_for_status()
    body: dict[str, Any] = answer.json()
    return body


def get_weights(url: str, headers: Mapping[str, str], body: Mapping[str, Any]) -> bytes:
    """The weights of a training with this body, from the process at `url`. Raises requests.RequestException, also if
    they are not kept."""
    path = "/" + str(body["weights"]).split("/", 3)[-1]
    answer = requests.get(url + path, headers=dict(headers), timeout=_TIMEOUT)
    answer.raise_for_status()
    return answer.content


def events_of(
    url: str, headers: Mapping[str, str], training_id: str, *, silent: float = _TIMEOUT
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The events of a training by name, until its stream ends. Raises requests.RequestException if the stream breaks
    off, or is silent for so many seconds."""
    path = f"{url}/trainings/{training_id}/events"
    with requests.get(path, headers=dict(headers), stream=True, timeout=silent) as answer:
        answer.raise_for_status()
        name = ""
        for line in answer.iter_lines():
            field, _, value = line.decode().partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                yield name, json.loads(value)
