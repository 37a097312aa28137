"""The house: imports point downwards, one module reads the environment, importing starts nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

FLOORS = [
    {"app", "gunicorn.conf", "docs"},
    {"api", "server"},
    {"service"},
    {"generations"},
    {"providers", "parsing", "webhooks"},
    {"concurrency", "files", "models"},
    {"auth", "ledger", "telemetry"},
    {"catalog", "loop_thread"},
    {"media", "settings"},
    {"admission", "contract", "errors", "network"},
]
"""From the roof down. What is on one floor does not import its neighbours, save within a package."""

IMAGE = (ROOT / ".dockerignore").read_text().splitlines()

PACKAGES = [line[1:-1] for line in IMAGE if line.startswith("!") and line.endswith("/")] + ["docs"]

SERVICE = sorted([*ROOT.glob("*.py"), *(path for name in PACKAGES for path in ROOT.glob(f"{name}/**/*.py"))])
SIMULATOR = sorted(ROOT.glob("simulator/*.py"))


def own_name(path):
    return path.stem if path.parent == ROOT else path.relative_to(ROOT).parts[0]


def imported(path):
    """The top-level names of everything a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    return names


def floor(name):
    return next(number for number, names in enumerate(FLOORS) if name in names)


def shown(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SERVICE, ids=shown)
def test_every_module_has_its_floor_and_imports_only_what_is_below(path):
    name = own_name(path)
    residents = {resident for names in FLOORS for resident in names}

    assert name in residents, "a new module needs a floor"
    upwards = {other for other in imported(path) & residents if other != name and floor(other) <= floor(name)}
    assert set() == upwards


@pytest.mark.parametrize("path", [*SERVICE, *SIMULATOR], ids=shown)
def test_the_service_and_the_simulator_do_not_know_each_other(path):
    service = {own_name(each) for each in SERVICE}
    others = service if path in SIMULATOR else {"simulator"}

    assert set() == imported(path) & others


def test_only_replicates_client_knows_the_official_one():
    assert ["providers/replicate/client.py"] == [
        shown(path) for path in SERVICE if "replicate" in imported(path)
    ]


@pytest.mark.parametrize("path", [each for each in SERVICE if each.parent.name != "settings"], ids=shown)
def test_only_settings_reads_the_environment(path):
    nodes = list(ast.walk(ast.parse(path.read_text())))
    used = {ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)}
    named = {alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}

    assert set() == used & {"os.environ", "os.environb", "os.getenv", "os.getenvb"}
    assert set() == named & {"environ", "environb", "getenv", "getenvb"}
    assert "dotenv" not in imported(path)


@pytest.mark.parametrize("path", [*SERVICE, *SIMULATOR], ids=shown)
def test_a_module_stays_under_400_lines_and_opens_with_what_it_promises(path):
    text = path.read_text()

    assert 400 > len(text.splitlines())
    assert ast.get_docstring(ast.parse(text))


IMPORT_ALL = """
import sys, threading
opened = []
sys.addaudithook(lambda event, _: opened.append(event) if event.startswith("socket.") else None)
import app, server.serve, providers.replicate.provider
print([event for event in opened if event in {"socket.bind", "socket.connect", "socket.getaddrinfo"}])
print([thread.name for thread in threading.enumerate()])
"""


def test_importing_everything_opens_no_socket_and_starts_no_thread():
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert ["[]", "['MainThread']"] == done.stdout.splitlines()
