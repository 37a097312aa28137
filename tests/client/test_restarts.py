"""A service that is killed and started again while both clients wait: nothing is lost, and nothing is made twice."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from replicate_concurrent import AsyncClient, Client

from harness.service_process import free_port, running_service, until
from simulator import Options, running
from tests.client.conftest import ADMIN

pytestmark = pytest.mark.slow

EACH = 3


def blocking(url, number, folder):
    with Client(url, ADMIN) as client:
        made = client.generate(f"blocking {number}", model="flux-dev")
        return made.save(folder, "{slug}.{ext}")[0].name


async def on_asyncio(url, folder):
    async with AsyncClient(url, ADMIN) as client:
        batch = await client.batch([f"batch {number}" for number in range(EACH)], model="flux-dev")
        return [(await client.save(made, folder, "{slug}.{ext}"))[0].name for made in batch]


def test_a_kill_of_the_service_loses_nothing_and_makes_nothing_twice(tmp_path):
    port = free_port()
    with running(Options(prediction_seconds=1.5, jitter=0.0)) as simulator, ThreadPoolExecutor() as threads:
        settings = {
            "REPLICATE_BASE_URL": simulator.url,
            "REPLICATE_API_TOKEN": "r8_server",
            "CONCURRENT_DOCKER_ADMIN_API_KEY": ADMIN,
            "DATA_DIR": tmp_path / "data",
            "PORT": port,
        }
        url, folder = f"http://127.0.0.1:{port}", tmp_path / "out"
        with running_service(**settings) as service:
            calls = [threads.submit(blocking, url, number, folder) for number in range(EACH)]
            batch = threads.submit(asyncio.run, on_asyncio(url, folder))
            until(lambda: len(simulator.predictions()) == 2 * EACH)
            service.kill()
        with running_service(**settings):
            names = [call.result(timeout=60) for call in calls] + batch.result(timeout=60)
        made = simulator.counts().creations_accepted

    assert sorted(names) == sorted(path.name for path in folder.iterdir())
    assert sorted(names) == [
        f"{kind}-{number}.jpg" for kind in ("batch", "blocking") for number in range(EACH)
    ]
    assert 2 * EACH == made
