"""Keeps a process on one core, for PIN_TO_CORE.

Python's threads hand the interpreter to each other. On one core, that wakes no other core, so a request takes less
processor time. Two processes on one core would only slow each other down, so each takes a core that no other pinned
process has.
"""

import os
import socket
import sys
from typing import Final

NAME: Final = "replicate-concurrent-generation/core"

_claims: list[socket.socket] = []
"""Held until the process ends."""


def pin(name: str = NAME) -> int | None:
    """Have this thread, and those that it starts, run on one core, the last that is allowed and not taken.

    Returns its number, or None if no core is free, the system refuses or it is not Linux. A core is taken by a name
    that only one process of a network namespace can have, and that the kernel frees when the process ends, however it
    ends. So containers with networks of their own do not see each other's cores.
    """
    if sys.platform != "linux":
        return None
    for core in sorted(os.sched_getaffinity(0), reverse=True):
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0{name}/{core}")
            os.sched_setaffinity(0, {core})
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        return core
    return None
