"""Who is calling, and whose token pays.

Two doors. `X-Admin-API-Key` equal to the configured key opens the admin's: the server's own Replicate
token pays. `X-Replicate-API-Key` is a user's: the token it carries pays, and lives only as long as its
call. Without that header, a Replicate token in `Authorization: Bearer` counts as if it stood there. An admin
header that is present decides alone, so a wrong key never falls through to the user door; an unset key equals
nothing, not even an empty header.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, Protocol

from admission.fair_queue import UNPROVEN
from errors import Forbidden, LedgerDown, ServerTokenRejected, Unauthenticated

ADMIN_HEADER = "X-Admin-API-Key"
USER_HEADER = "X-Replicate-API-Key"
BEARER_HEADER = "Authorization"

ADMIN = "admin"
"""The admin's id."""

# Visible ASCII but no comma: a header sent twice arrives joined by one, and two tokens are none.
_TOKEN = re.compile(r"[!-+\--~]{1,255}")

# Replicate's tokens begin with r8_. Any other bearer is for something between the caller and the service.
_BEARER = re.compile(r"(?i:bearer) +(r8_.*)", re.DOTALL)


class Headers(Protocol):
    """Whatever finds a header by name."""

    def get(self, name: str, /) -> str | None: ...


class Secret(str):
    """Text whose repr does not show it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Secret(…)"


def credentials(**tokens: str) -> Mapping[str, Secret]:
    """Payment credentials by provider name. Raises ValueError for an empty token: a provider's client might replace it
    by one from the environment."""
    if not all(tokens.values()):
        raise ValueError("a token must not be empty")
    return MappingProxyType({provider: Secret(token) for provider, token in tokens.items()})


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller that may spend. `id` is unique to the caller and reveals no token."""

    kind: Literal["admin", "user"]
    id: str
    credentials: Mapping[str, Secret] = field(repr=False, hash=False)
    """By provider (see `credentials`)."""
    turn: str = ""
    """The caller as which it takes turns with others, its own id if empty: tokens of one account take them as one."""

    def __post_init__(self) -> None:
        if not self.turn:
            object.__setattr__(self, "turn", self.id)

    @property
    def is_proven(self) -> bool:
        """Whether its account is known. Callers whose accounts are not known share one turn, so nothing that concerns
        one of them may hold that turn back."""
        return self.turn != UNPROVEN


@dataclass(frozen=True, slots=True)
class Visitor:
    """Someone who asks and spends nothing. `caller` is whom they could spend as: None for an admin without a token."""

    id: str
    is_admin: bool
    caller: Caller | None

    def may_see(self, owner: str) -> bool:
        return self.is_admin or owner == self.id


class Doors:
    """The two doors. `Doors(admin_key=…, server_token=…).admit(headers) -> Caller`.

    Caller ids are keyed hashes; with the same `hash_key` they are the same from one process to the next. Without
    `user_tokens` the user's door is closed.
    """

    def __init__(
        self,
        *,
        admin_key: str | None,
        server_token: str | None,
        user_tokens: bool = True,
        hash_key: bytes | None = None,
    ) -> None:
        self._admin_key = admin_key
        self._server_token = server_token
        self._user_tokens = user_tokens
        self.hash_key: bytes | None = hash_key or secrets.token_bytes(32)
        """None while it is not known who is who: then no user is let in."""

    def admit(self, headers: Headers) -> Caller:
        """The caller these headers speak for; a user's token is yet to be checked. Raises Unauthenticated, or
        ServerTokenRejected to an admin if there is no server token."""
        presented = headers.get(ADMIN_HEADER)
        if presented is not None:
            self._check_admin_key(presented)
            if (admin := self.admin()) is None:
                raise ServerTokenRejected(
                    "The service has no REPLICATE_API_TOKEN; the admin key alone cannot pay."
                )
            return admin
        if not self._user_tokens:
            raise Unauthenticated(f"Send {ADMIN_HEADER}; this service takes no callers' own tokens.")
        header, token = USER_HEADER, headers.get(USER_HEADER)
        if token is None and (bearer := _BEARER.fullmatch(headers.get(BEARER_HEADER) or "")):
            header, token = BEARER_HEADER, bearer[1]
        if token is None:
            raise Unauthenticated(
                f"Send {ADMIN_HEADER}, or {USER_HEADER} or `Authorization: Bearer` with a Replicate token."
            )
        if not _TOKEN.fullmatch(token):
            raise Unauthenticated(f"The {header} header does not hold one Replicate token.")
        return Caller("user", self._caller_id(token), credentials(replicate=token), turn=UNPROVEN)

    def recognise(self, headers: Headers) -> Visitor:
        """Who asks. Raises Unauthenticated."""
        if headers.get(ADMIN_HEADER) is None:
            caller = self.admit(headers)
            return Visitor(caller.id, is_admin=False, caller=caller)
        self.admit_admin(headers)
        return Visitor(ADMIN, is_admin=True, caller=self.admin())

    def admin(self) -> Caller | None:
        """The admin, as far as anybody pays for them."""
        if not self._server_token:
            return None
        return Caller("admin", ADMIN, credentials(replicate=self._server_token))

    def admit_admin(self, headers: Headers) -> None:
        """Let only the admin pass. Raises Unauthenticated or Forbidden."""
        presented = headers.get(ADMIN_HEADER)
        if presented is None:
            self.admit(headers)
            raise Forbidden(f"Only the holder of the {ADMIN_HEADER} may do this.")
        self._check_admin_key(presented)

    def is_admin(self, headers: Headers) -> bool:
        """Whether the headers hold the admin key, for a route that anyone may call."""
        presented = headers.get(ADMIN_HEADER)
        return presented is not None and self._is_admin_key(presented)

    def _check_admin_key(self, presented: str) -> None:
        if not self._admin_key:
            raise Unauthenticated("No admin key is configured, so the admin door is closed.")
        if not self._is_admin_key(presented):
            raise Unauthenticated(f"The {ADMIN_HEADER} header does not hold the admin key.")

    def _is_admin_key(self, presented: str) -> bool:
        # Bytes, since text beyond ASCII cannot be compared in constant time; no character stands in for another.
        return bool(self._admin_key) and hmac.compare_digest(
            presented.encode(errors="surrogatepass"), (self._admin_key or "").encode()
        )

    def _caller_id(self, token: str) -> str:
        if self.hash_key is None:
            raise LedgerDown("The ledger could not be opened yet, and with it who is who.")
        digest = hmac.new(self.hash_key, token.encode(), hashlib.sha256)
        return "user_" + digest.hexdigest()[:32]
