"""Writes a call as the body of a request to Google (`models.streamGenerateContent`, v1beta)."""

import json
import secrets
from base64 import b64encode
from typing import Any, Final

from providers.calls import Call, Message
from providers.gemini.schemas import sent_schema

_PICTURE: Final = secrets.token_hex(16)
"""Stands for an image while the rest is encoded as JSON: 20 MB of images would take 100 ms. No caller can know it."""


def generate_body(call: Call) -> bytes:
    return _json(_request(call), call)


def count_body(call: Call) -> bytes:
    """For `models.countTokens`: the whole request counts, with its system prompt and schema."""
    request = {"model": f"models/{call.model}", **_request(call)}
    return _json({"generateContentRequest": request}, call)


def _request(call: Call) -> dict[str, Any]:
    request: dict[str, Any] = {"contents": [_content(each) for each in call.messages]}
    if call.system:
        request["systemInstruction"] = {"parts": [{"text": call.system}]}
    request["generationConfig"] = _config(call)
    return request


def _content(message: Message) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [
        {"inlineData": {"mimeType": each.mime_type, "data": _PICTURE}} for each in message.pictures
    ]
    if message.text or not parts:
        parts.append({"text": message.text})
    return {"role": "model" if message.role == "assistant" else "user", "parts": parts}


def _config(call: Call) -> dict[str, Any]:
    """Only what the call has is sent: some models refuse, or ignore, what they do not know."""
    optional = {
        "temperature": call.temperature,
        "topP": call.top_p,
        "seed": call.seed,
        "stopSequences": list(call.stop) or None,
        "thinkingConfig": None if call.thinking_level is None else {"thinkingLevel": call.thinking_level},
        "responseMimeType": "application/json" if call.json or call.schema is not None else None,
        "responseJsonSchema": None if call.schema is None else sent_schema(call.schema),
    }
    present = {name: value for name, value in optional.items() if value is not None}
    return {"maxOutputTokens": call.max_output_tokens, **present}


def _json(value: Any, call: Call) -> bytes:
    """The JSON with the images in it. Raises ValueError for a number that JSON does not have, and for half of a
    surrogate pair."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    pictures = [each for message in call.messages for each in message.pictures]
    if not pictures:
        return text
    pieces = text.split(_PICTURE.encode())
    encoded = [b64encode(each.data) for each in pictures]
    return b"".join(part for both in zip(pieces, [*encoded, b""], strict=True) for part in both)
