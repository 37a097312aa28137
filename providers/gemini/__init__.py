"""Gemini, the provider of text models: Google's Gemini Developer API, and the meaning of its answers."""

from auth import Caller
from contract.providers import CALLS
from errors.calls import GeminiKeyRejected, ServerGeminiKeyRejected


def key_of(caller: Caller) -> str:
    """The Gemini key that pays for this caller. Raises the error of a rejected key if there is none."""
    key = caller.credentials.get(CALLS)
    if key is None:
        raise ServerGeminiKeyRejected() if caller.uses_server_token else GeminiKeyRejected()
    return key
