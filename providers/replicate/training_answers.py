"""Reads Replicate's trainings, which have the fields of predictions.

Facts: Replicate's OpenAPI document (`schemas_training_response`), and recorded answers.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from providers import ENDED, Prediction
from providers.fingerprints import fingerprint
from providers.origins import Origin
from providers.redaction import Redaction
from providers.replicate.answers import read_origin, read_prediction
from providers.replicate.training_logs import log_tail, progress_of


def read_training(answer: Any, redact: Redaction) -> Prediction:
    """Read a training as `read_prediction` does, with its logs and the progress of its steps. Its failure is never
    temporary, for any text of its error."""
    read = read_prediction(answer, redact)
    return replace(
        read,
        cause="model" if read.cause == "passing" else read.cause,
        progress=None if read.status in ENDED else progress_of(answer.get("logs"), answer.get("input")),
        logs=log_tail(answer.get("logs"), redact),
        seed=None,
    )


def training_content(files: str, sent: Mapping[str, Any]) -> str:
    """The mark by which a training with this input is recognized: the address of its uploaded file, which begins with
    `files` and is new for each training. Without one, the fingerprint of the input. Raises RecursionError and
    ValueError, as `fingerprint` does."""
    uploaded = (each for each in sent.values() if isinstance(each, str) and each.startswith(files))
    return next(uploaded, None) or fingerprint(sent)


def training_origin(files: str, answer: Mapping[str, Any]) -> Origin:
    """How a training was made, by its JSON. `files` is as for `training_content`."""
    return replace(read_origin(answer), identify=partial(training_content, files))
