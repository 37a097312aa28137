"""Translates the bodies of `POST /v1/images/generations` and `/v1/images/edits` into those of `POST /generate`, or of
`POST /generate-batch` for several pictures of a model that makes one at once.

What the model does not take as OpenAI calls it is sent as the nearest that it takes, or not at all. Each such field is
in `changes`. The model's own parameters, and the fields of this service, may stand beside OpenAI's.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from catalog.adaptation import Change, is_taken
from catalog.model import Model
from catalog.text_values import FormText
from doors.openai.images import put_images
from doors.openai.sizes import SIZE, sized
from doors.openai.users import user_as_metadata
from errors import Problem
from parsing.multipart_form import FormNames
from parsing.params import INPUT
from parsing.shapes import BatchFields, OwnFields
from parsing.validation import refuse_if_any, unusable_reasons

Format = Literal["url", "b64_json"]

MOST: Final = 10
"""The most pictures of one call, as at OpenAI."""

_COUNTS: Final = ("num_outputs", "number_of_images", "num_images", "num_images_per_prompt", "n")
"""Inputs for the number of pictures of one prediction."""

_SHAPES: Final = ("aspect_ratio", "width", "height", "preset")
"""Fields of the caller that decide the shape before `size`."""

_IF_TAKEN: Final[Mapping[str, tuple[Any, ...]]] = {
    "quality": ("auto",),
    "background": ("auto",),
    "style": (),
    "moderation": ("auto",),
    "input_fidelity": (),
    "complexity": (),
    "frame_count": (),
    "frame_duration_ms": (),
    "svg": (),
    "markup": (),
}
"""Fields that a model gets if it has such an input itself, and their values that need no change if it has not."""

_NUMBERS: Final = {"n", "partial_images", "output_compression", "frame_count", "frame_duration_ms", "stream"}
"""Fields of OpenAI's that hold no text."""

_FORMATS: Final[Mapping[str, tuple[str, ...]]] = {
    "jpeg": ("jpg", "jpeg"),
    "webp": ("webp", "jpg", "jpeg"),
    "png": ("png",),
}
"""The values to send for an output format, the best first."""

_BEFORE_TIMEOUT: Final = 5.0
"""Seconds before the client stops waiting at which the response is that its work still runs."""

FORM_NAMES: Final = FormNames(
    {"model": "model_name", "image[]": "image"}, {"model_name", "prompt", "n", "response_format", "stream"}
)
"""The fields of a form that other parts of this service know by another name, and those that hold one text."""

_REFUSED: Final = {"dry_run": "is for POST /generate", "max_concurrent": "is for POST /generate-batch"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of the door. `body` is that of `POST /generate`, or of `POST /generate-batch` if it `is_batch`."""

    body: Mapping[str, Any]
    is_batch: bool = False
    changes: tuple[Change, ...] = ()
    response_format: Format = "url"
    streams: bool = False
    size: Any = "auto"


def wait_seconds(timeout: str | None) -> float | None:
    """The seconds after its arrival at which a call is answered although its work still runs. None without a limit.
    That is five seconds before the client stops waiting, which is after `timeout`. A timeout under 7.5 seconds would
    leave the work hardly any time so: then it is after half of the timeout, and after 2.5 seconds at the latest."""
    try:
        seconds = float(timeout or "")
    except ValueError:
        return None
    if not 0 < seconds < math.inf:
        return None
    return max(seconds - _BEFORE_TIMEOUT, min(seconds, _BEFORE_TIMEOUT) / 2)


def renamed(body: Any) -> dict[str, Any]:
    """The body of a call with the name of its model where this service has it. Raises InvalidRequest."""
    refuse_if_any(unusable_reasons("body", body))
    found = dict(body)
    if "model" in found:
        found["model_name"] = found.pop("model")
    return found


def translated(body: Mapping[str, Any], model: Model | None, *, default: Format, edits: bool) -> Call:
    """The call of a renamed body. Without a known model, the body stays as it is, to be refused. `default` is the
    format of the response if the call names none, and `edits` whether it is one of `/v1/images/edits`. Raises
    InvalidRequest."""
    body = {name: _plain(name, value) for name, value in body.items() if value is not None}
    if model is None:
        return Call(body={name: body[name] for name in ("model_name", "prompt") if name in body})
    found = _Translation(model, body, response_format=default)
    found.response()
    if edits:
        put_images(model, body, found.problems, falls_back=body.get("fallback", False) is not False)
    found.shape()
    found.picture()
    call = found.call()
    refuse_if_any(found.problems)
    return call


@dataclass(slots=True)
class _Translation:
    """`left` has the fields that are not translated yet, and `sent` the inputs that others have become."""

    model: Model
    left: dict[str, Any]
    sent: dict[str, Any] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    size: Any = "auto"
    response_format: Format = "url"
    streams: bool = False

    def response(self) -> None:
        """Read the format of the response, and whether it is a stream of events."""
        self.response_format = self.left.pop("response_format", self.response_format)
        if self.response_format not in ("url", "b64_json"):  # a tuple, since the value may be a list
            self.problems.append(Problem("response_format", "must be url or b64_json", self.response_format))
        self.streams = self.left.pop("stream", False)
        if not isinstance(self.streams, bool):
            self.problems.append(Problem("stream", "must be true or false", self.streams))
        if partial := self.left.pop("partial_images", 0):
            self.changes.append(Change("partial_images", partial))

    def shape(self) -> None:
        """Translate `size`. The caller's own shape comes first."""
        size = self.size = self.left.pop(SIZE, "auto")
        if size == "auto":
            return
        has_shape = not self._names().isdisjoint(_SHAPES) and not is_taken(self.model, SIZE, size)
        inputs = None if has_shape else sized(self.model, size)
        if inputs is None:
            self.changes.append(Change(SIZE, size))
            return
        self.sent |= inputs
        self.changes += [
            Change(SIZE, size, name, value) for name, value in inputs.items() if (name, value) != (SIZE, size)
        ]

    def picture(self) -> None:
        """Translate what the picture is like, and how its file is."""
        for name, neutral in _IF_TAKEN.items():
            if name not in self.left or is_taken(self.model, name, self.left[name]):
                continue
            value = self.left.pop(name)
            if value not in neutral:
                self.changes.append(Change(name, value))
        self._output_format()
        self._compression()

    def _compression(self) -> None:
        percent = self.left.get("output_compression")
        if percent is None or is_taken(self.model, "output_compression", percent):
            return
        del self.left["output_compression"]
        if is_taken(self.model, "output_quality", percent):
            self.sent["output_quality"] = percent
            self.changes.append(Change("output_compression", percent, "output_quality", percent))
        else:
            self.changes.append(Change("output_compression", percent))

    def _output_format(self) -> None:
        requested = self.left.pop("output_format", None)
        if requested is None:
            return
        choices = _FORMATS.get(requested, (requested,)) if isinstance(requested, str) else (requested,)
        fitting = next((each for each in choices if is_taken(self.model, "output_format", each)), None)
        if fitting is None:
            self.changes.append(Change("output_format", requested))
            return
        self.sent["output_format"] = fitting
        if fitting not in choices[: 2 if requested == "jpeg" else 1]:
            self.changes.append(Change("output_format", requested, "output_format", fitting))

    def call(self) -> Call:
        """The translated call, once all else is translated."""
        self.problems += [Problem(name, why) for name, why in _REFUSED.items() if name in self.left]
        user_as_metadata(self.left)
        generations = self._generations()
        own_names = {*OwnFields.model_fields, *BatchFields.model_fields}
        own = {name: value for name, value in self.left.items() if name in own_names}
        params = {name: value for name, value in self.left.items() if name not in {*own, INPUT}} | self.sent
        body = own | params
        if (inside := self.left.get(INPUT)) is not None:  # any other than an object is refused
            body = own | {INPUT: {**params, **inside} if isinstance(inside, dict) else inside}
        if generations > 1:
            shared = {name: body.pop(name) for name in BatchFields.model_fields if name in body}
            body = shared | {"requests": [_numbered(body, number) for number in range(generations)]}
        return Call(
            body=body,
            is_batch=generations > 1,
            changes=tuple(self.changes),
            response_format=self.response_format,
            streams=self.streams,
            size=self.size,
        )

    def _generations(self) -> int:
        """How many generations the call needs. A model that makes several pictures at once makes them in one."""
        pictures = self.left.pop("n", 1)
        if isinstance(pictures, bool) or not isinstance(pictures, int) or not 1 <= pictures <= MOST:
            self.problems.append(Problem("n", f"must be an integer from 1 to {MOST}", pictures))
            return 1
        name = next((each for each in _COUNTS if each in self.model.inputs), None)
        if name is None or name in self._names() or not is_taken(self.model, name, pictures):
            return pictures
        if pictures > 1 or self.model.default(name) not in {None, 1}:
            self.sent[name] = pictures
        return 1

    def _names(self) -> set[str]:
        """The names of the fields that are left, and of those in `input`."""
        inside = self.left.get(INPUT)
        return {*self.left, *(inside if isinstance(inside, dict) else ())}


def _numbered(body: Mapping[str, Any], number: int) -> dict[str, Any]:
    """One of several requests. Each has another seed, since the same would make the same picture."""
    inside, seed = body.get(INPUT), body.get("seed")
    if isinstance(inside, dict):
        return {**body, INPUT: _numbered(inside, number)}
    if isinstance(seed, int) and not isinstance(seed, bool):
        return {**body, "seed": seed + number}
    return dict(body)


def _plain(name: str, value: Any) -> Any:
    """The value of a field that may be from a form, where all values are texts."""
    if not isinstance(value, FormText) or name not in _NUMBERS:
        return str(value) if isinstance(value, FormText) and name in {SIZE, "response_format"} else value
    try:
        return json.loads(value)
    except ValueError:
        return str(value)
