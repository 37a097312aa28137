"""Authentication: which caller a request comes from, and whose token pays.

- `X-Admin-API-Key` with the configured key is the admin. The server's own Replicate token pays.
- `X-Replicate-API-Key` is a user. The Replicate token in it pays, and is kept no longer than its work needs it. Without
  this header, a token in `Authorization: Bearer` counts as if it stood there.

An admin header decides alone: with a wrong key the request is refused, whatever other headers it has. A key that is not
configured equals nothing, not even an empty header.
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

# Visible ASCII but no comma: a header sent twice arrives joined by one, and two tokens are none.
_TOKEN = re.compile(r"[!-+\--~]{1,255}")

# Replicate's tokens begin with r8_. Any other bearer is for something between the caller and the service.
_BEARER = re.compile(r"(?i:bearer) +(r8_.*)", re.DOTALL)


class Headers(Protocol):
    """Whatever finds a header by name."""

    def get(self, name: str, /) -> str | None: ...


class Secret(str):
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
class Principal:
    """Who sent a request that spends nothing. `caller` is the account that they could spend from: None for an admin
    without a server token."""

    id: str
    is_admin: bool
    caller: Caller | None

    def may_see(self, owner: str) -> bool:
        return self.is_admin or owner == self.id


class Authenticator:
    """Decides from the headers who calls. `Authenticator(admin_key=…, server_token=…).payer(headers) -> Caller`.

    Caller ids are keyed hashes; with the same `hash_key` they are the same from one process to the next. Without
    `user_tokens` only the admin key is accepted.
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
        """None until the ledger is open. Until then, users get LedgerDown."""

    def payer(self, headers: Headers) -> Caller:
        """The caller who pays for this request. A user's token is not checked with Replicate yet. Raises
        Unauthenticated, or ServerTokenRejected for the admin if there is no server token."""
        presented = headers.get(ADMIN_HEADER)
        if presented is not None:
            self._check_admin_key(presented)
            if (admin := self.admin()) is None:
                raise ServerTokenRejected(
                    "The service has no REPLICATE_API_TOKEN; the admin key alone cannot pay."
                )
            return admin
        if not self._user_tokens:
            raise Unauthenticated(f"Send {ADMIN_HEADER}; this service does not accept Replicate tokens.")
        header, token = USER_HEADER, headers.get(USER_HEADER)
        if token is None and (bearer := _BEARER.fullmatch(headers.get(BEARER_HEADER) or "")):
            header, token = BEARER_HEADER, bearer[1]
        if token is None:
            raise Unauthenticated(
                f"Send {ADMIN_HEADER}, or {USER_HEADER} or `Authorization: Bearer` with a Replicate token."
            )
        if not _TOKEN.fullmatch(token):
            raise Unauthenticated(f"The {header} header must hold exactly one Replicate token.")
        return Caller("user", self._caller_id(token), credentials(replicate=token), turn=UNPROVEN)

    def authenticate(self, headers: Headers) -> Principal:
        """Who sent the request. Raises Unauthenticated."""
        if headers.get(ADMIN_HEADER) is None:
            caller = self.payer(headers)
            return Principal(caller.id, is_admin=False, caller=caller)
        self.require_admin(headers)
        return Principal(ADMIN, is_admin=True, caller=self.admin())

    def admin(self) -> Caller | None:
        """The admin as a caller; None without a server token."""
        if not self._server_token:
            return None
        return Caller("admin", ADMIN, credentials(replicate=self._server_token))

    def require_admin(self, headers: Headers) -> None:
        """Do nothing for the admin. Raises Unauthenticated or Forbidden."""
        presented = headers.get(ADMIN_HEADER)
        if presented is None:
            self.payer(headers)
            raise Forbidden(f"Send {ADMIN_HEADER}; this request requires the admin key.")
        self._check_admin_key(presented)

    def is_admin(self, headers: Headers) -> bool:
        """Whether the headers hold the admin key, for a route that anyone may call."""
        presented = headers.get(ADMIN_HEADER)
        return presented is not None and self._is_admin_key(presented)

    def _check_admin_key(self, presented: str) -> None:
        if not self._admin_key:
            raise Unauthenticated("The service has no admin key configured, so it accepts none.")
        if not self._is_admin_key(presented):
            raise Unauthenticated(f"The {ADMIN_HEADER} header does not hold the admin key.")

    def _is_admin_key(self, presented: str) -> bool:
        # Bytes, since text beyond ASCII cannot be compared in constant time; no character stands in for another.
        return bool(self._admin_key) and hmac.compare_digest(
            presented.encode(errors="surrogatepass"), (self._admin_key or "").encode()
        )

    def _caller_id(self, token: str) -> str:
        if self.hash_key is None:
            raise LedgerDown("The ledger is not open yet, and callers cannot be identified without it.")
        digest = hmac.new(self.hash_key, token.encode(), hashlib.sha256)
        return "user_" + digest.hexdigest()[:32]
