"""Requests that create trainings, translated into bodies of `POST /trainings`.

The path names the trainer and its version. At Replicate `input` has all inputs of the trainer, among them the zip of
images and the trigger word, by the trainer's own names for them. Here they are fields of their own.

Facts: Replicate's OpenAPI document (`trainings.create`), and the source of the official client at 1.0.7.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from doors.replicate.creation import deadline_of, webhook_of
from doors.replicate.predictions import HIDDEN
from errors import InvalidRequest, Problem

_FIELDS: Final = ("destination", "input", "webhook", "webhook_events_filter", "webhook_completed")

_REQUIRED: Final = "is required"

CANCEL_AFTER: Final = "Cancel-After"
"""The header with the seconds that a training may run. Replicate has it for predictions only."""


@dataclass(frozen=True, slots=True)
class TrainingCall:
    """`trainer` is `owner/name`, or `owner/name:version`. Events of `webhook_events` go to the `webhook`. `timeout` are
    the seconds that the training may run."""

    trainer: str
    destination: str
    input: Mapping[str, Any]
    webhook: str | None
    webhook_events: tuple[str, ...]
    timeout: float | None = None


@dataclass(frozen=True, slots=True)
class Names:
    """The trainer's names for its zip of images and its trigger word; None if it takes none."""

    images: str | None
    trigger_word: str | None

    def body(self, call: TrainingCall) -> dict[str, Any]:
        """The equivalent body of `POST /trainings`."""
        apart = {
            "images": call.input.get(self.images) if self.images else None,
            "trigger_word": call.input.get(self.trigger_word) if self.trigger_word else None,
            "webhook": call.webhook,
            "timeout": call.timeout,
        }
        return {
            "trainer": call.trainer,
            "destination": call.destination,
            "input": {
                name: each
                for name, each in call.input.items()
                if name not in {self.images, self.trigger_word}
            },
            **{name: each for name, each in apart.items() if each is not None},
        }

    def at_replicate(self, problem: Problem) -> Problem:
        """A problem of that body, with the field of this door."""
        field, bracket, rest = problem.field.partition("[")
        if field == "timeout":
            return Problem(CANCEL_AFTER, problem.message, problem.given)
        own = {"images": self.images, "trigger_word": self.trigger_word}.get(field)
        if own is None:
            return problem
        missing = field == "images" and problem.message.startswith(_REQUIRED)
        message = _REQUIRED if missing else problem.message
        return Problem(f"input.{own}{bracket}{rest}", message, problem.given)


def trainer_name(owner: str, name: str, version: str) -> str:
    """The name of the trainer in a path. An official one may have a version without an id."""
    return f"{owner}/{name}" if version == HIDDEN else f"{owner}/{name}:{version}"


def read_training(body: Any, trainer: str, cancel_after: str | None = None) -> TrainingCall:
    """Read the body of a creation, and its header `Cancel-After`. Raises InvalidRequest with all problems of the fields
    around `input`."""
    if not isinstance(body, dict):
        raise InvalidRequest([Problem("body", "must be an object")])
    problems = [Problem(name, "is not allowed", body[name]) for name in body if name not in _FIELDS]
    for name, kind, words in (("destination", str, "a string"), ("input", dict, "an object")):
        if body.get(name) is None:
            problems.append(Problem(name, _REQUIRED))
        elif not isinstance(body[name], kind):
            problems.append(Problem(name, f"must be {words}", body[name]))
    webhook, events = webhook_of(body, problems)
    timeout = deadline_of(cancel_after, problems)
    if problems:
        raise InvalidRequest(problems)
    return TrainingCall(trainer, body["destination"], body["input"], webhook, events, timeout)
