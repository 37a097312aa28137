"""A Python that has imported the libraries of the project, and forks for each program. A start would import them anew,
which is most of the processor time of a short run of pytest."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PROGRAM = """
import gc, importlib, json, os, runpy, sys
gc.disable()  # with plugins, a third of a short run
import aiohttp.web, flask, httpx, jsonschema, PIL.Image, psycopg, pydantic, pytest, requests, sqlalchemy, structlog
import asyncio, flask.testing, gunicorn.app.base, hypothesis.stateful, pydantic_settings, sqlalchemy.dialects.postgresql
output = os.dup(1)
for line in sys.stdin:
    module, *arguments = json.loads(line)
    child = os.fork()
    if not child:
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        os.dup2(os.open(os.environ["OUTPUT"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        os.dup2(1, 2)
        importlib.invalidate_caches()
        sys.argv[1:] = arguments
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        sys.exit()
    _, status = os.waitpid(child, 0)
    os.write(output, b"%d\\n" % os.waitstatus_to_exitcode(status))
"""

_NOT_INHERITED = ("PYTEST", "COV", "PYTHONDONTWRITEBYTECODE")
"""The variables that pytest-xdist and coverage set for this process alone, and one that discards compiled modules."""


class ForkedPython:
    def __init__(self, process: "subprocess.Popen[str]", output: Path) -> None:
        self._process = process
        self._output = output

    def run(self, module: str, *arguments: str) -> tuple[int, str]:
        """Run a module as a program. Returns its exit status and its output."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([module, *arguments]) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline()), self._output.read_text()


@contextmanager
def forked_python(directory: Path, output: Path) -> Iterator[ForkedPython]:
    """A Python in this directory. Its programs write into `output`. pytest loads only the plugins that it names."""
    environment: dict[str, Any] = {
        name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)
    }
    environment |= {"OUTPUT": str(output), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM],
        cwd=directory,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield ForkedPython(process, output)
