"""The account of the token in the ledger: a change between two starts is logged once, by one process."""

import asyncio
from functools import partial

import pytest
from structlog.testing import capture_logs

from auth import Authenticator
from cluster.figures import ProcessFigures
from contract.providers import CREATIONS
from errors import TokenRejected
from ledger.memory import MemoryLedger
from providers.memory import MemoryProvider
from providers.payers import Payers
from providers.server_tokens import ServerTokens
from rotation.accounts import CommonAccount
from rotation.kept_account import KeptAccount
from tests.support.virtual_time import in_virtual_time, now

ACCOUNTS = {"r8_first": "acme", "r8_second": "acme", "r8_other": "other", "r8_nameless": ""}


class Named(MemoryProvider):
    """`answers` come before that of the account: None while it is away."""

    def __init__(self, token, *answers):
        super().__init__()
        self.tokens = ServerTokens(token)
        self.answers, self.requested = list(answers), []

    async def account_of(self, caller):
        self.requested.append(now())
        if self.answers:
            answer = self.answers.pop(0)
            if answer is not None:
                raise answer
            return None
        return ACCOUNTS[caller.credentials[CREATIONS]]


async def read(ledger, query):
    return query(ledger)


class Process:
    """A process with this token on the ledger with these rows. It has a `name` if others may be there."""

    def __init__(self, rows, token, *answers, name=None, simulated=False):
        self.name, self.provider = name, Named(token, *answers)
        ledger = MemoryLedger(rows, process=name)
        authenticator = Authenticator(admin_key=None, server_token=token, hash_key=b"of the ledger")
        payers = Payers(self.provider.tokens, ledger, authenticator.keyed_hash, simulated=simulated)
        self.creates = partial(payers.noted, authenticator.admin(), ledger.flush)
        kept = KeptAccount(
            self.provider, payers, ledger, partial(read, ledger), simulated=simulated, requests_account=True
        )
        self.account = CommonAccount(self.provider, authenticator, kept, name)

    @property
    def figures(self):
        return ProcessFigures(self.name, 0.0, "1", False, self.account.published())

    @property
    def changed(self):
        return self.provider.tokens.account_changed_at is not None


async def run(*processes, seconds=30.0, creates=True):
    """Let them create something and run beside each other. Returns how often a change was logged."""
    with capture_logs() as logs:
        for each in processes:
            if creates:
                await each.creates()
        tasks = [asyncio.create_task(each.account.run()) for each in processes]
        until = now() + seconds
        while now() < until:
            await asyncio.sleep(2)
            if processes[0].name:
                for each in processes:
                    each.account.read([other.figures for other in processes])
        for each in tasks:
            each.cancel()
    assert not [each for each in ACCOUNTS if each in str(logs)]
    return [each["event"] for each in logs].count("server_account_changed")


@pytest.fixture
def rows():
    return MemoryLedger().rows


@in_virtual_time
async def test_a_change_between_two_starts_is_logged_once(rows):
    processes = [
        Process(rows, token) for token in ("r8_first", "r8_first", "r8_other", "r8_other", "r8_first")
    ]

    assert [0, 0, 1, 0, 1] == [await run(each) for each in processes]
    assert [False, False, True, False, True] == [each.changed for each in processes]


@in_virtual_time
async def test_the_account_of_a_token_is_requested_once(rows):
    processes = [Process(rows, token) for token in ("r8_first", "r8_first", "r8_second", "r8_first")]

    assert [0, 0, 0, 0] == [await run(each) for each in processes]
    assert [1, 0, 1, 0] == [len(each.provider.requested) for each in processes]


@in_virtual_time
async def test_the_account_is_requested_again_while_replicate_does_not_name_it(rows):
    await run(Process(rows, "r8_first"))
    process = Process(rows, "r8_other", None, TokenRejected(), None)

    assert 1 == await run(process, seconds=100.0)
    first, *later = process.provider.requested
    assert [10.0, 30.0, 70.0] == [each - first for each in later]


@in_virtual_time
async def test_no_account_is_requested_before_the_service_has_created_something(rows):
    new, later = Process(rows, "r8_first"), Process(rows, "r8_other")

    assert 0 == await run(new, creates=False)
    assert 0 == await run(Process(rows, "r8_first"))
    assert 1 == await run(later, creates=False)
    assert [0, 1] == [len(each.provider.requested) for each in (new, later)]


@in_virtual_time
async def test_an_account_without_a_name_is_not_compared(rows):
    processes = [Process(rows, token) for token in ("r8_first", "r8_nameless", "r8_first")]

    assert [0, 0, 0] == [await run(each) for each in processes]


@in_virtual_time
async def test_the_simulator_has_another_account(rows):
    assert [0, 0] == [
        await run(Process(rows, "r8_first")),
        await run(Process(rows, "r8_other", simulated=True)),
    ]


@in_virtual_time
async def test_a_change_that_was_logged_while_running_is_not_logged_again(rows):
    process = Process(rows, "r8_first")
    running = asyncio.create_task(run(process))
    await asyncio.sleep(10)
    process.provider.tokens.learn("r8_first", "acme")
    assert process.provider.tokens.replace("r8_other", "other")

    assert 0 == await running
    assert [0, 1] == [await run(Process(rows, "r8_other")), await run(Process(rows, "r8_first"))]


@in_virtual_time
async def test_no_change_is_logged_while_another_process_pays_with_the_old_account(rows):
    old, new, later = (
        Process(rows, token, name=name)
        for name, token in [("a", "r8_first"), ("b", "r8_other"), ("c", "r8_other")]
    )

    assert 0 == await run(old, new)
    assert 0 == await run(Process(rows, "r8_second", name="d"), old)
    assert 1 == await run(new, later)
    assert 0 == await run(Process(rows, "r8_other", name="e"), new)
