"""What a benchmark runs against: a simulator and a service, each a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from harness.service_process import ROOT, ServiceProcess, running_service

TOKEN = {"X-Replicate-API-Key": "r8_bench"}


@contextmanager
def simulated(*arguments: str) -> Iterator[str]:
    """A simulator process; gives its URL."""
    with simulator_process(*arguments) as (url, _):
        yield url


@contextmanager
def simulator_process(*arguments: str) -> Iterator[tuple[str, int]]:
    """A simulator process; gives its URL and its id. It ends when its standard input is closed, which leaving `Popen`
    does."""
    command = [sys.executable, "-m", "simulator", "--port", "0", "--exit-on-stdin-eof", *arguments]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1], process.pid


@contextmanager
def service_before(simulator: str, **settings: Any) -> Iterator[ServiceProcess]:
    with running_service(REPLICATE_BASE_URL=simulator, **settings) as service:
        yield service


def counts(simulator: str) -> dict[str, Any]:
    """What the simulator saw."""
    seen: dict[str, Any] = requests.get(f"{simulator}/simulator/counts", timeout=30).json()
    return seen


def asked_of_replicate(seen: Mapping[str, Any]) -> int:
    """Of what the simulator saw, the requests to its API, of whatever kind; a download is none."""
    return sum(number for kind, number in seen["requests"].items() if kind != "delivery")


def predictions(simulator: str) -> list[dict[str, Any]]:
    """The latest thousand predictions the simulator made, oldest first."""
    shown = requests.get(f"{simulator}/simulator/predictions", timeout=30).json()["predictions"]
    return list(reversed(shown))


def resident_megabytes(service: ServiceProcess) -> float:
    """Memory of the whole service, its worker included. Pages that its processes share count once."""
    service.worker()
    return _megabytes("VmRSS", service.process.pid)


def peak_megabytes(pid: int) -> float:
    """The most memory each process of a tree ever held, summed: at least what they held at once. Pages that they
    share count once."""
    return _megabytes("VmHWM", pid)


def cpu_seconds(pid: int) -> float:
    """What a process and all below it have computed so far, those that have ended among them."""
    ticks = 0
    for each in _tree(pid):
        after_name = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(map(int, after_name[11:15]))  # its own, and its ended children's: user, system
    return ticks / os.sysconf("SC_CLK_TCK")


def prompts(number: int) -> dict[str, Any]:
    return {"model_name": "flux-dev", "prompts": [f"picture {index}" for index in range(number)]}


def post(service: ServiceProcess, path: str, body: object) -> Any:
    answer = requests.post(service.url + path, data=json.dumps(body), headers=_JSON, timeout=600)
    answer.raise_for_status()
    return answer.json()


def _tree(root: int) -> list[int]:
    """A process and all below it."""
    tree = [root]
    for pid in tree:
        for task in Path(f"/proc/{pid}/task").iterdir():
            tree += [int(child) for child in (task / "children").read_text().split()]
    return tree


def _megabytes(field: str, root: int) -> float:
    """A field of each process of a tree, summed, less what all but one of them only share."""
    whole, shared = [], []
    for pid in _tree(root):
        whole.append(_kilobytes(Path(f"/proc/{pid}/status"))[field])
        pages = _kilobytes(Path(f"/proc/{pid}/smaps_rollup"))
        shared.append(pages["Shared_Clean"] + pages["Shared_Dirty"])
    return (sum(whole) - sum(shared) + max(shared)) / 1024


def _kilobytes(file: Path) -> dict[str, int]:
    """The fields of such a file that are given in kilobytes."""
    fields = (line.split() for line in file.read_text().splitlines() if line.endswith(" kB"))
    return {name.rstrip(":"): int(number) for name, number, _ in fields}


_JSON = {**TOKEN, "Content-Type": "application/json"}
