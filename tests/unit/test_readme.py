"""The README tells today's truth: its tables are those of the code, its commands exist, its links lead somewhere."""

import re
from pathlib import Path

from catalog.model import Model
from tests.support.declarations import MODELS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def model_row(model: Model) -> str:
    """The line of the README's table for a model."""
    aliases = ", ".join(f"`{alias}`" for alias in model.aliases)
    parameters = ", ".join(f"`{name}`" for name in model.inputs.model_fields if name != "prompt")
    price = f"{model.price.usd:g} / {model.price.per}"
    plan = f"{model.tier}, {model.credits}"
    return f"| `{model.name}` | {aliases} | {model.kind}, `{model.extension}` | {price} | {plan} | {parameters} |"


def test_the_table_of_models_is_the_registry():
    rows = [line for line in README.splitlines() if line.startswith("| `") and "/" in line.split("|")[1]]

    assert [model_row(model) for model in MODELS.values()] == rows, "run `make generated`"


def test_the_two_commands_are_on_the_first_screen_and_exist():
    first_screen = "\n".join(README.splitlines()[:20])
    targets = re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)

    assert ["run", "test"] == re.findall(r"^make (\w+)", first_screen, re.MULTILINE)
    assert {"run", "test", "check", "bench"} <= set(targets)


def test_the_list_of_files_names_every_module_and_package():
    (listed,) = re.findall(r"```\napp\.py.*?```", README, re.DOTALL)
    modules = {path.name for path in ROOT.glob("*.py")}
    packages = {f"{path.parent.name}/" for path in ROOT.glob("[a-z]*/*.py")}

    assert [] == [name for name in {*modules, *packages} if name not in listed]


def test_every_file_the_readme_links_to_or_names_exists():
    linked = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    named = re.findall(r"\b([a-z0-9_/]+(?:\.conf)?\.(?:py|yaml))\b", README)

    assert [] == [name for name in {*linked, *named} if not (ROOT / name).exists()]
