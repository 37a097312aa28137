"""Which accounts may have paid for a creation in doubt: by the rows of the ledger about tokens."""

import asyncio

import pytest

from auth import Caller, credentials
from contract.providers import CREATIONS
from errors import OutcomeUnknown
from ledger.memory import MemoryLedger
from providers.payers import PATIENCE, Payers, load
from providers.server_tokens import ServerTokens
from tests.support.virtual_time import in_virtual_time, now

FIRST, SECOND, OTHER = "r8_first", "r8_second", "r8_other"

AHEAD = 120.0
"""Seconds after a creation for which its token counts as used."""


async def no_more():
    """Write no more than the payers do."""


def hashed(secret):
    return secret.replace(" ", "-")


def caller(token, kind="admin"):
    return Caller(kind, kind, credentials(**{CREATIONS: token}))


class Process:
    """A process with this token, which has read the rows of the ledger, at the wall clock's time `at`."""

    def __init__(self, ledger, token, *, account=None, at=0.0, simulated=False):
        self.ledger, self.token, self.at = ledger, token, at
        self.tokens = ServerTokens(token)
        self.payers = Payers(self.tokens, ledger, hashed, simulated=simulated, clock=lambda: self.at)
        self.payers.read(load(ledger, simulated=simulated))
        if account is not None:
            self.payers.learn(token, account)

    async def creates(self):
        await self.payers.noted(caller(self.token), no_more)
        await self.ledger.flush()

    async def outcome(self, since):
        """What follows from a list that shows no creation of that time, and how long that takes."""
        began = now()
        try:
            await self.payers.raise_if_other(caller(self.token), since, "soon")
            await self.payers.confirm(caller(self.token), since, "late")
        except OutcomeUnknown as unknown:
            return unknown.detail, now() - began
        return "absent", now() - began


@pytest.mark.parametrize(
    ("first", "token", "account", "expected"),
    [
        ("acme", FIRST, None, ("absent", 0.0)),  # no request is needed for the same token
        ("acme", SECOND, "acme", ("absent", 0.0)),
        ("acme", OTHER, "other", ("soon", 0.0)),
        (None, OTHER, "other", ("soon", 0.0)),
        ("", OTHER, "", ("absent", 0.0)),  # Replicate names no account
        (None, OTHER, "", ("absent", 0.0)),
        ("acme", OTHER, "", ("soon", 0.0)),
        ("acme", OTHER, None, ("late", 10.0 + PATIENCE)),
    ],
)
@in_virtual_time
async def test_absence_is_proven_only_by_the_list_of_the_account_that_paid(first, token, account, expected):
    ledger = MemoryLedger(commit_seconds=0)
    await Process(ledger, FIRST, account=first).creates()

    assert expected == await Process(ledger, token, account=account, at=1.0).outcome(since=0.0)


@in_virtual_time
async def test_an_account_that_becomes_known_decides():
    ledger = MemoryLedger(commit_seconds=0)
    await Process(ledger, FIRST, account="acme").creates()
    for token, account, expected in [(SECOND, "acme", "absent"), (OTHER, "other", "soon")]:
        process = Process(ledger, token)
        asyncio.get_running_loop().call_later(3.0, process.payers.learn, token, account)

        assert (expected, 3.0) == await process.outcome(since=0.0)


@in_virtual_time
async def test_creations_after_a_change_of_account_are_of_the_new_one():
    ledger = MemoryLedger(commit_seconds=0)
    await Process(ledger, FIRST, account="acme").creates()
    changed = Process(ledger, OTHER, account="other", at=50.0)
    await changed.creates()
    again = Process(ledger, OTHER)

    assert [("soon", 0.0), ("absent", 0.0)] == [
        await again.outcome(AHEAD - 1),
        await again.outcome(AHEAD + 1),
    ]


@in_virtual_time
async def test_a_token_that_creates_again_and_again_is_in_use_all_the_time():
    ledger, process = MemoryLedger(commit_seconds=0), None
    process = Process(ledger, FIRST, account="acme")
    for at in range(0, 1000, 7):
        process.at = float(at)
        await process.creates()
        other = Process(ledger, OTHER, account="other")

        assert ("soon", 0.0) == await other.outcome(since=process.at)


@in_virtual_time
async def test_of_two_processes_with_different_accounts_neither_proves_absence():
    ledger = MemoryLedger(commit_seconds=0)
    one, other = Process(ledger, FIRST, account="acme"), Process(ledger, OTHER, account="other")
    await one.creates()
    await other.creates()
    for each in (one, other):
        each.payers.read(load(ledger, simulated=False))

        assert ("soon", 0.0) == await each.outcome(since=0.0)


@in_virtual_time
async def test_a_token_that_was_replaced_in_this_process_counts_too():
    ledger = MemoryLedger(commit_seconds=0)
    process = Process(ledger, FIRST, account="acme")
    await process.creates()
    process.tokens.replace(OTHER, "other")
    process.token = OTHER

    assert ("soon", 0.0) == await process.outcome(since=0.0)


@in_virtual_time
async def test_users_pay_by_themselves_and_the_simulator_has_rows_of_its_own():
    ledger = MemoryLedger(commit_seconds=0)
    await Process(ledger, FIRST, account="acme").creates()
    process = Process(ledger, OTHER, account="other")
    await process.payers.confirm(caller(OTHER, "user"), 0.0, "late")
    await process.payers.noted(caller(SECOND, "user"), no_more)
    await ledger.flush()

    assert ("absent", 0.0) == await Process(ledger, OTHER, account="other", simulated=True).outcome(since=0.0)
    assert not [each for each in load(ledger, simulated=False) if SECOND in each]


@in_virtual_time
async def test_a_row_that_cannot_be_read_counts_as_a_token_in_use():
    process = Process(MemoryLedger(), FIRST, account="acme")
    process.payers.read({"server token abc used": b"for ever"})

    assert ("soon", 0.0) == await process.outcome(since=1e12)
