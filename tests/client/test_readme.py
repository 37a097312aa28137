"""Each example of the client's documents runs as it is, and that of README.md at the address of the service."""

import re
import subprocess
import sys

import pytest
from PIL import Image

from tests.client.conftest import ADMIN
from tests.unit.test_layout import ROOT

pytestmark = pytest.mark.slow

EXAMPLE = re.compile(r"```python\n(.*?)```", re.DOTALL)
EXAMPLES = [
    each
    for path in ("client/README.md", "docs/rcg.md")
    for each in EXAMPLE.findall((ROOT / path).read_text())
]


@pytest.fixture
def run(service, tmp_path):
    """Runs an example in an empty directory."""

    def run(example):
        environ = {
            "PYTHONPATH": str(ROOT / "client"),
            "RCG_URL": service.url,
            "RCG_API_KEY": ADMIN,
            "RCG_CONFIG": str(tmp_path / "none.toml"),
        }
        warnings = ("-W", "error", "-W", "ignore::ResourceWarning")  # a script may leave its client open
        done = subprocess.run(
            [sys.executable, *warnings, "-c", example],
            cwd=tmp_path,
            env=environ,
            text=True,
            capture_output=True,
        )
        assert (0, "") == (done.returncode, done.stderr)

    return run


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_each_example_runs_unchanged(example, run, tmp_path, photos):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "photo.jpg")

    run(example)

    if "save(" in example:
        assert [*(tmp_path / "out").iterdir()]


def test_the_first_picture_of_the_project_is_made(run, service, tmp_path):
    (example,) = EXAMPLE.findall((ROOT / "README.md").read_text())
    assert 1 == example.count('"http://localhost:5000"')

    run(example.replace("http://localhost:5000", service.url))

    assert ["a-lighthouse-at-dusk.jpg"] == [path.name for path in (tmp_path / "out").iterdir()]
