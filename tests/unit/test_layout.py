"""The layout: import directions, sizes of files and functions, and imports without side effects."""

import ast
import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]

FLOORS = [
    {"app", "gunicorn.conf", "docs"},
    {"api", "server"},
    {"service"},
    {"assembly", "doors", "generations", "rotation"},
    {"cluster", "providers", "parsing", "webhooks"},
    {"auth", "concurrency", "files", "metering", "models"},
    {"ledger", "telemetry"},
    {"catalog", "datasets", "loop_thread", "safety", "stepping"},
    {"media", "settings"},
    {"admission", "contract", "errors", "interpreter", "network"},
]
"""From the top down. Packages of one floor do not import each other."""

IMAGE = (ROOT / ".dockerignore").read_text().splitlines()

PACKAGES = [line[1:-1] for line in IMAGE if line.startswith("!") and line.endswith("/")] + ["docs"]

SERVICE = sorted([*ROOT.glob("*.py"), *(path for name in PACKAGES for path in ROOT.glob(f"{name}/**/*.py"))])
SIMULATOR = sorted(ROOT.glob("simulator/**/*.py"))
TOOLS = sorted([*ROOT.glob("bench/**/*.py"), *ROOT.glob("harness/*.py")])
TESTS = sorted(ROOT.glob("tests/**/*.py"))
DISTRIBUTIONS = [ROOT / "client/compat", ROOT / "client"]
CLIENT = sorted(path for each in DISTRIBUTIONS for path in each.glob("replicate_*/**/*.py"))
OURS = [*SERVICE, *SIMULATOR, *TOOLS, *TESTS, *CLIENT]

USERS = {
    "flask": ("app.py", "api/"),
    "sqlalchemy": ("ledger/",),
    "sqlite3": ("ledger/",),
    "psycopg": ("ledger/",),
    "replicate": ("providers/replicate/client.py",),
    "dotenv": ("settings/",),
    "gunicorn": ("server/", "gunicorn.conf.py", "api/incoming.py"),
    "obstore": ("files/bucket.py",),
    "jsonschema_rs": ("catalog/texts/validator.py",),
    "azure": ("settings/vault.py",),
    "re2": ("safety/rules.py",),
}
"""The packages that only a part of the service knows, and that part."""

LONGEST_FILE, LONGEST_FUNCTION, MOST_IN_THE_ROOT, MOST_FLOORS = 399, 50, 10, 10


def shown(path):
    return str(path.relative_to(ROOT))


def own_name(path):
    return path.stem if path.parent == ROOT else path.relative_to(ROOT).parts[0]


def home(path):
    """The directory from which a file is imported: the client has distributions of its own."""
    return next((each for each in DISTRIBUTIONS if each in path.parents), ROOT)


def module(path):
    """The dotted name of a file."""
    return ".".join(path.relative_to(home(path)).with_suffix("").parts).removesuffix(".__init__")


@cache
def tree(path):
    return ast.parse(path.read_text())


MODULES = {module(path): path for path in OURS}


@cache
def imports(path):
    """Every imported name, as a pair of a module and a name in it; the name is None for a whole module."""
    return tuple(imports_of(tree(path)))


def imports_of(parsed):
    for node in ast.walk(parsed):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield (inner, None) if inner in MODULES else (node.module or "", alias.name)


def imported(path):
    """The top-level names of everything that a file imports."""
    return {name.split(".")[0] for name, _ in imports(path)}


def floor(name):
    return next(number for number, names in enumerate(FLOORS) if name in names)


def offenders(paths, offence):
    """What `offence` finds wrong in each of the files in which it finds something, by their names."""
    return {shown(path): found for path in paths if (found := offence(path))}


def test_every_module_imports_only_modules_of_lower_layers():
    residents = {resident for names in FLOORS for resident in names}

    def upwards(path):
        name = own_name(path)
        return {
            other for other in imported(path) & residents if other != name and floor(other) <= floor(name)
        }

    assert set() == {own_name(path) for path in SERVICE} - residents, "a new module needs a floor"
    assert {} == offenders(SERVICE, upwards)


def test_there_are_few_layers_and_few_files_in_the_root():
    assert MOST_FLOORS >= len(FLOORS)
    assert MOST_IN_THE_ROOT >= len(list(ROOT.glob("*.py")))


def test_no_modules_import_each_other_in_a_circle():
    below = {name: {used for used, _ in imports(path) if used in MODULES} for name, path in MODULES.items()}
    while free := {name for name, used in below.items() if not used & below.keys() - {name}}:
        below = {name: used for name, used in below.items() if name not in free}

    assert {} == below


def defined(path):
    """The names that a module defines itself."""
    for node in tree(path).body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name
            case ast.Assign() | ast.AnnAssign():
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                yield from (
                    each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)
                )


def test_a_name_is_imported_from_the_module_that_defines_it():
    def imported_elsewhere(path):
        return [
            f"{name} of {source}"
            for source, name in imports(path)
            if name is not None and source in MODULES and "__getattr__" not in defined(MODULES[source])
            if name not in defined(MODULES[source])
        ]

    assert {} == offenders(OURS, imported_elsewhere)


def test_a_package_is_imported_only_by_its_users():
    def not_its_own(path):
        return [name for name in imported(path) & USERS.keys() if not shown(path).startswith(USERS[name])]

    assert {} == offenders(SERVICE, not_its_own)


def test_the_service_and_the_simulator_do_not_import_each_other():
    service = {own_name(each) for each in SERVICE}
    around = {"bench", "harness", "tests"}

    assert {} == offenders(SERVICE, lambda path: imported(path) & ({"simulator"} | around))
    assert {} == offenders(SIMULATOR, lambda path: imported(path) & (service | around))


def test_the_bench_imports_no_tests():
    assert {} == offenders(TOOLS, lambda path: imported(path) & {"tests"})


def test_the_client_imports_nothing_of_the_service():
    others = {own_name(each) for each in [*SERVICE, *SIMULATOR, *TOOLS, *TESTS]}

    assert {} == offenders(CLIENT, lambda path: imported(path) & others)


def test_the_service_and_the_simulator_import_nothing_of_the_client():
    client = {"replicate_concurrent", "replicate_batch_process"}

    assert {} == offenders([*SERVICE, *SIMULATOR], lambda path: imported(path) & client)


READERS = [*ROOT.glob("settings/*.py"), ROOT / "network/tls.py"]
"""`network/tls.py` reads the variables of OpenSSL, which reads them from the environment as well."""


def test_only_settings_reads_the_environment():
    ways = {"environ", "environb", "getenv", "getenvb"}

    def read(path):
        nodes = [
            node for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute) and node.attr in ways
        ]
        used = {ast.unparse(node) for node in nodes} & {f"os.{way}" for way in ways}
        return used | {name for source, name in imports(path) if source == "os"} & ways

    assert {} == offenders([each for each in SERVICE if each not in READERS], read)


def test_a_module_is_short_has_short_functions_and_opens_with_what_it_does():
    def long_functions(path):
        functions = [
            node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        ]
        return [each.name for each in functions if each.end_lineno - each.lineno >= LONGEST_FUNCTION]

    paths = [*SERVICE, *SIMULATOR, *TOOLS, *CLIENT]
    lines = {shown(path): len(path.read_text().splitlines()) for path in paths}

    assert {} == {name: length for name, length in lines.items() if length > LONGEST_FILE}
    assert {} == offenders(paths, long_functions)
    assert [] == [shown(path) for path in paths if not ast.get_docstring(tree(path))]


def test_modules_of_all_providers_name_no_provider_of_calls():
    shared = {"admission", "generations", "ledger", "metering", "parsing"}

    def providers(path):
        return {"gemini", "google"} & set(re.split("[^a-z]+", path.read_text().lower()))

    assert {} == offenders([path for path in SERVICE if own_name(path) in shared], providers)


IMPORT_ALL = """
import gc, json, sys, threading
opened = []
sys.addaudithook(lambda event, _: opened.append(event) if event.startswith("socket.") else None)
import app, server.serve, providers.replicate.provider
opened = [event for event in opened if event in {"socket.bind", "socket.connect", "socket.getaddrinfo"}]
threads = [thread.name for thread in threading.enumerate()]
print(json.dumps({"opened": opened, "threads": threads, "collects": gc.isenabled()}))
"""

LOAD_ALL = """
import json, runpy, sys
sys.argv = ["app.py", "--version"]
try:
    runpy.run_path("app.py", run_name="__main__")
except SystemExit:
    import providers.replicate.provider
print(json.dumps([name for name, module in sys.modules.items() if module is not None]))
"""

UNUSED = {
    "aiohttp.web", "azure", "catalog.drift", "httpx", "jsonschema_rs", "obstore", "psycopg", "pygments", "re2",
    "replicate", "rich", "sqlalchemy.orm", "sqlalchemy.dialects.postgresql",
}  # fmt: skip
"""Modules that most processes never use. Each would add to the memory and to the start."""


def output(program):
    """What a program of Python prints last."""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_everything_opens_no_socket_starts_no_thread_and_leaves_the_collector_on():
    state = output(IMPORT_ALL)

    assert ([], ["MainThread"], True) == (state["opened"], state["threads"], state["collects"])


def test_the_service_loads_no_module_that_most_processes_never_use():
    assert set() == UNUSED & set(output(LOAD_ALL))
