"""Checks that a finished prediction has outputs, and raises the error that explains why it has none."""

from dataclasses import replace
from typing import Any, Final

from catalog.outputs import is_plain_text, with_one_text
from catalog.targets import Target, is_model_name
from errors import GenerationFailed, GenerationTimeout, Interrupted
from errors.content import ContentRefused
from providers import Prediction, TryAgain

_TRACEBACK: Final = "Traceback (most recent call last):"

_WITHHELD: Final = (
    "The model failed. Its message is withheld: after a restart, secret inputs in it could not be removed."
)

_TEXT_WITHHELD: Final = "This text is withheld: after a restart, secret inputs in it could not be removed."

_READ: Final = 20_000
"""This many characters of an error are read from its start, and as many from its end."""


def raise_unless_made(
    prediction: Prediction, *, otherwise: str = "The model reported success without an output."
) -> None:
    """Raise the error of a finished prediction, unless it has made what its model makes. `otherwise` is the detail if
    it has succeeded without any output, not even text."""
    if prediction.is_made:
        return
    has_succeeded = prediction.status in {"succeeded", "processing"}
    if has_succeeded:
        if not prediction.has_output and prediction.is_removed:
            raise Interrupted(
                "The prediction succeeded, but Replicate deletes outputs after an hour, before they could be fetched."
            )
        if not prediction.error:
            raise GenerationFailed(otherwise)
    if prediction.status == "aborted":
        raise GenerationTimeout("Replicate did not start the prediction before its deadline.")
    if prediction.status == "canceled":
        cancelled = GenerationFailed("The prediction was cancelled at Replicate.")
        cancelled.falls_back = False  # it was cancelled on purpose
        raise cancelled
    detail = _summary(prediction.error or "The model failed without an error message.")
    if prediction.cause == "content":
        raise ContentRefused(detail)
    if prediction.cause == "passing" and not has_succeeded:  # a success may be billed
        failed = GenerationFailed(detail)
        failed.retryable = True
        raise TryAgain(failed)
    raise GenerationFailed(detail)


def without_texts(ended: Prediction) -> Prediction:
    """The prediction without the texts that its model wrote, for one that got secrets which this process does not know:
    its error, its output and its logs could repeat them. Files, numbers, the names of fields, and the names of the
    versions that trainings make stay.

    A keyed digest of each secret in the ledger would find most repetitions. But its key is in the ledger too, so it
    would confirm the guess of a weak secret."""
    error = None if ended.error is None else _WITHHELD
    return replace(ended, error=error, output=_without_texts(ended.output), seed=None, logs=None)


def _without_texts(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_texts(each) for name, each in value.items()}
    if isinstance(value, list):
        return with_one_text(list(map(_without_texts, value)), _TEXT_WITHHELD, _may_tell)
    return _TEXT_WITHHELD if _may_tell(value) else value


def _may_tell(value: Any) -> bool:
    """Whether this is a text that could repeat a secret: neither an address nor the full name of a version."""
    if not is_plain_text(value):
        return False
    target = Target.parse(value)
    return target.version is None or not is_model_name(target.name)


def relevant_lines(text: str) -> list[str]:
    """The lines of an error that name its cause: all lines, or of a traceback those of the exception at its end. If
    that was cut off, the first line of the text."""
    if len(text) > 2 * _READ:
        text = f"{text[:_READ]}\n{text[-_READ:]}"
    said: list[str] = []
    before: list[str] = []
    margin: str | None = None  # of a traceback, whose frames are indented further
    for line in filter(str.strip, text.splitlines()):
        if _TRACEBACK in line:
            before, said, margin = before + said, [], line[: -len(line.lstrip())]
        elif margin is None or not line.removeprefix(margin)[0].isspace():
            said.append(line.strip())
    return said or before[:1]


def _summary(text: str) -> str:
    """One line of an error: the first, or the last of a traceback."""
    lines = relevant_lines(text) or ["The model failed."]
    return lines[-1 if _TRACEBACK in text else 0][:300]
