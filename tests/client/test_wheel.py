"""The wheel as `make client` builds it: it has the service, and starts it away from the checkout. It installs into the
oldest and the newest Python, with and without the command line."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from service import VERSION
from tests.client.test_cli_start import PROGRAM, slow
from tests.unit.test_layout import ROOT

pytestmark = pytest.mark.slow

SCRIPT = """
from replicate_concurrent import Client, local
with Client() as client:
    print(client.generate("A red fox", model="flux-dev").raw["simulated"], local.__file__)
print(local.stop().killed)
"""

USED = """
import asyncio, sys
from replicate_concurrent import AsyncClient, Client
url, folder = sys.argv[1:]
with Client(url, "r8_user") as client:
    print(*client.generate("A red fox", model="flux-dev").save(folder, "{slug}.{ext}"))

async def main():
    async with AsyncClient(url, "r8_user") as client:
        made = await client.batch(["A blue fox"], model="flux-dev")
        print(*await client.save(made.results[0], folder, "{slug}.{ext}"))

asyncio.run(main())
"""

OFFLINE = ("NewConnectionError", "ConnectTimeout", "ProxyError", "name resolution")


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """The directory with what is built: the sdist, and the wheel from it."""
    path = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", path, ROOT / "client"],
        check=True,
        capture_output=True,
    )
    return path


def test_the_package_of_the_old_library_is_built_of_its_own_sdist(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path, ROOT / "client" / "compat"],
        check=True,
        capture_output=True,
    )
    name = f"replicate_batch_process_compat-{VERSION}"

    assert {f"{name}.tar.gz", f"{name}-py3-none-any.whl"} == {path.name for path in tmp_path.iterdir()}
    with ZipFile(tmp_path / f"{name}-py3-none-any.whl") as wheel:
        assert "replicate_batch_process/main.py" in wheel.namelist()


@pytest.mark.parametrize("file", ["Makefile", "Dockerfile"])
def test_each_build_has_the_client_and_the_package_of_the_old_library(file):
    commands = [line for line in (ROOT / file).read_text().splitlines() if not line.startswith("#")]
    built = [word for line in commands if " build " in line or "pip wheel" in line for word in line.split()]

    assert {"client", "client/compat"} <= {word.removeprefix("./") for word in built}


def test_a_wheel_of_the_version_of_the_service_starts_one_away_from_the_checkout(dist, tmp_path):
    site = tmp_path / "site"
    with ZipFile(dist / f"replicate_concurrent-{VERSION}-py3-none-any.whl") as wheel:
        wheel.extractall(site)
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith(("RCG_", "REPLICATE_"))
    }
    environ |= {"PYTHONPATH": str(site), "XDG_STATE_HOME": str(tmp_path), "RCG_SIMULATE": "1"}

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT],
        cwd=tmp_path,
        env=environ,
        text=True,
        capture_output=True,
        check=True,
    )

    assert ["True", f"{site}/replicate_concurrent/local/__init__.py", "False"] == done.stdout.split()


def test_the_sdist_has_what_a_build_of_the_wheel_needs_and_no_cache(dist):
    names = ZipFile(dist / f"replicate_concurrent-{VERSION}-py3-none-any.whl").namelist()

    assert {
        f"replicate_concurrent/_service/{name}"
        for name in ("app.py", "api/templates/docs.html", "simulator/__main__.py")
    } <= set(names)
    assert "replicate_concurrent/py.typed" in names
    assert [] == [name for name in names if "__pycache__" in name or name.endswith(".env")]


def interpreter(version):
    """The path of this Python, which pyenv may have; None if there is none."""
    kept = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    return str(kept[-1]) if kept else shutil.which(f"python{version}")


@pytest.fixture
def empty(request, tmp_path):
    """The `bin` of an empty environment of this Python."""
    python = interpreter(request.param)
    if python is None:
        pytest.skip(f"there is no Python {request.param}")
    subprocess.run([python, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    return tmp_path / "venv" / "bin"


@pytest.fixture
def installed(dist, empty, service, tmp_path):
    """Installs the wheel with these extras, and returns what runs a command of the environment there."""

    def install(extras=""):
        wheel = f"{dist / f'replicate_concurrent-{VERSION}-py3-none-any.whl'}{extras}"
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", empty / "python"]
        done = subprocess.run(
            [*pip, "install", "--quiet", "--no-compile", wheel], capture_output=True, text=True
        )
        if any(word in done.stderr for word in OFFLINE):
            pytest.skip("the package registry cannot be reached")
        assert 0 == done.returncode, done.stderr
        return run

    def run(name, *arguments, **here):
        """Without the variables of a service here, it uses that of the test."""
        environ = {"RCG_CONFIG": os.devnull, **(here or {"RCG_URL": service.url, "RCG_API_KEY": "r8_user"})}
        done = subprocess.run(
            [empty / name, *arguments], cwd=tmp_path, env=environ, text=True, capture_output=True
        )
        return done.returncode, done.stdout.split(), done.stderr

    return install


@pytest.mark.parametrize("empty", ["3.10", "3.13"], indirect=True)
def test_the_wheel_installs_into_an_empty_environment_and_works_there(installed, service, tmp_path):
    run = installed()

    made = run("python", "-I", "-W", "error", "-c", USED, service.url, "out")

    assert (0, ["out/a-red-fox.jpg", "out/a-blue-fox.jpg"], "") == made
    assert {"a-red-fox.jpg", "a-blue-fox.jpg"} == {path.name for path in (tmp_path / "out").iterdir()}
    sentence = "rcg: typer is missing: pip install 'replicate-concurrent[cli]'\n"
    assert (2, [], sentence) == run("rcg", "list")


@pytest.mark.parametrize("empty", ["3.10", "3.13"], indirect=True)
def test_with_the_extra_cli_the_command_works_in_an_empty_environment(installed):
    run = installed("[cli]")

    made = run("rcg", "generate", "A fox", "-m", "flux-dev", "-o", "out", "--name", "{slug}.{ext}")

    assert (0, ["out/a-fox.jpg"], "") == made
    assert ["rcg", VERSION] == run("rcg", "--version")[1]
    # The newest typer that the extra allows is installed there.
    status, _, errors = run("python", "-c", PROGRAM, "batch", "--help")
    assert (0, set()) == (status, slow(json.loads(errors)))


@pytest.mark.parametrize("empty", ["3.13"], indirect=True)
def test_with_the_extra_serve_a_script_needs_no_server(installed, tmp_path):
    run = installed("[cli,serve]")
    here = {
        "RCG_SIMULATE": "1",
        "HOME": str(tmp_path),
        "XDG_STATE_HOME": str(tmp_path / "Application Support"),
        "IDLE_EXIT_SECONDS": "120",  # ends what a failing test leaves
    }

    made = run("python", "-I", "-W", "error", "-c", SCRIPT, **here)

    assert (0, "True", "False", "") == (made[0], made[1][0], made[1][-1], made[2])


@pytest.mark.parametrize("empty", ["3.10"], indirect=True)
def test_a_python_that_is_too_old_for_the_service_says_so(installed, tmp_path):
    run = installed("[cli,serve]")
    here = {"RCG_SIMULATE": "1", "HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path)}

    status, output, errors = run("rcg", "generate", "A fox", "-m", "flux-dev", **here)

    assert (2, []) == (status, output)
    assert "rcg: The service needs Python 3.11, 3.12 or 3.13; this is 3.10." == errors.splitlines()[0]
