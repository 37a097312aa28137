"""One real service before the simulator, for all tests over sockets of a module."""

import pytest

from harness.service_process import running_service
from simulator import Options, running

ADMIN = "the-admin-key-of-tests"


@pytest.fixture(scope="module")
def simulator():
    with running(Options(prediction_seconds=0.05, jitter=0.0)) as started:
        yield started


@pytest.fixture(scope="module")
def service(simulator, tmp_path_factory):
    with running_service(
        REPLICATE_BASE_URL=simulator.url,
        REPLICATE_API_TOKEN="r8_server",
        CONCURRENT_DOCKER_ADMIN_API_KEY=ADMIN,
        DATA_DIR=tmp_path_factory.mktemp("service"),
    ) as started:
        yield started
