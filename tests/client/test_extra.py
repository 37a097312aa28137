"""The extra `serve`: what the service and its simulator need, on the systems where they run. And the commands in
documents that install it."""

import re
import tomllib

import pytest

from tests.unit.test_layout import ROOT

MARKER = "python_version >= '3.11' and python_version < '3.14' and sys_platform != 'win32'"


def test_the_extra_has_the_pins_of_the_service_and_its_simulator_and_no_others():
    pinned = {
        found[0]
        for name in ("requirements.txt", "requirements-simulator.txt")
        for line in (ROOT / name).read_text().splitlines()
        if (found := re.match(r"[a-z]\S+", line))
    }
    project = tomllib.loads((ROOT / "client" / "pyproject.toml").read_text())["project"]

    assert {f"{each}; {MARKER}" for each in pinned} == set(project["optional-dependencies"]["serve"])


@pytest.mark.parametrize(
    "path", [ROOT / "client" / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=str
)
def test_each_installation_in_a_document_has_a_source(path):
    """No index has these packages: they come from a clone or from a service."""
    named = r"install .*replicate-(concurrent|batch-process-compat)"

    assert [] == [
        line
        for line in path.read_text().splitlines()
        if re.search(named, line) and "--find-links" not in line
    ]
