"""Signs that another program uses the server's account, and events that are no signs. In virtual time."""

import asyncio
from itertools import pairwise

import pytest
import structlog

from auth import Caller, credentials
from concurrency import Gate
from providers.replicate.api import Timeouts
from providers.replicate.client import ReplicateClient
from providers.replicate.sharing import SIGN_LASTS
from simulator import Options
from simulator.server import application
from tests.support.api_client import PICTURE
from tests.support.callers import ADMIN, SERVER_TOKEN
from tests.support.virtual_replicate import Loopback, replicate
from tests.support.virtual_time import run
from tests.support.wiring import USER

OPTIONS = Options(prediction_seconds=2.0, jitter=0.0)


class Elsewhere:
    """Another program with the server's token. It creates predictions without the gate of this service."""

    def __init__(self, world, token=SERVER_TOKEN) -> None:
        app = application(world)
        app.freeze()
        self._loopback = Loopback(app)
        self._token = token

    async def create(self, prompt: str = "theirs") -> None:
        gate = Gate(concurrent_limit=1, requests_per_minute=600)
        client = ReplicateClient(
            base_url="http://replicate.test", timeouts=Timeouts(), others=gate, connections=self._loopback
        )
        them = Caller("admin", "them", credentials(replicate=self._token))
        with await gate.acquire("them") as lease:
            await client.create_prediction(
                them, "black-forest-labs/flux-dev", {"prompt": prompt}, lease=lease, cancel_after=60
            )


def outcome_of(scenario, **limits):
    """Run `scenario(service, world)`. Returns its result, and the times at which `account_shared` was
    logged."""

    async def run_scenario():
        warned = []

        def note(_logger, _name, event):
            if event["event"] == "account_shared":
                warned.append(asyncio.get_running_loop().time())
            raise structlog.DropEvent

        before = structlog.get_config()
        structlog.configure(processors=[note])
        try:
            async with replicate(OPTIONS, **limits) as (service, world):
                return await scenario(service, world), warned
        finally:
            structlog.configure(**before)

    return run(run_scenario())


@pytest.mark.parametrize("before_ours", [True, False])
def test_a_prediction_of_another_program_is_found_by_the_first_poll_after_a_minute(before_ours):
    async def scenario(service, world):
        await asyncio.sleep(1)
        if before_ours:
            await Elsewhere(world).create()
        await service.run()
        if not before_ours:
            await Elsewhere(world).create()
        assert not service.provider.account_shared
        await asyncio.sleep(60)
        await service.run()
        seen = service.provider.account_shared
        await asyncio.sleep(SIGN_LASTS)
        return seen, service.provider.account_shared

    assert ((True, False), 1) == ((result := outcome_of(scenario))[0], len(result[1]))


def test_our_own_predictions_are_no_sign_of_sharing():
    async def scenario(service, world):
        world.faults.inject(on="create", reset="after")  # lost, found and adopted
        world.faults.inject(on="create", status=500)  # lost, never made, made again
        for round_ in range(3):
            await asyncio.gather(
                *(service.run(f"{prompt} {round_}") for prompt in ("a", "b", "[[fail]]", "[[nsfw]]", "a"))
            )
            await asyncio.sleep(61)
        running = asyncio.create_task(service.run("[[slow=30]]"))
        await asyncio.sleep(5)
        running.cancel()
        await asyncio.sleep(70)
        await service.run()
        return world.counters.snapshot().requests["list"]

    lists, warned = outcome_of(scenario)
    assert lists >= 4
    assert [] == warned


def test_a_creation_whose_outcome_stays_unknown_is_no_sign_when_it_is_listed_after_all():
    async def scenario(service, world):
        await service.run("first")
        world.faults.inject(on="create", reset="after")
        world.faults.inject(on="list", times=1000, status=500)
        lost = await service.run("lost")
        world.faults.clear()
        await asyncio.sleep(70)
        await service.run("later")
        return lost.error.code

    assert ("outcome_unknown", []) == outcome_of(scenario)


def test_predictions_of_users_with_their_own_accounts_are_no_sign():
    async def scenario(service, world):
        await service.run(caller=USER)
        await Elsewhere(world, token=USER.credentials["replicate"]).create()
        await asyncio.sleep(70)
        await service.run()

    assert (None, []) == outcome_of(scenario)


@pytest.mark.parametrize(
    ("body", "used", "is_sign"),
    [
        ("Request was throttled. Your rate limit resets in ~1s.", 0, True),
        ("Request was throttled.", 0, True),
        ("Your rate limit for creating predictions is reduced to 6 requests per minute.", 0, False),
        ("Request was throttled. Your rate limit resets in ~1s.", 2, False),
    ],
)
def test_a_429_is_a_sign_if_it_states_no_reduced_limit_and_our_window_has_room(body, used, is_sign):
    async def scenario(service, world):
        for number in range(used):
            await service.run(f"{number}")
        answer = {"detail": body, "status": 429, "retry_after": 1}
        world.faults.inject(on="create", status=429, body=answer)
        await service.run("one more")
        return service.provider.account_shared

    assert is_sign == outcome_of(scenario, requests_per_minute=3)[0]


def test_a_shared_account_is_logged_once_a_minute():
    async def scenario(service, world):
        answer = {"detail": "Request was throttled.", "status": 429, "retry_after": 10}
        world.faults.inject(on="create", times=15, status=429, headers={}, body=answer)
        await service.run()

    _, warned = outcome_of(scenario)
    assert 3 == len(warned)
    assert all(later - earlier >= 60 for earlier, later in pairwise(warned))


def test_the_detection_costs_no_request_since_one_poll_a_minute_reads_a_page():
    async def scenario(service, world):
        for _ in range(12):
            await service.run()
            await asyncio.sleep(10)
        return world.counters.snapshot().requests

    requests, _ = outcome_of(scenario)
    assert 2 == requests["list"]
    assert requests["get"] + requests["list"] <= 12 * 6


def test_the_status_shows_a_shared_account(client):
    assert client.get("/status").json["account_shared"] is False
    assert 200 == client.post("/generate", json=PICTURE, headers=ADMIN).status_code


def test_a_page_that_shows_a_success_before_its_output_ends_no_generation():
    async def scenario(service, world):
        await service.run()
        await asyncio.sleep(61)  # so that the next poll reads a page
        running = asyncio.create_task(service.run("[[slow=20]]"))
        await asyncio.sleep(0.01)
        early = {"id": next(reversed(world.predictions)).id, "status": "succeeded", "output": None}
        world.faults.inject(on="list", status=200, body={"next": None, "results": [early]})
        return (await running).succeeded, world.faults.as_json()

    assert (True, []) == outcome_of(scenario)[0]
