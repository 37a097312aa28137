"""The gate of metered calls on the event loop: `gate.MeteredGate`, and `days`, which knows when a day ends there."""
