"""The inputs of text models, and the rules between them.

All text models have the same inputs, but for thinking levels and the most tokens that they put out.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from catalog.inputs import Input, Inputs, Schema
from catalog.references import reference
from catalog.text_values import usable_text
from catalog.texts.models import TextModel
from catalog.texts.runnable import MAX_OUTPUT
from catalog.texts.schema_check import schema_problems
from contract.tasks import STRUCTURED, TASKS
from errors import Problem

TASK: Final = "task"
"""The input with the task of a call, which its route sets."""

ROLES: Final = ("user", "assistant")

MAX_MESSAGES: Final = 1000
MAX_IMAGES: Final = 100
MAX_STOPS: Final = 5
MAX_VOICES: Final = 1000
LONGEST_STOP: Final = 500


_FIELDS: Final = (
    Input(name="prompt", type="string", content="prompt", description="What the model is to answer."),
    Input(
        name="messages",
        type="array",
        items=Input(name="message", type="object"),
        most_items=MAX_MESSAGES,
        description="The conversation before the prompt: objects with `role` (user or assistant), `content`, and "
        "optionally `images`.",
    ),
    Input(name="system_prompt", type="string", description="How the model is to answer."),
    Input(
        name="images",
        type="array",
        items=Input(name="image", type="string", content="image"),
        most_items=MAX_IMAGES,
        description="Images beside the prompt: URLs, which this service fetches, data: URIs, or uploads.",
    ),
    Input(name="json_schema", type="object", description="The JSON Schema that the answer must fit."),
    Input(name="json", type="boolean", description="Whether the answer is JSON, without a schema."),
    Input(name="temperature", type="number", minimum=0, maximum=2),
    Input(name="top_p", type="number", minimum=0, maximum=1),
    Input(name="seed", type="integer", minimum=-(2**31), maximum=2**31 - 1),
    Input(
        name="stop",
        type="array",
        items=Input(name="stop", type="string", shortest=1, longest=LONGEST_STOP),
        most_items=MAX_STOPS,
        description="Texts at which the answer ends.",
    ),
    Input(
        name="voice_id_list",
        type="array",
        items=Input(name="voice", type="string", shortest=1, longest=LONGEST_STOP),
        most_items=MAX_VOICES,
        description="The voices of a story, of which its narrator gets one.",
    ),
    Input(name="strict", type="boolean", description="Whether a story that breaks a rule is a failure."),
    Input(
        name="repair",
        type="boolean",
        description="Whether an answer that does not fit its schema is requested once more, which is paid.",
    ),
    Input(
        name="on_lost",
        type="string",
        choices=("fail", "repeat"),
        description="Whether a call fails when its answer is lost, or is sent again and may be paid twice.",
    ),
    Input(name=TASK, type="string", choices=TASKS),
)
"""The inputs that all text models have alike."""


def inputs_of(model: TextModel) -> Inputs:
    """The inputs of a text model, as requests are checked against them."""
    own = (
        Input(
            name=MAX_OUTPUT,
            type="integer",
            minimum=1,
            maximum=model.output_limit,
            description="The most tokens that the model may think and answer.",
        ),
        Input(name="thinking_level", type="string", choices=model.thinking_levels or ()),
    )
    rules = (_Conversation(), _AnswerSchema(), _Thinking(model))
    return Inputs({each.name: each for each in (*_FIELDS, *own)}, rules)


class _Conversation:
    """A call has a prompt, or messages that end with one of the user."""

    @property
    def schema(self) -> Schema:
        return {}

    def problems(self, given: Mapping[str, Any]) -> Iterator[Problem]:
        messages = given.get("messages") or []
        for index, each in enumerate(messages):
            yield from _of_message(f"messages[{index}]", each)
        if _images_of(messages) + len(given.get("images") or ()) > MAX_IMAGES:
            yield Problem(
                "messages", f"must have at most {MAX_IMAGES} images, together with those beside the prompt"
            )
        if "prompt" in given:
            return
        if not messages:
            yield Problem("prompt", "is required")
        elif isinstance(messages[-1], dict) and messages[-1].get("role") != "user":
            yield Problem("messages", "must end with a message of the user if there is no prompt")


class _AnswerSchema:
    """The schema of an answer is one that this service can check."""

    @property
    def schema(self) -> Schema:
        return {}

    def problems(self, given: Mapping[str, Any]) -> Iterator[Problem]:
        if "json_schema" in given:
            yield from schema_problems(given["json_schema"])
        elif given.get(TASK) == STRUCTURED:
            yield Problem("json_schema", "is required")


@dataclass(frozen=True, slots=True)
class _Thinking:
    """A model without thinking takes no level of it."""

    model: TextModel

    @property
    def schema(self) -> Schema:
        return {}

    def problems(self, given: Mapping[str, Any]) -> Iterator[Problem]:
        level = given.get("thinking_level")
        if level is not None and not self.model.takes_thinking(level):
            yield Problem("thinking_level", f"is not for {self.model.name}, which has none", level)


def _images_of(messages: Iterable[Any]) -> int:
    """How many images the messages have."""
    found = [each.get("images") for each in messages if isinstance(each, dict)]
    return sum(len(images) for images in found if isinstance(images, list))


def _of_message(where: str, message: Mapping[str, Any]) -> Iterator[Problem]:
    if message.get("role") not in ROLES:
        yield Problem(f"{where}.role", f"must be {' or '.join(ROLES)}", message.get("role"))
    content = message.get("content")
    if not isinstance(content, str) or not (content.strip() or message.get("images")):
        yield Problem(f"{where}.content", "must be a text that is not empty", content)
    elif problem := _problem_by(usable_text, content):
        yield Problem(f"{where}.content", problem, content)
    images = message.get("images", [])
    if isinstance(images, list):
        for index, image in enumerate(images):
            if problem := _problem_by(reference, image):
                yield Problem(f"{where}.images[{index}]", problem, image)
    else:
        yield Problem(f"{where}.images", "must be a list of URLs and data: URIs", images)
    for name in message.keys() - {"role", "content", "images"}:
        yield Problem(f"{where}.{name}", "is not a field of a message", message[name])


def _problem_by(check: Callable[[Any], object], value: Any) -> str | None:
    """The message with which a check refuses a value. None if the value passes."""
    try:
        check(value)
    except ValueError as error:
        return str(error)
    return None
