"""Gemini, the provider of text models: Google's Gemini Developer API, and the meaning of its answers."""

from collections.abc import Callable

from auth import Caller
from contract.providers import CALLS
from errors.calls import GeminiKeyRejected, ServerGeminiKeyRejected


def key_of(caller: Caller, server_key: Callable[[], str | None]) -> str:
    """The Gemini key that pays for this caller. `server_key` returns the service's own, which may have been replaced
    while the caller's work waited. Raises the error of a rejected key if there is none."""
    present = server_key() if caller.uses_server_token else None
    key = present or caller.credentials.get(CALLS)
    if key is None:
        raise ServerGeminiKeyRejected() if caller.uses_server_token else GeminiKeyRejected()
    return key
