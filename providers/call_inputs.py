"""Makes the call to a text model from the inputs of a request."""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from catalog.references import Upload
from catalog.texts.inputs import TASK
from catalog.texts.runnable import MAX_OUTPUT, CallModel
from catalog.texts.story import story_schema
from contract.tasks import STORY
from errors import InvalidRequest, Problem, ServiceError
from providers.calls import Call, Message, Picture, Role

Pictures = Callable[[Any], Awaitable[tuple[str, bytes]]]
"""Fetches one image of a prompt, an address, a `data:` URI or an upload: its media type and its bytes. Raises
ServiceError."""

MAX_PICTURES: Final = 20_000_000
"""The most bytes of all images of a call."""


async def call_of(
    inputs: Mapping[str, Any],
    model: CallModel,
    pictures: Pictures,
    *,
    again: Sequence[ServiceError] = (),
) -> Call:
    """The call of a request with these inputs. `again` are the errors of earlier answers that were not valid: the call
    names them. Raises ServiceError."""
    taken = _Taken(pictures)
    messages = [Message(role, text, await taken.all(images)) for role, text, images in _turns(inputs)]
    call = call_of_texts(inputs, model.target)
    system = "\n\n".join([call.system, *map(_about, again)] if again else [call.system])
    return replace(call, messages=tuple(messages), system=system)


def call_of_texts(inputs: Mapping[str, Any], model: str) -> Call:
    """The same without its images. `model` is the name to send."""
    schema = schema_of(inputs)
    return Call(
        model=model,
        messages=tuple(Message(role, text) for role, text, _ in _turns(inputs)),
        system=inputs.get("system_prompt") or "",
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
        return story_schema(inputs.get("voice_id_list") or ())
    schema: Mapping[str, Any] | None = inputs.get("json_schema")
    return schema


def images_of(inputs: Mapping[str, Any]) -> int:
    """How many images the prompt has."""
    return sum(len(images) for _, _, images in _turns(inputs))


def pictures_bound(inputs: Mapping[str, Any]) -> int:
    """The most bytes that the images of the prompt may have. Those at addresses have any size that is taken."""
    sizes = (_size_of(each) for _, _, images in _turns(inputs) for each in images)
    return min(MAX_PICTURES, sum(sizes))


def _size_of(image: Any) -> int:
    if isinstance(image, Upload):
        return image.size
    return len(image) if image[:5].lower() == "data:" else MAX_PICTURES


def _turns(inputs: Mapping[str, Any]) -> Iterator[tuple[Role, str, Sequence[Any]]]:
    """The role, the text and the images of each turn. The prompt is the last one."""
    for each in inputs.get("messages") or ():
        yield each["role"], each["content"], each.get("images") or ()
    prompt, images = inputs.get("prompt"), inputs.get("images") or ()
    if prompt is not None or images:
        yield "user", prompt or "", images


def _about(error: ServiceError) -> str:
    return f"An earlier answer was not valid. Avoid this: {error.detail}"


class _Taken:
    """Fetches the images of one call, and stops at the first that makes them too large together: they are in memory."""

    def __init__(self, pictures: Pictures) -> None:
        self._pictures = pictures
        self._size = 0

    async def all(self, images: Iterable[Any]) -> tuple[Picture, ...]:
        """These images. Raises ServiceError."""
        return tuple([await self._one(each) for each in images])

    async def _one(self, image: Any) -> Picture:
        found = Picture(*await self._pictures(image))
        self._size += len(found.data)
        if self._size > MAX_PICTURES:
            problem = Problem("images", f"have more than {MAX_PICTURES // 1_000_000} MB together")
            raise InvalidRequest([problem])
        return found
