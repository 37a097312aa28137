"""Replicate, the provider: its HTTP API, and what its answers mean."""

from auth import Caller


def token_of(caller: Caller) -> str:
    """The Replicate token that pays for this caller."""
    return caller.credentials["replicate"]
