"""First calls and retries as OpenAI's clients send them."""

from typing import Any

import requests

from harness.service_process import ServiceProcess
from tests.support.callers import ADMIN_KEY

BEARER = {"Authorization": f"Bearer {ADMIN_KEY}"}
FIRST, RETRY = ({**BEARER, "x-stainless-retry-count": str(number)} for number in (0, 1))


def listed(service: ServiceProcess) -> list[dict[str, Any]]:
    """The generations of this caller, the newest first."""
    answer = requests.get(f"{service.url}/generations", headers=BEARER, timeout=30)
    found: list[dict[str, Any]] = answer.json()["generations"]
    return found
