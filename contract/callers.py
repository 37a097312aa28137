"""The ids of callers, and the account at a provider that each uses."""

from typing import Final

ADMIN: Final = "admin"
"""The id of the caller with the admin key of the environment, and the name of the account of the server's token."""

OPEN: Final = "open"
"""The id of all callers without any key, who may call text models if the operator lets them."""

KEY_PREFIX: Final = "key_"
"""How the ids of named keys begin, which are those of their callers."""


def pays_with_server_token(caller_id: str) -> bool:
    """Whether the work of this caller runs on the server's token."""
    return caller_id in {ADMIN, OPEN} or caller_id.startswith(KEY_PREFIX)


def account_of(caller_id: str) -> str:
    """The account in which the predictions of this caller are: one for all callers on the server's token."""
    return ADMIN if pays_with_server_token(caller_id) else caller_id
