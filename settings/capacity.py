"""How much the service does at once, as far as that is no setting."""

FILES_AT_ONCE = 128
"""Downloads of stored files at once; each holds a thread."""

LISTENERS_AT_ONCE = 128
"""Listeners to events at once; each holds a thread."""

SUBMITTING_AT_ONCE = 64
"""Requests at once that submit work without waiting for its end; each holds a thread until it is accepted."""

SPARE_THREADS = 64
"""Threads for all other requests: health checks, status, configuration, refusals. The
checks of new tokens may hold 25 of them: 300 per minute, for 5 seconds each."""

LARGE_BODIES_BYTES = 64 * 1024 * 1024
"""Bytes of large bodies in memory at once, for all callers. It grows with MAX_BODY_BYTES, so that one
caller's half always suffices for one body."""

SLOWEST = 16_000
"""Bytes per second that a peer must read or send while the service waits for it."""

OTHER_THREADS = SUBMITTING_AT_ONCE + FILES_AT_ONCE + LISTENERS_AT_ONCE + SPARE_THREADS
"""All threads but those of callers that wait for their results."""
