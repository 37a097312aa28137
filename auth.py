"""Authentication: identifies the caller of a request, and the token that pays.

- `X-Admin-API-Key` with the configured key is the admin. The service's Replicate token pays.
- `X-Replicate-API-Key` is a user. Its Replicate token pays, and is kept only while its work runs. Without this header,
  a Replicate token in `Authorization: Bearer` is used instead.

If there is an admin header, the other headers are ignored: a wrong admin key is always refused. Without a configured
admin key, every admin header is refused, even an empty one.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, Protocol

from admission.flows import UNPROVEN
from errors import Forbidden, LedgerDown, ServerTokenRejected, Unauthenticated

ADMIN_HEADER = "X-Admin-API-Key"
USER_HEADER = "X-Replicate-API-Key"
BEARER_HEADER = "Authorization"

ADMIN = "admin"

# Visible ASCII without commas: a header that was sent twice arrives joined by a comma, and is refused.
_TOKEN = re.compile(r"[!-+\--~]{1,255}")

# Replicate's tokens begin with r8_. Any other bearer token is for a proxy before the service.
_BEARER = re.compile(r"(?i:bearer) +(r8_.*)", re.DOTALL)


class Headers(Protocol):
    """A mapping of headers that ignores case."""

    def get(self, name: str, /) -> str | None: ...


class Secret(str):
    __slots__ = ()

    def __repr__(self) -> str:
        return "Secret(…)"


def credentials(**tokens: str) -> Mapping[str, Secret]:
    """Payment credentials by provider name. Raises ValueError for an empty token, since a provider's client might use
    one from the environment instead."""
    if not all(tokens.values()):
        raise ValueError("a token must not be empty")
    return MappingProxyType({provider: Secret(token) for provider, token in tokens.items()})


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller with credentials to pay. `id` is unique to the caller and does not reveal the token."""

    kind: Literal["admin", "user"]
    id: str
    credentials: Mapping[str, Secret] = field(repr=False, hash=False)
    """By provider (see `credentials`)."""
    turn: str = ""
    """The key by which callers share the queue, by default `id`. All tokens of one account have the same."""

    def __post_init__(self) -> None:
        if not self.turn:
            object.__setattr__(self, "turn", self.id)

    @property
    def is_proven(self) -> bool:
        """Whether the caller's account is known. Callers of unknown accounts share one turn, so one of them must never
        delay that turn."""
        return self.turn != UNPROVEN


@dataclass(frozen=True, slots=True)
class Principal:
    """The sender of a request that spends nothing. `caller` is the caller who would pay: None for an admin without a
    server token."""

    id: str
    is_admin: bool
    caller: Caller | None

    def may_see(self, owner: str) -> bool:
        return self.is_admin or owner == self.id


class Authenticator:
    """Identifies callers by their headers. `Authenticator(admin_key=…, server_token=…).payer(headers) -> Caller`.

    Caller ids are hashes with the key `hash_key`, so they stay the same across restarts if it does. Without
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
        """The caller who pays for this request. A user's token is not yet checked with Replicate. Raises
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
        """The sender of the request. Raises Unauthenticated."""
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
        # As bytes, since compare_digest refuses text beyond ASCII.
        return bool(self._admin_key) and hmac.compare_digest(
            presented.encode(errors="surrogatepass"), (self._admin_key or "").encode()
        )

    def keyed_hash(self, secret: str) -> str:
        """A hash of a secret that stays the same across restarts, and cannot be guessed without the key of the ledger.
        Raises LedgerDown while that is not open."""
        if self.hash_key is None:
            raise LedgerDown("The ledger is not open yet, and callers cannot be identified without it.")
        return hmac.new(self.hash_key, secret.encode(errors="surrogatepass"), hashlib.sha256).hexdigest()

    def _caller_id(self, token: str) -> str:
        return "user_" + self.keyed_hash(token)[:32]
