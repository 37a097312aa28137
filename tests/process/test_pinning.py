"""PIN_TO_CORE: one core for all threads of the worker, and for no other pinned process."""

import os
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from harness.service_process import ROOT, read_response, running_service
from tests.support.callers import PICTURE, USER

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux can pin a process"),
    pytest.mark.usefixtures("programs"),
]

_HOLDER = """
import sys
from server.pinning import pin
print(pin(sys.argv[1]), flush=True)
sys.stdin.read()
"""


@contextmanager
def holder(name):
    """A process that pins itself. Gives it and the core that it got, and kills it at the end."""
    command = [sys.executable, "-c", _HOLDER, name]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process, process.stdout.readline().strip()
        process.kill()


def test_each_core_is_taken_once_and_is_free_again_after_a_kill():
    name, cores = f"test/{os.getpid()}", sorted(map(str, os.sched_getaffinity(0)))
    with ExitStack() as stack:
        holders = [stack.enter_context(holder(name)) for _ in range(len(cores) + 1)]
        assert sorted([*cores, "None"]) == sorted(core for _, core in holders)

        killed, freed = holders[0]
        killed.kill()
        killed.wait()
        _, core = stack.enter_context(holder(name))
        assert freed == core


def test_a_system_that_refuses_leaves_the_process_on_all_cores_and_the_names_free():
    refusing = """
import os, socket, sys

def refuse(*_):
    raise PermissionError

os.sched_setaffinity = refuse
from server.pinning import pin
cores = os.sched_getaffinity(0)
print(pin(sys.argv[1]), cores == os.sched_getaffinity(0))
for core in cores:
    socket.socket(socket.AF_UNIX).bind(f"\\0{sys.argv[1]}/{core}")
"""
    command = [sys.executable, "-c", refusing, f"test/refused/{os.getpid()}"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert (0, "None True\n") == (ended.returncode, ended.stdout), ended.stderr


def allowed_cores(pid):
    """The numbers of allowed cores of each thread of a process."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return {frozenset(os.sched_getaffinity(int(task.name))) for task in tasks}


@pytest.mark.slow
def test_all_threads_of_the_worker_have_one_core_with_the_setting_and_all_without(simulator):
    every = frozenset(os.sched_getaffinity(0))
    found = {}
    for pinned in (0, 1):
        with running_service(REPLICATE_BASE_URL=simulator.url, PIN_TO_CORE=pinned) as service:
            assert 200 == read_response(service.connect("/generate", PICTURE, **USER))[0]
            found[pinned] = allowed_cores(service.worker())
            assert {every} == allowed_cores(service.process.pid), "the master is not pinned"

    assert {every} == found[0]
    ((core,),) = found[1]
    assert core in every
