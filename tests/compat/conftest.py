"""The functions of the old library before the real service, with the simulator behind it. All on loopback sockets."""

import pytest

from harness.service_process import running_service
from media.formats import black_png
from simulator import Options, running
from tests.support.callers import ADMIN_KEY, SERVER_TOKEN


@pytest.fixture(scope="package")
def simulator():
    with running(Options(prediction_seconds=0.05, jitter=0.0)) as started:
        yield started


@pytest.fixture(scope="package")
def service(simulator, tmp_path_factory):
    data = tmp_path_factory.mktemp("data")
    with running_service(
        REPLICATE_BASE_URL=simulator.url,
        REPLICATE_API_TOKEN=SERVER_TOKEN,
        CONCURRENT_DOCKER_ADMIN_API_KEY=ADMIN_KEY,
        DATA_DIR=data,
    ) as started:
        yield started


@pytest.fixture(autouse=True)
def _script(service, tmp_path, monkeypatch):
    """Each test is a script in an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RCG_URL", service.url)
    monkeypatch.setenv("REPLICATE_API_TOKEN", "r8_script")
    monkeypatch.setenv("RCG_CONFIG", str(tmp_path / "no-config.toml"))


@pytest.fixture
def photo(tmp_path):
    """The name of a local picture."""
    (tmp_path / "reference.png").write_bytes(black_png(8, 8))
    return "reference.png"


@pytest.fixture
def made(simulator):
    """Returns the predictions of the test so far, in the order of their creation."""
    before = {each.id for each in simulator.predictions()}
    return lambda: [each for each in simulator.predictions() if each.id not in before]
