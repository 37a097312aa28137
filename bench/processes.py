"""The processes of a benchmark, simulator and service, and measurements of them."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from harness.service_process import ROOT, ServiceProcess, running_service

TOKEN = {"X-Replicate-API-Key": "r8_bench"}


@contextmanager
def simulated(*arguments: str) -> Iterator[str]:
    """A simulator process. Yields its URL."""
    with simulator_process(*arguments) as (url, _):
        yield url


@contextmanager
def simulator_process(*arguments: str) -> Iterator[tuple[str, int]]:
    """A simulator process. Yields its URL and its id. It ends when the block ends, which closes its standard input."""
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


@dataclass(frozen=True, slots=True)
class Variant:
    """A service to compare with others: the folder of its source, and the settings that only it has."""

    tree: Path = ROOT
    settings: Mapping[str, Any] = field(default_factory=dict)

    def launch_settings(self, simulator: str, **settings: Any) -> dict[str, Any]:
        """The arguments of `launched_service` or `running_service`."""
        command = (str(self.tree / "app.py"),)
        return {"_command": command, "REPLICATE_BASE_URL": simulator, **settings, **self.settings}


@contextmanager
def services_before(
    simulator: str, variants: Mapping[str, Variant], **settings: Any
) -> Iterator[dict[str, ServiceProcess]]:
    """A service process for each variant, by its name."""
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(running_service(**variant.launch_settings(simulator, **settings)))
            for name, variant in variants.items()
        }


def counts(simulator: str) -> dict[str, Any]:
    """The simulator's counts."""
    seen: dict[str, Any] = requests.get(f"{simulator}/simulator/counts", timeout=30).json()
    return seen


def api_requests(seen: Mapping[str, Any]) -> int:
    """The number of requests to the API in `seen`, the simulator's counts. Downloads are not part of it."""
    return sum(number for kind, number in seen["requests"].items() if kind != "delivery")


def predictions(simulator: str) -> list[dict[str, Any]]:
    """The simulator's latest thousand predictions, oldest first."""
    shown = requests.get(f"{simulator}/simulator/predictions", timeout=30).json()["predictions"]
    return list(reversed(shown))


def resident_megabytes(service: ServiceProcess) -> float:
    """Memory of the service's processes, once it responds: it says that it serves before its worker has loaded the
    application. Shared pages count once."""
    requests.get(f"{service.url}/health", timeout=30).raise_for_status()
    return _megabytes("VmRSS", service.process.pid)


def peak_megabytes(pid: int) -> float:
    """The sum of the peak memory of each process of a tree, which is at least their peak at once. Shared pages count
    once."""
    return _megabytes("VmHWM", pid)


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process and all its descendants so far, ended ones included."""
    ticks = 0
    for each in _tree(pid):
        after_name = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(map(int, after_name[11:15]))  # user and system time, of itself and of its ended children
    return ticks / os.sysconf("SC_CLK_TCK")


def prompts(number: int) -> dict[str, Any]:
    """The body of a batch. Its pictures are all the same one, so the simulator draws only once."""
    return {"model_name": "flux-dev", "prompts": ["a red fox in the snow"] * number, "seed": 7}


def post(service: ServiceProcess, path: str, body: object) -> Any:
    return timed_post(service, path, body)[0]


def timed_post(service: ServiceProcess, path: str, body: object) -> tuple[Any, float]:
    """The JSON of the response, and the seconds until all of it was there."""
    began = time.perf_counter()
    answer = requests.post(service.url + path, data=json.dumps(body), headers=_JSON, timeout=600)
    seconds = time.perf_counter() - began
    answer.raise_for_status()
    return answer.json(), seconds


def _tree(root: int) -> list[int]:
    """A process and all its descendants."""
    tree = [root]
    for pid in tree:
        for task in Path(f"/proc/{pid}/task").iterdir():
            tree += [int(child) for child in (task / "children").read_text().split()]
    return tree


def _megabytes(field: str, root: int) -> float:
    """The sum of a field over a tree's processes, with shared pages counted once."""
    whole, shared = [], []
    for pid in _tree(root):
        whole.append(_kilobytes(Path(f"/proc/{pid}/status"))[field])
        pages = _kilobytes(Path(f"/proc/{pid}/smaps_rollup"))
        shared.append(pages["Shared_Clean"] + pages["Shared_Dirty"])
    return (sum(whole) - sum(shared) + max(shared)) / 1024


def _kilobytes(file: Path) -> dict[str, int]:
    """The fields of a `/proc` file that are in kilobytes."""
    fields = (line.split() for line in file.read_text().splitlines() if line.endswith(" kB"))
    return {name.rstrip(":"): int(number) for name, number, _ in fields}


_JSON = {**TOKEN, "Content-Type": "application/json"}
