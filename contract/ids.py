"""The ids of generations. They are random and cannot be guessed.

Most have the form `gen_<32 hexadecimal digits>`. A generation that came by the Replicate door has an id of Replicate's
form, since its clients may expect that alphabet and length.
"""

import base64
import re
import secrets
from typing import Final

_PREDICTION: Final = "[0-9a-z]{26}"

GENERATION: Final = rf"(?:gen_[0-9a-f]{{32}}|{_PREDICTION})"
"""A regular expression for the ids of generations, both forms."""

TRAINING_KIND: Final = "trn"
"""How the ids of trainings begin: `trn_<32 hexadecimal digits>`. A training is a generation in the ledger."""


def is_training_id(text: str) -> bool:
    """Whether this is the id of a training."""
    return text.startswith(f"{TRAINING_KIND}_")


def new_prediction_id() -> str:
    """A new id in Replicate's form: 26 lower-case letters and digits, with 128 random bits."""
    return base64.b32encode(secrets.token_bytes(16)).decode().rstrip("=").lower()


def is_prediction_id(text: str) -> bool:
    """Whether a text is an id in Replicate's form."""
    return re.fullmatch(_PREDICTION, text) is not None
