"""This user and this machine: `init`, the service here (`serve`, `simulate`, `stop`, `doctor`), and `completion`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from replicate_concurrent.cli.exits import FAILED
from replicate_concurrent.cli.options import Json
from replicate_concurrent.cli.session import (
    CONNECT_TIMEOUT,
    Session,
    emit,
    emit_json,
    facts,
    read_answer,
    report,
)

if TYPE_CHECKING:
    from replicate_concurrent.config import Settings

_FORECAST = {"model_name": "flux-schnell", "prompt": "a check of a key", "dry_run": True}
"""A request without cost, before which the service checks a token at Replicate."""

_TIMEOUT = 600.0
"""Seconds that the check may take."""

_SHELLS = ("bash", "zsh", "fish")


def init(
    context: typer.Context,
    force: Annotated[bool, typer.Option("--force", help="Replace the file without a question.")] = False,
    json: Json = False,
) -> None:
    """Ask for the address and the key, check them, and keep them in a file that only you can read.

    Example: rcg init
    """
    from replicate_concurrent import config

    session: Session = context.obj
    session.json = json
    path = config.path_of()
    interactive = sys.stdin.isatty()
    if path.exists() and not force:
        if not interactive:
            raise typer.BadParameter(f"{path} exists; --force replaces it")
        if read_answer(f"{path} exists. Replace it? [y/N]: ").lower() not in ("y", "yes"):
            raise typer.Exit(FAILED)
    url = session.url or os.environ.get("RCG_URL")
    if url is None and interactive:
        report("The address of the service, such as http://localhost:5000. Empty: the one of this machine.")
        url = read_answer("Address: ")
    key = _asked_key(interactive)
    is_token = key.startswith("r8_")
    settings = config.load(
        url or None, None if is_token else key, key if is_token else None, environ={"RCG_CONFIG": os.devnull}
    )
    sentence, answer = _checked(settings)
    if json and answer is not None:
        emit_json(answer)
    report(sentence)
    config.write(settings, path)
    report(f"Written to {path}")


def simulate(
    context: typer.Context,
    command: Annotated[
        list[str] | None,
        typer.Argument(help="A command of rcg, to run on the simulator.", metavar="[COMMAND...]"),
    ] = None,
    json: Json = False,
) -> None:
    """Run a command on a simulated service of this machine, or start one. Its pictures are fakes, and free.

    Example: rcg simulate batch prompts.txt -m flux-dev -o out/
    """
    if context.obj.url is not None:
        raise typer.BadParameter("--url names another service; leave it out")
    os.environ["RCG_SIMULATE"] = "1"
    for name in ("RCG_URL", "RCG_API_KEY"):
        os.environ.pop(name, None)
    if not command:
        serve(context, json)
        return
    whole = context.find_root()
    with whole.command.make_context("rcg", list(command), obj=context.obj) as inner:
        whole.command.invoke(inner)


def serve(context: typer.Context, json: Json = False) -> None:
    """Start the service of this machine, unless it runs. It ends by itself after ten idle minutes.

    Example: rcg serve
    """
    from replicate_concurrent import config, local

    session: Session = context.obj
    session.json = json
    found = local.find_or_start(config.load())
    if json:
        with session.client(found.url, found.key) as client:
            session.answer(client.request("GET", "/status"))
    else:
        emit(found.url)
    if config.is_true("RCG_SIMULATE", os.environ.get("RCG_SIMULATE", "")):
        report("Scripts of yours find it with RCG_SIMULATE=1. `rcg simulate stop` ends it.")
    else:
        report("Scripts of yours find it by themselves. `rcg stop` ends it.")


def stop(json: Json = False) -> None:
    """End the service of this machine. Its queued work goes on at the next start.

    Example: rcg stop
    """
    from replicate_concurrent import local

    stopped = local.stop()
    if json:
        from dataclasses import asdict

        emit_json(asdict(stopped))
    if stopped.pid is None:
        report("No service of yours runs on this machine.")
    else:
        report(f"Ended process {stopped.pid}{', which had to be killed' if stopped.killed else ''}.")


def doctor(json: Json = False) -> None:
    """Show how the service of this machine is, and what to mend. Exits with 1 if there is something.

    Example: rcg doctor
    """
    from replicate_concurrent import config, local

    settings = config.load()
    found = local.doctor(settings)
    problems = found.problems if settings.url is None else ()  # a service elsewhere needs none here
    reached, check = (True, None) if settings.url is None else _reached(settings)
    if json:
        from dataclasses import asdict
        from json import dumps

        emit(dumps(asdict(found), default=str))
    else:
        limits = ", ".join(f"{name} {value}" for name, value in found.limits.items())
        facts([
            ("configuration", config.path_of()), ("address", settings.url or "the service of this machine"),
            ("check", check), ("service here", f"{found.service}{' (simulated)' if found.simulated else ''}"),
            ("at", found.url),
            ("process", found.pid), ("version", found.version), ("token", "yes" if found.has_token else "none"),
            ("limits", limits or None), ("data", found.directory), ("log", found.log),
            *(("cannot start", reason) for reason in found.cannot_start),
            *(("problem", problem) for problem in problems),
        ])  # fmt: skip
    if problems or not reached:
        raise typer.Exit(FAILED)


def completion(
    context: typer.Context, shell: Annotated[str, typer.Argument(help=", ".join(_SHELLS))]
) -> None:
    """Print the completion for a shell.

    Example: rcg completion bash >> ~/.bashrc
    """
    if shell not in _SHELLS:
        raise typer.BadParameter(f"{shell!r} must be one of {', '.join(_SHELLS)}")
    os.environ["_RCG_COMPLETE"] = f"source_{shell}"  # what makes a command print it
    try:
        context.find_root().command.main(args=[], prog_name="rcg")
    finally:
        del os.environ["_RCG_COMPLETE"]


def _asked_key(interactive: bool) -> str:
    """The key or token, from a prompt on a terminal, else the first line of standard input. Raises BadParameter."""
    if interactive:
        report("A Replicate token (r8_…), or a key of the service (rcg_…). It is not shown.")
        from getpass import getpass

        key = getpass("Key: ", stream=sys.stderr)
    else:
        key = sys.stdin.readline()
    if not key.strip():
        raise typer.BadParameter(
            "there is no key; without a terminal, the first line of standard input must be it"
        )
    return str(key.strip())


def _reached(settings: Settings) -> tuple[bool, str]:
    """Whether the service accepts the key, and a sentence about it."""
    from replicate_concurrent.errors import ReplicateConcurrentError

    try:
        return True, _checked(settings)[0]
    except ReplicateConcurrentError as error:
        return False, str(error)


def _checked(settings: Settings) -> tuple[str, Mapping[str, Any] | None]:
    """A sentence about the check of the key, at the address of these settings alone, and the service's answer.

    Raises ApiError if it is refused, ConnectionLost, and BadAnswer."""
    from replicate_concurrent.errors import ApiError, NoServer, Unauthenticated
    from replicate_concurrent.local import find_or_start
    from replicate_concurrent.operations.drivers import Driver
    from replicate_concurrent.operations.looking import request
    from replicate_concurrent.operations.sending import Service, json_of

    # A `Client` would fill an empty address from the file that is about to be replaced.
    service = Service(settings, _TIMEOUT, find=find_or_start, connect_timeout=CONNECT_TIMEOUT)
    driver = Driver(None)
    try:
        answer = json_of(driver.run(request(service, "POST", "/generate", json=_FORECAST)))
    except NoServer as error:
        return f"The key is not checked: {error}", None
    except Unauthenticated:
        raise
    except ApiError as error:  # a key that may not generate, or a model that is not allowed: the key is known
        return f"The service knows the key, but answers: {error.detail}", error.raw
    finally:
        driver.close()
    return " ".join(["The service accepts the key.", *(answer.get("warnings") or ())]), answer
