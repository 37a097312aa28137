"""Results in the shapes of OpenAI's images API: one document, or one event for each picture."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from doors.openai.changes import changes_of
from doors.openai.requests import Call

JSON = dict[str, Any]

_NO_USAGE: Final[JSON] = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "total_tokens": 0,
}
"""The tokens in an event, which its readers expect. Pictures are not billed by token here."""

_FORMATS: Final = {"jpg": "jpeg"}


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture: its URL, and its content in base64 if the call needs that and there is a kept file."""

    url: str
    content: str | None = None

    def as_json(self) -> JSON:
        return {"url": self.url} if self.content is None else {"b64_json": self.content}

    @property
    def output_format(self) -> str:
        """The format that its name has, `png` if that has none."""
        name = self.url.partition("?")[0].rpartition("/")[2]
        _, dot, ending = name.rpartition(".")
        return _FORMATS.get(ending, ending) if dot else "png"


def images(
    call: Call,
    work_id: str,
    bodies: Sequence[Mapping[str, Any]],
    pictures: Sequence[Picture],
    *,
    created: float,
) -> JSON:
    """The response to a call with at least one picture. `bodies` are those of its generations (`generations/views.py`),
    some of which may have failed. `created` is the Unix time of acceptance."""
    failed = [each for each in bodies if not each["success"]]
    found: JSON = {
        "created": int(created),
        "data": [each.as_json() for each in pictures],
        "id": work_id,
        "model_name": bodies[0]["model_name"],
        "cost_usd": round(sum(each["cost_usd"] for each in bodies), 6),
        "changes": [*(each.as_json() for each in call.changes), *_changes(bodies)],
    }
    if failed:
        found["errors"] = [{"id": each["id"], **each["error"]} for each in failed]
    return found


def events(
    call: Call, found: Mapping[str, Any], pictures: Sequence[Picture], *, edits: bool
) -> Iterator[str]:
    """The events of a stream: one for each picture, with the facts of the document beside it."""
    kind = "image_edit.completed" if edits else "image_generation.completed"
    facts = {name: value for name, value in found.items() if name not in {"created", "data"}}
    for each in pictures:
        event = {
            "type": kind,
            "b64_json": each.content or "",
            "url": each.url,
            "created_at": found["created"],
            "size": call.size,
            "quality": "auto",
            "background": "auto",
            "output_format": each.output_format,
            "usage": _NO_USAGE,
            **facts,
        }
        yield f"event: {kind}\ndata: {json.dumps(event)}\n\n"


def _changes(bodies: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The changes of all generations, each once."""
    found: list[Any] = []
    for body in bodies:
        found += [each for each in changes_of(body) if each not in found]
    return found
