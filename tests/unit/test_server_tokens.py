"""The service's own tokens: their accounts, which one is sent, and which work belongs to an account."""

import asyncio

import pytest
from structlog.testing import capture_logs

from auth import Authenticator, Caller, credentials
from contract.providers import CALLS, CREATIONS
from errors import TokenRejected
from errors.calls import GeminiKeyRejected, ServerGeminiKeyRejected
from providers import TryAgain
from providers.gemini import key_of
from providers.memory import MemoryProvider
from providers.server_tokens import ServerTokens
from rotation.accounts import Accounts
from rotation.server_secrets import ServerSecrets
from tests.support.fake_google import HELLO, SERVER, SERVER_KEY, FakeGoogle, LeaseLog, refused
from tests.support.fake_google import USER as CALLS_OF_A_USER
from tests.support.virtual_time import in_virtual_time
from tests.support.wiring import USER
from webhooks.signing import SigningSecrets

FIRST, SECOND, THIRD = "r8_first", "r8_second", "r8_third"


def admin(token=FIRST):
    return Caller("admin", "admin", credentials(replicate=token))


def after_refusal(tokens, caller, token):
    return asyncio.run(tokens.after_refusal(caller, token))


@pytest.fixture
def tokens():
    made = ServerTokens(FIRST)
    made.learn(FIRST, "acme")
    return made


class Tokens(MemoryProvider):
    """Knows the account of each token, None if it names none, and refuses every other token."""

    def __init__(self, **accounts):
        super().__init__()
        self.accounts = accounts
        self.tokens = ServerTokens(FIRST)

    async def account_of(self, caller):
        token = caller.credentials[CREATIONS]
        if token not in self.accounts:
            raise TokenRejected
        return self.accounts[token]


def secrets_of(provider):
    authenticator = Authenticator(admin_key="key", server_token=FIRST, server_key="AQ.first")
    signing = SigningSecrets(lambda text: "00" * 32, None)
    return authenticator, ServerSecrets(authenticator, signing, provider, lambda _: False, grace=0)


# ── Which token is sent


def test_work_keeps_its_token_until_that_is_refused_and_then_takes_the_present_one(tokens):
    assert not tokens.replace(SECOND, "acme")
    assert FIRST == tokens.token_of(admin())
    assert SECOND == after_refusal(tokens, admin(), FIRST)
    assert SECOND == tokens.token_of(admin())
    tokens.replace(THIRD, "acme")
    assert (THIRD, SECOND) == (tokens.token_of(admin()), tokens.token_of(admin(SECOND)))


def test_a_token_of_another_account_is_never_sent_for_work_of_the_first(tokens):
    assert tokens.replace(SECOND, "other")
    assert None is after_refusal(tokens, admin(), FIRST)
    assert (FIRST, SECOND) == (tokens.token_of(admin()), tokens.token_of(admin(SECOND)))


def test_a_token_of_an_unknown_account_is_not_replaced():
    tokens = ServerTokens(FIRST)
    assert not tokens.replace(SECOND, "acme")
    assert None is after_refusal(tokens, admin(), FIRST)


def test_the_source_is_read_at_a_refusal_and_not_for_users(tokens):
    reads = []

    async def refresh():
        reads.append(1)
        tokens.replace(SECOND, "acme")

    tokens.refresh = refresh
    assert None is after_refusal(tokens, USER, "r8_user")
    assert [] == reads
    assert SECOND == after_refusal(tokens, admin(), FIRST)
    assert SECOND == after_refusal(tokens, admin(), FIRST)
    assert [1] == reads


def test_a_token_that_comes_back_is_sent_again(tokens):
    tokens.replace(SECOND, "acme")
    after_refusal(tokens, admin(), FIRST)
    tokens.replace(FIRST, "acme")

    assert FIRST == tokens.token_of(admin())
    assert {FIRST, SECOND} == {*tokens.others_of(admin())}
    assert () == tokens.others_of(USER)


# ── The payer of a caller


def test_tokens_of_one_account_stand_for_one_payer_also_that_of_a_proven_user(tokens):
    proven = Caller("user", "user_1", credentials(replicate="r8_user"), turn="account acme")
    tokens.replace(SECOND, "acme")

    assert 1 == len({tokens.payer_of(each) for each in (admin(), admin(SECOND), proven)})
    assert tokens.payer_of(proven) == tokens.payer_of(USER)  # the same token, not proven by now
    tokens.replace(THIRD, "other")
    assert tokens.payer_of(admin()) != tokens.payer_of(admin(THIRD))


def test_a_token_of_an_unknown_account_stands_for_itself_and_is_not_shown():
    tokens = ServerTokens(FIRST)
    same = Caller("user", "user_1", credentials(replicate=FIRST))

    assert tokens.payer_of(admin()) == tokens.payer_of(same) != tokens.payer_of(USER)
    assert FIRST not in tokens.payer_of(admin())


# ── A changed secret


def test_new_work_takes_a_new_token_once_replicate_has_accepted_it():
    provider = Tokens(**{FIRST: "acme"})
    authenticator, secrets = secrets_of(provider)
    asyncio.run(Accounts(provider).learn())
    with pytest.raises(ValueError, match="Replicate refuses it"):
        asyncio.run(secrets.use("REPLICATE_API_TOKEN", SECOND))
    assert FIRST == authenticator.server_token(CREATIONS)

    provider.accounts[SECOND] = None
    with pytest.raises(ValueError, match="does not name its account"):
        asyncio.run(secrets.use("REPLICATE_API_TOKEN", SECOND))
    assert FIRST == authenticator.server_token(CREATIONS)

    provider.accounts[SECOND] = "acme"
    with capture_logs() as logs:
        asyncio.run(secrets.use("REPLICATE_API_TOKEN", SECOND))
    assert SECOND == authenticator.admin().credentials[CREATIONS]
    assert (None, []) == (provider.tokens.account_changed_at, logs)


def test_another_account_is_logged_once_without_a_secret():
    provider = Tokens(**{FIRST: "acme", SECOND: "other", THIRD: "other"})
    _, secrets = secrets_of(provider)
    with capture_logs() as logs:
        for token in (SECOND, THIRD):
            asyncio.run(secrets.use("REPLICATE_API_TOKEN", token))

    assert ["server_account_changed"] == [each["event"] for each in logs]
    assert "r8_" not in str(logs)
    assert None is not provider.tokens.account_changed_at


def test_calls_that_wait_take_a_new_gemini_key_and_users_keep_theirs():
    authenticator, secrets = secrets_of(Tokens())
    waiting = authenticator.admin()
    user = Caller("user", "user_1", credentials(gemini="AQ.user"))
    asyncio.run(secrets.use("GEMINI_API_KEY", "AQ.second"))

    def present():
        return authenticator.server_token(CALLS)

    assert ["AQ.second", "AQ.user"] == [key_of(each, present) for each in (waiting, user)]
    assert FIRST == authenticator.server_token(CREATIONS)


# ── A refused Gemini key


class Key:
    """The service's Gemini key, and the one that its source holds."""

    def __init__(self, source):
        self.value, self.source = SERVER_KEY, source
        self.reads = 0

    def __call__(self):
        return self.value

    async def read_again(self):
        self.reads += 1
        self.value = self.source


@pytest.mark.parametrize(
    ("caller", "source", "raised", "reads"),
    [
        (SERVER, "AQ.second", TryAgain, 1),
        (SERVER, SERVER_KEY, ServerGeminiKeyRejected, 1),
        (CALLS_OF_A_USER, "AQ.second", GeminiKeyRejected, 0),
    ],
)
def test_a_call_that_was_refused_goes_again_if_the_key_was_replaced(caller, source, raised, reads):
    key = Key(source)

    @in_virtual_time
    async def scenario():
        google = FakeGoogle([refused(401, "UNAUTHENTICATED")])
        client = google.client(server_key=key, read_again=key.read_again)
        with pytest.raises(raised):
            await client.run(caller, HELLO, lease=LeaseLog(), on_delta=lambda text: None)

    scenario()
    assert (reads, source if reads else SERVER_KEY) == (key.reads, key())
