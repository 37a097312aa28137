"""The tasks of text models: the names of their routes, and texts of the answers."""

from collections.abc import Mapping
from typing import Final

CHAT: Final = "chat"
STRUCTURED: Final = "structured-output"
STORY: Final = "cinematic-story-design"

TASKS: Final = (CHAT, STRUCTURED, STORY)
"""Each is the name of a route, and of the interface by which a generation came (`GenerationRecord.door`)."""

COMPLETIONS: Final = "openai-chat"
"""The interface of a chat that came by the door for OpenAI's clients."""

CALL_DOORS: Final = (*TASKS, COMPLETIONS)
"""All interfaces of calls to text models."""

MESSAGES: Final[Mapping[str, str]] = {
    STRUCTURED: "Successfully generated structured output",
    STORY: "Successfully generated cinematic story design",
}
"""The `message` of an answer that succeeded."""

GONE: Final = "The prompt, the schema and the answer were removed, as TEXTS_TTL says."
"""The warning of a call whose texts are no longer kept."""

TRUNCATED: Final = "The text ended at its token limit, so it is not whole."
"""The warning of a chat that is a success although it was cut off."""


def task_of(door: str | None) -> str | None:
    """The task of a generation that came by this interface; None if it is no call to a text model."""
    return CHAT if door == COMPLETIONS else door if door in TASKS else None
