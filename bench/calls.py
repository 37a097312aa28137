"""Calls of text models: the cost of their path, the delay of a stream, and their limits in real time.

    python -m bench.calls                  # seven minutes
    python -m bench.calls --minutes 1.5    # the limits for so long
    python -m bench.calls --write          # also puts the sections into bench/results.md

The upstream is the simulated Gemini. CPU is the user and system time of the service's processes, by turns.
"""

import argparse
import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from statistics import median, quantiles
from typing import Any, Final

import aiohttp

from bench.calls_mix import Mix
from bench.calls_tap import Tap
from bench.figures import AGAIN, NEW, OLD, Figure, compared, load_figure
from bench.processes import service_before, simulated
from bench.report import RESULTS, Claim, Section, claimed, exit_on_sigterm, recorded
from bench.rounds import BOUNDLESS, WITHOUT_FILES, Target, Turns, generating, round_of
from harness.service_process import ServiceProcess

TURNS: Final = Turns(rounds=5, seconds=1.6)
"""A load uses more than a second of CPU, so that ticks of 10 ms make its figure wrong by less than 2 %."""

MOST_CPU: Final = 1.5
"""Target: the CPU of a chat as a multiple of that of `POST /generate` without files."""

MOST_LATE: Final = 5.0
"""Target: milliseconds from the upstream's first chunk to the caller's first byte."""

MINUTES: Final = 5.0
CALLERS: Final = 10

_STREAMS: Final = 300
_TOKENS, _CHUNKS = 200, 10
_LIFTED: Final = {
    "GEMINI_LIMITS": '{"*": {"rpm": 1000000, "tpm": 1000000000}, "account": {"usd_per_10_minutes": 100000}}',
    "GEMINI_CONCURRENCY_LIMIT": 1000,
}
_FAST: Final = (
    "--jitter", "0", *BOUNDLESS, "--gemini-rpm", "10000000", "--gemini-tpm", "1000000000",
    "--gemini-output-tokens", str(_TOKENS), "--gemini-chunks", str(_CHUNKS),
    "--gemini-first-seconds", "0",
)  # fmt: skip
"""A simulator without effective limits."""

_APART: Final = 0.05
"""The same seconds where chunks come one by one."""

_OWN_KEY: Final = {"X-Gemini-API-Key": "AQ.bench"}

_PATH_NOTE: Final = f"""\
`POST /chat` with an answer of {_TOKENS} tokens in {_CHUNKS} chunks, which is not streamed to the caller, and
`POST /generate` without files take turns at one service. First all chunks come at once, and predictions end at once.
Then both take {_APART * 1000:g} ms, so that the service reads the chunks one by one."""

_STREAM_NOTE: Final = f"""\
One caller, {_STREAMS} chats with `stream` one after another. Between service and simulator is a forwarder of bytes, in
the process of the caller: the clock runs from when it has the first chunk of an answer until the caller has the first
byte."""


def path(turns: Turns = TURNS) -> Section:
    """The CPU of a chat beside that of a picture."""
    return compared("Calls: the path alone", _of_path(turns), names=("chat", "generate"), note=_PATH_NOTE)


def streams() -> Section:
    """The delay of the first byte of a stream."""
    return claimed("Calls: the first byte of a stream", _of_streams(), note=_STREAM_NOTE)


def limits(minutes: float = MINUTES) -> Section:
    """Calls at the limits of requests and tokens, in real time."""
    mix = Mix(minutes)
    return claimed("Calls: the limits, in real time", mix.claims(), note=mix.note)


def _of_path(turns: Turns) -> Iterator[Figure]:
    for seconds, how in ((0.0, "at once"), (_APART, f"{_APART * 1000:g} ms")):
        with (
            _simulated(seconds) as simulator,
            _service(simulator, simulator) as service,
        ):
            targets = {NEW: _chatting(service), OLD: generating(service), AGAIN: generating(service)}
            for target in (targets[NEW], targets[OLD]):
                round_of(target, callers=CALLERS)
            for callers in (CALLERS, 1):
                rounds = turns.loaded(targets, callers=callers)
                what = f"CPU a request, {how}, {callers} caller{'s' * (callers > 1)}"
                yield load_figure(what, "ms", rounds, lambda it: it.cpu, ratio=MOST_CPU)


def _of_streams() -> Iterator[Claim]:
    with (
        _simulated(_APART) as simulator,
        Tap(simulator) as tap,
        _service(simulator, tap.url) as it,
    ):
        late = [1000 * each for each in tap.run(_streamed(it, tap))]
    cuts = quantiles(late, n=20, method="inclusive")
    for what, value in (("median", median(late)), ("p95", cuts[18])):
        met = value <= MOST_LATE
        yield Claim(f"First byte after the upstream's first chunk: {what}", f"{value:.1f} ms",
                    f"≤ {MOST_LATE:g} ms", met)  # fmt: skip


async def _streamed(service: ServiceProcess, tap: Tap) -> list[float]:
    """The seconds of each stream's first byte after the upstream's first chunk."""
    late: list[float] = []
    now = asyncio.get_running_loop().time
    target = _chatting(service)
    async with aiohttp.ClientSession(headers=target.headers) as session:
        for _ in range(_STREAMS + 10):
            tap.first_chunk = None
            async with session.post(target.url, json={**target.body, "stream": True}) as answer:
                answer.raise_for_status()
                await answer.content.readany()
                came = now()
                assert tap.first_chunk is not None
                late.append(came - tap.first_chunk)
                await answer.read()
    return late[10:]  # without those that warm the service up


def _simulated(seconds: float) -> AbstractContextManager[str]:
    """A simulator with predictions of so many seconds, and as many from the first chunk of a chat to the last."""
    return simulated(*_FAST, "--seconds", str(seconds), "--gemini-seconds", str(seconds))


@contextmanager
def _service(simulator: str, gemini: str) -> Iterator[ServiceProcess]:
    with service_before(simulator, GEMINI_BASE_URL=gemini, **WITHOUT_FILES, **_LIFTED) as service:
        yield service


def _chatting(service: ServiceProcess) -> Target:
    body: dict[str, Any] = {"prompt": "a red fox in the snow", "max_output_tokens": 1000}
    return Target(f"{service.url}/chat", body, _OWN_KEY, service.process.pid)


def main(arguments: list[str] | None = None) -> int:
    """Print the sections. Returns the exit status: 1 if a target is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.calls", description="Calls of text models.", allow_abbrev=False
    )
    parser.add_argument("--rounds", type=int, default=TURNS.rounds, help="default %(default)s")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="at the limits, default %(default)s")
    parser.add_argument("--write", action="store_true", help="put the sections into bench/results.md")
    parser.add_argument("--part", choices=("path", "streams", "limits"), help="only this section")
    parsed = parser.parse_args(arguments)
    parts: dict[str, Callable[[], Section]] = {
        "path": partial(path, Turns(rounds=parsed.rounds, seconds=TURNS.seconds)),
        "streams": streams,
        "limits": partial(limits, parsed.minutes),
    }
    exit_on_sigterm()
    results = RESULTS if parsed.write else None
    done = [recorded(part, results) for name, part in parts.items() if parsed.part in (None, name)]
    return 1 if any(section.missed for section in done) else 0


if __name__ == "__main__":
    sys.exit(main())
