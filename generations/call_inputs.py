"""Makes the call to a text model from the inputs of a request."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from catalog.texts import story
from catalog.texts.runnable import MAX_OUTPUT, CallModel
from errors import ServiceError
from providers.calls import Call, Message, Picture

TASK: Final = "task"
"""The input that says what is requested: a chat, structured output or a story."""

CHAT: Final = "chat"
STRUCTURED: Final = "structured"
STORY: Final = "story"
TASKS: Final = (CHAT, STRUCTURED, STORY)

Pictures = Callable[[Any], Awaitable[Picture]]
"""Fetches one image of a prompt: an address, a `data:` URI or an upload. Raises ServiceError."""


async def call_of(
    inputs: Mapping[str, Any],
    model: CallModel,
    pictures: Pictures,
    *,
    again: Sequence[ServiceError] = (),
) -> Call:
    """The call of a request with these inputs. `again` are the errors of earlier answers that were not valid: the call
    names them. Raises ServiceError."""
    messages = [
        Message(each["role"], each["content"], await _all(each.get("images") or (), pictures))
        for each in inputs.get("messages") or ()
    ]
    images = await _all(inputs.get("images") or (), pictures)
    if (prompt := inputs.get("prompt")) is not None:
        messages.append(Message("user", prompt, images))
    schema = schema_of(inputs)
    return Call(
        model=model.target,
        messages=tuple(messages),
        system="\n\n".join(filter(None, [inputs.get("system_prompt"), *map(_about, again)])),
        max_output_tokens=inputs[MAX_OUTPUT],
        temperature=inputs.get("temperature"),
        top_p=inputs.get("top_p"),
        seed=inputs.get("seed"),
        stop=tuple(inputs.get("stop") or ()),
        thinking_level=inputs.get("thinking_level"),
        json=schema is not None or bool(inputs.get("json")),
        schema=schema,
    )


def schema_of(inputs: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The JSON Schema of the answer; None without one."""
    if inputs.get(TASK) == STORY:
        return story.schema(inputs.get("voice_id_list") or ())
    schema: Mapping[str, Any] | None = inputs.get("json_schema")
    return schema


def _about(error: ServiceError) -> str:
    return f"An earlier answer was not valid. Avoid this: {error.detail}"


async def _all(images: Iterable[Any], pictures: Pictures) -> tuple[Picture, ...]:
    return tuple([await pictures(each) for each in images])
