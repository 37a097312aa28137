"""One real service before the simulator, for all tests over sockets of a module, and the command line."""

import pytest
from PIL import Image
from replicate_concurrent.cli import main

from harness.service_process import running_service
from simulator import Options, running

ADMIN = "the-admin-key-of-tests"


@pytest.fixture(scope="module")
def simulator():
    with running(Options(prediction_seconds=0.05, training_seconds=0.5, jitter=0.0)) as started:
        yield started


@pytest.fixture(scope="module")
def service(simulator, tmp_path_factory):
    with running_service(
        REPLICATE_BASE_URL=simulator.url,
        REPLICATE_API_TOKEN="r8_server",
        GEMINI_BASE_URL=simulator.url,
        GEMINI_API_KEY="the-gemini-key-of-tests",
        CONCURRENT_DOCKER_ADMIN_API_KEY=ADMIN,
        DATA_DIR=tmp_path_factory.mktemp("service"),
    ) as started:
        yield started


@pytest.fixture
def photos(tmp_path):
    """A folder of five images, of which the first has a caption."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(5):
        Image.new("RGB", (512, 512), (50 * number, 0, 0)).save(folder / f"dog{number}.jpg")
    (folder / "dog0.txt").write_text("a photo of TOK")
    return folder


@pytest.fixture
def run_command(tmp_path, monkeypatch, capsys):
    """Runs a command in an empty directory. Returns its exit status, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        output, errors = capsys.readouterr()
        return end.value.code, output, errors

    return run


@pytest.fixture
def rcg(service, run_command, tmp_path, monkeypatch):
    """Runs a command as `run_command`, on the service."""
    monkeypatch.setenv("RCG_URL", service.url)
    monkeypatch.setenv("RCG_API_KEY", ADMIN)
    monkeypatch.setenv("RCG_CONFIG", str(tmp_path / "config" / "config.toml"))
    return run_command
