"""Each example of the client's README runs, as it is."""

import re
import subprocess
import sys

import pytest
from PIL import Image

from tests.client.conftest import ADMIN
from tests.unit.test_layout import ROOT

pytestmark = pytest.mark.slow

EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "client" / "README.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_each_example_runs_unchanged(example, service, tmp_path):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "photo.jpg")
    environ = {
        "PYTHONPATH": str(ROOT / "client"),
        "RCG_URL": service.url,
        "RCG_API_KEY": ADMIN,
        "RCG_CONFIG": str(tmp_path / "none.toml"),
    }

    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-W",
            "ignore::ResourceWarning",
            "-c",
            example,
        ],  # a script may leave it open
        cwd=tmp_path,
        env=environ,
        text=True,
        capture_output=True,
    )

    assert (0, "") == (done.returncode, done.stderr)
    if "save(" in example:
        assert [*(tmp_path / "out").iterdir()]
