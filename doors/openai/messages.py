"""Translates the `messages` of a chat completion into those of `POST /chat`, and its system prompt.

A message here has one text and its images. So the texts of several parts become one, with a line break between them,
and their order among the images is lost.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from catalog.adaptation import Change
from doors.openai.images import address_of
from errors import Problem

MESSAGES: Final = "messages"

_SYSTEM: Final = ("system", "developer")
_OTHERS: Final = ("user", "assistant")
_UNTAKEN_ROLES: Final = ("tool", "function")
_CALLS: Final = ("tool_calls", "function_call")
_KNOWN: Final = ("role", "content", "refusal", "name", "annotations", "audio", *_CALLS)


@dataclass(slots=True)
class Conversation:
    """The translated messages of a call. `places` are their numbers in the call, for `messages` in turn."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    system: list[str] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @classmethod
    def of(cls, sent: Any) -> "Conversation":
        """The conversation of `messages`, with every problem in it."""
        found = cls()
        if not isinstance(sent, list) or not sent:
            how = "is required" if sent is None else "must be a list of messages that is not empty"
            found.problems.append(Problem(MESSAGES, how))
            return found
        for number, each in enumerate(sent):
            found._add(number, f"{MESSAGES}[{number}]", each)
        if not found.messages and not found.problems:
            found.problems.append(Problem(MESSAGES, "must have a message of the user"))
        return found

    def field_of(self, place: int) -> str:
        """The caller's name of the message at a place of `messages`."""
        return f"{MESSAGES}[{self.places[place]}]" if place < len(self.places) else MESSAGES

    def _add(self, number: int, where: str, message: Any) -> None:
        if not isinstance(message, Mapping):
            self.problems.append(Problem(where, "must be an object", message))
            return
        role = message.get("role")
        if role not in (*_SYSTEM, *_OTHERS):  # a tuple, since the value may be a list
            known = isinstance(role, str) and role in _UNTAKEN_ROLES
            why = (
                "is not taken: this service has no tools"
                if known
                else "must be system, developer, user or assistant"
            )
            self.problems.append(Problem(f"{where}.role", why, role))
            return
        before = len(self.problems)
        text, images = self._content(where, message)
        self._beside(where, message)
        if len(self.problems) > before:
            return
        if role not in _SYSTEM:
            self.messages.append({"role": role, "content": text} | ({"images": images} if images else {}))
            self.places.append(number)
        elif images:
            self.problems.append(Problem(f"{where}.content", "takes no images in a message of the system"))
        elif text.strip():
            self.system.append(text)

    def _content(self, where: str, message: Mapping[str, Any]) -> tuple[str, list[Any]]:
        """The text and the images of a message."""
        content = message.get("content")
        if content is None:  # an answer without a text, which a client sends back
            content = message.get("refusal")
        if isinstance(content, str):
            return content, []
        if not isinstance(content, list):
            self.problems.append(Problem(f"{where}.content", "must be a text or a list of parts", content))
            return "", []
        texts: list[str] = []
        images: list[Any] = []
        for number, part in enumerate(content):
            self._part(f"{where}.content[{number}]", part, texts, images)
        return "\n".join(texts), images

    def _part(self, where: str, part: Any, texts: list[str], images: list[Any]) -> None:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind in ("text", "refusal"):
            if isinstance(text := part.get(kind), str):
                texts.append(text)
            else:
                self.problems.append(Problem(f"{where}.{kind}", "must be a text", text))
        elif kind == "image_url":
            address = address_of(part)
            if isinstance(address, str):
                images.append(address)
            else:
                self.problems.append(
                    Problem(f"{where}.image_url.url", "must be a URL or a data: URI", address)
                )
            inside = part.get("image_url")
            detail = inside.get("detail") if isinstance(inside, Mapping) else None
            if detail not in (None, "auto"):
                self.changes.append(Change(f"{where}.image_url.detail", detail))
        else:
            self.problems.append(Problem(f"{where}.type", "must be text or image_url", kind))

    def _beside(self, where: str, message: Mapping[str, Any]) -> None:
        """The further fields of a message."""
        if name := message.get("name"):
            self.changes.append(Change(f"{where}.name", name))
        for name in _CALLS:
            if message.get(name):
                self.problems.append(Problem(f"{where}.{name}", "is not taken: this service has no tools"))
        if message.get("audio"):
            self.problems.append(Problem(f"{where}.audio", "is not taken: only texts and images are"))
        for name in message.keys() - set(_KNOWN):
            if message[name] is not None:
                self.changes.append(Change(f"{where}.{name}", message[name]))
