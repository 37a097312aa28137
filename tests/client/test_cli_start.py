"""What `rcg` does without a service: it starts quickly, and says what is wrong with an address.

The modules that it loads are counted, since a clock would measure the machine.
"""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from replicate_concurrent import local
from replicate_concurrent.cli import main
from replicate_concurrent.cli.session import facts, report, table
from replicate_concurrent.errors import NoServer
from werkzeug.wrappers import Request, Response

from tests.support.served_in_process import online

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


def slow(modules):
    """The packages among these modules that take long to load."""
    return SLOW & {name.partition(".")[0] for name in modules}


def loaded(*arguments):
    done = subprocess.run(
        [sys.executable, "-Sc", f"import sys; sys.path[:0] = {sys.path!r}\n{PROGRAM}", *arguments],
        env={"PYTHONPATH": str(CLIENT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stderr.splitlines()[-1])


@Request.application
def log_in(request):
    request.get_data()
    return Response("<html>Log in</html>", content_type="text/html")


@pytest.fixture(scope="module")
def page():
    """The address of a program that answers each request with a page, as a login does."""
    with online(log_in) as url:
        yield url


@pytest.mark.parametrize(
    "arguments",
    [
        "status", "status --json", "models", "models flux-dev", "usage", "list", "get gen_1", "cancel gen_1",
        "keys list", "keys self", "configure --concurrent-limit 3", "generate A -m flux-dev", "init",
    ],
)  # fmt: skip
def test_an_address_that_is_no_service_is_a_sentence(page, arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO("r8_key\n"))
    for name, value in (("URL", page), ("API_KEY", "r8_key"), ("CONFIG", str(tmp_path / "config.toml"))):
        monkeypatch.setenv(f"RCG_{name}", value)

    with pytest.raises(SystemExit) as end:
        main(arguments.split())

    output, errors = capsys.readouterr()
    assert (1, "") == (end.value.code, output)
    assert "which is no answer of this service. Is the address right?" in errors
    assert [] == list(tmp_path.iterdir())


def test_a_text_of_someone_else_does_not_command_the_terminal(capsys):
    table(["prompt"], [["a \x1b]0;title\x07 fox"]])
    facts([("prompt", "\x9b31m red")])
    report("rcg: \x1b[2J\nA second line.")

    output, errors = capsys.readouterr()
    assert "a �]0;title� fox\nprompt\t�31m red\n" == output
    assert "rcg: �[2J\nA second line.\n" == errors


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["batch", "--help"], ["completion", "bash"]]
)
def test_help_loads_few_modules_and_none_that_are_slow(arguments):
    modules = loaded(*arguments)

    assert set() == slow(modules)
    assert MOST >= len(modules)


def test_a_reader_that_ends_early_ends_the_command_without_a_message():
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", "from replicate_concurrent.cli import main; main()", "--version"],
        stdout=writing, stderr=subprocess.PIPE, env={"PYTHONPATH": str(CLIENT)}, check=False,
    )  # fmt: skip
    os.close(writing)

    assert (141, b"") == (done.returncode, done.stderr)


def test_init_asks_the_address_that_was_typed_and_not_that_of_the_older_file(page, tmp_path, monkeypatch):
    def none_here(settings):
        assert (None, "r8_new") == (settings.url, settings.replicate_api_token)
        raise NoServer("There is none here.")

    path = tmp_path / "config.toml"
    path.write_text(f'url = "{page}"\napi_key = "rcg_old"\n')
    monkeypatch.setenv("RCG_CONFIG", str(path))
    for name in ("RCG_URL", "RCG_API_KEY", "REPLICATE_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.stdin", io.StringIO("r8_new\n"))
    monkeypatch.setattr(local, "find_or_start", none_here)

    with pytest.raises(SystemExit) as end:
        main(["init", "--force"])

    assert (0, 'replicate_api_token = "r8_new"\n') == (end.value.code, path.read_text())
