"""Shared fixtures: a simulated Replicate, and the service before it.

No module of the project is patched. The service uses its real client over real sockets to the simulator, and tests
assert what the simulator received.
"""

import gc
import os
import random
import secrets
import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
import structlog
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Dialect, Engine
from werkzeug.routing import Rule

from app import create_app
from harness import forks, postgres
from harness.certificates import certified
from settings import Settings
from simulator import Options, Simulator, running
from tests.support.callers import ADMIN_KEY, SERVER_TOKEN

if TYPE_CHECKING:
    from tests.support.output_hosts import Buckets

# A failure prints the decorator that repeats its example. How long an example takes depends on the machine's load.
hypothesis.settings.register_profile("tests", print_blob=True, deadline=None)
hypothesis.settings.load_profile("tests")

# Almost nothing in tests is garbage that only the collector finds, and it takes a seventh of their time by default.
gc.set_threshold(20_000, 20, 20)

_MEMORY = Path("/dev/shm")
if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > 2**30:
    # A ledger waits for the disk at each commit. Tests kill processes and cut no power, so memory keeps as much.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))

os.environ.setdefault(forks.VARIABLE, "1")

_SEED = os.environ.setdefault("TEST_SEED", secrets.token_hex(4))  # the workers of pytest-xdist inherit it


@pytest.fixture(autouse=True)
def _random_numbers_can_be_repeated(request: pytest.FixtureRequest) -> None:
    """Jitter and backoff draw from the module `random`; each test draws the same under the same TEST_SEED."""
    random.seed(f"{_SEED} {request.node.nodeid}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        report.sections.append(("Random numbers", f"TEST_SEED={_SEED} repeats them."))
    return report


@pytest.fixture(scope="session", autouse=True)
def _trust_one_certificate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Each service and each client would load the certificates of 140 authorities, which takes 25 ms of processor time.
    No test connects to a host that one of them has certified."""
    path = tmp_path_factory.mktemp("trusted") / "certificate.pem"
    certified(path, "unused.test")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(path))
        yield


@pytest.fixture(scope="session", autouse=True)
def _loggers_follow_the_configuration() -> Iterator[None]:
    """A logger that the service has cached would keep the processors of its first use, and `capture_logs` would see
    nothing of it in a later test."""
    configure = structlog.configure
    # As the service has it. With rich, which the client's command line uses, a traceback takes 40 ms of processor time.
    console = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*structlog.get_config()["processors"][:-1], console])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            structlog, "configure", lambda **given: configure(**given | {"cache_logger_on_first_use": False})
        )
        yield


_COMPILED = ("_parts", "_trace", "_converters", "arguments")
"""What a rule has once it is compiled, beside two functions that build URLs."""


@pytest.fixture(scope="session", autouse=True)
def _routes_are_compiled_once() -> Iterator[None]:
    """Each service compiles its routes, which takes 30 ms of processor time. They are the same in all services, which
    only read the compiled ones. A function that builds a URL takes the rule as an argument."""
    compiled: dict[object, dict[str, Any]] = {}
    compile_rule = Rule.compile

    def compile_once(rule: Rule) -> None:
        if rule.defaults:  # they are compiled into it
            compile_rule(rule)
            return
        key = (rule.rule, rule.subdomain, rule.host, rule.merge_slashes)
        if key not in compiled:
            compile_rule(rule)
            compiled[key] = {name: getattr(rule, name) for name in _COMPILED}
            compiled[key]["build"] = [each.__func__ for each in (rule._build, rule._build_unknown)]  # noqa: SLF001
            return
        known = compiled[key]
        for name in _COMPILED:
            setattr(rule, name, known[name])
        rule._build, rule._build_unknown = (each.__get__(rule, None) for each in known["build"])  # noqa: SLF001

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rule, "compile", compile_once)
        yield


@pytest.fixture(scope="session", autouse=True)
def _statements_are_compiled_once() -> Iterator[None]:
    """Each ledger compiles its statements for itself, which takes 15 ms of processor time at its start alone. Those of
    one dialect are the same in all ledgers."""
    shared: dict[object, tuple[Dialect, Any]] = {}
    make = Engine.__init__

    def share(engine: Engine, pool: Any, dialect: Dialect, *others: Any, **named: Any) -> None:
        key = (type(dialect), dialect.paramstyle)
        first = shared[key][0] if key in shared else dialect
        make(engine, pool, first, *others, **{"query_cache_size": 5000, **named})
        _, engine._compiled_cache = shared.setdefault(key, (dialect, engine._compiled_cache))  # noqa: SLF001

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "__init__", share)
        yield


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    """A simulator of Replicate. Predictions take 50 ms, and trainings 300 ms."""
    with running(Options(prediction_seconds=0.05, training_seconds=0.3, jitter=0.0)) as started:
        yield started


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each service of the test is a new Python, as in production. Those of other tests are forks."""
    monkeypatch.delenv(forks.VARIABLE)


@pytest.fixture
def own_server() -> Iterator[postgres.Server]:
    """A server of PostgreSQL that the test may stop."""
    started = postgres.Server()
    yield started
    started.close()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Each worker of pytest-xdist begins with tests that have the marker `long`, so that none of them ends last. A
    worker gets an equal part of the list, in its order, and later takes tests from the ends of the others' parts."""
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    long = [each for each in items if each.get_closest_marker("long")]
    others = iter([each for each in items if not each.get_closest_marker("long")])
    ordered: list[pytest.Item] = []
    for number in range(workers):
        size = (len(items) - len(ordered)) // (workers - number)
        first = long[number::workers]
        ordered += [*first, *islice(others, max(0, size - len(first)))]
    items[:] = [*ordered, *others]


def pytest_collection_finish() -> None:
    gc.freeze()  # modules and tests stay to the end, so the collector need not look at them again and again


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with the marker `every_database` runs on each."""
    if metafunc.definition.get_closest_marker("every_database"):
        metafunc.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """DATABASE_URL of the services of `make_app`; empty for a file in the directory of the test."""
    if getattr(request, "param", "sqlite") == "sqlite":
        yield ""
        return
    with postgres.server().schema() as schema:
        yield postgres.server().url(schema=schema)


@pytest.fixture
def make_app(simulator: Simulator, tmp_path: Path, database_url: str) -> Iterator[Callable[..., Flask]]:
    """Creates a service before the simulator or another provider. Settings are given by name."""
    with ExitStack() as stack:

        def make(*, provider: object = None, **settings: object) -> Flask:
            environ = {
                "REPLICATE_API_TOKEN": SERVER_TOKEN,
                "CONCURRENT_DOCKER_ADMIN_API_KEY": ADMIN_KEY,
                "REPLICATE_BASE_URL": simulator.url,
                "LOG_LEVEL": "error",
                "DATA_DIR": str(tmp_path),
                "DATABASE_URL": database_url,
                "FILES_SHARED": "1",
                "PUBLIC_URL": "http://localhost" if database_url else "",
                **{name: str(value) for name, value in settings.items()},
            }
            app = create_app(Settings.from_env(environ), provider=provider)
            stack.callback(app.extensions["service"].close)
            return app

        yield make


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Flask:
    return make_app()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def restarted(make_app: Callable[..., Flask]) -> Callable[..., FlaskClient]:
    """Starts the service again on the same ledger, and returns its client."""
    apps: list[Flask] = []

    def restart(**settings: object) -> FlaskClient:
        while apps:
            apps.pop().extensions["service"].close()
        apps.append(make_app(**settings))
        return apps[-1].test_client()

    return restart


@pytest.fixture(scope="module")
def s3() -> "Iterator[Buckets]":
    """An S3 server on loopback."""
    from tests.support.output_hosts import buckets  # its server takes a second to import

    with buckets() as server:
        yield server
