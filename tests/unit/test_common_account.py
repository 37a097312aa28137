"""Processes on one ledger with different tokens: it counts whether these are of one account."""

import asyncio
from functools import partial

import pytest
from structlog.testing import capture_logs

from auth import Authenticator
from cluster.figures import ProcessFigures
from contract.providers import CREATIONS
from ledger.memory import MemoryLedger
from providers.memory import MemoryProvider
from providers.payers import Payers
from providers.server_tokens import ServerTokens
from rotation.accounts import DIFFERENT_FOR, CommonAccount
from rotation.kept_account import KeptAccount
from tests.support.virtual_time import in_virtual_time, now

FIRST, SECOND = "r8_first", "r8_second"


class Named(MemoryProvider):
    """Its tokens are all of one account."""

    def __init__(self, account, token):
        super().__init__()
        self.tokens = ServerTokens(token)
        self.account, self.requested = account, []

    async def account_of(self, caller):
        self.requested.append(caller.credentials[CREATIONS])
        return self.account


async def read(ledger, query):
    return query(ledger)


class Process:
    def __init__(self, name, token, *, account=None, key=None, asks=True):
        self.name = name
        self.provider = Named(account, token)
        authenticator = Authenticator(
            admin_key=None, server_token=token, server_key=key, hash_key=b"of the ledger"
        )
        ledger = MemoryLedger()
        payers = Payers(self.provider.tokens, ledger, authenticator.keyed_hash, simulated=False)
        kept = KeptAccount(
            self.provider, payers, ledger, partial(read, ledger), simulated=False, requests_account=asks
        )
        self.common = CommonAccount(self.provider, authenticator, kept, name, clock=now)

    @property
    def figures(self):
        return ProcessFigures(f"{self.name}", 0.0, "1", False, self.common.published())


async def run(*processes, seconds):
    """Let them exchange their figures for so many seconds. Returns the events of the log."""
    with capture_logs() as logs:
        tasks = [asyncio.create_task(each.common.run()) for each in processes]
        until = now() + seconds
        while now() < until:
            await asyncio.sleep(2)
            for each in processes:
                each.common.read([other.figures for other in processes])
        for each in tasks:
            each.cancel()
    assert not {FIRST, SECOND} & {*str(logs).split("'")}
    return [(each["event"], each["processes"]) for each in logs]


@in_virtual_time
async def test_tokens_of_one_account_are_no_trouble():
    one, other = Process("one", FIRST, account="acme"), Process("other", SECOND, account="acme")

    assert [] == await run(one, other, seconds=4 * DIFFERENT_FOR)
    assert ([FIRST], [SECOND]) == (one.provider.requested, other.provider.requested)


@in_virtual_time
async def test_no_account_is_requested_while_the_tokens_are_the_same():
    one, other = Process("one", FIRST, account="acme"), Process("other", FIRST, account="acme")

    assert [] == await run(one, other, seconds=4 * DIFFERENT_FOR)
    assert [] == one.provider.requested


@in_virtual_time
async def test_no_account_is_requested_here_if_the_watch_of_the_token_does():
    one = Process("one", FIRST, account="acme", asks=False)
    one.provider.tokens.learn(FIRST, "acme")

    assert [] == await run(one, Process("other", SECOND, account="acme"), seconds=4 * DIFFERENT_FOR)
    assert [] == one.provider.requested


@pytest.mark.parametrize("account", ["other", None])
@in_virtual_time
async def test_tokens_of_other_or_unknown_accounts_are_logged_once_after_two_minutes(account):
    one, other = Process("one", FIRST, account="acme"), Process("other", SECOND, account=account)

    assert [] == await run(one, other, seconds=DIFFERENT_FOR - 2)
    assert [("tokens_differ", ["other"]), ("tokens_differ", ["one"])] == await run(
        one, other, seconds=3 * DIFFERENT_FOR
    )


@in_virtual_time
async def test_a_process_without_a_token_or_with_another_gemini_key_is_another_payer():
    for other in (Process("other", None), Process("other", FIRST, key="AQ.other")):
        one = Process("one", FIRST)

        assert 2 == len(await run(one, other, seconds=2 * DIFFERENT_FOR))


@in_virtual_time
async def test_a_process_of_an_earlier_release_is_not_compared():
    one = Process("one", FIRST)
    one.common.read([ProcessFigures("old", 0.0, "0", False, {})])

    assert [] == await run(one, seconds=2 * DIFFERENT_FOR)
