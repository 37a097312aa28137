"""Checks the body of a call, counts its prompt, and fills in the defaults of its settings."""

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any

from simulator.gemini import fields, refusals, schemas, tokens
from simulator.gemini.models import LEVELS, THINKING, TextModel

_JSON, _TEXT = "application/json", "text/plain"
_TEMPERATURE = 2.0
_SIGNATURE_TOKENS = 11
_URL_SAFE = str.maketrans("-_", "+/")
"""Bytes may be in either alphabet of base64. Google's own client sends the one for URLs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedRequest:
    """The checked body of a call to one model.

    Attributes:
        text: The system instruction and the last content of a user, which can have marks.
        prompt: The tokens of the prompt, by modality, with those of the schema.
        schema: The JSON Schema of the answer, or None.
        json: Whether the answer is JSON.
        most: The limit of output tokens, thinking included.
        thinking: The usual tokens of thinking.
    """

    model: TextModel
    text: str
    prompt: dict[str, int]
    schema: Any
    json: bool
    most: int
    thinking: int
    thoughts_shown: bool
    stop: tuple[str, ...]
    seed: int | None

    @property
    def prompt_tokens(self) -> int:
        return sum(self.prompt.values())


def parse(body: Any, model: TextModel) -> CheckedRequest:
    """The checked body of a call to a model.

    Raises:
        Refused: 400, with the message of the real API.
    """
    found = fields.read(body, fields.GENERATE)
    if not found.get("contents"):
        raise refusals.bad_fields(
            [("contents", "* GenerateContentRequest.contents: contents is not specified\n")]
        )
    config = found.get("generationConfig", {})
    schema = _schema(config)
    checked = CheckedRequest(
        model=model,
        text=_text(found),
        prompt=_prompt(found, config, schema),
        schema=schema,
        json=config.get("responseMimeType") == _JSON,
        most=_most(config, model),
        thinking=_thinking(config.get("thinkingConfig", {}), model),
        thoughts_shown=config.get("thinkingConfig", {}).get("includeThoughts", False),
        stop=tuple(config.get("stopSequences", ())),
        seed=config.get("seed"),
    )
    _check_ranges(config)
    if checked.prompt_tokens > model.prompt_limit:
        raise refusals.of(
            400,
            f"The input token count ({checked.prompt_tokens}) exceeds the maximum number of tokens allowed "
            f"({model.prompt_limit}).",
        )
    return checked


def count(body: Any) -> dict[str, int]:
    """The tokens of a body of `countTokens`, by modality.

    Raises:
        Refused: 400, with the message of the real API.
    """
    found = fields.read(body, fields.COUNT)
    inner = found.get("generateContentRequest")
    if inner is not None and found.get("contents"):
        raise refusals.of(400, "Only one of contents and generate_content_request may be set.")
    counted = found if inner is None else inner
    config = counted.get("generationConfig", {})
    return _prompt(counted, config, _schema(config))


def _text(found: dict[str, Any]) -> str:
    users = [each for each in found["contents"] if each.get("role", "user") == "user"]
    contents = [found.get("systemInstruction", {}), *users[-1:]]
    return "\n".join(part["text"] for each in contents for part in each.get("parts", ()) if "text" in part)


def _prompt(found: dict[str, Any], config: dict[str, Any], schema: Any) -> dict[str, int]:
    counted = {"TEXT": 0}
    for content in [found.get("systemInstruction", {}), *found.get("contents", ())]:
        if content.get("role", "user") not in ("user", "model", "function", "system"):
            raise refusals.of(400, "Please use a valid role: user, model.")
        for part in content.get("parts", ()):
            modality, amount = _part(part, config.get("mediaResolution"))
            counted[modality] = counted.get(modality, 0) + amount
    if schema is not None:
        counted["TEXT"] += tokens.of_text(json.dumps(schema, ensure_ascii=False, separators=(",", ":")))
    return counted


def _part(part: dict[str, Any], resolution: str | None) -> tuple[str, int]:
    if "fileData" in part:
        raise refusals.of(403, "You do not have permission to access the File or it may not exist.")
    if "inlineData" in part:
        return _media(part["inlineData"], resolution)
    if "text" in part:
        return "TEXT", tokens.of_text(part["text"]) + _signed(part.get("thoughtSignature"))
    if not part.keys() - {"thoughtSignature"}:
        raise refusals.of(400, "Unable to submit request because it must have a text parameter.")
    return "TEXT", tokens.of_text(json.dumps(part, ensure_ascii=False))


def _media(inline: dict[str, Any], resolution: str | None) -> tuple[str, int]:
    kind = inline.get("mimeType", "")
    family = kind.partition("/")[0]
    if family not in ("image", "audio", "video"):
        raise refusals.of(400, f"Unsupported MIME type: {kind}")
    try:
        data = base64.b64decode(inline.get("data", "").translate(_URL_SAFE), validate=True)
        return family.upper(), tokens.of_media(kind, data, resolution)
    except binascii.Error as reason:
        place = "contents.parts.inline_data.data"
        said = f"Invalid value at '{place}' (TYPE_BYTES), Base64 decoding failed"
        raise refusals.bad_fields([(place, said)]) from reason
    except tokens.NotAnImage as reason:
        raise refusals.of(400, "Unable to process input image. Please retry or report.") from reason


def _signed(signature: str | None) -> int:
    """The thoughts that a signature of this simulator brings back into the prompt."""
    try:
        thoughts = base64.b64decode((signature or "").translate(_URL_SAFE)).decode().partition(":")[0]
    except ValueError:
        return 0
    return int(thoughts) + _SIGNATURE_TOKENS if thoughts.isdecimal() else 0


def signature(thoughts: int, seed: int) -> str:
    """The signature of so many tokens of thinking."""
    return base64.b64encode(f"{thoughts}:{seed:032x}".encode()).decode()


def _schema(config: dict[str, Any]) -> Any:
    json_schema, openapi = config.get("responseJsonSchema"), config.get("responseSchema")
    if json_schema is None and openapi is None:
        return None
    if json_schema is not None and openapi is not None:
        raise refusals.of(400, "Only one of response_schema and response_json_schema may be set.")
    if config.get("responseMimeType") != _JSON:
        raise refusals.of(
            400, f"Function calling config or response schema requires response mime type: '{_JSON}'"
        )
    if openapi is not None:
        return schemas.from_openapi(openapi)
    schemas.check(json_schema)
    return json_schema


def _most(config: dict[str, Any], model: TextModel) -> int:
    most = config.get("maxOutputTokens", model.output_limit)
    if not 1 <= most <= model.output_limit:
        raise refusals.of(
            400,
            f"Unable to submit request because it has a maxOutputTokens value of {most} but the supported range is "
            f"from 1 (inclusive) to {model.output_limit + 1} (exclusive). Update the value and try again.",
        )
    return int(most)


def _thinking(config: dict[str, Any], model: TextModel) -> int:
    level, budget = config.get("thinkingLevel"), config.get("thinkingBudget")
    if level is not None and budget is not None:
        raise refusals.of(400, "You can only set only one of thinking budget and thinking level.")
    if level is not None:
        if level.lower() not in LEVELS:
            place = "generation_config.thinking_config.thinking_level"
            kind = "type.googleapis.com/google.ai.generativelanguage.v1beta.ThinkingConfig.ThinkingLevel"
            raise refusals.bad_fields([(place, f"Invalid value at '{place}' ({kind}), \"{level}\"")])
        if level.lower() not in model.levels:
            which = level.upper() if model.levels else ""
            raise refusals.of(
                400, f"Thinking level {which} is not supported for this model.".replace("  ", " ")
            )
        return THINKING[level.lower()]
    usual = THINKING[model.level]
    if budget is None:
        return usual
    if not model.budget:
        raise refusals.of(400, "Thinking budget is not supported for this model. Please use thinking level.")
    return usual if budget < 0 else min(budget, max(usual, THINKING["medium"]))


def _check_ranges(config: dict[str, Any]) -> None:
    if config.get("candidateCount", 1) != 1:
        raise refusals.of(400, "Multiple candidates is not enabled for this model")
    if not 0 <= config.get("temperature", 1) <= _TEMPERATURE:
        raise refusals.of(400, f"The value of temperature must be in the range [0.0, {_TEMPERATURE}].")
    if not 0 <= config.get("topP", 1) <= 1:
        raise refusals.of(400, "The value of topP must be in the range [0.0, 1.0].")
    if config.get("responseMimeType", _TEXT) not in (_JSON, _TEXT, "text/x.enum"):
        raise refusals.of(
            400,
            "allowed mimetypes are `text/plain`, `application/json`, `application/xml`, `application/yaml` and "
            "`text/x.enum`.",
        )
