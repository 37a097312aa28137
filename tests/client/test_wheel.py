"""The wheel as `make client` builds it: it has the service, and starts it away from the checkout. It installs into the
oldest and the newest Python."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from service import VERSION
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


@pytest.mark.parametrize("version", ["3.10", "3.13"])
def test_the_wheel_installs_into_an_empty_environment_and_works_there(dist, service, tmp_path, version):
    python = interpreter(version)
    if python is None:
        pytest.skip(f"there is no Python {version}")
    subprocess.run([python, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    wheel = dist / f"replicate_concurrent-{VERSION}-py3-none-any.whl"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "-q", wheel]
    installed = subprocess.run(pip, capture_output=True, text=True)
    if any(word in installed.stderr for word in OFFLINE):
        pytest.skip("the package registry cannot be reached")
    assert 0 == installed.returncode, installed.stderr

    done = subprocess.run(
        [python, "-I", "-W", "error", "-c", USED, service.url, tmp_path / "out"],
        cwd=tmp_path, text=True, capture_output=True,
    )  # fmt: skip

    assert "" == done.stderr
    assert ["a-red-fox.jpg", "a-blue-fox.jpg"] == [Path(line).name for line in done.stdout.split()]
    assert {"a-red-fox.jpg", "a-blue-fox.jpg"} == {path.name for path in (tmp_path / "out").iterdir()}
