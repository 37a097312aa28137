"""A process that has imported the service, and becomes one for each request of `harness/forks.py`.

A Python that imports the service takes a second of processor time. A fork of this process has all modules, and runs
`app.py` as `python app.py` does, with an environment, directory, output and process group of its own.

It is a program: `python -m harness.service_template FD SCRIPT PARENT`, with a socket for the requests.
"""

import ctypes
import gc
import json
import os
import resource
import runpy
import signal
import socket
import sys
import time
from typing import Any

_PR_SET_PDEATHSIG = 1

_LATER = ("gunicorn.app.base", "server.worker", "cluster.group", "ledger.courier", "ledger.postgres")
"""What `app` imports only once it runs."""


def _import_service() -> None:
    gc.disable()  # as `app.py` does, and it enables it later
    sys.modules["rich"] = None  # type: ignore[assignment] # as in `app.py`
    for name in ("app", *_LATER):
        __import__(name)
    gc.freeze()


def _forked(line: socket.socket, parent: int) -> dict[str, Any] | None:
    """Fork for each request. Returns the request in each fork, and None in this process when its parent has ended.

    A fork is a child of `parent`, which adopts orphans meanwhile: the process between them ends at once. A fork
    also ends if its parent has ended first."""
    while True:
        content, descriptors, _, _ = socket.recv_fds(line, 2**20, 2)
        if not content:
            return None
        between = os.fork()
        if between:
            for each in descriptors:
                os.close(each)
            os.waitpid(between, 0)
            continue
        between = os.getpid()
        if os.fork():
            os._exit(0)
        while os.getppid() == between:
            time.sleep(0.0005)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)
        if os.getppid() != parent:
            os._exit(1)
        request: dict[str, Any] = json.loads(content)
        os.setpgid(0, 0)
        output, errors = descriptors
        os.dup2(output, 1)
        os.dup2(errors, 2)
        for each in descriptors:
            os.close(each)
        line.send(str(os.getpid()).encode())
        line.close()
        return request


def _become(request: dict[str, Any], script: str) -> None:
    """Run the script with the environment, directory and limit of open files of the request."""
    os.environ.clear()
    os.environ.update(request["environ"])
    time.tzset()
    os.chdir(request["directory"])
    if request["descriptors"]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (request["descriptors"],) * 2)
    sys.argv = [script]
    runpy.run_path(script, run_name="__main__")


def main(arguments: list[str]) -> None:
    descriptor, script, parent = arguments
    line = socket.socket(fileno=int(descriptor))
    _import_service()
    request = _forked(line, int(parent))
    if request is not None:
        _become(request, script)


if __name__ == "__main__":
    main(sys.argv[1:])
