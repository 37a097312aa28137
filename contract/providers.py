"""The names of the providers."""

from typing import Final

CREATIONS: Final = "replicate"
"""The provider of predictions, which are created and looked up later."""

TRAININGS: Final = "replicate-trainings"
"""The provider of trainings: like predictions, they are created and looked up later, but each makes a model."""

CALLS: Final = "gemini"
"""The provider of text models. A call to one is answered directly, and cannot be looked up later."""
