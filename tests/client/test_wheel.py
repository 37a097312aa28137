"""The wheel as `make client` builds it: it has the service, and starts it away from the checkout."""

import os
import subprocess
import sys
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
