"""Replicate, the provider: its HTTP API, and what its answers mean."""

from auth import Caller
from contract.providers import CREATIONS


def token_of(caller: Caller) -> str:
    """The Replicate token that pays for this caller."""
    return caller.credentials[CREATIONS]
