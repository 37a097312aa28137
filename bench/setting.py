"""What a benchmark runs against: a simulator and a service, each a process of its own."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from tests.process import ROOT, Served, served

TOKEN = {"X-Replicate-API-Key": "r8_bench"}


@contextmanager
def simulated(*arguments: str) -> Iterator[str]:
    """A simulator process; gives its URL."""
    command = [sys.executable, "-m", "simulator", "--port", "0", "--exit-on-stdin-eof", *arguments]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1]
        process.terminate()


@contextmanager
def service_before(simulator: str, **settings: Any) -> Iterator[Served]:
    with served(REPLICATE_BASE_URL=simulator, **settings) as service:
        yield service


def counts(simulator: str) -> dict[str, Any]:
    """What the simulator saw."""
    seen: dict[str, Any] = requests.get(f"{simulator}/simulator/counts", timeout=30).json()
    return seen


def resident_megabytes(service: Served) -> float:
    """Memory of the whole service: the process and all below it. Pages they share count for each."""
    tree = [service.process.pid]
    for pid in tree:
        for task in Path(f"/proc/{pid}/task").iterdir():
            tree += [int(child) for child in (task / "children").read_text().split()]
    kilobytes = 0
    for pid in tree:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        kilobytes += next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
    return kilobytes / 1024


def prompts(number: int) -> dict[str, Any]:
    return {"model_name": "flux-dev", "prompts": [f"picture {index}" for index in range(number)]}


def post(service: Served, path: str, body: object) -> Any:
    answer = requests.post(service.url + path, data=json.dumps(body), headers=_JSON, timeout=600)
    answer.raise_for_status()
    return answer.json()


_JSON = {**TOKEN, "Content-Type": "application/json"}
