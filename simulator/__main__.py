"""`python -m simulator`: the simulator as a program.

It prints one line, `simulator listening on http://127.0.0.1:8000`, once it accepts connections, and exits with status 0
on SIGINT or SIGTERM. A parent process should keep the simulator's standard input open and pass `--exit-on-stdin-eof`.
Then the simulator ends with its parent, even if the parent is killed.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulator.server import Server


def main(arguments: list[str] | None = None) -> int:
    """Run until a signal or the end of standard input. Returns the exit status."""
    try:
        # Imported here, so that a missing package is reported in one sentence.
        from simulator.gemini.options import GeminiOptions
        from simulator.options import Options
        from simulator.server import Server
    except ModuleNotFoundError as missing:
        return _fail(f"{missing.name} is missing: pip install -r requirements-simulator.txt")
    parsed = _parser().parse_args(arguments)
    try:
        options = Options(
            host=parsed.host,
            port=parsed.port,
            allow_remote=parsed.allow_remote,
            certificate=parsed.certificate,
            prediction_seconds=parsed.seconds,
            training_seconds=parsed.training_seconds,
            weights_need_token=parsed.weights_need_token,
            jitter=parsed.jitter,
            answer_delay=(parsed.delay[0], parsed.delay[-1]),
            clock_skew=parsed.clock_skew,
            list_lag=(parsed.list_lag[0], parsed.list_lag[-1]),
            creations_per_minute=parsed.creations_per_minute,
            others_per_minute=parsed.others_per_minute,
            seed=parsed.seed,
            models=tuple(parsed.models),
            boot_seconds=parsed.boot_seconds,
            gemini=GeminiOptions(
                first_seconds=parsed.gemini_first_seconds,
                seconds=parsed.gemini_seconds,
                chunks=parsed.gemini_chunks,
                output_tokens=parsed.gemini_output_tokens,
                rpm=parsed.gemini_rpm,
                tpm=parsed.gemini_tpm,
                rpd=parsed.gemini_rpd,
                disconnect=parsed.gemini_disconnect,
            ),
        )
        server = Server(options)
    except (ValueError, OSError) as reason:
        return _fail(str(reason))
    try:
        asyncio.run(_serve(server, exit_on_eof=parsed.exit_on_stdin_eof))
    except OSError as reason:
        return _fail(f"cannot listen on {parsed.host} port {parsed.port}: {reason.strerror}")
    return 0


async def _serve(server: "Server", *, exit_on_eof: bool) -> None:
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    await server.start()
    sys.stdout.write(f"simulator listening on {server.url}\n")
    sys.stdout.flush()
    if exit_on_eof:
        _at_eof(partial(_stop, loop, stopped))
    try:
        await stopped.wait()
    finally:
        await server.stop()


def _stop(loop: asyncio.AbstractEventLoop, stopped: asyncio.Event) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed already
        loop.call_soon_threadsafe(stopped.set)


def _at_eof(callback: Callable[[], object]) -> None:
    """Call `callback` in a thread once standard input ends."""

    def read() -> None:
        # os.read, since a thread inside the buffered sys.stdin breaks the interpreter's exit.
        while os.read(0, 4096):
            pass
        callback()

    threading.Thread(target=read, name="stdin", daemon=True).start()


def _fail(sentence: str) -> int:
    sys.stderr.write(f"simulator: {sentence}\n")
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m simulator", description="A local Replicate.", allow_abbrev=False
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    add("--port", type=int, default=8000, help="port, 0 for a free one (default %(default)s)")
    add("--allow-remote", action="store_true", help="permit a host that is not loopback")
    add("--certificate", type=Path, metavar="PEM", help="private key and certificate; serves https")
    add("--seconds", type=float, help="how long predictions take, may be 0 (default: as their model)")
    add("--jitter", type=float, default=0.2, help="fraction durations stray (default %(default)s)")
    add(
        "--delay",
        type=float,
        nargs="+",
        default=[0.0],
        metavar="SECONDS",
        help="network delay each way: one value, or the least and the most",
    )
    add(
        "--clock-skew",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="how far its clock is ahead, negative for behind (default %(default)s)",
    )
    add(
        "--list-lag",
        type=float,
        nargs="+",
        default=[0.0],
        metavar="SECONDS",
        help="how far the list of predictions is behind: one value, or the least and the most",
    )
    add("--creations-per-minute", type=int, default=600, help="an account's (default %(default)s)")
    add("--others-per-minute", type=int, default=3000, help="an account's (default %(default)s)")
    add("--seed", type=int, help="makes durations and delays repeatable")
    add(
        "--models",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="a directory of published models, a file each; may be repeated",
    )
    add("--boot-seconds", type=float, help="how long each community model boots (default: as its file says)")
    _add_trainings(parser)
    _add_gemini(parser)
    add("--exit-on-stdin-eof", action="store_true", help="end when standard input does")
    return parser


def _add_trainings(parser: argparse.ArgumentParser) -> None:
    """The options of trainings."""
    add = parser.add_argument
    add("--training-seconds", type=float, help="how long trainings take (default: as their trainer)")
    add("--weights-need-token", action="store_true", help="serve the weights of trainings only with a token")


def _add_gemini(parser: argparse.ArgumentParser) -> None:
    """The options of the simulated Gemini."""
    add = parser.add_argument_group("the Gemini").add_argument
    shown = "(default %(default)s)"
    add("--gemini-first-seconds", type=float, default=0.2, help=f"until the first chunk {shown}")
    add("--gemini-seconds", type=float, default=0.5, help=f"from the first chunk to the last {shown}")
    add("--gemini-chunks", type=int, default=5, help=f"chunks of an answer {shown}")
    add("--gemini-output-tokens", type=int, default=60, help=f"tokens of an answer {shown}")
    add("--gemini-rpm", type=int, default=1000, help=f"a project's requests a minute and model {shown}")
    add("--gemini-tpm", type=int, default=2_000_000, help=f"its tokens of prompts likewise {shown}")
    add("--gemini-rpd", type=int, help="its requests a day likewise (default: no limit)")
    add(
        "--gemini-disconnect",
        choices=("chunk", "whole"),
        default="chunk",
        help=f"the bill of a call if its caller disconnects: up to its last chunk, or whole {shown}",
    )


if __name__ == "__main__":
    sys.exit(main())
