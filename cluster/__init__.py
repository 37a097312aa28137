"""What processes that share a ledger do with each other, on the event loop. Their transactions are in `ledger/`."""

from typing import TYPE_CHECKING, TypeAlias

from concurrency import Gate
from metering.gate import MeteredGate

if TYPE_CHECKING:
    from cluster.calls import RemoteMeteredGate
    from cluster.remote import RemoteGate

AnyGate: TypeAlias = "Gate | RemoteGate"
"""The gate of creations: that of a process alone, or of one among others, which needs the driver of PostgreSQL."""

AnyCallGate: TypeAlias = "MeteredGate | RemoteMeteredGate"
"""The gate of calls, likewise."""
