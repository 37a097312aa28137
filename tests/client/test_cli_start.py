"""`rcg` starts quickly. The modules that it loads are counted, since a clock would measure the machine."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

CLIENT = Path(__file__).parents[2] / "client"

PROGRAM = """
import json, sys
before = set(sys.modules)
from replicate_concurrent.cli import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
sys.stderr.write("\\n" + json.dumps(sorted(set(sys.modules) - before)))
"""

SLOW = {"asyncio", "email", "http", "httpx", "pydantic", "rich", "ssl", "tomllib"}

MOST = 160
"""Modules that `rcg --help` may load; of these, the standard library and typer are about 130."""


def loaded(*arguments):
    done = subprocess.run(
        [sys.executable, "-Sc", f"import sys; sys.path[:0] = {sys.path!r}\n{PROGRAM}", *arguments],
        env={"PYTHONPATH": str(CLIENT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stderr.splitlines()[-1])


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["batch", "--help"], ["completion", "bash"]]
)
def test_help_loads_few_modules_and_none_that_are_slow(arguments):
    modules = loaded(*arguments)

    assert set() == SLOW & {name.partition(".")[0] for name in modules}
    assert MOST >= len(modules)
