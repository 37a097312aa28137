"""The names of the providers."""

from typing import Final

CREATIONS: Final = "replicate"
"""The provider of predictions, which are created and looked up later."""

CALLS: Final = "gemini"
"""The provider of text models. A call to one is answered directly, and cannot be looked up later."""
