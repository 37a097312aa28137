"""The service with a ledger that writes nothing, to be measured beside itself.

    PYTHONPATH=. python -m bench.unledgered

Never use it for anything else: it forgets everything.
"""

import sys
from collections.abc import Mapping
from typing import Any

import app
import service
from store import Ledger, Noted


class Forgetful(Ledger):
    """A ledger that can be asked, and has nothing."""

    def put(self, table: str, row: Mapping[str, Any]) -> None:
        """Forget it."""

    def note(self, table: str, work: Noted) -> None:
        """Forget it."""

    def remove(self, table: str, *key: Any) -> None:
        """Forget it."""

    async def synced(self) -> None:
        """There is nothing to wait for."""


if __name__ == "__main__":
    service.Ledger = Forgetful  # type: ignore[attr-defined]
    sys.exit(app.main(sys.argv[1:]))
