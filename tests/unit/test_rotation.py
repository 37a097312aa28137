"""Secrets that are replaced while the service runs, in virtual time."""

import asyncio

import pytest
from structlog.testing import capture_logs

from auth import Authenticator
from errors import Unauthenticated
from providers.memory import MemoryProvider
from rotation.server_secrets import ServerSecrets
from rotation.watch import LEAST_PAUSE, PAUSE, SecretWatch
from settings.rotating import RotatingSecret
from settings.sources import SecretUnreadable
from tests.support.virtual_time import Inline, in_virtual_time, now
from webhooks.signing import SigningSecrets

OLD, NEW = "whsec_b2xk", "whsec_bmV3"


class Source:
    """A source in memory, with the times of its readings, and of those that had to be fresh."""

    def __init__(self, text):
        self.text = text
        self.reads, self.fresh = [], []

    def read(self, *, fresh=False):
        (self.fresh if fresh else self.reads).append(now())
        if not self.text:
            raise SecretUnreadable("it is empty")
        return self.text


class Changes(list):
    async def __call__(self, name, value):
        self.append((now(), name, value))


def visible(_name, text):
    if " " in text:
        raise ValueError("must have no spaces")
    return text


def watching(source, changes):
    return SecretWatch({"A": source}, {"A": "one"}, check=visible, on_change=changes, executor=Inline())


@in_virtual_time
async def test_a_new_content_is_used_within_ten_seconds():
    source, changes = Source("one"), Changes()
    task = asyncio.create_task(watching(source, changes).run())
    await asyncio.sleep(PAUSE * 2.5)
    source.text = "two"
    await asyncio.sleep(PAUSE * 2)
    task.cancel()

    assert [(PAUSE * 3, "A", "two")] == changes


@in_virtual_time
async def test_the_last_good_value_stays_and_each_trouble_is_logged_once():
    source, changes = Source("one"), Changes()
    watch = watching(source, changes)
    with capture_logs() as logs:
        task = asyncio.create_task(watch.run())
        for text, seconds in [("", 35), ("a b", 25), ("one", 15), ("two", 10)]:
            source.text = text
            await asyncio.sleep(seconds)
        task.cancel()

    assert [("A", "two")] == [each[1:] for each in changes]
    assert ["secret_unreadable", "secret_unreadable", "secret_readable", "secret_changed"] == [
        each["event"] for each in logs
    ]
    assert ["it is empty", "must have no spaces"] == [each["reason"] for each in logs[:2]]
    assert {} == watch.troubles


@in_virtual_time
async def test_looks_at_one_time_share_a_reading_that_begins_after_them_and_are_a_second_apart():
    source, changes = Source("one"), Changes()
    watch = watching(source, changes)
    await asyncio.gather(*(watch.look() for _ in range(10)))
    source.text = "two"
    await asyncio.gather(*(watch.look() for _ in range(10)))

    assert [0, LEAST_PAUSE, 2 * LEAST_PAUSE] == source.reads
    assert [("A", "two")] == [each[1:] for each in changes]


@in_virtual_time
async def test_after_a_refusal_only_the_source_of_that_secret_is_read_and_at_once():
    source, changes = Source("two"), Changes()
    watch = watching(source, changes)
    await watch.look("ANOTHER")
    await asyncio.gather(watch.look("A"), watch.look())

    assert ([0], [LEAST_PAUSE]) == (source.fresh, source.reads)
    assert [(0, "A", "two")] == changes


@in_virtual_time
async def test_a_value_that_cannot_be_used_is_tried_again():
    source, tries = Source("two"), []

    async def refuse_once(name, value):
        tries.append(value)
        if len(tries) == 1:
            raise ValueError("it is refused")

    task = asyncio.create_task(watching(source, refuse_once).run())
    await asyncio.sleep(PAUSE * 3.5)
    task.cancel()

    assert ["two", "two"] == tries


def test_replaced_secrets_hold_for_the_grace_and_no_longer(clock):
    secret = RotatingSecret("one", clock=clock)
    secret.replace("two", grace=300)
    clock.now = 100
    secret.replace("three", grace=300)

    assert ["three", "two", "one"] == secret.valid
    clock.now = 300
    assert ["three", "two"] == secret.valid
    clock.now = 400
    assert ["three"] == secret.valid


def test_a_secret_that_comes_back_is_there_once(clock):
    secret = RotatingSecret("one", clock=clock)
    secret.replace("two", grace=300)
    secret.replace("one", grace=300)

    assert ["one", "two"] == secret.valid
    secret.replace("one", grace=300)
    assert ["one", "two"] == secret.valid


@pytest.mark.parametrize(("grace", "both"), [(300, True), (0, False)])
def test_both_admin_keys_are_accepted_for_the_grace(grace, both):
    authenticator = Authenticator(admin_key="old-key", server_token="r8_server")
    secrets = ServerSecrets(authenticator, signing(), MemoryProvider(), lambda _: False, grace=grace)
    asyncio.run(secrets.use("ADMIN_API_KEY", "new-key"))

    def is_admin(key):
        try:
            return authenticator.require_admin({"X-Admin-API-Key": key}).is_admin
        except Unauthenticated:
            return False

    assert (True, both, False) == tuple(map(is_admin, ["new-key", "old-key", "other"]))
    assert both == (authenticator.payer({"Authorization": "Bearer new-key"}).is_admin and is_admin("old-key"))


def signing():
    return SigningSecrets(lambda text: "00" * 32, OLD)


def test_webhooks_are_signed_by_both_secrets_for_the_grace_and_the_new_one_is_shown():
    found = signing()
    secrets = ServerSecrets(
        Authenticator(admin_key=None, server_token=None), found, MemoryProvider(), lambda _: False, grace=300
    )
    asyncio.run(secrets.use("WEBHOOK_SECRET", NEW))

    assert [NEW, OLD] == found.signing("admin")
    assert [NEW, OLD, found.own("key_1")] == found.signing("key_1")
    assert NEW == found.shown_to("admin")


@pytest.mark.parametrize("renews", [True, False])
def test_a_secret_that_takes_a_restart_is_named(renews):
    authenticator = Authenticator(admin_key=None, server_token=None)
    secrets = ServerSecrets(
        authenticator, signing(), MemoryProvider(), lambda url: renews and "new" in url, grace=300
    )
    with capture_logs() as logs:
        asyncio.run(secrets.use("DATABASE_URL", "postgresql://me:new@here/ledger"))
        asyncio.run(secrets.use("HTTPS_PROXY", "http://new.test:1"))

    named = ["HTTPS_PROXY"] if renews else ["DATABASE_URL", "HTTPS_PROXY"]
    assert named == [each["setting"] for each in logs]
    assert "new" not in str(logs)
