"""Stops the local service, and diagnoses it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from replicate_concurrent.local import installed, probing, state
from replicate_concurrent.local.finding import Found, Local, differences, elsewhere
from replicate_concurrent.local.places import Place
from replicate_concurrent.version import VERSION

STOP_SECONDS = 130.0
"""Seconds that a service may take to stop: running predictions may end, at most for DRAIN_SECONDS (60)."""

_PAUSE = 0.05


@dataclass(frozen=True)
class Stopped:
    """The outcome of `stop`. `pid` is None if no service ran; `killed` is true if it did not end by itself."""

    pid: int | None
    killed: bool = False


@dataclass(frozen=True)
class Diagnosis:
    """How the local service is, and what a script would get.

    `service` is `stopped`, `running`, or `silent`: a process has the lock and does not answer, as while it starts or
    stops. The fields from `url` to `figures` are None unless it runs; `figures` is its `/status`. `limits` are those
    that this script's variables set. `cannot_start` has the reasons why this Python cannot start one, and `problems`
    all that should be mended, both in sentences."""

    service: Literal["running", "silent", "stopped"]
    simulated: bool
    directory: Path
    log: Path
    url: str | None
    pid: int | None
    version: str | None
    figures: Mapping[str, Any] | None
    limits: Mapping[str, int]
    has_token: bool
    cannot_start: tuple[str, ...]
    problems: tuple[str, ...]


def stop(place: Place, *, seconds: float = STOP_SECONDS) -> Stopped:
    """End the service, and kill it if it has not ended after so many seconds. Its queued work stays, and goes on at the
    next start."""
    pid = _pid(place)
    if pid is None:
        return Stopped(None)
    for end, number, patience in ((os.kill, signal.SIGTERM, seconds), (os.killpg, signal.SIGKILL, 10.0)):
        with suppress(ProcessLookupError):
            end(pid, number)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if not state.is_held(place.lock):
                return Stopped(pid, killed=number == signal.SIGKILL)
            time.sleep(_PAUSE)
    return Stopped(pid, killed=True)


def doctor(local: Local, *, has_token: bool) -> Diagnosis:
    """The state of the service. It starts no process and changes no file."""
    found, place = local.find(), local.place
    silent = found is None and state.is_held(place.lock)
    simulated = local.settings.simulated
    reasons = tuple(installed.missing(simulated=simulated))
    version = found.figures["version"] if found else None
    return Diagnosis(
        service="running" if found else "silent" if silent else "stopped",
        simulated=simulated,
        directory=place.directory,
        log=place.log,
        url=found.state.url if found else None,
        pid=_pid(place),
        version=version,
        figures=found.figures if found else None,
        limits=local.settings.limits,
        has_token=has_token,
        cannot_start=reasons,
        problems=tuple(_problems(local, found, reasons, silent=silent, has_token=has_token)),
    )


def _problems(
    local: Local, found: Found | None, reasons: Sequence[str], *, silent: bool, has_token: bool
) -> Iterator[str]:
    if silent:
        yield _silence(local.place)
    elif found is None:
        yield from reasons
    if not has_token and not local.settings.simulated:
        yield "There is no token of Replicate; `rcg init` asks for it."
    if found is not None:
        yield from differences(local.settings, found.figures)
        if found.figures["version"] != VERSION:
            yield _other_version(found.figures["version"])


def _silence(place: Place) -> str:
    known = state.read(place.state)
    if known and known.host != state.this_host():
        return elsewhere(known)
    return (
        f"The service does not answer. If it neither starts nor stops, `rcg stop` ends it; see {place.log}."
    )


def _other_version(version: str) -> str:
    ends = "`rcg stop` ends the service, and the next script starts its own."
    return f"The service has version {version}, and this package {VERSION}. {ends}"


def _pid(place: Place) -> int | None:
    """The process of the service if it is one of this machine and still there."""
    known = state.read(place.state)
    if known is None or not state.is_held(place.lock):
        return None
    # A Mac gets another name in another network. But what answers is here.
    is_here = known.host == state.this_host() or probing.figures(known) is not None
    return known.pid if is_here else None
