"""Authentication: identifies the caller of a request, and the token that pays.

- The admin key of the environment, and each named key (`rcg_…`): the service's Replicate token pays. The key is sent as
  `X-Admin-API-Key` (only with the role `admin`), as `X-API-Key`, or in `Authorization: Bearer`.
- A Replicate token (`r8_…`) is a user. It pays, and is kept only while its work runs. It is sent as
  `X-Replicate-API-Key` or in `Authorization: Bearer`.
- So is a Gemini key, which pays for calls to text models. It is sent as `X-Gemini-API-Key`, or in the body of a call,
  or in `Authorization: Bearer` if it begins as Google's keys do.

If there is an `X-Admin-API-Key`, or an `Admin-API-Key`, the other headers are ignored: a wrong one is always refused.
Of the others, two with different values are refused. A bearer of any other form is for a proxy before the service.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, Protocol

from admission.flows import UNPROVEN
from contract.callers import ADMIN, OPEN, account_of, pays_with_server_token
from contract.providers import CALLS, CREATIONS
from errors import Forbidden, LedgerDown, ServerTokenRejected, Unauthenticated
from errors.calls import ServerGeminiKeyRejected
from ledger.access_records import MAY_GENERATE, ApiKeyRecord, Role
from settings.rotating import RotatingSecret

ADMIN_HEADER = "X-Admin-API-Key"
ADMIN_HEADER_TOO = "Admin-API-Key"
"""Another name of the same header."""

KEY_HEADER = "X-API-Key"
USER_HEADER = "X-Replicate-API-Key"
CALL_HEADER = "X-Gemini-API-Key"
CALL_CREDENTIAL = "gemini_api_key"
"""The name of the same key among the `credentials` in the body of a call."""
BEARER_HEADER = "Authorization"

CREDENTIAL_HEADERS = (
    ADMIN_HEADER, ADMIN_HEADER_TOO, KEY_HEADER, USER_HEADER, CALL_HEADER, BEARER_HEADER,
)  # fmt: skip
"""The headers that may hold the credential of a request."""

# Visible ASCII without commas: a header that was sent twice arrives joined by a comma, and is refused.
_TOKEN = re.compile(r"[!-+\--~]{1,255}")

_BEARER = re.compile(r"(?i:bearer) +(.*)", re.DOTALL)

_TOKEN_START = "r8_"  # noqa: S105 - how Replicate's tokens begin

_CALL_STARTS = ("AIza", "AQ.")
"""How Google's keys begin. In a bearer, one of another form could be a mistyped key of this service."""

_NO_CALLER = "Authentication failed. Provide 'Admin-API-Key' in headers or complete credentials in payload."

KEY_START = "rcg_"
"""How the text of a named key begins."""


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
class _With:
    """Headers, and a key of a text model that came in the body."""

    headers: Headers
    key: str

    def get(self, name: str, /) -> str | None:
        found = self.headers.get(name)
        if name != CALL_HEADER or found == self.key:
            return found
        if found is not None:
            raise Unauthenticated(f"{CALL_HEADER} and the body hold different credentials. Send one.")
        return self.key


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller with credentials to pay. `id` is unique to the caller and does not reveal the token."""

    kind: Literal["admin", "key", "user", "open"]
    id: str
    credentials: Mapping[str, Secret] = field(repr=False, hash=False)
    """By provider (`contract/providers.py`)."""
    turn: str = ""
    """The key by which callers share the queue, by default `id`. All tokens of one account have the same."""

    key: ApiKeyRecord | None = field(default=None, repr=False, hash=False, compare=False)
    """The caller's named key, for its limits. None for the admin key of the environment and for users."""

    def __post_init__(self) -> None:
        if not self.turn:
            object.__setattr__(self, "turn", self.id)

    @property
    def is_admin(self) -> bool:
        return self.kind == "admin" or (self.key is not None and self.key.role == "admin")

    @property
    def uses_server_token(self) -> bool:
        return self.kind != "user"

    @property
    def account(self) -> str:
        """The account at the provider: one for all callers on the server's token."""
        return account_of(self.id)

    @property
    def is_proven(self) -> bool:
        """Whether the caller's account is known. Callers of unknown accounts share one turn, so one of them must never
        delay that turn."""
        return self.turn != UNPROVEN


@dataclass(frozen=True, slots=True)
class Principal:
    """The sender of a request that spends nothing. `caller` is the caller who would pay: None without a server token,
    and for a role that may not generate."""

    id: str
    role: Role | Literal["user"]
    caller: Caller | None
    key: ApiKeyRecord | None = None

    @property
    def name(self) -> str:
        """The name of the sender's key, or its id without a named key."""
        return self.key.name if self.key is not None else self.id

    @property
    def is_admin(self) -> bool:
        return self.role == "admin"

    @property
    def sees_all(self) -> bool:
        return self.role in {"admin", "viewer"}

    @property
    def may_change(self) -> bool:
        return self.role not in {"viewer", "metrics"}

    def may_see(self, owner: str) -> bool:
        return self.sees_all or owner == self.id


class Keys(Protocol):
    """The named keys that are neither deleted nor expired."""

    def find(self, digest: str) -> ApiKeyRecord | None:
        """The key with this digest of its text (`Authenticator.keyed_hash`)."""

    def with_id(self, key_id: str) -> ApiKeyRecord | None: ...


class NoKeys:
    """No named keys."""

    def find(self, digest: str) -> ApiKeyRecord | None:  # noqa: ARG002
        return None

    def with_id(self, key_id: str) -> ApiKeyRecord | None:  # noqa: ARG002
        return None


def presents_admin_key(headers: Headers) -> bool:
    """Whether a header for the admin key is present."""
    return any(headers.get(name) is not None for name in (ADMIN_HEADER, ADMIN_HEADER_TOO))


def names_key(headers: Headers) -> bool:
    """Whether a header may hold the text of a named key."""
    return any(KEY_START in (headers.get(name) or "") for name in CREDENTIAL_HEADERS)


async def _no_source(provider: str) -> None:
    """The credential of the service at this provider has no source to read."""


class Authenticator:
    """Identifies callers by their headers. `Authenticator(admin_key=…, server_token=…).payer(headers) -> Caller`. The
    `server_token` pays for predictions, and the `server_key` for calls to text models.

    Caller ids are hashes with the key `hash_key`, so they stay the same across restarts if it does. Without
    `user_tokens`, users are refused.
    """

    def __init__(
        self,
        *,
        admin_key: str | None,
        server_token: str | None,
        server_key: str | None = None,
        user_tokens: bool = True,
        hash_key: bytes | None = None,
        keys: Keys | None = None,
    ) -> None:
        self.admin_key = RotatingSecret(admin_key)
        """The admin key of the environment."""
        tokens = {CREATIONS: server_token, CALLS: server_key}
        self._server = credentials(**{provider: token for provider, token in tokens.items() if token})
        self._user_tokens = user_tokens
        self.hash_key: bytes | None = hash_key or secrets.token_bytes(32)
        """None until the ledger is open. Until then, users and named keys get LedgerDown."""
        self.keys: Keys = keys or NoKeys()
        self.read_again: Callable[[str], Awaitable[object]] = _no_source
        """Reads the source of the service's credential at a provider, which was refused and may have been replaced.
        Call it on the loop."""

    def server_token(self, provider: str) -> str | None:
        """The present credential for the service's own work at this provider."""
        return self._server.get(provider)

    def renew(self, provider: str, token: str) -> None:
        """Let later work be paid by this token. Present callers keep theirs."""
        self._server = credentials(**{**self._server, provider: token})

    def payer(self, headers: Headers) -> Caller:
        """The caller who pays for this request. A user's token is not yet checked with Replicate. Raises
        Unauthenticated, Forbidden if the role of the key may not generate, and ServerTokenRejected if it may and there
        is no server token."""
        caller = self._spender(self.authenticate(headers))
        if caller is not None and CREATIONS in caller.credentials:
            return caller
        if caller is not None and caller.kind == "user":
            raise Unauthenticated(
                f"A key of {CALL_HEADER} cannot pay for this. Send a Replicate token as {USER_HEADER}."
            )
        raise ServerTokenRejected("The service has no REPLICATE_API_TOKEN, and a key alone cannot pay.")

    def call_payer(self, headers: Headers, in_body: str | None, *, is_open: bool) -> Caller:
        """The caller who pays for a call to a text model, with the key `in_body` if there is one. If the operator has
        opened them, calls without any key are paid by the service. Raises as `payer`."""
        if in_body is not None and self._admin_header(headers) is None:
            if headers.get(CALL_HEADER) is None and not _TOKEN.fullmatch(in_body):
                raise Unauthenticated(f"credentials.{CALL_CREDENTIAL} must hold exactly one Gemini key.")
            headers = _With(headers, in_body)
        if not any(headers.get(name) is not None for name in CREDENTIAL_HEADERS):
            if not is_open or CALLS not in self._server:
                raise Unauthenticated(_NO_CALLER)
            return Caller("open", OPEN, self._server)
        caller = self._spender(self.authenticate(headers))
        if caller is not None and CALLS in caller.credentials:
            return caller
        if caller is not None and caller.kind == "user":
            raise Unauthenticated(_NO_CALLER)
        raise ServerGeminiKeyRejected("The service has no GEMINI_API_KEY, and a key alone cannot pay.")

    @staticmethod
    def _spender(principal: Principal) -> Caller | None:
        """The caller who pays, None without credentials of the service. Raises Forbidden."""
        if principal.caller is None and principal.role not in MAY_GENERATE:
            raise Forbidden(f"A key of the role `{principal.role}` may not generate.")
        return principal.caller

    def authenticate(self, headers: Headers) -> Principal:
        """The sender of the request. Raises Unauthenticated."""
        header, credential = self._credential(headers)
        if self._is_admin_key(credential):
            return Principal(ADMIN, "admin", self.admin())
        if credential.startswith(KEY_START):
            return self._key_of(header, credential)
        if header == ADMIN_HEADER:
            if not self.admin_key.valid:
                raise Unauthenticated("The service has no admin key configured, and this is no named key.")
            sent = ADMIN_HEADER if headers.get(ADMIN_HEADER) is not None else ADMIN_HEADER_TOO
            raise Unauthenticated(f"The {sent} header does not hold the admin key.")
        if header == KEY_HEADER:
            raise Unauthenticated(f"The {KEY_HEADER} header does not hold a key of this service.")
        caller = self._user(header, credential)
        return Principal(caller.id, "user", caller)

    def admin(self) -> Caller | None:
        """The admin key of the environment as a caller; None without a server token."""
        return Caller("admin", ADMIN, self._server) if self._server else None

    def caller_of(self, caller_id: str) -> Caller | None:
        """A caller on the server's token by its id, also of a key that is deleted. None for a user, and without a
        server token."""
        if not self._server or not pays_with_server_token(caller_id):
            return None
        if caller_id == ADMIN:
            return self.admin()
        if caller_id == OPEN:
            return Caller("open", OPEN, self._server)
        return Caller("key", caller_id, self._server, key=self.keys.with_id(caller_id))

    def require_admin(self, headers: Headers) -> Principal:
        """The sender of the request, who is an admin. Raises Unauthenticated or Forbidden."""
        principal = self.authenticate(headers)
        if not principal.is_admin:
            raise Forbidden("This request requires the admin key, or a key of the role `admin`.")
        return principal

    def _credential(self, headers: Headers) -> tuple[str, str]:
        """The header that identifies the sender, and the credential in it."""
        if (presented := self._admin_header(headers)) is not None:
            return ADMIN_HEADER, presented
        plain = (KEY_HEADER, USER_HEADER, CALL_HEADER)
        found = [(name, value) for name in plain if (value := headers.get(name)) is not None]
        bearer = _BEARER.fullmatch(headers.get(BEARER_HEADER) or "")
        if bearer and self._is_ours(bearer[1]):
            found.append((BEARER_HEADER, bearer[1]))
        if not found:
            raise Unauthenticated(
                f"Send a key as {KEY_HEADER} or `Authorization: Bearer`, {ADMIN_HEADER}, or a Replicate token as "
                f"{USER_HEADER}."
            )
        if len({value for _, value in found}) > 1:
            names = " and ".join(name for name, _ in found)
            raise Unauthenticated(f"{names} hold different credentials. Send one.")
        return found[0]

    @staticmethod
    def _admin_header(headers: Headers) -> str | None:
        """What the request presents as the admin key. Raises Unauthenticated if it presents two."""
        first, second = headers.get(ADMIN_HEADER), headers.get(ADMIN_HEADER_TOO)
        if None not in {first, second} and first != second:
            raise Unauthenticated(
                f"{ADMIN_HEADER} and {ADMIN_HEADER_TOO} hold different credentials. Send one."
            )
        return second if first is None else first

    def _is_ours(self, bearer: str) -> bool:
        return bearer.startswith((_TOKEN_START, KEY_START, *_CALL_STARTS)) or self._is_admin_key(bearer)

    def _key_of(self, header: str, text: str) -> Principal:
        """The sender with a named key."""
        key = self.keys.find(self.keyed_hash(text))
        if key is None:
            raise Unauthenticated("This key does not exist, has expired or was deleted.")
        if header == ADMIN_HEADER and key.role != "admin":
            raise Unauthenticated(
                f"{ADMIN_HEADER} takes keys of the role `admin`. Send this one as {KEY_HEADER}."
            )
        return Principal(key.id, key.role, self.caller_of(key.id) if key.role in MAY_GENERATE else None, key)

    def _user(self, header: str, token: str) -> Caller:
        """The user with this Replicate token or Gemini key."""
        is_call = header == CALL_HEADER or (header == BEARER_HEADER and token.startswith(_CALL_STARTS))
        provider, name = (CALLS, "Gemini key") if is_call else (CREATIONS, "Replicate token")
        if not self._user_tokens:
            raise Unauthenticated(f"This service does not accept {name}s. Send a key.")
        if not _TOKEN.fullmatch(token):
            raise Unauthenticated(f"The {header} header must hold exactly one {name}.")
        return Caller("user", self._caller_id(token), credentials(**{provider: token}), turn=UNPROVEN)

    def _is_admin_key(self, presented: str) -> bool:
        # As bytes, since compare_digest refuses text beyond ASCII.
        found = presented.encode(errors="surrogatepass")
        return any(hmac.compare_digest(found, each.encode()) for each in self.admin_key.valid if each)

    def keyed_hash(self, secret: str) -> str:
        """A hash of a secret that stays the same across restarts, and cannot be guessed without the key of the ledger.
        Raises LedgerDown while that is not open."""
        if self.hash_key is None:
            raise LedgerDown("The ledger is not open yet, and callers cannot be identified without it.")
        return hmac.new(self.hash_key, secret.encode(errors="surrogatepass"), hashlib.sha256).hexdigest()

    def _caller_id(self, token: str) -> str:
        return "user_" + self.keyed_hash(token)[:32]
