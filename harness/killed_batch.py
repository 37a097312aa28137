"""`rcg batch` on a service before the simulator, while the client and the service are killed again and again.

The simulator runs in this process, so its counts survive the service. `tests/client/test_batch_kills.py` and
`bench/batch_kills.py` check the report.
"""

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from harness.service_process import ROOT, ServiceProcess, free_port, launched_service
from simulator import Simulator

ADMIN_KEY = "the-admin-key-of-tests"

RCG = "from replicate_concurrent.cli import main; main()"

CLIENT = ROOT / "client"

_LONGEST = 240.0
"""Seconds for the last run of the client. It only bounds a failing test."""


@dataclass(frozen=True)
class Report:
    """The end of a batch: the files on the disk, and the predictions of the simulator."""

    exit_status: int
    names: list[str]
    """The files but the manifest, sorted."""
    predictions: int
    repeated: dict[str, int]
    """Prompts that were predicted more than once."""
    foreign: list[str]
    """Files with another row's name, or another generation's output."""
    client_kills: int
    """Kills that hit a client while it ran."""
    service_kills: int
    files_at_last_kill: int
    seconds: float


class KilledBatch:
    """A batch in the directory `folder / "out"`. `settings` are those of the service."""

    def __init__(self, simulator: Simulator, folder: Path, prompts: list[str], **settings: Any) -> None:
        self._simulator = simulator
        self._folder = folder
        self._prompts = prompts
        self._port = free_port()
        self._settings = {
            "REPLICATE_BASE_URL": simulator.url,
            "REPLICATE_API_TOKEN": "r8_server",
            "CONCURRENT_DOCKER_ADMIN_API_KEY": ADMIN_KEY,
            "DATA_DIR": folder / "service",
            "PORT": self._port,
            **settings,
        }
        (folder / "service").mkdir()
        (folder / "prompts.txt").write_text("\n".join(prompts))
        self._out = folder / "out"
        self._client_kills = self._service_kills = 0

    def run(self, *, client_kills: int, service_kills: int, seed: int, longest: float) -> Report:
        """Kill the client so often, each time after at most `longest` seconds, and the service during some of its runs;
        then let a last client run to its end."""
        chance = random.Random(seed)
        began = time.monotonic()
        with_service = set(chance.sample(range(client_kills), service_kills))
        with ExitStack() as stack:
            service = self._started(stack)
            for number in range(client_kills):
                with self._client() as client:
                    time.sleep(chance.uniform(0.2, longest))
                    if number in with_service:
                        self._service_kills += service.process.poll() is None
                        service.kill()
                        stack.close()
                        service = self._started(stack)
                        time.sleep(chance.uniform(0.0, longest))
                    self._client_kills += client.poll() is None
                    client.kill()
            before = len(self._files())
            with self._client() as client:
                status = client.wait(timeout=_LONGEST)
            return self._report(status, before, time.monotonic() - began)

    def _started(self, stack: ExitStack) -> ServiceProcess:
        service = stack.enter_context(launched_service(**self._settings))
        assert service.is_serving(within=60)
        return service

    def _client(self) -> "subprocess.Popen[bytes]":
        environ = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(CLIENT),
            "RCG_URL": f"http://127.0.0.1:{self._port}",
            "RCG_API_KEY": ADMIN_KEY,
            "RCG_CONFIG": os.devnull,
        }
        arguments = ["batch", str(self._folder / "prompts.txt"), "-m", "flux-dev", "-o", str(self._out)]
        with (self._folder / "client.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-c", RCG, *arguments], env=environ, stdout=log, stderr=log
            )

    def _files(self) -> list[str]:
        return sorted(path.name for path in self._out.glob("*.jpg"))

    def _report(self, status: int, before: int, seconds: float) -> Report:
        made = Counter(self._prompts_of_predictions())
        files = sorted(path.name for path in self._out.iterdir() if path.name != "manifest.jsonl")
        lines = [json.loads(line) for line in (self._out / "manifest.jsonl").read_text().splitlines()]
        rows = {line["key"]: line["index"] for line in lines if line["type"] == "row"}
        results = [line for line in lines if line["type"] == "result" and line.get("files")]
        foreign = [line["files"][0] for line in results if not self._is_its_own(line, rows[line["key"]])]
        repeated = {prompt: count for prompt, count in made.items() if count > 1}
        kills = (self._client_kills, self._service_kills)
        return Report(status, files, made.total(), repeated, foreign, *kills, before, seconds)

    def _is_its_own(self, line: dict[str, Any], index: int) -> bool:
        """Whether the file of a result has the name of its row, and the output of the generation with its prompt."""
        url = f"http://127.0.0.1:{self._port}"
        headers = {"X-API-Key": ADMIN_KEY}
        body = requests.get(f"{url}/generations/{line['generation']}", headers=headers, timeout=30).json()
        kept = requests.get(url + urlsplit(body["files"][0]).path, timeout=30)
        (name,) = line["files"]
        is_named = name.startswith(f"{index:04d}-") and body["prompt"] == self._prompts[index - 1]
        return bool(is_named and (self._out / name).read_bytes() == kept.content)

    def _prompts_of_predictions(self) -> list[str]:
        listed = requests.get(f"{self._simulator.url}/simulator/predictions", timeout=30).json()[
            "predictions"
        ]
        return [each["input"]["prompt"] for each in listed]
