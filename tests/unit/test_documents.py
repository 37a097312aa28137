"""The documents: tables match the code, and commands, links and paths exist."""

import re
from pathlib import Path

import pytest

from ledger.tables import METADATA
from tests.support.recipes import RECIPES

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
FORMATS = (ROOT / "docs" / "formats.md").read_text()
DOCUMENTS = [path for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")) if path.name != "CHANGELOG.md"]


def shown(path):
    return str(path.relative_to(ROOT))


def test_the_two_commands_are_on_the_first_screen_and_exist():
    first_screen = "\n".join(README.splitlines()[:20])
    targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)

    assert ["run", "test"] == re.findall(r"^make (\w+)", first_screen, re.MULTILINE)
    assert {"run", "test", "test-all", "check", "bench"} <= set(targets)


def test_the_readme_has_at_most_120_lines():
    assert 120 >= len(README.splitlines())


def test_the_architecture_names_every_module_of_the_root_and_every_package():
    modules = {path.name for path in ROOT.glob("*.py")}
    packages = {f"{path.parent.name}/" for path in ROOT.glob("[a-z]*/*.py")}

    assert set() == {name for name in modules | packages if f"`{name}`" not in ARCHITECTURE}


@pytest.mark.parametrize("path", DOCUMENTS, ids=shown)
def test_every_link_and_path_in_a_document_exists(path):
    text = path.read_text()
    linked = {path.parent / link for link in re.findall(r"\]\((?!https?:)([^)#]+)", text)}
    named = {ROOT / name for name in re.findall(r"`((?:[a-z0-9_]+/)+[a-z0-9_]+\.py)`", text)}

    assert [] == sorted(shown(each) for each in linked | named if not each.exists())


@pytest.mark.parametrize("path", DOCUMENTS, ids=shown)
def test_every_link_to_a_heading_resolves(path):
    for document, anchor in re.findall(r"\]\(([\w./-]*\.md)?#([\w-]+)\)", path.read_text()):
        text = (path.parent / document).read_text() if document else path.read_text()
        headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
        assert anchor in [re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings]


@pytest.mark.parametrize("table", METADATA.sorted_tables, ids=lambda table: table.name)
def test_the_formats_list_every_column_of_a_table_and_no_other(table):
    _, _, rest = FORMATS.partition(f"\n### {table.name}\n")
    rows = re.findall(r"^\| (`.+?`) \|", rest.partition("\n### ")[0], re.MULTILINE)

    assert sorted(column.name for column in table.columns) == sorted(re.findall(r"`(\w+)`", " ".join(rows)))


def edits(recipe):
    return [edit for step in recipe["steps"] for edit in step.get("edits", ())]


def test_where_does_it_go_names_what_each_recipe_writes_and_its_tests():
    recipes = {}
    for name, recipe in RECIPES.items():
        made = {f"make {step['make']}" for step in recipe["steps"] if "make" in step}
        written = {edit.get("place", edit["file"]) for edit in edits(recipe)} - {"use"}
        recipes[name] = made | written, {test.partition("::")[0] for test in recipe["tests"]}
    table = ARCHITECTURE.partition("| new | write | tests |\n")[2].partition("\n\n")[0]
    rows = [row.strip("| ").split(" | ") for row in table.splitlines()[1:]]

    assert recipes == {
        new: (set(re.findall(r"`([^`]*[/. ][^`]*)`", write)), set(re.findall(r"`([^`]+)`", tests)))
        for new, write, tests in rows
    }


def test_each_file_that_is_changed_alone_has_the_names_to_look_for():
    table = ARCHITECTURE.partition("| to change | file | look for |\n")[2].partition("\n\n")[0]
    rows = [re.findall(r"`(\w[\w./]*)`", " ".join(row.split(" | ")[1:])) for row in table.splitlines()[1:]]

    assert rows
    assert [] == [
        (path, name)
        for path, *names in rows
        for name in names or ["a name"]
        if not re.search(rf"\b{name}\b", (ROOT / path).read_text())
    ]


@pytest.mark.parametrize("name", RECIPES)
def test_the_anchors_and_tests_of_a_recipe_exist(name):
    """Each anchor is once in its file. If this fails, take another in `tests/data/recipes.toml`."""
    for edit in edits(RECIPES[name]):
        if anchor := edit.get("after") or edit.get("before"):
            assert 1 == (ROOT / edit["file"]).read_text().count(anchor), edit
    for test in RECIPES[name]["tests"]:
        path, _, function = test.partition("::")
        assert f"def {function}" in (ROOT / path).read_text(), test
