"""The names of the providers."""

from typing import Final

CREATIONS: Final = "replicate"
"""The provider of predictions, which are created and looked up later."""

CALLS: Final = "gemini"
"""The provider of text models, whose calls are their own answers."""
