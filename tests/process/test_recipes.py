"""Carries out each change of the table "Where does it go?" in docs/architecture.md on a copy of the project.

`tests/data/recipes.toml` has the changes. Until the last step of one is done, its tests fail; then they pass.
`tests/unit/test_documents.py` compares the table with them.
"""

import os
import subprocess
import sys

import pytest

from tests.support.recipes import RECIPES, copied, edit, restored

pytestmark = pytest.mark.slow

TESTS_FAILED = 1
"""The status of pytest. Any other failure, such as a test that does not exist, is an error of the recipe."""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy for all changes, so that its modules are compiled once."""
    return copied(tmp_path_factory.mktemp("project") / "copy")


@pytest.fixture
def copy(project):
    return restored(project)


NOT_INHERITED = ("PYTEST", "COV", "PYTHONDONTWRITEBYTECODE")
"""What pytest-xdist and coverage set for this process is not for one started here. It keeps what it compiles."""


PYTEST = """
import gc, sys
gc.disable()
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""
"""A third of a short run would be the collector of garbage and plugins."""

WITHOUT = ("cacheprovider", "unraisableexception", "xdist")


def run(copy, *arguments):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(NOT_INHERITED)}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=copy, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def carry_out(copy, step):
    edit(copy, step)
    if step.get("make") == "generated":
        generated = run(copy, "-m", "docs.generate")
        assert 0 == generated.returncode, generated.stderr


@pytest.mark.parametrize("name", RECIPES)
def test_the_tests_of_a_change_fail_until_all_of_it_is_written(copy, name):
    *steps, last = RECIPES[name]["steps"]
    plugins = [f"-pno:{each}" for each in WITHOUT]
    tests = ("-c", PYTEST, "-q", "-x", *plugins, *RECIPES[name]["tests"])
    for number, step in enumerate(steps, 1):
        carry_out(copy, step)
        tested = run(copy, *tests)
        assert TESTS_FAILED == tested.returncode, f"after step {number}:\n{tested.stdout}{tested.stderr}"

    carry_out(copy, last)
    tested = run(copy, *tests)
    assert 0 == tested.returncode, f"after all steps:\n{tested.stdout}{tested.stderr}"
