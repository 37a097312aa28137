"""The call to a text model that a request becomes."""

import asyncio

import pytest

from catalog.texts.registry import text_registry
from errors import InvalidRequest
from providers.call_inputs import MAX_PICTURES, call_of

MODEL = text_registry(len).find("gemini-3.5-flash-lite")


def test_no_image_is_fetched_after_those_that_are_too_large_together():
    fetched = []

    async def fetch(image):
        fetched.append(image)
        return "image/png", bytes(MAX_PICTURES // 2)

    messages = [{"role": "user", "content": "x", "images": ["a", "b"]}]
    inputs = {"messages": messages, "images": ["c", "d", "e"], "max_output_tokens": 10}
    with pytest.raises(InvalidRequest, match="20 MB together"):
        asyncio.run(call_of(inputs, MODEL, fetch))

    assert ["a", "b", "c"] == fetched
