"""Carries out each change of the table "Where does it go?" in docs/architecture.md on a copy of the project.

`tests/data/recipes.toml` has the changes. Until the last step of one is done, its tests fail; then they pass.
`tests/unit/test_documents.py` compares the table with them.
"""

import pytest

from tests.support.forked_python import forked_python
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


WITHOUT = ("cacheprovider", "unraisableexception")


@pytest.fixture(scope="module")
def python(project, tmp_path_factory):
    with forked_python(project, tmp_path_factory.mktemp("output") / "output") as started:
        yield started


def carry_out(copy, step, python):
    edit(copy, step)
    if step.get("make") == "generated":
        status, output = python.run("docs.generate")
        assert 0 == status, output


@pytest.mark.parametrize("name", RECIPES)
def test_the_tests_of_a_change_fail_until_all_of_it_is_written(copy, python, name):
    *steps, last = RECIPES[name]["steps"]
    tests = ("-q", "-x", *[f"-pno:{each}" for each in WITHOUT], *RECIPES[name]["tests"])
    for number, step in enumerate(steps, 1):
        carry_out(copy, step, python)
        status, output = python.run("pytest", *tests)
        assert TESTS_FAILED == status, f"after step {number}:\n{output}"

    carry_out(copy, last, python)
    status, output = python.run("pytest", *tests)
    assert 0 == status, f"after all steps:\n{output}"
